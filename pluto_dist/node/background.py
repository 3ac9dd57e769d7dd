"""Slow effects on their way: carried out by threads, their events picked up by the one that decides."""

from __future__ import annotations

import contextlib
import os
import queue
from collections.abc import Callable, Iterator

from pluto_dist.core.events import Event
from pluto_dist.node.log import say
from pluto_dist.node.pools import Pools, place_of
from pluto_dist.node.worker import Slow, Worker

CLOSE_S = 5.0  # requests that are under way at the end get this long; those that do not end are repeated


class Background:
    """Threads, and the queue of what became of their work.

    Attributes:
        wake: a descriptor that polls readable when there is an event; None where the system has none.
        quiet: after `close`, whether all threads have come to their end.

    Args:
        worker: carries out one effect at a time.
        intact: whether the coordinator is still the one; an effect that has waited for its turn, or for the
            processor, while it was replaced is not carried out any more.
    """

    def __init__(self, worker: Worker, intact: Callable[[], bool]) -> None:
        self._worker = worker
        self._intact = intact
        self.quiet = False
        self._pools = Pools()
        self._done: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if hasattr(os, "eventfd") else None

    def submit(self, effect: Slow) -> None:
        """Carries an effect out, when its turn comes."""
        self._pools.submit(place_of(effect), lambda: self._work(effect))

    def collect(self) -> Iterator[Event]:
        """What became of effects since the last call."""
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

    def _work(self, effect: Slow) -> None:
        """In a thread; a fault that nobody foresaw becomes an event and a line in the log."""
        if not self._intact():
            return
        try:
            event = self._worker.do(effect)
        except Exception as error:  # noqa: BLE001 # whatever it is, the core has to hear of it
            say("effect_failed", effect=type(effect).__name__, error=f"{type(error).__name__}: {error}")
            event = self._worker.failed(effect, error)
        if event is not None:
            self._done.put(event)
            if self.wake is not None:
                os.eventfd_write(self.wake, 1)
