"""Who calls `init()` in a torchrun job, how often, and how the ranks were started (R4, R5)."""

from __future__ import annotations

import sys

import pytest

from tests.process.harness import Node, lease
from tests.process.torchjob import STEPS, TorchJob, check_points

pytest.importorskip("torch", reason="torch is not installed here: pip install torch==2.13.0")
pytestmark = pytest.mark.timeout(180)

ALL = """
run = pluto.init(project="jobs")
train(run, 4)
say("ready", facts(run))
dist.barrier()
"""


def only(rank: int) -> str:
    """A job in which one rank calls `init()`."""
    return (
        f"run = pluto.init(run_id='only{rank}', project='jobs') if RANK == {rank} else None\n"
        "train(run, 4)\n"
        "if run is not None: say('ready', facts(run))\n"
        "dist.barrier()\n"
        "cause()\n"
        "leave()\n"
    )


@pytest.mark.parametrize("rank", [0, 2])
def test_one_rank_alone_owns_the_run(shared_node: Node, rank: int) -> None:
    """R4: rank 0 is preferred, not required: pipeline-parallel jobs log on the last rank."""
    job = TorchJob(shared_node, f"only{rank}", only(rank))
    ((told, facts),) = job.told("ready", 1)
    assert (told, facts["role"]) == (rank, "owner")
    assert job.wait()[0] == 0
    found = shared_node.ended(f"only{rank}")
    assert (found["status"], len(found["leases"])) == ("COMPLETED", 1)
    assert lease(found, rank=rank)["role"] == "owner"
    check_points(shared_node, f"only{rank}", {rank: STEPS})


def test_a_late_failure_of_the_only_rank(shared_node: Node) -> None:
    """G7: what ranks without a handle do is out of sight; what torchrun then does to the others is not."""
    body = only(0).replace("cause()\nleave()", "if RANK == 1: cause(); os._exit(5)\ntrain_for_ever(run)")
    job = TorchJob(shared_node, "others", body.replace("only0", "others"))
    assert job.wait()[0] == 1
    assert shared_node.ended("others")["status"] != "COMPLETED"
    check_points(shared_node, "others", {0: STEPS})


def test_ranks_behind_a_wrapper_are_one_job(shared_node: Node) -> None:
    """R4: with `--no-python wrap.sh` every rank has its own parent; the launcher is behind it."""
    job = TorchJob(shared_node, "wrapped", ALL + "cause(); run.finish(); leave()\n", wrapper=True)
    ready = job.ready()
    assert job.wait()[0] == 0
    (run_id,) = {facts["run_id"] for facts in ready.values()}
    assert sorted(facts["role"] for facts in ready.values()) == ["owner", "worker", "worker"]
    assert shared_node.ended(run_id)["status"] == "COMPLETED"
    check_points(shared_node, run_id, dict.fromkeys(range(3), STEPS))


def test_two_jobs_at_once_are_two_runs(shared_node: Node) -> None:
    """R4: two launches never share a job key, and one's failure is nothing to the other."""
    good = ALL + "cause(); run.finish(); leave()\n"
    bad = ALL + "if RANK == 1: cause(); raise ValueError('bad')\ntrain_for_ever(run)\n"
    jobs = [TorchJob(shared_node, name, body, ranks=2) for name, body in (("good", good), ("bad", bad))]
    ready = [job.ready() for job in jobs]
    assert [job.wait()[0] for job in jobs] == [0, 1]
    ids = [{facts["run_id"] for facts in told.values()} for told in ready]
    assert [len(found) for found in ids] == [1, 1]
    documents = [shared_node.ended(found.pop()) for found in ids]
    assert [found["status"] for found in documents] == ["COMPLETED", "FAILED"]
    assert [len(found["leases"]) for found in documents] == [2, 2]
    for found in documents:
        check_points(shared_node, found["run_id"], dict.fromkeys(range(2), STEPS))


LAUNCHER = (sys.executable, "-P", "-c", "from pluto_dist.cli.main import app; app()", "run", "--")


@pytest.mark.parametrize(
    ("name", "cause", "code", "status", "said"),
    [
        ("done", "cause(); run.finish(); leave()", 0, "COMPLETED", {}),
        (
            "killed",
            "if RANK == 1: cause(); os.kill(os.getpid(), 9)",
            1,
            "FAILED",
            {"rank": 1, "signal": "SIGKILL"},
        ),
        ("asked", "if RANK == 0: cause(); os.kill(launcher, 15)", 1, "TERMINATED", {"signal": "SIGTERM"}),
    ],
)
def test_under_the_launcher_no_rank_owns_the_run(
    shared_node: Node, name: str, cause: str, code: int, status: str, said: dict[str, object]
) -> None:
    """R9, R11: torchrun's exit decides the status, what ranks said decides the cause; points are the same."""
    find = "launcher = int(open(f'/proc/{os.getppid()}/stat').read().rpartition(')')[2].split()[1])\n"
    forever = "" if code == 0 else "train_for_ever(run)\n"
    job = TorchJob(shared_node, f"under_{name}", ALL + find + cause + "\n" + forever, under=LAUNCHER)
    ready = job.ready()
    assert job.wait()[0] == code
    (run_id,) = {facts["run_id"] for facts in ready.values()}
    found = shared_node.ended(run_id)
    assert (found["status"], found["reported"]) == (status, True)
    assert {facts["role"] for facts in ready.values()} == {"worker"}
    first = found["verdict"]["first_failure"] or {}
    assert {key: first[key] for key in said} == said
    assert lease(found, role="owner")["label"] == "launcher"
    check_points(shared_node, run_id, dict.fromkeys(range(3), STEPS))
    assert {point.name for point in shared_node.points(run_id) if point.logged_as == "loss"} == {
        "loss",
        "loss/rank1",
        "loss/rank2",
    }


def test_two_inits_of_one_job_are_two_runs(shared_node: Node) -> None:
    """R5: a sweep: the n-th `init()` of each rank is the same Run."""
    body = (
        "for lr in (0.1, 0.2):\n"
        "    run = pluto.init(project='jobs', config={'lr': lr})\n"
        "    train(run, 4)\n"
        "    say('ready', facts(run) | {'lr': run.config['lr']})\n"
        "    run.finish()\n"
        "cause()\n"
        "leave()\n"
    )
    job = TorchJob(shared_node, "sweep", body, ranks=2)
    told = [facts for _, facts in job.told("ready", 4)]
    assert job.wait()[0] == 0
    ids = {lr: {facts["run_id"] for facts in told if facts["lr"] == lr} for lr in (0.1, 0.2)}
    assert [len(found) for found in ids.values()] == [1, 1]
    assert ids[0.1] != ids[0.2]
    for (run_id,) in map(tuple, ids.values()):
        found = shared_node.ended(run_id)
        assert (found["status"], len(found["leases"])) == ("COMPLETED", 2)
        check_points(shared_node, run_id, dict.fromkeys(range(2), STEPS))
