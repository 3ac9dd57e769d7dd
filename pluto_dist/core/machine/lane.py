"""A lane: one stream on its way to its target. Decides what to send next, and what an answer means (G6).

At most one batch is in flight, so the order within a stream is kept, and a failing stream holds back no
other. The cursor moves when the backend has accepted, and not before. A rejected batch is halved until the
culprit stands alone; that one is set aside with its reason, its neighbours are delivered.

Every segment has an offset of its own, not only the newest: a write that was in flight during a rotation may
still land in an older one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import assert_never

import msgspec

from pluto_dist.core.machine.context import Context
from pluto_dist.core.rules.participants import speaker_of
from pluto_dist.core.values.backend import (
    BackendRun,
    Delivered,
    Rejected,
    Retry,
    StreamKind,
    Unknown,
    backoff_s,
)
from pluto_dist.core.values.book import cursor_key
from pluto_dist.core.values.effects import RemoveBlobs, RemoveSegments, SetAside, Ship
from pluto_dist.core.values.events import Shipped
from pluto_dist.core.values.ids import step_behind
from pluto_dist.core.values.records import Cursor, Lease, Positions, Reduction, Run

REGISTER_S = 1.0  # new names are registered before their first delivery, unless that takes longer


class Lane:
    """One stream's state beyond its cursor, which a restart may lose without harm.

    Attributes:
        sizes: bytes of each segment, as last seen.
        final: nothing will be added.
        writer: participant whose records the batch in flight holds.
        not_before: earliest time of the next try, 0 if there is nothing to wait for.
        trouble: why the last try failed.
    """

    def __init__(self, context: Context, key: str, target: str) -> None:
        self._context = context
        self._key = key
        self._target = target
        self._failures = 0
        self._batch = BatchSize(self.cursor.kind)
        self._sent: Ship | None = None
        self._culprit: tuple[Shipped, str] | None = None
        self._sent_size = 0
        self._registered_by = 0.0
        self._stuck_at: dict[int, int] = {}
        self.sizes: dict[int, int] = {}
        self.final = False
        self.writer = ""
        self.not_before = 0.0
        self.trouble = ""
        # An earlier coordinator may have died between a cursor and the removal of what is behind it.
        for segment, end in self.cursor.offsets.items():
            self._give_back_blobs(segment, 0, end)

    @property
    def cursor(self) -> Cursor:
        return self._context.book.cursors[self._key]

    @property
    def lease(self) -> Lease:
        return self._context.book.leases[self.cursor.lease_id]

    @property
    def run(self) -> Run | None:
        run = self.lease.run
        return self._context.book.runs.get(run) if run is not None else None

    @property
    def busy(self) -> bool:
        """Whether a batch is in flight, or a record is being set aside."""
        return self._sent is not None or self._culprit is not None

    @property
    def ready(self) -> bool:
        """Whether the lane may send now, if it has something to send."""
        return not self.busy and self._context.now.at >= self.not_before

    @property
    def pending(self) -> int:
        """Bytes seen and not delivered."""
        offsets = self.cursor.offsets
        return sum(max(0, size - offsets.get(segment, 0)) for segment, size in self.sizes.items())

    @property
    def complete(self) -> bool:
        """Whether everything is delivered, or part of what ranks say together, and nothing will be added."""
        return self.final and self.pending == 0 and not self.unreduced

    @property
    def readable(self) -> dict[int, int]:
        """Bytes of each segment that are the lease's own; behind its fence they are not (R7)."""
        fences = self.lease.fences
        if fences is None:
            return {} if self.lease.end_reason == "superseded" else self.sizes
        segment, offset = fences.get(self.cursor.stream, (0, 0))
        sizes = {number: size for number, size in self.sizes.items() if number <= segment}
        return sizes | ({segment: min(offset, sizes[segment])} if segment in sizes else {})

    @property
    def unreduced(self) -> bool:
        """Whether the ranks' series together still lack something of this one."""
        return self._ahead_of(lambda state: state.read)

    @property
    def correctable(self) -> bool:
        """Whether a step of this stream may still be corrected, so that its records are needed."""
        return self._ahead_of(lambda state: state.behind)

    def _ahead_of(self, positions: Callable[[Reduction], Positions]) -> bool:
        return bool(self._not_reduced(positions))

    def _not_reduced(self, positions: Callable[[Reduction], Positions]) -> AbstractSet[int]:
        """Segments that are not wholly behind these positions of the reduction."""
        cursor, lease = self.cursor, self.lease
        if cursor.kind != "metrics" or lease.rank_metrics != "reduce":
            return frozenset()
        book = self._context.book
        state = book.reductions.get(self._context.reduced_by.get(lease.lease_id, "")) or Reduction()
        if state.over:
            return frozenset()
        known = positions(state).get(lease.lease_id, {}).get(cursor.stream, {})
        return {number for number, size in self.readable.items() if size > known.get(number, 0)}

    @property
    def kept(self) -> dict[int, int]:
        """Bytes of each segment that are in the store as well, because the backend did not take them in time.

        0 stands for a copy that may not be there: it is being made, or was when a coordinator died.
        """
        copies = self._copies
        return {number: end for number, end in copies.offsets.items() if number not in copies.left}

    @property
    def _copies(self) -> Cursor:
        cursor = self.cursor
        known = self._context.book.cursors.get(cursor_key(cursor.lease_id, "store", cursor.stream))
        return known or Cursor(
            lease_id=cursor.lease_id, target="store", stream=cursor.stream, kind=cursor.kind
        )

    @property
    def lost(self) -> tuple[int, ...]:
        """Segments that the disk has lost and the store still has, once what is on the disk is delivered."""
        return tuple(number for number, end in self.kept.items() if self.final and self._is_lost(number, end))

    @property
    def needless(self) -> tuple[int, ...]:
        """Segments whose copy in the store is no longer needed, because its content is delivered."""
        return tuple(number for number, end in self.kept.items() if self._is_needless(number, end))

    def _is_lost(self, segment: int, end: int) -> bool:
        if not end:
            return segment not in self.sizes
        return self.sizes.get(segment, 0) <= self.cursor.offsets.get(segment, 0) < end

    def _is_needless(self, segment: int, end: int) -> bool:
        if not end and segment not in self.sizes:
            return False
        return self.cursor.offsets.get(segment, 0) >= (end or self.sizes[segment])

    def _said(self) -> AbstractSet[int]:
        """Segments that say what went out of steps that may still be corrected."""
        state = self._context.book.reductions.get(self.cursor.lease_id)
        first = state.out[0] if state is not None and not state.over else None
        return frozenset() if first is None else {number for number in self.sizes if number >= first}

    def seen(self, sizes: dict[int, int], *, final: bool) -> None:
        """Takes sizes from the disk; drops offsets of segments of which neither file nor copy is left."""
        self.sizes, self.final = sizes, self.final or final
        cursor, there = self.cursor, sizes.keys() | self._copies.offsets.keys()
        if cursor.offsets.keys() - there:
            offsets = {segment: end for segment, end in cursor.offsets.items() if segment in there}
            self._context.book.put_cursor(msgspec.structs.replace(cursor, offsets=offsets))

    def next_segment(self) -> int | None:
        """The oldest segment with something to send; an unfinished frame at a segment's end is nothing."""
        offsets = self.cursor.offsets
        for segment, size in sorted(self.sizes.items()):
            torn = self._stuck_at.get(segment) == size and not self.final
            if size > offsets.get(segment, 0) and not torn:
                return segment
        return None

    def ship(self, segment: int, writer: str, known: dict[str, str | None], stop: int | None) -> None:
        """Sends the next batch of a segment.

        Args:
            segment: its number.
            writer: participant whose records they are.
            known: settled names of that participant.
            stop: offset where another participant's records begin, None for nowhere.
        """
        cursor, lease, run = self.cursor, self.lease, self.run
        assert run is not None  # noqa: S101 # callers look first
        start = cursor.offsets.get(segment, 0)
        # The intent is on disk before the request leaves: after a crash the repeat can be counted (G6).
        if cursor.kind not in REPEATABLE and run.target.mode == "pluto":
            before = cursor.tries if cursor.intent == (segment, start) else 0
            intent = msgspec.structs.replace(cursor, intent=(segment, start), tries=before + 1)
            self._context.book.put_cursor(intent)
        self.not_before, self.writer = 0.0, writer
        self._sent_size = self.sizes[segment]
        self._sent = Ship(
            target=self._target,
            run=backend_run(run),
            lease_id=lease.lease_id,
            folder=lease.folder,
            stream=cursor.stream,
            kind=cursor.kind,
            segment=segment,
            start=start,
            # Not beyond what was seen: while a batch waits to be cut, its writer may be superseded (R7).
            stop=self.sizes[segment] if stop is None else stop,
            limit_lines=self._batch.limit,
            known=dict(known),
            renamed=any(name != final for name, final in known.items()),
            first_line=run.next_line,
            label=self._speaker(run) if cursor.kind == "console" else "",
            final=self.final,
            rate=lease.opened.upload_rate,
        )
        self._context.emit(self._sent)

    def _speaker(self, run: Run) -> str:
        return speaker_of(self.lease, self._context.book.leases_of(run.key), relayed=bool(run.relay))

    def called_off(self) -> None:
        """Ends a `ship` that has sent nothing, because the batch has names that are not settled."""
        self._sent = None
        self._take_back()

    def wait_for_registration(self) -> None:
        """Waits briefly until new names are registered: the server lists names in that order."""
        self.not_before = self._registered_by = self._context.now.at + REGISTER_S

    def registered(self) -> bool:
        """Ends that wait; True if there was one."""
        waited = self._registered_by > 0 and self.not_before == self._registered_by
        self._registered_by = 0.0
        if waited:
            self.not_before = 0.0
        return waited

    def answered(self, event: Shipped) -> bool:
        """Takes the answer to `ship`; True if the batch was accepted."""
        sent, self._sent = self._sent, None
        if self.run is not None:
            self._context.learn_key(self.run, event.outcome)
        self._settle_intent(event)
        match event.outcome:
            case Delivered():
                return self._accepted(event, nothing_follows=sent is not None and sent.final)
            case Retry(reason=reason, after_s=after_s):
                self._wait(reason, after_s or 0.0)
            case Unknown(reason=reason):
                self._wait(reason, 0.0)
            case Rejected() as rejected:
                self._rejected(event, rejected)
            case _:
                assert_never(event.outcome)
        return False

    def give_back(self) -> None:
        """Removes delivered segments, all but the newest ones that the process wants kept."""
        needed = self.kept.keys() | self._not_reduced(lambda state: state.behind) | self._said()
        newest = self.lease.opened.retention_segments
        done = delivered_segments(self.cursor.offsets, self.sizes, needed, newest)
        if done:
            gone = {segment for segment, _ in done}
            self.sizes = {segment: size for segment, size in self.sizes.items() if segment not in gone}
            self._context.emit(segments_in(self.lease, self.cursor.stream, done))

    def _accepted(self, event: Shipped, *, nothing_follows: bool) -> bool:
        self._failures, self.trouble = 0, ""
        self._batch.accepted(event)
        if event.end > event.start:
            self._advance(event, event.lines)
            self._give_back_blobs(event.segment, event.start, event.end)
            return True
        self._stuck_at[event.segment] = self._sent_size  # a torn tail: wait for more
        if nothing_follows:
            self._advance(msgspec.structs.replace(event, end=self._sent_size), 0)
        return False

    def _give_back_blobs(self, segment: int, start: int, end: int) -> None:
        """Removes contents of files behind the cursor; the `Commit` with the cursor goes before it."""
        if self.cursor.kind == "files":
            self._context.emit(blobs_in(self.lease, self.cursor.stream, segment, start, end))

    def _settle_intent(self, event: Shipped) -> None:
        """Counts rows that may be there twice, once it is known whether the request was carried out."""
        outcome = event.outcome
        if isinstance(outcome, Retry) or (isinstance(outcome, Rejected) and outcome.good is not None):
            self._take_back()
        elif not isinstance(outcome, Unknown):
            self._count_repeats(event.lines * max(0, self.cursor.tries - 1))
            self._forget_intent()

    def _take_back(self) -> None:
        """Takes this request off the intent: it was not carried out. Earlier ones may still have been."""
        cursor = self.cursor
        if cursor.tries > 1:
            self._context.book.put_cursor(msgspec.structs.replace(cursor, tries=cursor.tries - 1))
        else:
            self._forget_intent()

    def _forget_intent(self) -> None:
        if self.cursor.intent is not None:
            self._context.book.put_cursor(msgspec.structs.replace(self.cursor, intent=None, tries=0))

    def _advance(self, event: Shipped, delivered: int) -> None:
        cursor, run = self.cursor, self.run
        if event.skipped and run is not None:  # records are lost, so people have to know
            self._context.change_run(run, damaged=run.damaged + event.skipped)
            where = f"{self.lease.lease_id}/{cursor.stream}, segment {event.segment}"
            self._context.note(run.key, "records_damaged", places=str(event.skipped), where=where)
        self._context.book.put_cursor(
            msgspec.structs.replace(
                cursor,
                offsets={
                    **cursor.offsets,
                    event.segment: max(event.end, cursor.offsets.get(event.segment, 0)),
                },
                intent=None,
                tries=0,
                delivered=cursor.delivered + delivered,
                passed=cursor.passed + event.lines,
                next_step=max(cursor.next_step, step_behind(event.max_step)),
            )
        )

    def _wait(self, reason: str, at_least_s: float) -> None:
        now = self._context.now
        self.not_before = now.at + max(backoff_s(self._failures, now.jitter), at_least_s)
        self._failures += 1
        self.trouble = reason

    def _count_repeats(self, lines: int) -> None:
        run = self.run
        if self.cursor.kind not in REPEATABLE and run is not None:
            self._context.change_run(run, repeats=run.repeats + lines)

    def _rejected(self, event: Shipped, rejected: Rejected) -> None:
        """Halves the batch to find the culprit; a batch of one is the culprit and is set aside."""
        if event.lines > 1:
            self._count_repeats(self._batch.refused(event, rejected))
            return
        cursor, lease, run = self.cursor, self.lease, self.run
        assert run is not None  # noqa: S101 # there was a request
        self._culprit = (event, rejected.reason)
        self._context.emit(
            SetAside(
                target=self._target,
                run=run.key,
                store=run.target.store,
                lease_id=lease.lease_id,
                folder=lease.folder,
                stream=cursor.stream,
                segment=event.segment,
                start=event.start,
                end=event.end,
                reason=rejected.reason,
            )
        )

    def put_aside(self, error: str) -> None:
        """Moves the cursor past the culprit that is set aside; on an `error` it is sent again later."""
        assert self._culprit is not None  # noqa: S101 # only a culprit is put aside
        (culprit, reason), self._culprit = self._culprit, None
        if error:
            self._wait(error, 0.0)
            return
        self._advance(culprit, 0)
        self._give_back_blobs(culprit.segment, culprit.start, culprit.end)
        lease, run = self.lease, self.run
        assert run is not None  # noqa: S101 # there was a request
        if self.cursor.kind == "files":  # its reason names the file, of which only one may be the first
            self._context.note(run.key, "file_set_aside", why=reason)
        first = run.first_reject or f"{lease.label or lease.participant}, {self.cursor.stream}: {reason}"
        self._context.change_run(run, rejected=run.rejected + 1, first_reject=first)


