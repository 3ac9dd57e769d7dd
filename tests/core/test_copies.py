"""What the server does not take in time is in the store as well, and only as long (G3, G4, G7)."""

from __future__ import annotations

from typing import Any

from pluto_dist.core.machine.store import AGAIN_S, ENDED_S, OPEN_S
from pluto_dist.core.values.document import read
from pluto_dist.core.values.effects import DropCopies, Effect, KeepCopies
from tests.core.processes import LOCAL
from tests.core.spool import FRAME
from tests.core.world import World


class Asked:
    """What the store was asked, in order."""

    def __init__(self, world: World) -> None:
        self.kept: list[KeepCopies] = []
        self.dropped: list[DropCopies] = []
        world.observers.append(self._see)

    def _see(self, effect: Effect) -> None:
        if isinstance(effect, KeepCopies):
            self.kept.append(effect)
        elif isinstance(effect, DropCopies):
            self.dropped.append(effect)


def cut_off(**options: Any) -> World:
    """An owner whose server does not answer any more."""
    world = World(**options)
    world.process("owner").init().log(loss=0.0)
    world.wait(5)
    world.server.down = True
    return world


def place(world: World, segment: int = 1) -> tuple[str, str, int]:
    return world.lease(world.processes[0]).lease_id, "metrics", segment


def test_a_server_that_answers_needs_no_copies() -> None:
    """G4: the store is not written to for nothing."""
    world = World()
    asked = Asked(world)
    owner = world.process("owner").init()
    for value in range(100):
        owner.log(loss=float(value))
        owner.spool.rotate()
        world.wait(2)
    owner.finish().exit()
    world.wait(10)
    assert (asked.kept, world.copies) == ([], {})


def test_a_segment_that_is_still_written_is_copied_once_a_minute() -> None:
    """G7: a node's disk may be gone with the node, so the store has all but the last minute."""
    world = cut_off()
    asked = Asked(world)
    world.processes[0].log(loss=1.0)
    world.wait(OPEN_S - 5)
    assert world.copies == {}
    world.wait(10)
    assert world.copies == {place(world): 2 * FRAME}
    world.processes[0].log(loss=2.0)
    world.wait(OPEN_S + 5)
    assert world.copies == {place(world): 3 * FRAME}
    assert [copy.start for effect in asked.kept for copy in effect.copies] == [0, 2 * FRAME]
    (lease,) = read(world.documents[world.run().key]).leases
    assert lease.lease_id == place(world)[0]


def test_a_closed_segment_is_copied_at_once_if_the_server_does_not_answer() -> None:
    """G7: nothing will be added to it."""
    world = cut_off()
    world.processes[0].log(loss=1.0)
    world.processes[0].spool.rotate()
    world.processes[0].log(loss=2.0)
    world.wait(5)
    assert place(world) in world.copies


def test_what_the_dead_have_left_behind_is_copied_at_once() -> None:
    """G7: nobody may be there any more who could."""
    world = cut_off()
    world.processes[0].log(loss=1.0).kill()
    world.wait(ENDED_S + 1)
    assert world.copies == {place(world): 2 * FRAME}


def test_copies_go_when_the_server_has_their_records_and_their_segments_after_them() -> None:
    """G3, G4: `sync` must not find what was delivered; nothing stays."""
    world = cut_off()
    asked = Asked(world)
    world.processes[0].log(loss=1.0).finish().exit()
    world.wait(5)
    assert world.copies
    world.server.down = False
    world.hold.add("DropCopies")
    world.wait(60)
    assert world.server.only().values("loss") == [0.0, 1.0]
    assert world.spools
    world.release()
    world.wait(5)
    assert (world.copies, world.spools) == ({}, {})
    assert len(asked.dropped) == 1
    assert world.run().reported


def test_a_segment_stays_as_long_as_its_copy_is_made() -> None:
    """G3: the copy that arrives late would have no cursor."""
    world = cut_off()
    world.hold.add("KeepCopies")
    world.processes[0].log(loss=1.0).kill()
    world.wait(5)
    world.server.down = False
    world.wait(60)
    assert world.server.only().values("loss") == [0.0, 1.0]
    assert world.spools
    world.release()
    world.wait(5)
    assert (world.copies, world.spools) == ({}, {})


def test_a_store_that_takes_no_copies_is_asked_again_and_told_of_once() -> None:
    """R13"""
    world = cut_off()
    world.store_broken = True
    asked = Asked(world)
    world.processes[0].log(loss=1.0).kill()
    world.wait(10 * AGAIN_S)
    assert 8 <= len(asked.kept) <= 11
    assert 1 <= len(world.notes(world.run(), "store_trouble")) <= 2  # the documents' and the copies'
    world.store_broken = False
    world.wait(AGAIN_S + 1)
    assert world.copies == {place(world): 2 * FRAME}


def test_a_store_that_is_away_when_copies_should_go_is_asked_again() -> None:
    """G3: and nothing else has to happen for that."""
    world = cut_off()
    world.processes[0].log(loss=1.0).finish().exit()
    world.wait(5)
    world.store_broken, world.server.down = True, False
    asked = Asked(world)
    world.wait(12 * AGAIN_S)
    assert world.run().reported
    assert 2 <= len(asked.dropped) <= 13
    world.store_broken = False
    world.wait(AGAIN_S + 1)
    assert (world.copies, world.spools) == ({}, {})


def test_what_the_store_may_have_is_known_before_it_has_it() -> None:
    """G6: the coordinator dies behind the copy, the server comes back, and no copy is left for `sync`."""
    world = cut_off()
    killed: list[Effect] = []

    def killer(effect: Effect) -> None:
        if isinstance(effect, KeepCopies) and not killed:
            killed.append(effect)
            world.copies[place(world)] = 2 * FRAME  # carried out, and nobody hears of it
            world.die_after(0)

    world.observers.append(killer)
    world.processes[0].log(loss=1.0).kill()
    world.wait(5)
    assert killed
    world.give_key(world.target)
    world.server.down = False
    world.wait(60)
    assert world.server.only().values("loss") == [0.0, 1.0]
    assert (world.copies, world.spools) == ({}, {})


def test_a_run_without_a_server_has_no_copies() -> None:
    """Its store is where its records are delivered."""
    world = World(target=LOCAL)
    asked = Asked(world)
    world.process("owner").init().log(loss=0.0).kill()
    world.wait(2 * OPEN_S)
    assert asked.kept == []


def test_a_coordinator_that_dies_anywhere_loses_no_copy_and_leaves_none() -> None:
    """G3, G12: killed in front of each effect of an outage, from its begin to its end."""
    for moment in range(0, 400, 5):
        world = cut_off()
        owner = world.process("rank1").attach(world.run().external_id, label="eval").log(acc=1.0)
        world.wait(5)
        world.die_after(moment)
        world.processes[0].log(loss=1.0)
        owner.log(acc=2.0).kill()
        world.wait(OPEN_S + 10)
        assert place(world) in world.copies
        world.server.down = False
        world.processes[0].finish().exit()
        for _ in range(2):  # nobody lives who could hand it over
            world.give_key(world.target)
            world.wait(100)
        assert (world.copies, world.spools) == ({}, {}), moment
        assert world.server.only().values("loss") == [0.0, 1.0]
        if world.generation == 1:
            return
    raise AssertionError("there was always one more effect")
