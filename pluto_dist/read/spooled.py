"""How far processes are ahead of delivery: what their leases' spool folders hold behind the cursors.

The coordinator knows what it has delivered; how many records a process has written is on disk and nowhere
else. The frames behind the cursors are counted, which are few as long as delivery keeps up.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from pluto_dist.core.values.backend import kind_of
from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.spool.batches import next_step
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
    written = lease.delivered + records_behind(folder, lease.cursors)
    last_step = max(lease.last_step if lease.last_step is not None else -1, next_step(str(folder)) - 1)
    return msgspec.structs.replace(
        lease, written=max(lease.written, written), last_step=last_step if last_step >= 0 else None
    )


def records_behind(folder: Path, cursors: dict[str, dict[int, int]]) -> int:
    """Records of all streams behind their cursors."""
    return sum(
        _count(str(folder), stream, segment, cursors.get(stream, {}).get(segment, 0))
        for stream, segments in list_streams(str(folder)).items()
        if kind_of(stream) is not None
        for segment in segments
    )


def _count(folder: str, stream: str, segment: int, offset: int) -> int:
    count = 0
    while True:
        try:
            cut = read_cut(folder, stream, segment, offset)
        except FileNotFoundError:  # delivered and removed in this instant
            return count
        if cut.end == offset:
            return count
        count, offset = count + len(cut.lines), cut.end
