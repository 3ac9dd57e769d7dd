"""Sides that outlive their Run although a rank of it has started them.

torchrun ends a job by a signal to the process groups of the ranks that it still has. What a rank that died
first had started gets none, and outlives torchrun. Nothing is ended because of it here either: a side is its
own master. One event and one line of that process name it.
"""

from __future__ import annotations

from pluto_dist.core.machine.context import Context
from pluto_dist.core.values.records import Lease, Run

LEFT_AFTER_S = 30.0  # a side that looks at `run.status` has ended by then


class Leftovers:
    """When to look for them. In memory: another coordinator looks anew."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._book = context.book
        self._look_at: dict[str, float] = {}
        self._looked: set[str] = set()

    def settled(self, run: Run) -> None:
        """The Run was looked at: it may have ended, or been taken up again."""
        if not run.ended:
            self.forget(run.key)
        elif run.key not in self._looked:
            self._looked.add(run.key)
            self._look_at[run.key] = self._context.now.at + LEFT_AFTER_S

    def look(self) -> None:
        """Names those of the Runs for which it is time."""
        now = self._context.now.at
        for key in [key for key, at in self._look_at.items() if at <= now]:
            del self._look_at[key]
            leases = self._book.leases_of(key)
            ranks = [lease for lease in leases if lease.role != "side"]
            for side in leases:
                starter = _starter(side, ranks)
                if side.alive and side.role == "side" and starter is not None:
                    self._name(key, side, starter)

    def deadline(self) -> float | None:
        """When there is something to look for."""
        return min(self._look_at.values(), default=None)

    def forget(self, run: str) -> None:
        self._look_at.pop(run, None)
        self._looked.discard(run)

    def _name(self, key: str, side: Lease, starter: Lease) -> None:
        self._context.change_lease(side, left_over=starter.label)
        self._context.note(
            key,
            "left_over",
            label=side.label,
            pid=str(side.identity.pid),
            host=side.identity.host,
            started_by=starter.label,
        )


def _starter(side: Lease, ranks: list[Lease]) -> Lease | None:
    """The owner or worker in whose process the side was started, if that process is no more."""
    above = (rank for parent in side.opened.ancestors for rank in ranks if rank.identity.same_process(parent))
    nearest = next(above, None)
    return nearest if nearest is not None and not nearest.alive else None
