"""What the parts of the coordinator share while one event is handled: the book, the time, the effects."""

from __future__ import annotations

import msgspec

from pluto_dist.core.book import Book
from pluto_dist.core.effects import Effect
from pluto_dist.core.records import Lease, Now, Run


class Context:
    """One per coordinator.

    Attributes:
        touched: Runs whose situation may have changed and that are settled before the event is done.
        keys: `Target.key_id`s for which an API key is in memory.
    """

    def __init__(self, book: Book, boot_id: str) -> None:
        self.book = book
        self.boot_id = boot_id
        self.now = Now(0.0, 0)
        self.touched: dict[str, None] = {}
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

    def note(self, run: str, event: str, /, **detail: str) -> None:
        """Adds one line to a Run's history."""
        self.book.note(run, self.now.wall_ms, event, detail)
