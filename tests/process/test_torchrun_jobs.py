"""Who calls `init()` in a torchrun job, how often, and how the ranks were started (R4, R5); with a server."""

from __future__ import annotations

import pytest

from tests.process.harness import lease
from tests.process.served import Served
from tests.process.told import check_end, check_points
from tests.process.torchjob import GLOO, PLAIN, STEPS, UNDER, TorchJob

pytest.importorskip("torch", reason="torch is not installed here: pip install torch==2.13.0")

ALL = """
run = pluto.init(project="jobs")
train(run, 4)
say("ready", facts(run))
meet()
"""


def only(rank: int, name: str) -> str:
    """A job in which one rank calls `init()`."""
    return (
        f"run = pluto.init(run_id='{name}', project='jobs') if RANK == {rank} else None\n"
        "train(run, 4)\n"
        "if run is not None: say('ready', facts(run))\n"
        "meet()\n"
        "cause()\n"
        "leave()\n"
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_alone_owns_the_run(shared_served: Served, rank: int) -> None:
    """R4: rank 0 is preferred, not required: pipeline-parallel jobs log on the last rank."""
    name = f"only{rank}"
    job = TorchJob(shared_served, name, only(rank, name))
    ((told, facts),) = job.told("ready", 1)
    assert (told, facts["role"]) == (rank, "owner")
    assert job.wait() == 0
    run = check_end(shared_served, name, "COMPLETED")
    assert facts["id"] == run["id"]
    found = shared_served.document(name)
    assert len([each for each in found["leases"] if each["label"] != "node"]) == 1
    assert lease(found, rank=rank)["role"] == "owner"
    check_points(shared_served, name, {rank: STEPS})


def test_a_failure_beside_the_only_rank_with_a_handle(shared_served: Served) -> None:
    """G7: what ranks without a handle do is out of sight; what torchrun then does to the others is not."""
    body = only(0, "others").replace(
        "cause()\nleave()", "if RANK == 1: cause(); os._exit(5)\ntrain_for_ever(run)"
    )
    job = TorchJob(shared_served, "others", body)
    assert job.wait() == 1
    run = check_end(shared_served, "others", "TERMINATED")
    failure = run["statusMetadata"]["first_failure"]
    assert (failure["rank"], failure["signal"]) == (0, "SIGTERM")
    check_points(shared_served, "others", {0: STEPS})


def test_ranks_behind_a_wrapper_are_one_job(shared_served: Served) -> None:
    """R4: with `--no-python wrap.sh` every rank has its own parent; the launcher is behind it."""
    job = TorchJob(shared_served, "wrapped", ALL + "cause(); run.finish(); leave()\n", wrapper=True)
    ready = job.ready()
    assert job.wait() == 0
    ((run_id, number),) = {(facts["run_id"], facts["id"]) for facts in ready.values()}
    assert sorted(facts["role"] for facts in ready.values()) == ["owner", "worker"]
    assert check_end(shared_served, run_id, "COMPLETED")["id"] == number
    check_points(shared_served, run_id, dict.fromkeys(range(2), STEPS))


def test_two_jobs_at_once_are_two_runs(shared_served: Served) -> None:
    """R4: two launches never share a job key, and one's failure is nothing to the other."""
    good = ALL + "cause(); run.finish(); leave()\n"
    bad = ALL + "if RANK == 1: cause(); raise ValueError('bad')\ntrain_for_ever(run)\n"
    jobs = [TorchJob(shared_served, name, body) for name, body in (("good", good), ("bad", bad))]
    ready = [job.ready() for job in jobs]
    assert [job.wait() for job in jobs] == [0, 1]
    ids = [{facts["run_id"] for facts in told.values()} for told in ready]
    assert [len(found) for found in ids] == [1, 1]
    runs = [
        check_end(shared_served, found.pop(), status)
        for found, status in zip(ids, ("COMPLETED", "FAILED"), strict=True)
    ]
    assert runs[0]["id"] != runs[1]["id"]
    failure = runs[1]["statusMetadata"]["first_failure"]
    assert (failure["rank"], failure["type"], failure["message"]) == (1, "ValueError", "bad")
    for run in runs:
        found = shared_served.document(run["externalId"])
        assert len([each for each in found["leases"] if each["rank"] is not None]) == 2
        check_points(shared_served, run["externalId"], dict.fromkeys(range(2), STEPS))


@pytest.mark.parametrize(
    ("name", "cause", "train", "code", "status", "said"),
    [
        ("done", "cause(); run.finish(); leave()", PLAIN, 0, "COMPLETED", {}),
        (
            "killed",
            "if RANK == 1: cause(); os.kill(os.getpid(), 9)",
            GLOO,
            1,
            "FAILED",
            {"rank": 1, "signal": "SIGKILL"},
        ),
        (
            "asked",
            "if RANK == 0: cause(); os.kill(launcher, 15)",
            PLAIN,
            1,
            "TERMINATED",
            {"signal": "SIGTERM"},
        ),
    ],
)
def test_under_the_launcher_no_rank_owns_the_run(
    shared_served: Served,
    name: str,
    cause: str,
    train: str,
    code: int,
    status: str,
    said: dict[str, object],
) -> None:
    """R9, R11: torchrun's exit decides the status, what ranks said decides the cause; points are the same."""
    find = "launcher = int(open(f'/proc/{os.getppid()}/stat').read().rpartition(')')[2].split()[1])\n"
    forever = "" if code == 0 else "train_for_ever(run)\n"
    body = ALL + find + cause + "\n" + forever
    job = TorchJob(shared_served, f"under_{name}", body, under=(*UNDER, "--"), train=train)
    ready = job.ready()
    assert job.wait() == code
    ((run_id, number),) = {(facts["run_id"], facts["id"]) for facts in ready.values()}
    run = check_end(shared_served, run_id, status)
    assert run["id"] == number
    assert {facts["role"] for facts in ready.values()} == {"worker"}
    first = (run["statusMetadata"] or {}).get("first_failure") or {}
    assert {key: first[key] for key in said} == said
    assert lease(shared_served.document(run_id), role="owner")["label"] == "launcher"
    check_points(shared_served, run_id, dict.fromkeys(range(2), STEPS))


def test_two_inits_of_one_job_are_two_runs(shared_served: Served) -> None:
    """R5: a sweep: the n-th `init()` of each rank is the same Run."""
    body = (
        "for lr in (0.1, 0.2):\n"
        "    run = pluto.init(project='jobs', config={'lr': lr})\n"
        "    train(run, 4)\n"
        "    say('ready', facts(run) | {'lr': run.config['lr']})\n"
        "    meet()\n"
        "    run.finish()\n"
        "cause()\n"
        "leave()\n"
    )
    job = TorchJob(shared_served, "sweep", body)
    told = [facts for _, facts in job.told("ready", 4)]
    assert job.wait() == 0
    ids = {lr: {facts["run_id"] for facts in told if facts["lr"] == lr} for lr in (0.1, 0.2)}
    assert [len(found) for found in ids.values()] == [1, 1]
    assert ids[0.1] != ids[0.2]
    for lr, found in ids.items():
        (run_id,) = found
        check_end(shared_served, run_id, "COMPLETED")
        assert shared_served.document(run_id)["config"]["lr"] == lr
        check_points(shared_served, run_id, dict.fromkeys(range(2), STEPS))
