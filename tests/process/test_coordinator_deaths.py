"""The coordinator may die at any moment: nobody notices, nothing is lost, ids and epochs stay (G12)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.process.harness import Node, Script, lease, wait_until

RANKS = 8
RANK = """
    run = pluto.init(run_id="storm", quiet=True)
    tell_json("ready", facts(run))
    step = 0
    stop = threading.Event()
    def obey():
        while hear() == "count":
            tell("step", step)
        stop.set()
    threading.Thread(target=obey, daemon=True).start()
    while not stop.is_set():
        run.log({f"loss{os.environ['RANK']}": float(step)}, step)
        step += 1
        time.sleep(0.01)
    run.finish()
    tell_json("end", {"steps": step})
"""


@pytest.fixture
def quick(node: Node) -> Node:
    """A node whose processes notice a dead coordinator within a fraction of a second."""
    node.set(PLUTO_DIST_HEARTBEAT_S="0.2")
    return node


def test_twenty_deaths_during_a_run_of_eight_processes_lose_nothing(quick: Node) -> None:
    """G3, G4, G12: every point of every returned log() once, status, ids and epochs kept; no log() waits."""
    launcher = quick.launcher(RANKS)
    ranks = [launcher.rank(n, RANK) for n in range(RANKS)]
    before = [rank.expect_json("ready") for rank in ranks]
    killed: set[int] = set()
    for _ in range(20):
        killed.add(kill_newest(quick, killed))
    with no_coordinator(quick):  # a log() that waited for one would wait now
        counts = [count(rank) for rank in ranks]
        for rank, counted in zip(ranks, counts, strict=True):
            wait_until(lambda rank=rank, counted=counted: count(rank) > counted + 10, "a rank goes on")
    wait_until(lambda: set(quick.coordinators()) - killed, "one more coordinator")
    for rank in ranks:
        rank.say("end")
    ends = [rank.expect_json("end") for rank in ranks]
    assert [rank.wait() for rank in ranks] == [0] * RANKS
    found = quick.ended("storm")
    assert found["status"] == "COMPLETED"
    assert found["id"] == before[0]["id"]
    assert found["epoch"] == 1
    for told in before:
        kept = lease(found, lease_id=told["lease_id"])
        assert (kept["role"], kept["epoch"], kept["end_reason"]) == (told["role"], told["epoch"], "finished")
    points = Counter((point.lease_id, point.step) for point in quick.points("storm"))
    expected = {
        (told["lease_id"], step)
        for told, end in zip(before, ends, strict=True)
        for step in range(end["steps"])
    }
    assert set(points) == expected
    assert set(points.values()) == {1}
    assert found["points"] == len(expected)
    assert not any(rank.stderr for rank in ranks), "a trainer noticed"


def test_one_coordinator_at_a_time_with_rising_generations(quick: Node) -> None:
    """R3: each successor has a higher generation and they follow one another."""
    script = quick.start('run = pluto.init(quiet=True); tell("up"); hear()')
    script.expect("up")
    killed: set[int] = set()
    for _ in range(5):
        killed.add(kill_newest(quick, killed))
    wait_until(lambda: set(quick.coordinators()) - killed, "one more coordinator")
    generations = [int(line["generation"]) for line in quick.said("started")]
    assert all(later > earlier for earlier, later in pairwise(generations))
    assert len(quick.coordinators()) == 1
    script.say()
    assert script.wait() == 0


@pytest.mark.parametrize("pause_s", [0.0, 0.002, 0.005, 0.01, 0.03])
def test_a_death_while_a_run_is_opened_or_ended_changes_nothing(quick: Node, pause_s: float) -> None:
    """G2, G12, R1: right after a grant and between finish and report; the same Run, the same owner, once."""
    script = quick.start("""
        run = pluto.init(run_id="edge", quiet=True)
        tell("granted", run.epoch)
        log(run, {"loss": 1.0}, 0)
        hear()
        run.finish()
        tell("over")
    """)
    pid = quick.coordinator()
    time.sleep(pause_s)
    os.kill(pid, signal.SIGKILL)
    assert script.expect("granted") == "1"
    second = wait_until(lambda: set(quick.coordinators()) - {pid}, "a successor").pop()
    script.say()
    time.sleep(pause_s)
    os.kill(second, signal.SIGKILL)
    script.expect("over")
    assert script.wait() == 0
    found = quick.ended("edge")
    assert (found["status"], found["epoch"], found["points"]) == ("COMPLETED", 1, 1)
    assert len(quick.documents()) == 1
    assert not quick.lost("edge")


def test_sigterm_lets_the_coordinator_serve_until_its_clients_have_left(quick: Node) -> None:
    """R11: bounded by 25 s; here everything is over much sooner."""
    script = quick.start("""
        run = pluto.init(run_id="served", quiet=True)
        tell("up")
        hear()
        log(run, {"loss": 1.0}, 0)
        run.add_tags("late")
        tell("tags", *run.tags)
        run.finish()
    """)
    script.expect("up")
    pid = quick.coordinator()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: quick.said("signal"), "it has heard")
    script.say()
    assert script.expect("tags") == "late"
    assert script.wait() == 0
    assert quick.ended("served")["status"] == "COMPLETED"
    wait_until(lambda: not quick.coordinators(), "the coordinator has left")
    assert [line["pid"] for line in quick.said("started")] == [str(pid)]
    after = quick.start('tell("again", pluto.init(run_id="other", quiet=True).run_id)')
    assert after.expect("again") == "other"
    assert after.wait() == 0


def test_sigterm_is_bounded_when_clients_stay(quick: Node) -> None:
    """R11: after its time the coordinator leaves although somebody is attached, who starts the next one."""
    coordinator = quick.start(
        """
        from pathlib import Path
        from pluto_dist.coordinator import main
        from pluto_dist.host.launch import CoordinatorOptions
        from pluto_dist.host.places import find_places
        main.SIGTERM_S = 0.5
        places = find_places(Path(os.environ["PLUTO_DIST_HOME"]))
        tell("starts")
        tell("code", main.main(CoordinatorOptions(places.runtime, places.spool).arguments()))
    """,
        name="coordinator",
    )
    coordinator.expect("starts")
    wait_until((quick.home / "run" / "coordinator.sock").exists, "it listens")
    script = quick.start('run = pluto.init(run_id="stays", quiet=True); tell("up"); hear()')
    script.expect("up")
    coordinator.signal(signal.SIGTERM)
    assert coordinator.expect("code") == "0"
    wait_until(lambda: quick.said("started"), "the next one")
    script.say()
    assert script.wait() == 0
    assert quick.ended("stays")["status"] == "COMPLETED"


def test_a_question_survives_the_death_of_the_coordinator(node: Node) -> None:
    """G12: the next call starts another one; it neither waits for a heartbeat nor fails."""
    script = node.start("""
        run = pluto.init(run_id="asked", config={"lr": 1}, quiet=True)
        run._lease.link._session._heartbeat_s = NEVER_S
        tell("up")
        while hear():
            tell_json("config", [run.config, run.status, run.tags])
    """)
    script.expect("up")
    for _ in range(3):
        node.kill_coordinator()
        script.say()
        assert script.expect_json("config") == [{"lr": 1}, "RUNNING", []]


def count(rank: Script) -> int:
    """Records that a rank has logged."""
    rank.say("count")
    return int(rank.expect("step"))


@contextlib.contextmanager
def no_coordinator(node: Node) -> Iterator[None]:
    """There is none while the block runs, because none can have the lock."""
    lock = os.open(node.home / "run" / "coordinator.lock", os.O_RDWR)

    def taken() -> bool:
        for pid in node.started():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    try:
        wait_until(taken, "the lock")
        yield
    finally:
        os.close(lock)


def kill_newest(node: Node, killed: set[int]) -> int:
    """SIGKILLs the coordinator that serves now, a moment after it began, however far it has come."""
    pid = wait_until(lambda: set(node.coordinators()) - killed, "a coordinator").pop()
    time.sleep(len(killed) % 5 * 0.04)
    os.kill(pid, signal.SIGKILL)
    return int(pid)
