"""The lead of processes over delivery: records in their leases' spool folders behind the cursors.

The coordinator knows what it has delivered; how many records a process has written is on disk and nowhere
else. The frames behind the cursors are counted, which are few as long as delivery keeps up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from pluto_dist.core.values.backend import kind_of
from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.ids import step_behind
from pluto_dist.spool.batches import step_of
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
