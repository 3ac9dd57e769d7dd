"""torchrun starts all ranks anew: the Run goes on, and only the last attempt decides (R10)."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.process.harness import Node, events
from tests.process.torchjob import OWN_STORE, TorchJob

pytest.importorskip("torch", reason="torch is not installed here: pip install torch==2.13.0")
pytestmark = pytest.mark.timeout(180)

START = """
run = pluto.init(run_id="{name}", project="restarts")
say("attempt", ATTEMPT)
run.log({{"auto": float(ATTEMPT)}})
train(run, 4, 1 + 5 * ATTEMPT)
dist.barrier()
"""


def test_a_restarted_job_is_one_run(node: Node) -> None:
    """R10: a failure with restarts left ends nothing; attempt and epoch rise, steps go on."""
    body = START.format(name="again") + (
        "say('facts', facts(run) | {'attempt': ATTEMPT})\n"
        "if ATTEMPT == 0:\n"
        "    if RANK == 1: raise ValueError('first time')\n"
        "    train_for_ever(run)\n"
        "cause(); run.finish(); leave()\n"
    )
    job = TorchJob(node, "again", body, "--max-restarts=2", env=OWN_STORE)
    code, _ = job.wait()
    found = node.ended("again")
    assert (code, found["status"], found["attempt"]) == (0, "COMPLETED", 1), found["verdict"]
    first, last = [[told for _, told in job.told("facts", 6) if told["attempt"] == n] for n in (0, 1)]
    assert {told["id"] for told in first + last} == {found["id"]}
    assert {told["epoch"] for told in first} == {1}
    assert {told["epoch"] for told in last} == {2} == {found["epoch"]}
    assert Counter(told["role"] for told in last) == {"owner": 1, "worker": 2}
    (ended,) = found["attempts"]
    assert (ended["attempt"], ended["status"]) == (0, "FAILED")
    assert (ended["first_failure"]["rank"], ended["first_failure"]["type"]) == (1, "ValueError")
    assert len(events(found, "ended")) == 1
    assert not node.lost("again")
    steps = {(point.value, point.step) for point in node.points("again") if point.logged_as == "auto"}
    assert steps == {(0.0, 0), (1.0, 5)}  # on every rank


def test_exhausted_restarts_fail_with_the_last_cause(node: Node) -> None:
    """R10: the verdict is the last attempt's, the history names the causes of all."""
    body = START.format(name="never") + (
        "if RANK == 2 - ATTEMPT: cause(); raise ValueError(f'attempt {ATTEMPT}')\ntrain_for_ever(run)\n"
    )
    job = TorchJob(node, "never", body, "--max-restarts=1", env=OWN_STORE)
    assert job.wait()[0] == 1
    found = node.ended("never")
    assert found["status"] == "FAILED"
    failure = found["verdict"]["first_failure"]
    assert (failure["rank"], failure["message"], failure["attempt"]) == (1, "attempt 1", 1)
    assert [each["first_failure"]["message"] for each in found["attempts"]] == ["attempt 0"]
    assert not node.lost("never")


LATE = START + (
    "if ATTEMPT == 0:\n"
    "    if RANK == 2:\n"
    "        hear_from_rank_0()\n"
    "        cause(); raise ValueError('late')\n"
    "    run.finish()\n"
    "    if RANK == 0: open(DONE, 'w').close()\n"
    "    if RANK == 1: time.sleep(30)\n"
    "    dist.destroy_process_group()\n"
    "else:\n"
    "    run.finish(); leave()\n"
)
BEFORE = (
    "DONE = os.path.join(os.path.dirname(os.environ['PD_TEST_LEDGER']), '{name}.done')\n"
    "def hear_from_rank_0():\n"
    "    while not os.path.exists(DONE): time.sleep(0.01)\n"
)


def test_a_late_failure_counts_when_no_restart_is_left(node: Node) -> None:
    """R10: the owner has finished, a worker fails within the drain deadline: FAILED, and it is named."""
    body = BEFORE.format(name="late") + LATE.format(name="late")
    job = TorchJob(node, "late", body)
    assert job.wait()[0] == 1
    found = node.ended("late")
    assert found["status"] == "FAILED"
    assert found["verdict"]["first_failure"]["rank"] == 2
    assert len(events(found, "ended")) == 1
    assert not node.lost("late")


def test_a_late_failure_is_forgiven_by_a_restart(node: Node) -> None:
    """R10: with restarts left no status goes out before the launcher is through."""
    body = BEFORE.format(name="forgiven") + LATE.format(name="forgiven")
    job = TorchJob(node, "forgiven", body, "--max-restarts=1", env=OWN_STORE)
    assert job.wait()[0] == 0
    found = node.ended("forgiven")
    assert (found["status"], found["attempt"], found["epoch"]) == ("COMPLETED", 1, 2)
    assert found["attempts"][0]["first_failure"]["rank"] == 2
    assert [event["status"] for event in events(found, "ended")] == ["COMPLETED"]
    assert not node.lost("forgiven")
