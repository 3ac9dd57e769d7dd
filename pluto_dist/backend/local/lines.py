"""Console lines of a Run, from its copies in the store and from the spool, merged by time.

The two hold the same bytes of a segment from its start, so the longer one is read, and a cursor into one is a
cursor into both. Memory is constant while chains are read; lines of one chain keep their order.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from pluto_dist.core.document import Document, LeaseShown
from pluto_dist.core.foreign import UNREADABLE
from pluto_dist.core.speakers import name_of
from pluto_dist.spool.names import stream_kind
from pluto_dist.spool.reader import list_streams, read_cut

Cursors = dict[tuple[str, str, int], int]


class SaidLine(msgspec.Struct, frozen=True):
    """One line; `time` is in epoch milliseconds, `speaker` is empty in a Run of one participant."""

    time: int
    speaker: str
    rank: int | None
    log_type: str
    message: str
    lease_id: str


class _Record(msgspec.Struct):
    time: int
    message: str
    logType: str  # noqa: N815 # the server's name


_decoder = msgspec.json.Decoder(_Record)


def read_lines(document: Document, roots: Sequence[Path], cursors: Cursors) -> Iterator[SaidLine]:
    """Lines behind the cursors, which move along.

    Args:
        document: says who wrote.
        roots: folders that hold one folder per lease.
        cursors: where an earlier call ended; empty for the start.
    """
    alone = len({lease.participant for lease in document.leases if lease.pid}) <= 1
    chains = [
        _chain(lease, "" if alone else _speaker(lease), stream, roots, cursors)
        for lease in document.leases
        for stream in sorted({name for root in roots for name in list_streams(str(root / lease.lease_id))})
        if stream_kind(stream) == "console"
    ]
    return heapq.merge(*chains, key=lambda line: line.time)


def _speaker(lease: LeaseShown) -> str:
    return name_of(lease.rank, lease.label, launcher=lease.launcher)


def _chain(
    lease: LeaseShown, speaker: str, stream: str, roots: Sequence[Path], cursors: Cursors
) -> Iterator[SaidLine]:
    folders = [str(root / lease.lease_id) for root in roots]
    for segment in sorted({number for folder in folders for number in list_streams(folder).get(stream, {})}):
        key = (lease.lease_id, stream, segment)
        for line, end in _records(folders, stream, segment, cursors.get(key, 0)):
            cursors[key] = end
            try:
                record = _decoder.decode(line)
            except UNREADABLE:  # not written by a capture
                continue
            yield SaidLine(record.time, speaker, lease.rank, record.logType, record.message, lease.lease_id)


def _records(folders: Iterable[str], stream: str, segment: int, start: int) -> Iterator[tuple[bytes, int]]:
    """Records of a segment with the cursor behind their cut."""
    while True:
        sizes = {folder: list_streams(folder).get(stream, {}).get(segment, 0) for folder in folders}
        longest = max(sizes, key=lambda folder: sizes[folder])
        if sizes[longest] <= start:
            return
        try:
            cut = read_cut(longest, stream, segment, start)
        except FileNotFoundError:  # delivered and removed just now: the copy has it
            continue
        for line in cut.lines:
            yield line, cut.end
        if cut.end == start:
            return
        start = cut.end
