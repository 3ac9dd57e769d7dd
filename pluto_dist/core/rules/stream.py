"""The stream rule: how many records the next batch of a stream holds, and which segments may be deleted.

A batch is as large as the server takes. A refused one is halved until the culprit stands alone. Rows whose
repeat would be seen are sent one by one to the end of the refused batch instead, so that no good one is sent
a third time.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from pluto_dist.core.values.backend import Rejected, StreamKind
from pluto_dist.core.values.effects import RemoveBlobs, RemoveSegments
from pluto_dist.core.values.events import Shipped
from pluto_dist.core.values.records import Lease

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
