"""Segments on the disk: torn, growing late, given back (G3, G4)."""

from __future__ import annotations

import pytest

from pluto_dist.core.values.effects import Effect, Ship
from tests.core.test_lane import Batches, cursor_of, owner
from tests.core.world import World


def test_an_unfinished_frame_waits_and_holds_up_nobody() -> None:
    """G3: it is looked at again when it has grown; the next segment goes on."""
    world = World()
    process = owner(world)
    batches = Batches(world)
    process.spool.tear()
    world.look()
    process.spool.rotate()
    process.log(loss=2.0)
    world.wait(30)
    assert world.server.only().values("loss") == [0.0, 2.0]
    assert len(batches.ships) < 6
    process.spool.finish_torn({"loss": 1.0}, 1)
    world.look()
    assert world.server.only().values("loss") == [0.0, 2.0, 1.0]


def test_growth_while_a_torn_cut_is_on_its_way_is_not_overlooked() -> None:
    """G3: the size that counts is the one before the cut was made."""
    world = World()
    process = owner(world)
    process.spool.tear()
    world.hold.add("Ship")
    world.look()
    cut = process.spool.cut

    def early(effect: Ship) -> object:
        found = cut(effect)
        process.spool.cut = cut  # type: ignore[method-assign] # the cut was made, now the frame is finished
        process.log(loss=1.0)
        return found

    process.spool.cut = early  # type: ignore[method-assign,assignment] # read before it was finished
    world.release()
    assert world.server.only().values("loss") == [0.0, 1.0]


def test_a_torn_tail_of_a_dead_process_is_given_up() -> None:
    """G3: what was not finished was never accepted."""
    world = World()
    process = owner(world)
    process.spool.tear()
    process.kill()
    world.wait(5)
    assert world.run().reported
    assert not world.spools


def test_an_older_segment_may_grow_late() -> None:
    """G3: a write that was in flight during the rotation."""
    world = World()
    process = owner(world)
    process.spool.rotate()
    process.log(loss=2.0)
    process.spool.finish_torn({"loss": 1.0}, 1)
    world.look()
    assert world.server.only().values("loss") == [0.0, 2.0, 1.0]


@pytest.mark.parametrize(("wanted", "left"), [(2, [9, 10]), (5, [6, 7, 8, 9, 10])])
def test_delivered_segments_are_given_back_all_but_the_newest(wanted: int, left: list[int]) -> None:
    """G4: the disk does not fill, and the cursor does not grow."""
    world = World()
    process = owner(world, retention_segments=wanted)
    for value in range(1, 10):
        process.spool.rotate()
        process.log(loss=float(value))
    world.wait(1)
    assert sorted(process.spool.streams["metrics"]) == left
    process.log(loss=10.0)
    assert set(cursor_of(world).offsets) == set(left)
    process.finish().exit()
    world.wait(1)
    assert not world.spools, "nothing outlives the process"


def test_what_is_delivered_is_given_back_although_the_stream_is_behind() -> None:
    """G3, G4: the quota counts what lies on the disk, so a server that is slow must not keep it full."""
    world = World()
    process = owner(world)
    world.wait(1)
    world.hold.add("Ship")
    for value in range(1, 8):
        process.spool.rotate()
        process.log(loss=float(value))
    world.wait(1)
    on_disk: list[tuple[int, list[int]]] = []

    def look(effect: Effect) -> None:
        if isinstance(effect, Ship):
            on_disk.append((effect.segment, sorted(process.spool.streams["metrics"])))

    world.observers.append(look)
    world.release()
    assert on_disk == [(segment, list(range(min(segment, 7), 9))) for segment in range(3, 9)]
    assert world.server.only().values("loss") == [float(value) for value in range(8)]


def test_a_write_after_the_end_is_not_lost() -> None:
    """G3: the folder is looked at once more when the process is gone."""
    world = World()
    process = owner(world)
    world.nudges = False
    process.finish()
    world.nudges = True
    process.sync()
    process.spool.log({"loss": 1.0}, 1)
    process.exit()
    world.wait(1)
    assert world.server.only().values("loss") == [0.0, 1.0]
    assert not world.spools
