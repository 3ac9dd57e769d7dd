"""Retention: removal of delivered segments, and protection of the others from cleaners of /var/tmp.

`core.rules.stream` decides which may go; `remove` checks the size once more, because a late write may have
come since.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from pluto_dist.spool.file_lines import BLOBS, LINK
from pluto_dist.spool.files import Files
from pluto_dist.spool.names import segment_name
from pluto_dist.spool.real_files import real_files

DAY_S: Final = 86_400.0


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
