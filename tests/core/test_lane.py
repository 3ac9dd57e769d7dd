"""One stream on its way: order, cursors, repeats, bad records, torn tails, the disk given back (G6)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pluto_dist.core.values.backend import (
    BACKOFF_CAP_S,
    BACKOFF_FIRST_S,
    Delivered,
    Rejected,
    Retry,
    Unknown,
    backoff_s,
)
from pluto_dist.core.values.book import Book, cursor_key
from pluto_dist.core.values.document import read, show
from pluto_dist.core.values.effects import Effect, Ship
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.core.values.records import Cursor
from tests.core.processes import LOCAL, PLUTO, Process
from tests.core.spool import FRAME
from tests.core.world import World


class Batches:
    """What was shipped, in order."""

    def __init__(self, world: World) -> None:
        self.ships: list[Ship] = []
        world.observers.append(self._see)

    def _see(self, effect: Effect) -> None:
        if isinstance(effect, Ship):
            self.ships.append(effect)


def owner(world: World, **fields: Any) -> Process:
    """An owner whose names are settled; `fields` of its claim."""
    return world.process("owner").init(**fields).log(loss=0.0)


def cursor_of(world: World, stream: str = "metrics") -> Cursor:
    """The cursor of the only stream of this name."""
    (found,) = [each for each in world.book.cursors if (each.target, each.stream) == ("run", stream)]
    return found


def test_records_arrive_in_order_and_once() -> None:
    """G6"""
    world = World()
    process = owner(world)
    for value in range(1, 50):
        process.log(loss=float(value))
        if value % 10 == 0:
            process.spool.rotate()
    world.wait(1)
    assert world.server.only().values("loss") == [float(value) for value in range(50)]


def test_an_intent_is_kept_before_its_request_leaves_and_a_cursor_may_come_later() -> None:
    """G6: the next coordinator counts a repeat only if it knows that there may have been a request."""
    book = Book()
    cursor = book.put_cursor(Cursor(lease_id="l", target="run", stream="data", kind="data", offsets={1: 10}))
    assert not book.take_changes().awaited
    book.put_cursor(msgspec.structs.replace(cursor, intent=(1, 10)))
    changes = book.take_changes()
    assert (changes.awaited, changes.durable) == (True, False)


def test_one_batch_at_a_time_and_a_stuck_stream_holds_up_nobody() -> None:
    """G6"""
    world = World()
    process = owner(world)
    world.hold.add("Ship")
    batches = Batches(world)
    process.log(loss=1.0)
    process.log(loss=2.0)
    assert len(batches.ships) == 1
    process.log(stream="files", size=1.0)
    assert [ship.stream for ship in batches.ships] == ["metrics", "files"]


def test_a_cursor_moves_only_when_the_backend_has_accepted() -> None:
    """G6"""
    world = World()
    process = owner(world)
    world.server.down = True
    process.log(loss=1.0)
    assert cursor_of(world).offsets == {1: FRAME}
    world.server.down = False
    world.wait(60)
    assert cursor_of(world).offsets == {1: 2 * FRAME}


def test_backoff_grows_to_a_cap_and_ends_with_success() -> None:
    """G4: a server that is down is asked ever more rarely."""
    assert [backoff_s(n, 1.0) for n in range(4)] == [BACKOFF_FIRST_S * 2**n for n in range(4)]
    assert backoff_s(40, 1.0) == BACKOFF_CAP_S
    assert backoff_s(0, 0.0) == BACKOFF_FIRST_S / 2
    world = World()
    process = owner(world)
    world.server.down = True
    batches = Batches(world)
    process.log(loss=1.0)
    world.wait(600)
    assert 20 < len(batches.ships) < 60
    world.server.down = False
    world.wait(60)
    batches.ships.clear()
    process.log(loss=2.0)
    assert len(batches.ships) == 1


def test_a_server_that_names_a_time_is_not_asked_before() -> None:
    """G6"""
    world = World()
    process = owner(world)
    world.server.answer("deliver", Retry("too many requests", after_s=77.0))
    batches = Batches(world)
    process.log(loss=1.0)
    world.wait(76)
    assert len(batches.ships) == 1
    world.wait(2)
    assert len(batches.ships) == 2


def test_a_bad_record_is_found_by_halving_and_set_aside() -> None:
    """G6: its neighbours are delivered, it is readable with its reason, people see how many there were."""
    world = World()
    process = owner(world)
    world.hold.add("Ship")
    for value in range(1, 100):
        process.log(loss=float(value), poison=value == 33)
    world.release()
    world.wait(60)
    run = world.server.only()
    assert sorted(set(run.values("loss"))) == [float(value) for value in range(100) if value != 33]
    assert len(world.set_aside) == 1
    assert world.run().rejected == 1
    assert "a value is no number" in world.run().first_reject


def test_a_bad_row_of_data_repeats_no_neighbour_more_than_it_must() -> None:
    """G6: rows are not de-duplicated, so what may have been repeated is counted."""
    world = World()
    process = owner(world)
    world.hold.add("Ship")
    for value in range(8):
        process.log(stream="data", row=float(value), poison=value == 5)
    world.release()
    world.wait(60)
    rows = world.server.only().values("row")
    assert set(rows) == {0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0}
    repeats = len(rows) - len(set(rows))
    assert 0 < repeats <= world.run().repeats


def test_a_fault_that_was_found_before_sending_repeats_nothing() -> None:
    """G6"""
    world = World()
    process = owner(world)
    bad = Rejected("no number", good=0)
    world.server.answer("deliver", Rejected("no number", good=2), Delivered(), bad, bad)
    world.hold.add("Ship")
    for value in range(5):
        process.log(stream="data", row=float(value))
    world.release()
    world.wait(60)
    rows = world.server.only().values("row")
    assert len(rows) == len(set(rows)) == 4
    assert world.run().repeats == 0
    assert len(world.set_aside) == 1


def test_a_bad_record_waits_until_it_can_be_kept() -> None:
    """G6: the store is full; it is not passed before it is safe, also if the coordinator dies."""
    world = World()
    process = owner(world)
    world.store_broken = True
    process.log(loss=1.0, poison=True).log(loss=2.0)
    world.wait(10)
    assert world.server.only().values("loss") == [0.0]
    world.restart()
    world.store_broken = False
    world.wait(60)
    assert world.server.only().values("loss") == [0.0, 2.0]
    assert len(world.set_aside) == 1


@pytest.mark.parametrize(("outcome", "repeats"), [(Unknown("no answer"), 1), (Retry("refused"), 0)])
def test_repeats_are_counted_where_the_outcome_was_unknown(outcome: Unknown | Retry, repeats: int) -> None:
    """G6"""
    world = World()
    process = owner(world)
    world.server.answer("deliver", outcome)
    process.log(stream="data", row=1.0)
    world.wait(10)
    assert world.server.only().values("row") == [1.0]
    assert world.run().repeats == repeats
    assert cursor_of(world, "data").intent is None


def test_metrics_are_de_duplicated_and_never_counted() -> None:
    """G6"""
    world = World()
    process = owner(world)
    world.server.answer("deliver", Unknown("no answer"))
    process.log(loss=1.0)
    world.wait(10)
    assert world.run().repeats == 0


def test_a_repeat_after_the_death_of_the_coordinator_is_counted() -> None:
    """G6, G12: the intent was on disk before the request."""
    world = World()
    process = owner(world)
    world.hold.add("Ship")
    process.log(stream="data", row=1.0)
    assert cursor_of(world, "data").intent == (1, 0)
    world.hold.clear()
    world.restart()
    world.wait(5)
    assert world.server.only().values("row") == [1.0]
    assert world.run().repeats == 1


def test_console_lines_of_all_ranks_have_one_order() -> None:
    """Line numbers are global, although several streams are sent."""
    world = World()
    launch = world.launch(ranks=4)
    for process in launch.start():
        process.init()
    world.hold.add("Ship")
    for process in launch.ranks.values():
        for _ in range(3):
            process.log(stream="console")
    world.release()
    world.wait(5)
    assert world.server.only().console == list(range(1, 13))


def test_what_was_logged_while_waiting_is_delivered_when_granted() -> None:
    """R4: ranks log from the start."""
    world = World()
    launch = world.launch(ranks=2)
    launch.start()
    launch.rank(1).init().log(loss=1.0)
    world.wait(1)
    launch.rank(0).init()
    launch.rank(0).log(loss=0.0)
    assert world.server.only().values("loss/rank1") == [1.0]


def test_what_only_the_store_has_after_a_power_loss_is_left_to_sync() -> None:
    """G3, G7: the segment is gone, its copy is not; nobody waits for it here, and its cursor stays."""
    world = World()
    process = owner(world)
    lease = world.lease(process)
    cursor = cursor_of(world)
    world.book.put_cursor(msgspec.structs.replace(cursor, offsets={**cursor.offsets, 7: 40}))
    world.copies[lease.lease_id, "metrics", 7] = 100
    world.book.put_cursor(
        Cursor(lease_id=lease.lease_id, target="store", stream="metrics", kind="metrics", offsets={7: 100})
    )
    process.finish().exit()
    world.wait(5)
    (note,) = world.notes(world.run(), "left_in_store")
    assert (note["stream"], note["segments"]) == ("metrics", "[7]")
    assert world.book.leases[lease.lease_id].removed
    assert world.book.cursors[cursor_key(lease.lease_id, "run", "metrics")].offsets[7] == 40


def test_a_batch_ends_where_the_stream_was_seen_to_end() -> None:
    """R7: it may be cut late, when its writer has been superseded and has written on."""
    world = World()
    process = owner(world)
    batches = Batches(world)
    world.hold.add("Ship")
    process.log(loss=1.0)
    seen = process.spool.sizes()["metrics"]
    process.spool.log({"loss": 2.0}, 2, "metrics")
    assert process.spool.sizes()["metrics"] != seen
    world.release()
    assert {batch.segment: batch.stop for batch in batches.ships[:1]} == seen
    world.look()
    assert world.server.only().values("loss") == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("target", [PLUTO, LOCAL], ids=["server", "store"])
def test_damage_in_the_spool_is_counted_told_and_passed(target: Target) -> None:
    """G6: what stood there is lost; its neighbours are delivered, and people see how much is missing."""
    world = World(target=target)
    owner = world.process("owner").init().log(loss=0.0)
    owner.spool.damage()
    owner.log(loss=1.0)
    world.wait(2)
    owner.spool.damage()
    owner.log(loss=2.0)
    world.wait(2)
    run = world.run()
    assert (run.damaged, owner.view.run.damaged if owner.view.run else None) == (2, 2)
    assert [note["places"] for note in world.notes(run, "records_damaged")] == ["1", "1"]
    assert read(show(world.book, run)).damaged == 2
    assert read(show(world.book, run)).points == 3


def test_damage_is_counted_once_however_often_it_is_sent() -> None:
    """G6: an outage repeats the batch that passes over it."""
    world = World()
    owner = world.process("owner").init()
    world.server.answer("deliver", *[Retry("503")] * 5)
    owner.log(loss=0.0)
    owner.spool.damage()
    owner.log(loss=1.0)
    world.wait(60)
    assert world.run().damaged == 1
