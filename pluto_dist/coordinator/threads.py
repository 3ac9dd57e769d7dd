"""Threads for slow effects, in bulkheads that do not wait for each other.

A bulkhead is a few threads for one destination and one kind of work: a server that hangs holds back no other
server, and a file upload no metrics. Within one the Runs take turns: a Run with a hundred streams gets no
more of it than a Run with a single stream.

`place_of` says for each effect which bulkhead it belongs to. `Background` has effects carried out, and hands
their events to the thread that decides.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import assert_never

import msgspec

from pluto_dist.coordinator.log import say
from pluto_dist.coordinator.worker import Slow, Worker, may_go_together
from pluto_dist.core.values.effects import (
    BeatRun,
    Control,
    DropCopies,
    ExpireCluster,
    JoinCluster,
    KeepCopies,
    LeaveCluster,
    ListCluster,
    OpenRun,
    ReadUploads,
    ReduceRanks,
    RenewCluster,
    SampleNode,
    SetAside,
    Ship,
    WatchCluster,
    WriteCluster,
    WriteDocument,
)
from pluto_dist.core.values.events import Event
from pluto_dist.core.values.lifecycle import Target

IDLE_S = 30.0  # a thread without work ends after this time
TOGETHER_BYTES = 1 << 20  # of several streams in one request

Work = Callable[[], None]


class Place(msgspec.Struct, frozen=True):
    """The bulkhead of a piece of work, with its number of threads, and the Run whose turn the work takes."""

    bulkhead: str
    width: int
    run: str


def place_of(effect: Slow) -> Place:  # noqa: PLR0912 # one case for each effect
    """The bulkhead of an effect."""
    match effect:
        case Ship(run=run, kind=kind):
            if run.target.mode == "local":
                return Place(f"{'files' if kind == 'files' else 'store'} {run.target.store}", 4, run.key)
            return Place(f"{kind} {_server(run.target)}", 4 if kind == "metrics" else 2, run.key)
        case OpenRun(request=request):
            where = request.target
            return Place(f"open {where.store if where.mode == 'local' else _server(where)}", 4, request.key)
        case Control(run=run):
            return Place(f"control {_server(run.target)}", 4, run.key)
        case BeatRun(run=run):
            return Place(f"beat {_server(run.target)}", 2, run.key)
        case KeepCopies(run=key, store=store) | DropCopies(run=key, store=store):
            return Place(f"copies {store}", 2, key)
        case ReadUploads(run=key, target=target):
            return Place(f"copies {target.store}", 2, key)
        case WriteDocument(run=key, store=store) | SetAside(run=key, store=store):
            return Place(f"documents {store}", 2, key)
        case JoinCluster(address=address) | RenewCluster(address=address) | LeaveCluster(address=address):
            return Place(f"lease {address}", 1, "")  # a slow list must not cost the lease
        case (
            ListCluster(run=key, address=address)
            | WriteCluster(run=key, address=address)
            | ExpireCluster(run=key, address=address)
        ):
            return Place(f"cluster {address}", 4, key)
        case WatchCluster(run=key):
            return Place(f"watch {key}", 7, key)  # four at a time, and those that are not wanted any more
        case ReduceRanks(run=key):
            return Place("reduce", 2, key)
        case SampleNode():
            return Place("node", 2, "")  # while a sensor hangs, the second one sees it and gives up
        case _:
            assert_never(effect)


class Pools:
    """All bulkheads; threads are made when there is work for them."""

    def __init__(self) -> None:
        self._bulkheads: dict[str, Bulkhead] = {}

    def submit(self, place: Place, work: Work) -> None:
        """Queues a piece of work, which must not raise."""
        bulkhead = self._bulkheads.get(place.bulkhead)
        if bulkhead is None:
            bulkhead = self._bulkheads[place.bulkhead] = Bulkhead(place.bulkhead, place.width)
        bulkhead.submit(place.run, work)

    def close(self, within_s: float) -> bool:
        """Drops work that has not begun; returns whether all work in progress has ended in time."""
        deadline = time.monotonic() + within_s
        bulkheads = tuple(self._bulkheads.values())
        for bulkhead in bulkheads:
            bulkhead.end()
        return all(bulkhead.wait(max(0.0, deadline - time.monotonic())) for bulkhead in bulkheads)


class Bulkhead:
    """Some threads and, for each Run, a queue.

    Args:
        name: of the threads.
        width: how many threads at most.
    """

    def __init__(self, name: str, width: int) -> None:
        self._name = name
        self._width = width
        self._changed = threading.Condition()
        self._queues: OrderedDict[str, deque[Work]] = OrderedDict()
        self._threads = 0
        self._free = 0
        self._closed = False

    def submit(self, run: str, work: Work) -> None:
        """Queues work behind that of the same Run."""
        with self._changed:
            self._queues.setdefault(run, deque()).append(work)
            waiting = sum(map(len, self._queues.values()))
            if waiting > self._free and self._threads < self._width:
                self._threads += 1
                threading.Thread(target=self._serve, name=f"pluto {self._name}", daemon=True).start()
            self._changed.notify()

    def end(self) -> None:
        """Drops work that has not begun."""
        with self._changed:
            self._closed = True
            self._queues.clear()
            self._changed.notify_all()

    def wait(self, within_s: float) -> bool:
        """Waits for work in progress; False if it takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._threads == 0, within_s)

    def _serve(self) -> None:
        try:
            while (work := self._next()) is not None:
                work()
        finally:
            with self._changed:
                self._threads -= 1
                self._changed.notify_all()

    def _next(self) -> Work | None:
        """The oldest work of the Run whose turn it is; None when there has been none for a while."""
        with self._changed:
            self._free += 1
            self._changed.wait_for(lambda: self._queues or self._closed, IDLE_S)
            self._free -= 1
            if not self._queues or self._closed:
                return None
            run, queue = self._queues.popitem(last=False)
            work = queue.popleft()
            if queue:
                self._queues[run] = queue  # behind the others
            return work


