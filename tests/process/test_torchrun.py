"""Real torchrun jobs with a real DDP model: every way in which a job can end (G1, G7, R9, R10).

Each job trains on three ranks, all of which call `init()`; the causes come from inside, at an instant that
the rank tells. Importing torch in each of them is what a job takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import pytest

from tests.process.harness import Node, events, lease
from tests.process.torchjob import STEPS, TorchJob, check_points

pytest.importorskip("torch", reason="torch is not installed here: pip install torch==2.13.0")
pytestmark = pytest.mark.timeout(180)

START = """
run = pluto.init(run_id="{name}", project="torchrun")
train(run, 4)
say("pid", os.getpid())
say("ready", facts(run))
pids = [None] * dist.get_world_size()
dist.all_gather_object(pids, os.getpid())
"""
DELAYED_S = 0.5  # what the end of a job may take longer than without us
MACHINE_S = 1.5  # and what a machine with two cores and other work may add to that


class End(NamedTuple):
    """A way to end.

    Attributes:
        body: what each rank does when all have trained.
        status: final status of the Run.
        code: exit code of torchrun.
        failure: what the first failure must say, empty for none.
        options: of torchrun.
        before: what it does before `init()`.
    """

    body: str
    status: str
    code: int
    failure: Mapping[str, Any] = {}
    options: tuple[str, ...] = ()
    before: str = ""


def _in_rank(rank: int, action: str) -> str:
    return f"if RANK == {rank}:\n    cause()\n    {action}\ntrain_for_ever(run)\n"


TO_AGENT = _in_rank(0, "os.kill(os.getppid(), signal.SIGTERM)")
IGNORE = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
SOON = "--shutdown-timeout=1"  # torchrun's SIGKILL comes after this many seconds, by itself after 30

# Every rank waits for a message that never comes, so no Python handler runs any more.
IN_A_CALL = """
def stop():
    cause()
    os.kill(os.getppid(), signal.SIGTERM)
if RANK == 0:
    threading.Timer(0.5, stop).start()
dist.recv(torch.zeros(1), (RANK + 1) % 3)
"""
PREEMPTED = """
def agreed():
    "Whether any rank was asked to stop: all of them leave the loop after the same step."
    asked = torch.tensor(float(run.preempted))
    dist.all_reduce(asked, dist.ReduceOp.MAX)
    return bool(asked)
agreed()
if RANK == 0:
    cause()
    os.kill(os.getppid(), signal.SIGTERM)
while not agreed():
    step()
