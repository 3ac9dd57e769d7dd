"""One Run's records: read from the store cut by cut, delivered to the server stream by stream, the mark kept.

Before a request whose repeat would be seen, the mark says that it is under way (G6). Requests are repeated
until the server accepts them, or has been away for too long. Console lines of all processes go in one order,
by time, because they are numbered in it.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import assert_never

import msgspec

from pluto_dist.backend.local import files
from pluto_dist.backend.local.store import Mark, Marks, Offsets, Store
from pluto_dist.core.rules.participants import late_participant, speaker_shown
from pluto_dist.core.rules.series import Names
from pluto_dist.core.values.backend import (
    Backend,
    BackendRun,
    Batch,
    Delivered,
    OpenResult,
    Outcome,
    Refused,
    Rejected,
    Retry,
    RunOpened,
    StreamKind,
    Unavailable,
    Unknown,
    backoff_s,
)
from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.ids import UNREADABLE
from pluto_dist.errors import KeyRefusedError, WaitTimeoutError, from_wire
from pluto_dist.spool.batches import contents, numbered, renamed
from pluto_dist.spool.file_lines import read_line
from pluto_dist.spool.frames import Cut, segment_name, stream_kind
from pluto_dist.spool.reader import ReadLimits, list_streams, next_range, read_cut

BATCH_BYTES = 1 << 20
BATCH_LINES = 10_000  # the server's contract advises at most about this many lines a request
BATCH_FILES = 1  # the mark moves, and the claim is kept alive, between files
_KINDS: dict[str, StreamKind] = {
    "metrics": "metrics",
    "data": "data",
    "console": "console",
    "files": "files",
}


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """One stream of one lease: its files, and what the document says of them.

    Attributes:
        part: key of the part of the Run in whose folder it is.
        segments: sizes.
        fence: from where on the records are those of a superseded lease (R7), None if nowhere.
        speaker: in front of its console lines, "" for the only participant of its Run.
    """

    part: str
    lease: LeaseShown
    folder: str
    name: str
    kind: StreamKind
    segments: dict[int, int]
    fence: tuple[int, int] | None = None
    speaker: str = ""

    def pending(self, offsets: Offsets) -> int:
        """Bytes behind the cursors."""
        done = self.offsets_in(offsets)
        return sum(max(0, size - done.get(number, 0)) for number, size in self.segments.items())

    def offsets_in(self, offsets: Offsets) -> dict[int, int]:
        """The cursors of this stream."""
        return offsets.get(self.lease.lease_id, {}).get(self.name, {})

    def moved(self, offsets: Offsets, segment: int, end: int) -> Offsets:
        """The cursors, with one segment's moved."""
        lease_id = self.lease.lease_id
        streams = offsets.get(lease_id, {})
        here = {**streams.get(self.name, {}), segment: end}
        return {**offsets, lease_id: {**streams, self.name: here}}


class Piece(msgspec.Struct, frozen=True):
    """The cut behind a cursor, with its participant."""

    segment: int
    cut: Cut
    participant: str


def streams_of(store: Store, document: Document) -> list[Stream]:
    """All streams of the Run in the store: the owner's first, then ranks, then sides, as names are given."""
    leases = {lease.lease_id: lease for lease in document.leases}
    found = [
        stream
        for key in document.part_keys
        for folder in store.streams(key)
        if folder.name in leases
        for stream in _streams_in(
            key, folder, leases[folder.name], speaker_shown(leases[folder.name], document)
        )
    ]
    return sorted(found, key=lambda stream: (_order(stream.lease), stream.lease.granted_at or 0, stream.name))


def next_piece(stream: Stream, offsets: dict[int, int], lines: int = BATCH_LINES) -> Piece | None:
    """The next cut of a stream, None at its end; a frame that is cut off at the end of a copy is not read."""
    torn: dict[int, int] = {}
    while (number := next_range(stream.segments, offsets, torn)) is not None:
        start = offsets.get(number, 0)
        behind = stream.fence is not None and (number, start) >= stream.fence
        fenced = stream.fence is not None and not behind and stream.fence[0] == number
        room = min(BATCH_BYTES, stream.fence[1] - start) if fenced and stream.fence else BATCH_BYTES
        cut = read_cut(stream.folder, stream.name, number, start, ReadLimits(room, lines))
        if cut.end > start:
            lease = stream.lease
            who = late_participant(lease.participant, lease.attempt) if behind else lease.participant
            return Piece(number, cut, who)
        torn[number] = stream.segments[number]
    return None


