"""Files on their way: their room is given back behind the cursor, they hold up nobody for long (G5, G6)."""

from __future__ import annotations

from pluto_dist.core.values.backend import Rejected, Retry, StatusReport
from pluto_dist.core.values.effects import RemoveBlobs, Ship
from tests.core.spool import FRAME
from tests.core.test_lane import Batches, cursor_of, owner
from tests.core.world import World


def removed(world: World) -> list[tuple[int, int]]:
    """Parts of the files stream whose blobs were deleted, in order."""
    return [(effect.start, effect.end) for effect in world.others if isinstance(effect, RemoveBlobs)]


def reports(world: World) -> list[StatusReport]:
    return world.server.only().reports


def test_a_blob_goes_when_its_line_is_delivered_and_not_before() -> None:
    """G3: while storage refuses, the content stays."""
    world = World()
    process = owner(world)
    world.server.answer("deliver", Retry("storage is away"))
    process.log(stream="files", size=1.0)
    assert removed(world) == []
    world.wait(60)
    assert removed(world) == [(0, FRAME)]


def test_the_next_coordinator_does_what_the_last_one_did_not_come_to() -> None:
    """G12: killed behind its commit; else the room would be taken until the process ends."""
    world = World()
    process = owner(world)
    process.log(stream="files", size=1.0)
    world.others.clear()
    world.kill()
    world.start()
    world.wait(1)
    process.log(stream="files", size=1.0)
    assert removed(world) == [(0, FRAME), (FRAME, 2 * FRAME)]


def test_the_file_of_a_refused_line_goes_when_it_is_kept_aside() -> None:
    """G6: not while the store cannot take it."""
    world = World()
    process = owner(world)
    process.log(stream="files", size=1.0)  # its name is settled
    world.store_broken = True
    world.server.answer("deliver", Rejected("no such type"))
    process.log(stream="files", size=1.0)
    assert removed(world) == [(0, FRAME)]
    world.store_broken = False
    world.server.answer("deliver", Rejected("no such type"))
    world.wait(60)
    assert removed(world) == [(0, FRAME), (FRAME, 2 * FRAME)]
    assert world.run().rejected == 1


def test_files_travel_in_small_batches() -> None:
    """G6: an upload address is asked for shortly before it is used."""
    world = World()
    process = owner(world)
    process.log(stream="files", size=0.0)
    world.hold.add("Ship")
    for number in range(30):
        process.log(stream="files", size=float(number))
    batches = Batches(world)
    world.release()
    world.wait(10)
    assert {ship.limit_lines for ship in batches.ships} == {8}
    assert cursor_of(world, "files").passed == 31


def test_the_status_waits_for_files_but_not_for_long() -> None:
    """G5, R10: ten seconds after the end, it goes out without them."""
    world = World()
    process = owner(world)
    process.log(stream="files", size=0.0)
    world.hold.add("Ship")
    process.log(stream="files", size=1.0)
    process.finish()
    process.exit(0)
    world.wait(9)
    assert reports(world) == []
    world.wait(3)
    assert [report.status for report in reports(world)] == ["COMPLETED"]
    world.release()
    world.wait(5)
    assert cursor_of(world, "files").passed == 2 or not world.spools
    assert len(reports(world)) == 1


def test_the_status_waits_for_records_as_long_as_it_takes() -> None:
    """G6: only files may be late."""
    world = World()
    process = owner(world)
    world.hold.add("Ship")
    process.log(loss=1.0)
    process.log(stream="files", size=1.0)
    process.finish()
    process.exit(0)
    world.wait(30)
    assert reports(world) == []
    world.release()
    world.wait(5)
    assert len(reports(world)) == 1


def test_a_files_stream_that_fails_is_tried_by_itself() -> None:
    """G6: metrics of the same process go on meanwhile."""
    world = World()
    process = owner(world)
    process.log(stream="files", size=0.0)
    seen: list[Ship] = []
    world.observers.append(lambda effect: seen.append(effect) if isinstance(effect, Ship) else None)
    world.server.answer("deliver", Retry("storage is away", after_s=30.0))
    process.log(stream="files", size=1.0)
    process.log(loss=1.0)
    assert [ship.stream for ship in seen] == ["files", "metrics"]
    assert world.server.only().values("loss") == [0.0, 1.0]
    assert world.server.only().values("size") == [0.0]
