"""What the coordinator may forget: Runs that ended long ago and claims that came to nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from pluto_dist.core.context import Context
from pluto_dist.core.records import Run

FORGET_MS = 24 * 3600 * 1000  # ended Runs are remembered this long; the store and the server keep them
FORGET_EVERY_S = 3600.0


class Part(Protocol):
    """Something that remembers Runs."""

    def forget(self, run: str) -> None:
        """The Run is forgotten; its records may be in the book still."""
        ...


class Memory:
    """Forgets, now and then.

    Args:
        parts: whatever keeps things by Run beside the book.
    """

    def __init__(self, context: Context, parts: Iterable[Part]) -> None:
        self._context = context
        self._book = context.book
        self._parts = tuple(parts)
        self._next_at = float("-inf")

    def forget_old(self) -> None:
        """Forgets what nobody can ask for any more, if it is time."""
        now = self._context.now
        if now.at < self._next_at:
            return
        self._next_at = now.at + FORGET_EVERY_S
        before_ms = now.wall_ms - FORGET_MS
        for run in self._book.runs:
            if self._done_with(run, before_ms):
                self._forget(run.key)
                self._book.delete_run(run.key)
        for lease in self._book.leases:
            if lease.run is None and lease.removed and (lease.ended_ms or 0) < before_ms:
                self._book.delete_lease(lease.lease_id)

    def forget_gone(self) -> None:
        """Forgets what else was kept of Runs that are not in the book any more."""
        for run in self._book.take_deleted():
            if run not in self._book.runs:
                self._forget(run)

    def _forget(self, run: str) -> None:
        for part in self._parts:
            part.forget(run)

    def _done_with(self, run: Run, before_ms: int) -> bool:
        leases = self._book.leases_of(run.key)
        ended_ms = max((lease.ended_ms or 0 for lease in leases), default=0) if run.relay else run.ended_ms
        over = run.reported or (bool(run.relay) and not run.opening)
        return over and (ended_ms or 0) < before_ms and all(lease.removed for lease in leases)