def backend_run(run: Run) -> BackendRun:
    """The Run as its backend needs it."""
    return BackendRun(run.key, run.target, run.id or 0, run.project, run.name)


MAX_LINES = 10_000  # the server's contract advises at most about this many lines a request
MAX_FILES = 8  # upload addresses are asked for together and last for an hour
REPEATABLE: frozenset[StreamKind] = frozenset({"metrics"})  # the server de-duplicates these


class BatchSize:
    """Size of the next batch of one stream, by the answers so far.

    Attributes:
        limit: records in the next batch.
    """

    def __init__(self, kind: StreamKind) -> None:
        self._repeatable = kind in REPEATABLE
        self._most = MAX_FILES if kind == "files" else MAX_LINES
        self._careful_until = (0, 0)
        self.limit = self._most

    def accepted(self, event: Shipped) -> None:
        """Makes the next batch larger after one that was accepted."""
        if (event.segment, event.end) >= self._careful_until:
            self.limit = min(self._most, self.limit * 2)

    def refused(self, event: Shipped, rejected: Rejected) -> int:
        """Makes the next batch smaller after a refused one; returns how many rows may have been taken."""
        if rejected.good is not None:  # found before anything was sent
            self.limit = max(1, min(rejected.good, event.lines - 1))
            return 0
        self.limit = event.lines // 2
        if not self._repeatable:
            self.limit, self._careful_until = 1, (event.segment, event.end)
        return event.lines - 1  # the server does not say how many stood before the bad one


def delivered_segments(
    offsets: Mapping[int, int], sizes: Mapping[int, int], needed: AbstractSet[int], keep: int
) -> tuple[tuple[int, int], ...]:
    """Number and size of each segment that is delivered and not needed, without the `keep` newest."""
    newest = sorted(sizes)[max(0, len(sizes) - keep) :]
    return tuple(
        (segment, size)
        for segment, size in sorted(sizes.items())
        if offsets.get(segment, 0) == size and segment not in newest and segment not in needed
    )


def segments_in(lease: Lease, stream: str, segments: tuple[tuple[int, int], ...]) -> RemoveSegments:
    """The effect for segments of one stream."""
    return RemoveSegments(lease_id=lease.lease_id, folder=lease.folder, stream=stream, segments=segments)


def blobs_in(lease: Lease, stream: str, segment: int, start: int, end: int) -> RemoveBlobs:
    """The effect for the files that records in this part of a segment name."""
    return RemoveBlobs(
        lease_id=lease.lease_id, folder=lease.folder, stream=stream, segment=segment, start=start, end=end
    )
