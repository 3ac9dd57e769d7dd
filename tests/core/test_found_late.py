"""Ends that are found long after they happened are dated by when the process was last known to live (R10)."""

from __future__ import annotations

import msgspec

from pluto_dist.core.values.records import Run
from tests.core.processes import LOCAL, PLUTO
from tests.core.world import World


def found_after(world: World, seconds: float) -> int:
    """No coordinator for so long; when the next one found what there was, epoch milliseconds."""
    world.wait(seconds)
    world.start()
    world.give_key(PLUTO)
    found_ms = world.wall_ms
    world.wait(HEARD_S)
    return found_ms


HEARD_S = 2.0  # others' last words are waited for before a death is told


def only(world: World) -> Run:
    (run,) = world.book.runs
    return run


def test_a_death_that_is_found_late_is_dated_by_when_the_process_was_last_known_to_live() -> None:
    world = World()
    owner = world.process("owner").init().log(loss=1.0)
    world.kill()
    owner.kill()
    found_ms = found_after(world, 77)
    run = only(world)
    assert run.verdict is not None
    failure = run.verdict.first_failure
    assert failure is not None
    assert (failure.at, failure.found_at) == (owner.died_ms, found_ms)
    decided_ms = found_ms + round(HEARD_S * 1000)
    assert (run.ended_ms, run.found_ms, run.decided_ms) == (owner.died_ms, decided_ms, decided_ms)
    told = world.server.only()
    assert told.status == "FAILED"
    assert told.reports[0].at_ms == owner.died_ms
    metadata = msgspec.json.decode(told.reports[0].metadata or b"{}")
    assert (metadata["ended_at"], metadata["found_at"]) == (owner.died_ms, decided_ms)


def test_a_finish_that_is_read_late_is_dated_by_when_it_was_said() -> None:
    world = World()
    owner = world.process("owner").init().log(loss=1.0)
    world.kill()
    said_ms = owner.finish().exit().died_ms
    found_ms = found_after(world, 3_600)
    run = only(world)
    assert run.status == "COMPLETED"
    assert (run.ended_ms, run.found_ms) == (said_ms, found_ms)
    assert world.server.only().reports[0].at_ms == said_ms


def test_the_last_of_all_dates_the_end() -> None:
    world = World()
    launch = world.launch(ranks=2)
    first, second = (process.init(env="x").log(loss=1.0) for process in launch.start())
    world.kill()
    first.kill()
    world.wait(20)
    second.kill()
    launch.launcher.exit()
    found_after(world, 77)
    assert only(world).ended_ms == second.died_ms


def test_an_end_that_is_seen_has_one_time() -> None:
    world = World(LOCAL)
    world.polled_before_s = 1.0
    owner = world.process("owner").init().log(loss=1.0).kill()
    world.wait(HEARD_S)
    run = only(world)
    assert owner.died_ms < world.wall_ms
    assert run.verdict is not None
    assert run.verdict.first_failure is not None
    assert run.verdict.first_failure.found_at is None
    assert (run.ended_ms, run.found_ms) == (world.wall_ms, 0)


def test_a_member_that_was_found_late_dates_no_end_that_is_seen() -> None:
    """The next attempt has gone on for long when it ends."""
    world = World()
    launch = world.launch(ranks=2, max_restarts=1)
    for process in launch.start():
        process.init(env="x").log(loss=1.0)
    world.kill()
    launch.rank(1).kill()
    launch.rank(0).kill()
    found_after(world, 77)
    for process in launch.restart():
        process.init(env="x").log(loss=2.0)
    world.wait(60)
    for process in launch.ranks.values():
        process.finish().exit()
    launch.launcher.exit()
    run = only(world)
    assert run.status == "COMPLETED"
    assert (run.ended_ms, run.found_ms) == (world.wall_ms, 0)
    assert run.attempts[0].first_failure is not None


def test_files_are_waited_for_from_when_the_end_was_found() -> None:
    """Else the status of a machine that was off would go out before all files (R10)."""
    world = World()
    owner = world.process("owner").init()
    owner.log(stream="files", size=0.0)
    world.kill()
    owner.log(stream="files", size=1.0)
    owner.kill()
    world.hold.add("Ship")
    found_after(world, 24 * 3_600)
    world.wait(7.0)
    assert world.server.only().reports == []
    world.release()
    world.wait(1.0)
    assert [report.status for report in world.server.only().reports] == ["FAILED"]
