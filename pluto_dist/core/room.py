"""What of the spool's disk may be given back."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from pluto_dist.core.effects import RemoveBlobs, RemoveSegments
from pluto_dist.core.records import Lease


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
