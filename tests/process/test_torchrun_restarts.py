"""torchrun starts all ranks anew: the Run goes on, and only the last attempt decides (R10); with a server."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.patience import NEVER_S
from tests.process.harness import events
from tests.process.served import Served
from tests.process.told import check_end, check_points
from tests.process.torchjob import GLOO, OWN_STORE, STEPS, TorchJob

pytest.importorskip("torch", reason="torch is not installed here: pip install torch==2.13.0")

START = """
run = pluto.init(run_id="{name}", project="restarts")
say("attempt", ATTEMPT)
run.log({{"auto": float(ATTEMPT)}})
train(run, 4, 1 + 5 * ATTEMPT)
meet()
"""


@pytest.fixture(scope="module", autouse=True)
def late_is_never_too_late(shared_served: Served) -> None:
    """The drain deadline does not run out on a slow machine."""
    shared_served.constants({"pluto_dist.core.rules.verdict.DRAIN_S": NEVER_S})


def test_a_restarted_job_is_one_run(shared_served: Served) -> None:
    """R10: a failure with restarts left ends nothing; attempt and epoch rise, steps go on."""
    body = START.format(name="again") + (
        "say('facts', facts(run) | {'attempt': ATTEMPT})\n"
        "if ATTEMPT == 0:\n"
        "    if RANK == 1: raise ValueError('first time')\n"
        "    train_for_ever(run)\n"
        "cause(); run.finish(); leave()\n"
    )
    job = TorchJob(shared_served, "again", body, "--max-restarts=2", ranks=3, env=OWN_STORE, train=GLOO)
    assert job.wait() == 0
    run = check_end(shared_served, "again", "COMPLETED")
    found = shared_served.document("again")
    assert found["attempt"] == 1
    first, last = [[told for _, told in job.told("facts", 6) if told["attempt"] == n] for n in (0, 1)]
    assert {told["id"] for told in first + last} == {run["id"]}
    assert {told["epoch"] for told in first} == {1}
    assert {told["epoch"] for told in last} == {2} == {found["epoch"]}
    assert Counter(told["role"] for told in last) == {"owner": 1, "worker": 2}
    (ended,) = found["attempts"]
    assert (ended["attempt"], ended["status"]) == (0, "FAILED")
    assert (ended["first_failure"]["rank"], ended["first_failure"]["type"]) == (1, "ValueError")
    assert len(events(found, "ended")) == 1
    check_points(shared_served, "again", dict.fromkeys(range(3), 2 * STEPS))
    steps = {name: set(points.items()) for name, points in shared_served.series("again").items()}
    assert steps["auto"] == steps["auto/rank1"] == steps["auto/rank2"] == {(0, 0.0), (5, 1.0)}


def test_exhausted_restarts_fail_with_the_last_cause(shared_served: Served) -> None:
    """R10: the verdict is the last attempt's, the history names the causes of all."""
    body = START.format(name="never") + (
        "if RANK == 1 - ATTEMPT: cause(); raise ValueError(f'attempt {ATTEMPT}')\ntrain_for_ever(run)\n"
    )
    job = TorchJob(shared_served, "never", body, "--max-restarts=1")
    assert job.wait() == 1
    told = check_end(shared_served, "never", "FAILED")["statusMetadata"]
    failure = told["first_failure"]
    assert (failure["rank"], failure["message"], failure["attempt"]) == (0, "attempt 1", 1)
    assert [(each["attempt"], each["first_failure"]["message"]) for each in told["attempts"]] == [
        (0, "attempt 0")
    ]
    check_points(shared_served, "never", dict.fromkeys(range(2), 2 * STEPS))


LATE = START + (
    "if ATTEMPT == 0:\n"
    "    if RANK == 2:\n"
    "        hear_from_rank_0()\n"
    "        cause(); raise ValueError('late')\n"
    "    run.finish()\n"
    "    if RANK == 0: open(DONE, 'w').close()\n"
    "    if RANK == 1: time.sleep(30)\n"
    "else:\n"
    "    run.finish(); leave()\n"
)
BEFORE = (
    "DONE = os.path.join(os.path.dirname(os.environ['PD_TEST_LEDGER']), '{name}.done')\n"
    "def hear_from_rank_0():\n"
    "    while not os.path.exists(DONE): time.sleep(0.01)\n"
)


def test_a_late_failure_counts_when_no_restart_is_left(shared_served: Served) -> None:
    """R10: the owner has finished, a worker fails within the drain deadline: FAILED, and it is named."""
    body = BEFORE.format(name="late") + LATE.format(name="late")
    job = TorchJob(shared_served, "late", body, ranks=3)
    assert job.wait() == 1
    run = check_end(shared_served, "late", "FAILED")
    failure = run["statusMetadata"]["first_failure"]
    assert (failure["rank"], failure["message"]) == (2, "late")
    assert len(events(shared_served.document("late"), "ended")) == 1
    check_points(shared_served, "late", dict.fromkeys(range(3), STEPS))


def test_a_late_failure_is_forgiven_by_a_restart(shared_served: Served) -> None:
    """R10: with restarts left no status goes out before the launcher is through."""
    body = BEFORE.format(name="forgiven") + LATE.format(name="forgiven")
    job = TorchJob(shared_served, "forgiven", body, "--max-restarts=1", ranks=3)
    assert job.wait() == 0
    check_end(shared_served, "forgiven", "COMPLETED")
    found = shared_served.document("forgiven")
    assert (found["attempt"], found["epoch"]) == (1, 2)
    assert found["attempts"][0]["first_failure"]["rank"] == 2
    assert [event["status"] for event in events(found, "ended")] == ["COMPLETED"]
    check_points(shared_served, "forgiven", dict.fromkeys(range(3), 2 * STEPS))