run.log({"saved": 1.0}, 9)
say("saved")
run.finish()
leave()
"""

ENDS = {
    "success": End("cause()\nrun.finish()\nleave()\n", "COMPLETED", 0),
    "success_without_finish": End("cause()\nleave()\n", "COMPLETED", 0),
    "exception_in_rank_2": End(
        _in_rank(2, "raise ValueError('boom')"),
        "FAILED",
        1,
        {"rank": 2, "kind": "exception", "type": "ValueError", "message": "boom"},
    ),
    "exit_3_in_rank_1": End(
        _in_rank(1, "sys.exit(3)"), "FAILED", 1, {"rank": 1, "kind": "exit", "exit_code": 3}
    ),
    "os_exit_4_in_rank_1": End(
        _in_rank(1, "os._exit(4)"), "FAILED", 1, {"rank": 1, "kind": "exit", "exit_code": 4}
    ),
    "sigkill_of_rank_0": End(
        _in_rank(0, "os.kill(os.getpid(), signal.SIGKILL)"),
        "FAILED",
        1,
        {"rank": 0, "role": "owner", "kind": "signal", "signal": "SIGKILL"},
    ),
    "sigkill_of_rank_1": End(
        _in_rank(1, "os.kill(os.getpid(), signal.SIGKILL)"),
        "FAILED",
        1,
        {"rank": 1, "role": "worker", "kind": "signal", "signal": "SIGKILL"},
    ),
    "segfault_of_rank_2": End(
        _in_rank(2, "os.kill(os.getpid(), signal.SIGSEGV)"),
        "FAILED",
        1,
        {"rank": 2, "kind": "signal", "signal": "SIGSEGV"},
        before="import faulthandler; faulthandler.enable()\n",
    ),
    "sigterm_to_agent": End(TO_AGENT, "TERMINATED", 1, {"signal": "SIGTERM"}),
    "sigterm_to_rank_1": End(
        _in_rank(1, "os.kill(os.getpid(), signal.SIGTERM)"),
        "TERMINATED",
        1,
        {"rank": 1, "signal": "SIGTERM"},
    ),
    "sigterm_to_all": End(
        _in_rank(0, "for pid in (*pids, os.getppid()): os.kill(pid, signal.SIGTERM)"),
        "TERMINATED",
        1,
        {"signal": "SIGTERM"},
    ),
    "ranks_ignore_sigterm": End(
        TO_AGENT, "TERMINATED", 1, {"signal": "SIGTERM"}, options=(SOON,), before=IGNORE
    ),
    "ranks_replace_the_handler": End(
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n" + TO_AGENT,
        "TERMINATED",
        1,
        {"signal": "SIGTERM"},
    ),
    "ranks_cannot_speak": End(IN_A_CALL, "TERMINATED", 1, {"signal": "SIGTERM"}, options=(SOON,)),
    "ranks_save_and_leave": End(PREEMPTED, "TERMINATED", 1, {"signal": "SIGTERM"}),
}


class Story(NamedTuple):
    """A job that is over.

    Attributes:
        ready: facts of the handles, by rank.
        code: torchrun's exit code.
        took_s: from the cause to torchrun's end.
    """

    job: TorchJob
    ready: dict[int, dict[str, Any]]
    code: int
    took_s: float


def _play(node: Node, name: str, end: End, *, without_pluto: bool = False) -> Story:
    body = end.before + START.format(name=name) + end.body
    job = TorchJob(node, name, body, *end.options, without_pluto=without_pluto)
    return Story(job, job.ready(), *job.wait())


@pytest.fixture(scope="module")
def stories(shared_node: Node) -> Iterator[dict[str, Future[Story]]]:
    """All jobs, two at a time: one trains while the other imports torch."""
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(_play, shared_node, name, end) for name, end in ENDS.items()}


@pytest.mark.parametrize("name", ENDS)
def test_the_run_ends_as_the_job_did(shared_node: Node, stories: dict[str, Future[Story]], name: str) -> None:
    """G7, R10: status and culprit are right, and every point is there."""
    end, story = ENDS[name], stories[name].result()
    found = shared_node.ended(name)
    assert (found["status"], story.code) == (end.status, end.code), found["verdict"]
    failure = found["verdict"]["first_failure"]
    if end.failure:
        assert {key: failure[key] for key in end.failure} == end.failure, found["verdict"]
        assert failure["pid"] in story.job.pids().values()
    else:
        assert failure is None
    _check_identity(found, story.ready)
    check_points(shared_node, name, dict.fromkeys(range(3), STEPS))


@pytest.mark.parametrize("name", ["success", "sigkill_of_rank_1", "sigterm_to_agent"])
def test_torchrun_is_what_it_is_without_us(node: Node, stories: dict[str, Future[Story]], name: str) -> None:
    """G5: the same exit code, and an end that is not delayed."""
    wait(stories.values())  # nothing else runs while time is taken
    ours = _play(node, name, ENDS[name])
    plain = _play(node, f"{name}_plain", ENDS[name], without_pluto=True)
    print(f"{name}: {ours.took_s:.2f} s to the end, {plain.took_s:.2f} s without")
    assert ours.code == plain.code
    assert ours.took_s <= plain.took_s + DELAYED_S + MACHINE_S
    node.ended(name)


def _check_identity(found: Mapping[str, Any], ready: Mapping[int, Mapping[str, Any]]) -> None:
    """All ranks had handles of one Run: rank 0 as its owner, the others as workers."""
    for rank, facts in ready.items():
        for shared in ("id", "display_id", "run_id", "name", "project"):
            assert facts[shared] == found[shared]
        assert facts["role"] == ("worker" if rank else "owner")
        held = lease(found, rank=rank)
        assert (held["lease_id"], held["pid"], held["epoch"]) == (facts["lease_id"], facts["pid"], 1)
        assert held["state"] == "ended"
    assert not events(found, "restarted")