def _server(target: Target) -> str:
    return f"{target.url_ingest} {target.key_id}"


CLOSE_S = 5.0  # requests that are under way at the end get this long; those that do not end are repeated


class Background:
    """Effects in threads, and the queue of their events.

    Attributes:
        wake: a descriptor that polls readable when there is an event; None where the system has none.
        quiet: after `close`, whether all threads have come to their end.

    Args:
        worker: carries out one effect at a time.
        intact: whether the coordinator has not been replaced; asked just before an effect is carried out,
            which may have waited long for its turn or for the processor.
    """

    def __init__(self, worker: Worker, intact: Callable[[], bool]) -> None:
        self._worker = worker
        self._intact = intact
        self.quiet = False
        self._together = Together()
        self._expected: set[int] = set()
        self._pools = Pools()
        self._done: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if hasattr(os, "eventfd") else None

    def expect(self, effects: Iterable[object]) -> None:
        """Notes what is submitted next, so that the first of it that gets a thread takes the others along."""
        for effect in effects:
            if isinstance(effect, Ship) and may_go_together(effect):
                self._expected.add(id(effect))
                self._together.add(effect)

    def submit(self, effect: Slow) -> None:
        """Carries an effect out, when its turn comes."""
        if isinstance(effect, Ship) and may_go_together(effect):
            if id(effect) not in self._expected:
                self._together.add(effect)
            self._expected.discard(id(effect))
            self._pools.submit(place_of(effect), lambda: self._ship(effect))
        else:
            self._pools.submit(place_of(effect), lambda: self._work(effect))

    def collect(self) -> Iterator[Event]:
        """Events of effects that have ended since the last call."""
        if self.wake is not None:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.wake)
        while True:
            try:
                yield self._done.get_nowait()
            except queue.Empty:
                return

    def close(self) -> Iterator[Event]:
        """Waits, bounded, for what is in flight."""
        self.quiet = self._pools.close(CLOSE_S)
        if not self.quiet:
            say("requests_given_up")
        yield from self.collect()
        if self.wake is not None and self.quiet:  # a thread that is left still writes to it
            os.close(self.wake)

    def _ship(self, effect: Ship) -> None:
        """Runs in a thread; takes along what else waits for the same Run, in one request."""
        ships = self._together.take(effect)
        if len(ships) > 1 and self._intact() and self._shipped(ships):
            return
        for ship in ships:
            self._work(ship)

    def _shipped(self, ships: Sequence[Ship]) -> bool:
        """Whether that went well; else each is carried out by itself, so that none spoils the others'."""
        try:
            events = self._worker.ship_together(ships)
        except Exception as error:  # noqa: BLE001 # whose fault it is shows when each goes by itself
            say("effects_failed", effects=str(len(ships)), error=f"{type(error).__name__}: {error}")
            return False
        for event in events or ():
            self._put(event)
        return events is not None

    def _work(self, effect: Slow) -> None:
        """Runs in a thread; an unexpected fault becomes an event and a line in the log."""
        if not self._intact():
            return
        try:
            event = self._worker.do(effect)
        except Exception as error:  # noqa: BLE001 # whatever it is, the core has to hear of it
            say("effect_failed", effect=type(effect).__name__, error=f"{type(error).__name__}: {error}")
            event = self._worker.failed(effect, error)
        if event is not None:
            self._put(event)

    def _put(self, event: Event) -> None:
        self._done.put(event)
        if self.wake is not None:
            os.eventfd_write(self.wake, 1)


class Together:
    """Batches that wait for a thread; the first to get one takes along what else waits for the same Run.

    A request costs a millisecond, however little is in it, and 256 processes that log all the time are 512 of
    them a second. How many go together follows from how long they wait: where no thread is busy, each goes
    alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, dict[int, Ship]] = {}

    def add(self, ship: Ship) -> None:
        """Has it wait; it is taken by its own `take` or by that of another."""
        with self._lock:
            self._waiting.setdefault(ship.run.key, {})[id(ship)] = ship

    def take(self, ship: Ship) -> list[Ship]:
        """The batch with others that fit into one request; none if another has taken it along."""
        with self._lock:
            waiting = self._waiting.get(ship.run.key, {})
            if id(ship) not in waiting:
                return []
            room, taken = TOGETHER_BYTES, list[Ship]()
            for each in (ship, *(other for other in waiting.values() if other is not ship)):
                size = each.stop - each.start
                if each is ship or (each.run == ship.run and size <= room):
                    taken.append(each)
                    room -= size
            for each in taken:
                del waiting[id(each)]
            if not waiting:
                del self._waiting[ship.run.key]
            return taken
