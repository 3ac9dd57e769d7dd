"""What the parts of the coordinator share while one event is handled: the book, the time, the effects."""

from __future__ import annotations

import msgspec

from pluto_dist.core.book import Book
from pluto_dist.core.effects import Effect, FindFence, LookAtStreams
from pluto_dist.core.records import EndReason, Lease, Now, Run


class Context:
    """One per coordinator.

    Attributes:
        touched: Runs whose situation may have changed and that are settled before the event is done.
        urgent: Runs whose document somebody may be waiting for.
        keys: `Target.key_id`s for which an API key is in memory.
    """

    def __init__(self, book: Book, boot_id: str) -> None:
        self.book = book
        self.boot_id = boot_id
        self.now = Now(0.0, 0)
        self.touched: dict[str, None] = {}
        self.urgent: set[str] = set()
        self.keys: set[str] = set()
        self._effects: list[Effect] = []

    def emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def take_effects(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    def touch(self, run: str | None) -> None:
        if run is not None:
            self.touched[run] = None

    def change_run(self, run: Run, **changes: object) -> Run:
        """Replaces fields of a Run and settles it later."""
        self.touch(run.key)
        return self.book.runs.put(run.key, msgspec.structs.replace(run, **changes))

    def change_lease(self, lease: Lease, **changes: object) -> Lease:
        """Replaces fields of a lease and settles its Run later."""
        changed = self.book.put_lease(msgspec.structs.replace(lease, **changes))
        self.touch(changed.run)
        return changed

    def supersede(self, lease: Lease) -> Lease:
        """A newer owner or attempt has replaced a live lease; its later records get a name of their own."""
        self.emit(FindFence(lease_id=lease.lease_id, folder=lease.folder))
        return self.end_lease(lease, "superseded")

    def end_lease(self, lease: Lease, reason: EndReason, **changes: object) -> Lease:
        """Ends a lease now and looks at its streams for the last time."""
        self.emit(LookAtStreams(lease_id=lease.lease_id, folder=lease.folder, final=True))
        self.urgent.add(lease.run or "")
        return self.change_lease(
            lease,
            state="ended",
            ended_at=self.now.at,
            ended_ms=self.now.wall_ms,
            end_reason=reason,
            **changes,
        )

    def note(self, run: str, event: str, /, **detail: str) -> None:
        """Adds one line to a Run's history."""
        self.book.note(run, self.now.wall_ms, event, detail)


def long_ago(lease: Lease) -> Lease:
    """A lease of an earlier boot: its instants keep their order and lie before this boot."""

    def shift(at: float | None) -> float | None:
        return at - 1e9 if at is not None else None

    evidence = tuple(
        msgspec.structs.replace(item, at=item.at - 1e9, alive_until=shift(item.alive_until))
        for item in lease.evidence
    )
    return msgspec.structs.replace(
        lease,
        asked_at=lease.asked_at - 1e9,
        granted_at=shift(lease.granted_at),
        ended_at=shift(lease.ended_at),
        evidence=evidence,
    )
