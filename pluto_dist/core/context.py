"""What the parts of the coordinator share while one event is handled: the book, the time, the effects."""

from __future__ import annotations

import msgspec

from pluto_dist.core.book import Book
from pluto_dist.core.effects import Effect, FindFence, LookAtStreams
from pluto_dist.core.outcomes import Delivered, Outcome, Retry
from pluto_dist.core.records import EndReason, Lease, Now, Run


class Context:
    """One per coordinator.

    Attributes:
        touched: Runs whose situation may have changed and that are settled before the event is done.
        news: leases that have changed, or may have to be told something.
        urgent: Runs whose document somebody may be waiting for.
        keys: `Target.key_id`s for which an API key is in memory.
        held_back: Runs of which nothing is sent before this instant.
        key_problems: why the server refuses a key, and since when, by `key_id`.
        reporting: Runs whose terminal status is on its way to the backend just now.
    """

    def __init__(self, book: Book, boot_id: str) -> None:
        self.book = book
        self.boot_id = boot_id
        self.now = Now(0.0, 0)
        self.touched: dict[str, None] = {}
        self.news: dict[str, None] = {}
        self.urgent: set[str] = set()
        self.keys: set[str] = set()
        self.held_back: dict[str, float] = {}
        self.key_problems: dict[str, tuple[float, str]] = {}
        self.reporting: set[str] = set()
        self._effects: list[Effect] = []

    def emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def take_effects(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    def take_changes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Touched Runs and leases with news since the last call."""
        touched, news = tuple(self.touched), tuple(self.news)
        self.touched.clear()
        self.news.clear()
        return touched, news

    def may_talk(self, run: Run) -> bool:
        """Whether the Run's backend can be spoken to."""
        return run.target.mode == "local" or (
            run.target.key_id in self.keys and self.now.at >= self.held_back.get(run.key, 0.0)
        )

    def heard_of_key(self, run: Run, outcome: Outcome) -> None:
        """Any answer of the server tells whether it takes the Run's key."""
        key_id = run.target.key_id
        if isinstance(outcome, Retry) and outcome.key_problem:
            since, _ = self.key_problems.get(key_id, (self.now.at, ""))
            self.key_problems[key_id] = (since, outcome.reason)
            self.touch(run.key)
        elif isinstance(outcome, Delivered) and self.key_problems.pop(key_id, None) is not None:
            self.touch(run.key)

    def touch(self, run: str | None) -> None:
        if run is not None:
            self.touched[run] = None

    def tell(self, lease: Lease) -> None:
        """A lease's process may have to be told how far its records are; one that leaves waits for it."""
        self.news[lease.lease_id] = None
        self.touch(lease.run)
        if lease.run is not None and not lease.alive:
            self.urgent.add(lease.run)

    def change_run(self, run: Run, **changes: object) -> Run:
        """Replaces fields of a Run and settles it later."""
        self.touch(run.key)
        return self.book.runs.put(run.key, msgspec.structs.replace(run, **changes))

    def change_lease(self, lease: Lease, **changes: object) -> Lease:
        """Replaces fields of a lease and settles its Run later."""
        changed = self.book.put_lease(msgspec.structs.replace(lease, **changes))
        self.news[changed.lease_id] = None
        self.touch(changed.run)
        return changed

    def end_lease(self, lease: Lease, reason: EndReason, **changes: object) -> Lease:
        """Ends a lease now and looks at its streams for the last time.

        A superseded one may go on to write as long as its process lives: those records get a name of their
        own (R7), and the last look comes with its death.
        """
        superseded = reason == "superseded"
        if superseded:
            self.emit(FindFence(lease_id=lease.lease_id, folder=lease.folder))
        self.emit(LookAtStreams(lease_id=lease.lease_id, folder=lease.folder, final=not superseded))
        if lease.run is not None:
            self.urgent.add(lease.run)
        return self.change_lease(
            lease,
            state="ended",
            ended_at=self.now.at,
            ended_ms=self.now.wall_ms,
            end_reason=reason,
            **changes,
        )

    def note_once(self, run: str, event: str, /, **detail: str) -> None:
        """Adds a line to a Run's history unless it is there already."""
        history = self.book.histories.get(run)
        if history is None or all((known.name, known.detail) != (event, detail) for known in history.events):
            self.note(run, event, **detail)

    def note(self, run: str, event: str, /, **detail: str) -> None:
        """Adds one line to a Run's history."""
        self.book.note(run, self.now.wall_ms, event, detail)
