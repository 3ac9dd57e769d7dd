"""The ends of a Run's streams on this disk: how far processes are ahead of delivery, and their last lines.

The coordinator knows what it has delivered; how many records a process has written is on disk and nowhere
else. The frames behind the cursors are counted, which are few as long as delivery keeps up. The last console
lines of a process are read without what stands before them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from pluto_dist.backend.local.reading import SaidLine, said_line
from pluto_dist.core.values.backend import kind_of
from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.ids import step_behind
from pluto_dist.spool.batches import step_of
from pluto_dist.spool.files import real_files
from pluto_dist.spool.frames import scan, segment_name, stream_kind
from pluto_dist.spool.reader import list_streams, read_cut


def caught_up(document: Document, spool: Path | None) -> Document:
    """The document with `written` and `last_step` of its leases as they are on disk now.

    Args:
        document: of a Run.
        spool: folder of this node's leases; None changes nothing.
    """
    if spool is None:
        return document
    leases = tuple(_caught_up(lease, spool / lease.lease_id) for lease in document.leases)
    return msgspec.structs.replace(document, leases=leases)


def _caught_up(lease: LeaseShown, folder: Path) -> LeaseShown:
    if not folder.is_dir():
        return lease
    streams = list_streams(str(folder))
    known = lease.last_step if lease.last_step is not None else -1
    count, step = _behind(str(folder), streams, lease.cursors)
    written, step = lease.delivered + count, max(known, step)
    return msgspec.structs.replace(
        lease, written=max(lease.written, written), last_step=step if step >= 0 else None
    )


def _behind(
    folder: str, streams: Mapping[str, Mapping[int, int]], cursors: dict[str, dict[int, int]]
) -> tuple[int, int]:
    """Records of all streams behind their cursors, and the step of the last of each stream, the highest."""
    total, steps = 0, [-1]
    for stream, segments in streams.items():
        kind = kind_of(stream)
        if kind is None:
            continue
        for segment, size in sorted(segments.items()):
            offset = cursors.get(stream, {}).get(segment, 0)
            count, last = _counted(folder, stream, segment, offset) if offset < size else (0, b"")
            total += count
            if last and kind in ("metrics", "data", "files"):
                steps.append(step_behind(step_of(last)) - 1)
    return total, max(steps)


def _counted(folder: str, stream: str, segment: int, offset: int) -> tuple[int, bytes]:
    """Records from an offset on, and the last of them."""
    count, last = 0, b""
    while True:
        try:
            cut = read_cut(folder, stream, segment, offset)
        except FileNotFoundError:  # delivered and removed in this instant
            return count, last
        if cut.end == offset:
            return count, last
        count, offset = count + len(cut.lines), cut.end
        last = cut.lines[-1] if cut.lines else last


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
