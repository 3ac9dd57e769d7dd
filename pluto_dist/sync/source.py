"""The records of one Run as they lie in the store, cut by cut, each with the participant that wrote it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from pluto_dist.backend.local.marks import Offsets
from pluto_dist.backend.local.store import Store
from pluto_dist.core.rules.participants import late_participant, speaker_shown
from pluto_dist.core.values.backend import StreamKind
from pluto_dist.core.values.document import Document, LeaseShown
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