def file_bytes(streams: Iterable[Stream], offsets: Offsets) -> int:
    """Size of all files that are logged behind the cursors, as it was when they were logged."""
    return sum(
        line.file_size
        for stream in streams
        if stream.kind == "files"
        for piece in _pieces(stream, stream.offsets_in(offsets))
        for line in map(read_line, piece.cut.lines)
        if line is not None
    )


def _pieces(stream: Stream, offsets: dict[int, int]) -> Iterator[Piece]:
    while (piece := next_piece(stream, offsets)) is not None:
        yield piece
        offsets = {**offsets, piece.segment: piece.cut.end}


def is_own(stream: Stream, segment: int) -> bool:
    """Whether this user wrote the segment; a line of another user's could name any file of ours (G11)."""
    try:
        return Path(stream.folder, segment_name(stream.name, segment)).stat().st_uid == os.geteuid()
    except OSError:
        return False


def cursors_of(document: Document) -> Offsets:
    """Cursors of the server when the document was written; none for a local Run."""
    if document.mode == "local":
        return {}
    return {lease.lease_id: lease.cursors for lease in document.leases}


def _streams_in(part: str, folder: Path, lease: LeaseShown, speaker: str) -> Iterator[Stream]:
    for name, segments in list_streams(str(folder)).items():
        kind = _KINDS.get(stream_kind(name))
        if kind is not None:
            fence = None if lease.fences is None else lease.fences.get(name, (0, 0))
            yield Stream(
                part=part,
                lease=lease,
                folder=str(folder),
                name=name,
                kind=kind,
                segments=segments,
                fence=fence,
                speaker=speaker,
            )


def _order(lease: LeaseShown) -> tuple[int, int]:
    if lease.role == "owner":
        return (0, 0)
    return (1, lease.rank or 0) if lease.role == "worker" else (2, 0)


