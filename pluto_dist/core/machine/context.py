"""The context that all parts of the machine share: the book, the time of the event, the effects so far.

A part changes a Run or a lease through it, so that the change is remembered: `settle` looks at every touched
Run before the event is done, and every lease with news may get a view. Cursors, counts and names go into the
book directly. `situation` is the one assessment of a Run that all parts share. Effects leave in the order in
which they were emitted.

Tags and config are changed one after the other (G9). A change that cannot be made leaves everything as it was
and is noted in the Run's history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from pluto_dist.core.rules.changes import add_tags, checked_tags, inherit_tags, merge_json, remove_tags
from pluto_dist.core.rules.states import illegal
from pluto_dist.core.rules.verdict import Situation, situation
from pluto_dist.core.values.backend import Delivered, Outcome, Retry
from pluto_dist.core.values.book import Book, Config
from pluto_dist.core.values.effects import Effect, FindFence, LookAtStreams
from pluto_dist.core.values.records import EndReason, Lease, Now, Run
from pluto_dist.errors import InvalidRecordError

LATE_MS = 5_000  # an end that is found later than this has two times: when it happened, and when it was found


class Context:
    """State of the event being handled, and what more than one part has to know between events.

    Attributes:
        touched: Runs whose situation may have changed and that are settled before the event is done.
        news: leases that have changed, or whose process may need a new view.
        urgent: Runs whose document is written without delay, because a process may be waiting for it.
        keys: `Target.key_id`s for which an API key is in memory.
        held_back: Runs of which nothing is sent before this instant.
        key_problems: why the server refuses a key, and since when, by `key_id`.
        reporting: Runs whose terminal status is on its way to the backend just now.
        reduced_by: lease of the node that the numbers of a rank become part of, by lease.
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
        self.reduced_by: dict[str, str] = {}
        self._effects: list[Effect] = []
        self._situations: dict[str, Situation] = {}

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

    def situation(self, run: Run) -> Situation:
        """What the facts of a Run mean now; computed once for all parts, until a fact changes."""
        leases, known = self.book.leases_of(run.key), self._situations.get(run.key)
        if known is None or not known.holds(run, leases, self.now.at):
            known = self._situations[run.key] = situation(run, leases, self.now.at)
        return known

    def may_talk(self, run: Run) -> bool:
        """Whether requests for the Run may go out: its key is known, and nothing holds the Run back."""
        return run.target.mode == "local" or (
            run.target.key_id in self.keys and self.now.at >= self.held_back.get(run.key, 0.0)
        )

    def learn_key(self, run: Run, outcome: Outcome) -> None:
        """Learns from an outcome whether the server accepts the Run's API key."""
        key_id = run.target.key_id
        if isinstance(outcome, Retry) and outcome.key_problem:
            since, _ = self.key_problems.get(key_id, (self.now.at, ""))
            self.key_problems[key_id] = (since, outcome.reason)
            self.touch(run.key)
        elif isinstance(outcome, Delivered) and self.key_problems.pop(key_id, None) is not None:
            self.touch(run.key)

    def forget(self, run: str) -> None:
        self._situations.pop(run, None)
        self.held_back.pop(run, None)
        self.reporting.discard(run)
        self.urgent.discard(run)

    def touch(self, run: str | None) -> None:
        if run is not None:
            self.touched[run] = None

    def tell(self, lease: Lease) -> None:
        """Notes that the lease may need a new view; if it is leaving, its process waits for that."""
        self.news[lease.lease_id] = None
        self.touch(lease.run)
        if lease.run is not None and not lease.alive:
            self.urgent.add(lease.run)

    def change_run(self, run: Run, **changes: object) -> Run:
        """Replaces fields of a Run and settles it later; an illegal move is noted, and changes nothing."""
        changed = msgspec.structs.replace(run, **changes)
        if why := illegal(run, changed):
            self.note_once(run.key, "illegal_move", why=why)
            return run
        self.touch(run.key)
        return self.book.runs.put(run.key, changed)

    def change_lease(self, lease: Lease, **changes: object) -> Lease:
        """Replaces fields of a lease and settles its Run later."""
        changed = self.book.put_lease(msgspec.structs.replace(lease, **changes))
        self.news[changed.lease_id] = None
        self.touch(changed.run)
        return changed

    def end_lease(self, lease: Lease, reason: EndReason, ended_ms: int = 0, **changes: object) -> Lease:
        """Ends a lease now and has its streams looked at for the last time.

        The process of a superseded lease may go on writing as long as it lives: those records get a name of
        their own (R7), and the last look comes with its death.

        Args:
            lease: the lease.
            reason: how it ends.
            ended_ms: when it ended, epoch milliseconds, for an end that is found late; 0 for now.
            changes: other fields.
        """
        found_ms = self.found_ms(ended_ms)
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
            ended_ms=ended_ms if found_ms else self.now.wall_ms,
            found_ms=found_ms,
            end_reason=reason,
            **changes,
        )

    def found_ms(self, happened_ms: int) -> int:
        """Now, if that is long after `happened_ms` (0 for unknown); else 0."""
        late = 0 < happened_ms < self.now.wall_ms - LATE_MS
        return self.now.wall_ms if late else 0

    def note_once(self, run: str, event: str, /, **detail: str) -> None:
        """Adds a line to a Run's history unless it is there already."""
        history = self.book.histories.get(run)
        if history is None or all((known.name, known.detail) != (event, detail) for known in history.events):
            self.note(run, event, **detail)

    def note(self, run: str, event: str, /, **detail: str) -> None:
        """Adds one line to a Run's history."""
        self.book.note(run, self.now.wall_ms, event, detail)


