"""Lifecycle entries that the coordinator cannot read: of a newer client, or damaged (R1)."""

from __future__ import annotations

from pluto_dist.core.values.lifecycle import Unreadable
from pluto_dist.core.values.messages import Refusal
from tests.core.world import World

NEWER = Unreadable("Invalid value 'promoted'")


def test_an_unreadable_entry_is_passed_and_noted() -> None:
    """R1, G5: who waits until all entries are settled waits for this one too; its neighbours count."""
    world = World()
    process = world.process("train").init("x")
    process.say(NEWER).sync()
    assert process.view.folded == len(process.spool.entries)
    process.finish()
    assert process.view.state == "ended"
    (noted,) = world.notes(world.run("x"), "unreadable_entry")
    assert noted == {"lease": process.spool.lease_id, "number": "2", "entries": "1", "why": NEWER.why}


def test_an_unreadable_entry_is_noted_once_over_restarts() -> None:
    """G12: what was passed before is not read again."""
    world = World()
    process = world.process("train").init("x").say(NEWER)
    world.restart()
    process.sync()
    assert len(world.notes(world.run("x"), "unreadable_entry")) == 1


def test_a_lease_whose_first_entry_is_unreadable_is_refused() -> None:
    """R1: the process is told at once and why, also after a restart; nothing else changes."""
    world = World()
    world.nudges = False
    process = world.process("newer").init("x")
    process.spool.entries[0] = NEWER
    for _ in range(2):
        world.replies.clear()
        process.sync()
        (refusal,) = world.replies
        assert isinstance(refusal, Refusal)
        assert refusal.error == "VersionMismatchError"
        assert NEWER.why in refusal.message
        assert "coordinator stop" in refusal.message
        world.kill()
        world.start(hello=False)
    assert list(world.book.runs) == []
    assert process.spool.lease_id in world.spools, "a coordinator of another version may read it"
