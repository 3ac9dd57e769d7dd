"""Real torchrun jobs with a server: every way in which a job can end (G1, G7, R9, R10).

All ranks call `init()`; the causes come from inside, at an instant that the rank tells. The jobs share a node
and a server. Each has a twin without us, whose exit code has to be the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from tests.patience import NEVER_S
from tests.process.harness import Node, events, lease
from tests.process.served import Served
from tests.process.told import check_end, check_points
from tests.process.torchjob import DDP, GLOO, PLAIN, STEPS, TorchJob

pytest.importorskip("torch", reason="torch is not installed here: pip install torch==2.13.0")

START = """
run = pluto.init(run_id="{name}", project="torchrun")
train(run, 4)
say("pid", os.getpid())
say("ready", facts(run))
meet()
"""
GRACES = dict.fromkeys(
    (
        "pluto_dist.core.rules.verdict.DRAIN_S",
        "pluto_dist.core.rules.verdict.ORPHAN_S",
        "pluto_dist.core.rules.verdict.RESTART_WINDOW_S",
        "pluto_dist.core.rules.verdict.EXIT_S",
        "pluto_dist.core.rules.verdict.LAUNCHER_GONE_S",
    ),
    NEVER_S,
)


class End(NamedTuple):
    """A way to end.

    Attributes:
        body: what each rank does when all have trained.
        status: final status of the Run.
        code: exit code of torchrun.
        failure: what the first failure must say, empty for none.
        options: of torchrun.
        before: what it does before `init()`.
        train: with torch where what peers do inside of a collective matters.
        ranks: the fewest that show it.
    """

    body: str
    status: str
    code: int
    failure: Mapping[str, Any] = {}
    options: tuple[str, ...] = ()
    before: str = ""
    train: str = GLOO
    ranks: int = 2


def _in_rank(rank: int, action: str) -> str:
    return f"if RANK == {rank}:\n    cause()\n    {action}\ntrain_for_ever(run)\n"


TERM_AGENT = "os.kill(os.getppid(), signal.SIGTERM)"
TO_AGENT = _in_rank(0, TERM_AGENT)
IGNORE = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
SOON = "--shutdown-timeout=5"  # torchrun's SIGKILL comes after this many seconds, by itself after 30

# Every rank waits for a message that never comes, so no Python handler runs any more.
IN_A_CALL = """
def stop():
    cause()
    os.kill(os.getppid(), signal.SIGTERM)
if RANK == 0:
    threading.Timer(0.5, stop).start()
dist.recv(torch.zeros(1), (RANK + 1) % WORLD)
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
    "success": End("cause()\nrun.finish()\nleave()\n", "COMPLETED", 0, train=DDP, ranks=3),
    "success_without_finish": End("cause()\nleave()\n", "COMPLETED", 0, train=PLAIN),
    "exception_in_rank_2": End(
        _in_rank(2, "raise ValueError('boom')"),
        "FAILED",
        1,
        {"rank": 2, "kind": "exception", "type": "ValueError", "message": "boom"},
        ranks=3,
    ),
    "exit_3_in_rank_1": End(
        _in_rank(1, "sys.exit(3)"), "FAILED", 1, {"rank": 1, "kind": "exit", "exit_code": 3}
    ),
    "os_exit_4_in_rank_1": End(
        _in_rank(1, "os._exit(4)"), "FAILED", 1, {"rank": 1, "kind": "exit", "exit_code": 4}, train=PLAIN
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
        ranks=3,
    ),
    "segfault_of_rank_1": End(
        _in_rank(1, "os.kill(os.getpid(), signal.SIGSEGV)"),
        "FAILED",
        1,
        {"rank": 1, "kind": "signal", "signal": "SIGSEGV"},
        before="import faulthandler; faulthandler.enable()\n",
        train=PLAIN,
    ),
    "sigterm_to_agent": End(TO_AGENT, "TERMINATED", 1, {"signal": "SIGTERM"}),
    "sigterm_to_rank_1": End(
        _in_rank(1, "os.kill(os.getpid(), signal.SIGTERM)"),
        "TERMINATED",
        1,
        {"rank": 1, "signal": "SIGTERM"},
    ),
    "sigterm_to_all": End(
        _in_rank(
            0, "for rank in psutil.Process(os.getppid()).children(): rank.terminate()\n    " + TERM_AGENT
        ),
        "TERMINATED",
        1,
        {"signal": "SIGTERM"},
        before="import psutil\n",
        train=PLAIN,
    ),
    "ranks_ignore_sigterm": End(
        TO_AGENT,
        "TERMINATED",
        1,
        {"signal": "SIGTERM"},
        options=(SOON,),
        before=IGNORE,
        train=PLAIN,
    ),
    "ranks_replace_the_handler": End(
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n" + TO_AGENT,
        "TERMINATED",
        1,
        {"signal": "SIGTERM"},
        train=PLAIN,
    ),
    "ranks_cannot_speak": End(IN_A_CALL, "TERMINATED", 1, {"signal": "SIGTERM"}, options=(SOON,)),
    "ranks_save_and_leave": End(PREEMPTED, "TERMINATED", 1, {"signal": "SIGTERM"}),
}


class Story(NamedTuple):
    """A job that is over.

    Attributes:
        ready: facts of the handles, by rank.
        code: torchrun's exit code.
        plain: that of the twin.
    """

    job: TorchJob
    ready: dict[int, dict[str, Any]]
    code: int
    plain: int


def _launch(node: Node, name: str, end: End, **more: Any) -> TorchJob:
    body = end.before + START.format(name=name) + end.body
    return TorchJob(node, name, body, *end.options, **{"ranks": end.ranks, "train": end.train, **more})


def _play(node: Node, name: str, end: End) -> Story:
    job = _launch(node, name, end)
    ready, code = job.ready(), job.wait()
    needs_torch = "dist." in end.body  # the others end the same way without
    train = end.train if needs_torch else PLAIN
    twin = _launch(node, f"{name}_twin", end, without_pluto=True, train=train)
    return Story(job, ready, code, twin.wait())


@pytest.fixture(scope="module")
def stories(shared_served: Served) -> Iterator[dict[str, Future[Story]]]:
    """All jobs, two at a time: one trains while the other imports torch."""
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(_play, shared_served, name, end) for name, end in ENDS.items()}


@pytest.mark.parametrize("name", ENDS)
def test_the_run_ends_as_the_job_did(
    shared_served: Served, stories: dict[str, Future[Story]], name: str
) -> None:
    """G7, R10: status and culprit are right, the server is told once, and every point is there."""
    end, story = ENDS[name], stories[name].result()
    found = shared_served.ended(name)
    assert (found["status"], story.code) == (end.status, end.code), found["verdict"]
    assert story.code == story.plain
    failure = found["verdict"]["first_failure"]
    if end.failure:
        assert {key: failure[key] for key in end.failure} == end.failure, found["verdict"]
        assert failure["pid"] in story.job.pids().values()
    else:
        assert failure is None
    check_end(shared_served, name, end.status)
    _check_identity(found, story.ready)
    check_points(shared_served, name, dict.fromkeys(range(end.ranks), STEPS))


@pytest.mark.parametrize("name", ["success", "sigkill_of_rank_1", "sigterm_to_agent"])
def test_the_end_is_not_delayed(served: Served, name: str) -> None:
    """G5: with a server in reach no bound of an exit and no grace is waited out: here they are endless."""
    served.constants(GRACES)
    job = _launch(served, name, ENDS[name], train=PLAIN, ranks=2)
    assert job.wait() == ENDS[name].code
    check_end(served, name, ENDS[name].status)


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