class Shared:
    """Changes of a Run's tags and config in the book; `control` sends the backend what it lacks."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._book = context.book

    def add_tags(self, run: str, tags: Iterable[str], by: str = "") -> None:
        """Adds tags behind those that are there; a lease that asked for too many is told."""
        self._change(run, lambda known: self._put_tags(known, add_tags(known.tags, tags)), by)

    def remove_tags(self, run: str, tags: Iterable[str]) -> None:
        """Removes tags, also those that only the server has because they were added there."""
        self._change(run, lambda known: self._take_tags(known, checked_tags(tags)))

    def inherit_tags(self, run: str, parent: Iterable[str]) -> None:
        """Puts the parent's tags before those of a fork, which win."""
        self._change(run, lambda known: self._put_tags(known, inherit_tags(parent, known.tags)))

    def update_config(self, run: str, patch: bytes, by: str = "") -> None:
        """Merges a JSON object deeply into the config."""
        self._change(run, lambda known: self._merge(known, patch), by)

    def rebase_config(self, run: str, base: bytes, patch: bytes) -> None:
        """Sets the config to `base` with `patch` over it, and over both what the backend has not got yet."""
        self._change(run, lambda known: self._rebase(known, base, patch))

    def _change(self, key: str, change: Callable[[Run], None], by: str = "") -> None:
        run = self._book.runs[key]
        try:
            change(run)
        except InvalidRecordError as error:
            self._context.note(key, "change_refused", why=str(error))
            lease = self._book.leases.get(by)
            if lease is not None:
                self._context.change_lease(lease, refused=str(error))

    def _put_tags(self, run: Run, tags: tuple[str, ...]) -> None:
        untagged = tuple(tag for tag in run.untagged if tag not in tags)
        if (tags, untagged) != (run.tags, run.untagged):
            self._context.change_run(run, tags=tags, untagged=untagged)

    def _take_tags(self, run: Run, tags: tuple[str, ...]) -> None:
        elsewhere = tuple(tag for tag in tags if tag not in run.tags)
        untagged = tuple(dict.fromkeys((*run.untagged, *elsewhere)))
        self._context.change_run(run, tags=remove_tags(run.tags, tags), untagged=untagged)

    def _merge(self, run: Run, patch: bytes) -> None:
        config = self._book.configs.get(run.key) or Config()
        body = merge_json(config.body, patch)
        pending = merge_json(run.config_patch or b"{}", patch)
        self._book.configs.put(run.key, msgspec.structs.replace(config, body=body))
        self._context.change_run(run, config_patch=pending)

    def _rebase(self, run: Run, base: bytes, patch: bytes) -> None:
        config = self._book.configs.get(run.key) or Config()
        pending = merge_json(patch, run.config_patch or b"{}")
        body = merge_json(base, pending)
        self._book.configs.put(run.key, msgspec.structs.replace(config, body=body))
        self._context.change_run(run, config_patch=b"" if pending == b"{}" else pending)