class RetryPolicy:
    """Bounds the time without any success; each success starts it anew.

    Args:
        limit_s: seconds without success after which `WaitTimeoutError` is raised.
        before: called before each try, e.g. to keep a claim.
        clock, pause: of the machine.
    """

    def __init__(
        self,
        limit_s: float,
        before: Callable[[], None] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limit_s = limit_s
        self.before = before
        self._clock = clock
        self._pause = pause

    def ask(self, request: Callable[[], Outcome]) -> Delivered | Rejected:
        """Sends a request until there is a definite answer.

        Raises:
            KeyRefusedError: the server refuses the API key.
            WaitTimeoutError: it gave no answer for too long; nothing is lost.
        """
        since, failures = self._clock(), 0
        while True:
            self.before()
            outcome = request()
            match outcome:
                case Delivered() | Rejected():
                    return outcome
                case Retry(reason=reason, key_problem=True):
                    raise KeyRefusedError(f"the server refuses the API key: {reason}")
                case Retry(reason=reason, after_s=after_s):
                    self._wait(since, failures, reason, after_s or 0.0)
                case Unknown(reason=reason):
                    self._wait(since, failures, reason, 0.0)
                case _:
                    assert_never(outcome)
            failures += 1

    def open(self, request: Callable[[], OpenResult]) -> RunOpened:
        """The same for opening a Run.

        Raises:
            PlutoDistError: the server refused it, with the class that says why.
            WaitTimeoutError: as for `ask`.
        """
        since, failures = self._clock(), 0
        while True:
            self.before()
            result = request()
            match result:
                case RunOpened() as opened:
                    return opened
                case Refused(error=error, message=message):
                    raise from_wire(error, message)
                case Unavailable(reason=reason, after_s=after_s):
                    self._wait(since, failures, reason, after_s or 0.0)
                case _:
                    assert_never(result)
            failures += 1

    def _wait(self, since: float, failures: int, reason: str, at_least_s: float) -> None:
        if self._clock() - since > self._limit_s:
            raise WaitTimeoutError(
                f"the server gave no answer for {self._limit_s:g} s ({reason}); what is uploaded so far is "
                "kept, and the same command goes on from there"
            )
        self._pause(max(at_least_s, backoff_s(failures, random.random())))  # noqa: S311 # jitter


AHEAD = 500  # lines that are read of each stream at a time


class Taken(msgspec.Struct, frozen=True):
    """Lines with their numbers, in their order, the cursors behind them, and how much could not be read."""

    lines: tuple[bytes, ...]
    offsets: Offsets
    damaged: int = 0


class _Time(msgspec.Struct):
    time: int = 0


class _Head(msgspec.Struct, frozen=True):
    stream: Stream
    piece: Piece
    times: tuple[int, ...]


def next_lines(
    streams: Sequence[Stream], offsets: Offsets, first_number: int, limit: int = BATCH_LINES
) -> Taken | None:
    """The next lines of all streams, oldest first, at most `limit`; None at the end."""
    lines: list[bytes] = []
    size = damaged = 0
    heads = [head for head in (_head(stream, offsets) for stream in streams) if head is not None]
    moved = False
    while heads and len(lines) < limit and size < BATCH_BYTES:
        heads.sort(key=lambda head: head.times[:1])
        first = heads.pop(0)
        piece = _before(first, heads[0].times[:1] if heads else (), limit - len(lines), offsets)
        lines.extend(numbered(piece.cut.lines, first_number + len(lines), first.stream.speaker))
        size += sum(map(len, piece.cut.lines))
        damaged += piece.cut.damaged
        offsets = first.stream.moved(offsets, piece.segment, piece.cut.end)
        moved = True
        following = _head(first.stream, offsets)
        if following is not None:
            heads.append(following)
    return Taken(tuple(lines), offsets, damaged) if moved else None


def _head(stream: Stream, offsets: Offsets) -> _Head | None:
    piece = next_piece(stream, stream.offsets_in(offsets), AHEAD)
    return None if piece is None else _Head(stream, piece, tuple(map(_time, piece.cut.lines)))


def _before(head: _Head, other: tuple[int, ...], room: int, offsets: Offsets) -> Piece:
    """The lines of a stream up to the other one's next line, at least one."""
    count = len(head.times)
    if other:
        count = next((n for n, time in enumerate(head.times) if (time,) > other), count)
    count = max(1, min(count, room))
    if count >= len(head.times):
        return head.piece
    piece = next_piece(head.stream, head.stream.offsets_in(offsets), count)
    assert piece is not None  # noqa: S101 # it was there just now
    return piece


def _time(line: bytes) -> int:
    try:
        return msgspec.json.decode(line, type=_Time).time
    except UNREADABLE:
        return 0


Progress = Callable[[int], None]  # bytes that are done


class Delivery:
    """Sends what stands behind the mark's cursors.

    Attributes:
        mark: where it stands; on disk.

    Args:
        backend: of the server.
        run: the Run there.
        store: where it is here.
        marks: keeps the mark.
        mark: where to begin.
        names: of its series.
        policy: how long to try.
        progress: called with the size of each batch.
    """

    def __init__(
        self,
        backend: Backend,
        run: BackendRun,
        store: Store,
        marks: Marks,
        mark: Mark,
        names: Names,
        policy: RetryPolicy,
        progress: Progress,
    ) -> None:
        self._backend = backend
        self._run = run
        self._store = store
        self._marks = marks
        self._names = names
        self._policy = policy
        self._progress = progress
        self.mark = mark

    def all(self, streams: Sequence[Stream]) -> None:
        """Delivers everything of these streams.

        Raises:
            PlutoDistError: the server was away for too long, or refuses the key.
        """
        for stream in streams:
            if stream.kind != "console":
                self._stream(stream)
        self._console([stream for stream in streams if stream.kind == "console"])

    def _stream(self, stream: Stream) -> None:
        most = BATCH_FILES if stream.kind == "files" else BATCH_LINES
        limit, careful_until = most, (-1, -1)
        while (piece := next_piece(stream, stream.offsets_in(self.mark.offsets), limit)) is not None:
            lines = self._final(stream, piece)
            end = (piece.segment, piece.cut.end)
            outcome = self._send(stream, lines)
            if isinstance(outcome, Rejected) and len(piece.cut.lines) > 1:
                limit, careful_until = smaller(stream.kind, outcome, len(lines)), end
                continue
            refused = isinstance(outcome, Rejected)
            if isinstance(outcome, Rejected):
                self._set_aside(stream, piece.cut.lines, outcome.reason)
            if stream.kind == "metrics" or end >= careful_until:
                limit = min(most, limit * 2) if end < careful_until else most
            self._change(
                offsets=stream.moved(self.mark.offsets, *end),
                records=self.mark.records + (0 if refused else len(lines)),
                damaged=self.mark.damaged + piece.cut.damaged,
                in_flight=0,
            )
            if stream.kind == "files":
                files.forget_notes(self._store, stream.part, piece.cut.lines)
            self._progress(piece.cut.end - piece.cut.start)

    def _console(self, streams: Sequence[Stream]) -> None:
        limit = BATCH_LINES
        while (taken := next_lines(streams, self.mark.offsets, self.mark.next_line, limit)) is not None:
            lines = taken.lines
            outcome = self._send(streams[0], lines)
            if isinstance(outcome, Rejected) and len(lines) > 1:
                limit = smaller("console", outcome, len(lines))
                continue
            refused = isinstance(outcome, Rejected)
            if isinstance(outcome, Rejected):
                self._set_aside(streams[0], taken.lines, outcome.reason)
            limit = BATCH_LINES if limit > 1 or refused else 1
            self._change(
                offsets=taken.offsets,
                next_line=self.mark.next_line + len(lines),
                records=self.mark.records + (0 if refused else len(lines)),
                damaged=self.mark.damaged + taken.damaged,
                in_flight=0,
            )
            self._progress(sum(map(len, lines)))

    def _final(self, stream: Stream, piece: Piece) -> tuple[bytes, ...]:
        kind, lines = stream.kind, piece.cut.lines
        found = contents(kind, lines)
        logged = found.names
        known = self._names.final(piece.participant, logged)
        unregistered = self._names.unregistered(self.mark.registered)
        if unregistered:
            # Settled on disk before the first line goes out, so that the next sync gives the same names.
            self._change(series=self._names.series)
            self._policy.ask(lambda: self._backend.register(self._run, unregistered))
            self._change(registered=self.mark.registered | set(unregistered))
        if kind == "files":
            trusted = is_own(stream, piece.segment)
            lines = tuple(files.located(self._store, stream.part, line, trusted=trusted) for line in lines)
        return lines if all(name == known[name] for name in logged) else renamed(kind, lines, known, found)

    def _send(self, stream: Stream, lines: tuple[bytes, ...]) -> Delivered | Rejected:
        if not lines:
            return Delivered()
        batch = Batch(
            lease_id=stream.lease.lease_id,
            stream=stream.name,
            kind=stream.kind,
            segment=0,
            start=0,
            end=0,
            folder="",
            lines=lines,
            notes=str(self._store.run(stream.part) / "sync") if stream.kind == "files" else "",
        )

        if stream.kind == "metrics":
            return self._policy.ask(lambda: self._backend.deliver(self._run, batch))
        return self._policy.ask(lambda: self._with_intent(batch))

    def _with_intent(self, batch: Batch) -> Outcome:
        """One try, after the mark says that it is under way; the caller changes the mark by the outcome."""
        rows = len(batch.lines)
        self._change(in_flight=rows)
        outcome = self._backend.deliver(self._run, batch)
        if isinstance(outcome, Retry):
            self._change(in_flight=0)
        elif isinstance(outcome, Unknown):
            self._change(in_flight=0, repeats=self.mark.repeats + rows)
        return outcome

    def _set_aside(self, stream: Stream, lines: tuple[bytes, ...], reason: str) -> None:
        for line in lines:
            if stream.kind == "files":
                located = files.located(self._store, stream.part, line)
                files.set_aside(self._store, stream.part, located)
            record = {
                "reason": reason,
                "lease_id": stream.lease.lease_id,
                "stream": stream.name,
                "record": line.decode("utf-8", "replace").rstrip("\n"),
            }
            self._store.set_aside(stream.part, json.dumps(record).encode() + b"\n")
        first = self.mark.first_reject or f"{stream.lease.label}, {stream.name}: {reason}"
        self._change(rejected=self.mark.rejected + len(lines), first_reject=first)

    def _change(self, **fields: object) -> None:
        self.mark = self._marks.put(msgspec.structs.replace(self.mark, **fields))


def smaller(kind: StreamKind, refused: Rejected, lines: int) -> int:
    """Lines in the next request after a refusal, to find the culprit without sending a good row twice."""
    if refused.good is not None:
        return refused.good or 1
    return lines // 2 if kind == "metrics" else 1
