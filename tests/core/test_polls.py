"""Before a verdict everybody who is still there is heard (R10): the coordinator may have been away."""

from __future__ import annotations

import msgspec
import pytest

from pluto_dist.core.rules.verdict import DRAIN_S
from pluto_dist.core.values.effects import WriteDocument
from tests.core.processes import LOCAL
from tests.core.world import World


def test_what_a_worker_said_while_nobody_read_counts() -> None:
    """R1, R10, G7: its words are on the disk, the message about them was lost, the deadline has passed."""
    world = World()
    owner, worker = world.launch().start()
    owner.init("x")
    worker.init()
    owner.finish().exit()
    world.nudges = False
    worker.evidence("exception", type="ValueError", message="boom")
    world.now += DRAIN_S + 1
    world.tick()
    run = world.run("x")
    assert run.status == "FAILED"
    assert run.verdict is not None
    assert run.verdict.first_failure is not None
    assert run.verdict.first_failure.rank == 1


@pytest.mark.parametrize("away_s", [1.0, 60.0])
def test_a_coordinator_that_starts_late_hears_before_it_decides(away_s: float) -> None:
    """R1, G12: the drain ended while no coordinator ran; what the worker said came before that."""
    world = World()
    owner, worker = world.launch().start()
    owner.init("x")
    worker.init()
    owner.finish().exit()
    world.kill()
    world.nudges = False
    worker.evidence("exit", exit_code=3)
    world.now += away_s
    world.start(hello=False)
    worker.finish().exit(3)
    world.wait(DRAIN_S)
    assert world.run("x").status == "FAILED"


def test_a_worker_that_goes_on_is_heard_once_and_not_waited_for() -> None:
    """R10: the deadline holds."""
    world = World()
    owner, worker = world.launch().start()
    owner.init("x")
    worker.init()
    owner.finish().exit()
    world.wait(DRAIN_S + 1)
    assert world.run("x").status == "COMPLETED"
    worker.log(loss=1.0)
    assert world.run("x").status == "COMPLETED"


def test_the_last_rank_of_a_short_job_is_no_stranger() -> None:
    """R4, R10: it has called init() while rank 0 ended, and the message about it was slower."""
    world = World()
    owner, worker = world.launch().start()
    owner.init("x")
    world.nudges = False
    worker.init()
    world.nudges = True
    owner.log(loss=1.0).finish().exit()
    worker.sync()
    assert worker.role == "worker"
    worker.log(loss=2.0).raises()
    world.wait(DRAIN_S)
    run = world.run("x")
    assert run.status == "FAILED"
    assert world.server.only().values("loss/rank1") == [2.0]


def test_while_members_are_heard_the_store_does_not_forget_how_the_run_ended() -> None:
    """G3, R11: everything may be killed in that very moment."""
    world = World(LOCAL)
    written: list[str] = []
    world.observers.append(
        lambda effect: (
            written.append(msgspec.json.decode(effect.body)["status"])
            if isinstance(effect, WriteDocument)
            else None
        )
    )
    world.process("train").init("x").finish(at_exit=True).exit(0)
    ended = written.index("COMPLETED")
    assert len(written) > ended + 1
    assert set(written[ended:]) == {"COMPLETED"}


def test_a_death_comes_after_what_the_process_said_itself() -> None:
    """R10: it was last known to live before its SIGTERM came, which it said while it lived."""
    world = World()
    (owner,) = world.launch().start(0)
    owner.init("x")
    world.polled_before_s = 0.5
    owner.evidence("signal", signal="SIGTERM", ignored=True)
    owner.kill()
    world.wait(DRAIN_S)
    assert world.run("x").status == "TERMINATED"
