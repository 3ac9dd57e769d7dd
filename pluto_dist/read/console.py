"""The last console lines of a process, without reading what stands before them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pluto_dist.backend.local.reading import SaidLine, said_line
from pluto_dist.core.values.document import LeaseShown
from pluto_dist.spool.files import real_files
from pluto_dist.spool.frames import scan, segment_name, stream_kind
from pluto_dist.spool.reader import list_streams

TAIL_BYTES = 256 << 10


def last_lines(lease: LeaseShown, roots: Sequence[Path], count: int, speaker: str = "") -> list[SaidLine]:
    """The newest console lines of one lease, oldest first; at most what stands in `TAIL_BYTES` of each chain.

    Args:
        lease: of the process.
        roots: folders that hold one folder per lease.
        count: how many lines at the most.
        speaker: the name in front of its lines, "" for none.
    """
    folders = [str(root / lease.lease_id) for root in roots]
    streams = {stream for folder in folders for stream in list_streams(folder)}
    consoles = (stream for stream in sorted(streams) if stream_kind(stream) == "console")
    lines = [line for stream in consoles for line in _tail(lease, folders, stream, count, speaker)]
    return sorted(lines, key=lambda line: line.time)[-count:]


def _tail(lease: LeaseShown, folders: Sequence[str], stream: str, count: int, speaker: str) -> list[SaidLine]:
    """The newest lines of a chain, read backwards by segments until there are enough."""
    found: list[SaidLine] = []
    for payloads in tails(folders, stream, TAIL_BYTES):
        lines = (said_line(lease, speaker, payload) for payload in payloads)
        found = [line for line in lines if line is not None] + found
        if len(found) >= count:
            break
    return found[-count:]


def tails(folders: Sequence[str], stream: str, tail_bytes: int) -> Iterator[Sequence[bytes]]:
    """The records at the end of each segment of a lease's stream, the newest segment first.

    Args:
        folders: of the lease, which hold the same bytes of a segment from its start.
        stream: its name.
        tail_bytes: how much of each segment is read.
    """
    sizes = [(folder, list_streams(folder).get(stream, {})) for folder in folders]
    for segment in sorted({number for _, segments in sizes for number in segments}, reverse=True):
        size, folder = max((segments.get(segment, 0), folder) for folder, segments in sizes)
        start = max(0, size - tail_bytes)
        try:
            data = real_files().read_at(f"{folder}/{segment_name(stream, segment)}", start, size - start)
        except OSError:  # delivered and removed in this instant
            continue
        yield scan(data).lines
