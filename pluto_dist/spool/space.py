"""Space: how much disk the spool may take, its quota and what it leaves free, and the removal of segments.

`core.rules.stream` decides which segments may go; `remove` checks the size once more, because a late write
may have come since. What stays is kept from cleaners of /var/tmp.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from pluto_dist.spool.file_lines import BLOBS, LINK
from pluto_dist.spool.files import Files, real_files
from pluto_dist.spool.frames import parse_segment, segment_name

GIB: Final = 1 << 30
MIB: Final = 1 << 20
LARGEST_QUOTA: Final = 2 * GIB
SHARE_OF_FREE: Final = 10  # a tenth of what is free at the start
MIN_FREE: Final = 64 * MIB
SIDE: Final = "side"  # a file in the folder of a lease that was opened as a side
DAY_S: Final = 86_400.0
_ASK_AGAIN_S: Final = 1.0


def default_quota(free_bytes: int) -> int:
    """The smaller of 2 GiB and 10 % of the free space."""
    return min(LARGEST_QUOTA, free_bytes // SHARE_OF_FREE)


def usage(root: str, files: Files, *, sides: bool = False) -> int:
    """Bytes of all segments below the spool root, or only of those of sides."""
    leases = str(Path(root) / "leases")
    return sum(
        sum(size for name, size in sizes.items() if parse_segment(name))
        for sizes in (files.sizes(f"{leases}/{lease}") for lease in files.folders(leases))
        if not sides or SIDE in sizes
    )


class Space:
    """The quota of a spool root, asked whenever a segment is to be opened.

    It is no hard limit: every stream that is being written may pass it by one segment, because looking at
    each record would cost more than the record. One object serves all streams of a process.

    Args:
        root: the spool root, which holds `leases/`.
        quota_bytes: limit for all segments below the root; None for `default_quota` of what is free now.
        min_free_bytes: how much the filesystem must have left.
        sides_share: percent of the quota that all sides together may take, for a process that is one; else 0.

    Raises:
        OSError: the default quota was asked for, and the root is missing.
    """

    def __init__(
        self,
        root: str,
        quota_bytes: int | None = None,
        min_free_bytes: int = MIN_FREE,
        *,
        sides_share: int = 0,
        files: Files | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._files = files or real_files()
        self._clock = clock
        self._min_free = min_free_bytes
        self._sides_share = sides_share
        self.quota_bytes = default_quota(self._files.free_bytes(root)) if quota_bytes is None else quota_bytes
        self._short = ""
        self._ask_at = float("-inf")

    def shortage(self) -> str:
        """The reason why no segment may be opened now: `quota`, `min_free`, or "" if one may.

        While there is a shortage the disk is looked at once a second at most.
        """
        now = self._clock()
        if self._short and now < self._ask_at:
            return self._short
        self._ask_at = now + _ASK_AGAIN_S
        self._short = self._look()
        return self._short

    def _look(self) -> str:
        try:
            if self._files.free_bytes(self._root) < self._min_free:
                return "min_free"
            if usage(self._root, self._files) >= self.quota_bytes:
                return "quota"
            return self._look_at_sides() if self._sides_share else ""
        except OSError:  # the root is gone or closed to us; opening the segment says why
            return ""

    def _look_at_sides(self) -> str:
        """A sidecar that runs wild must not keep the training's records out."""
        limit = self.quota_bytes * self._sides_share // 100
        used = usage(self._root, self._files, sides=True)
        if used < limit:
            return ""
        return (
            f"sides have {used:,} bytes there, and sides_share allows all of them {limit:,}, "
            f"{self._sides_share} % of spool_quota"
        )


def remove(folder: str, stream: str, segment: int, size: int, files: Files | None = None) -> bool:
    """Deletes a segment that still has this size and that no process has open for writing.

    Returns:
        Whether it is gone, by this call or before.
    """
    try:
        return (files or real_files()).unlink_if(f"{folder}/{segment_name(stream, segment)}", size)
    except FileNotFoundError:
        return True


def touch_live(folder: str, now: float, files: Files | None = None) -> int:
    """Renews the times of a lease's folder and files that are older than a day, against cleaners of /var/tmp.

    Args:
        folder: the lease's folder.
        now: seconds since the epoch, as file times are.
        files: where segments are.

    Returns:
        How many were renewed.
    """
    source = files or real_files()
    folders = (folder, f"{folder}/{BLOBS}")
    paths = [path for each in folders for path in (each, *(f"{each}/{name}" for name in source.sizes(each)))]
    paths = [path for path in paths if not path.endswith(LINK)]  # the user's file, whose time says what it is
    renewed = 0
    for path in paths:
        with suppress(FileNotFoundError):  # delivered and removed meanwhile
            renewed += source.touch_older(path, now - DAY_S)
    return renewed
