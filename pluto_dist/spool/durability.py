"""`durability="machine"`: what was accepted is on the disk within an interval, against power loss.

Without it, G3 holds for the death of processes only: the kernel writes pages back when it likes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

from pluto_dist.errors import PlacesError

_MOUNTS: Final = Path("/proc/self/mountinfo")
_VOLATILE: Final = frozenset({"tmpfs", "ramfs", "devtmpfs"})


class Syncable(Protocol):
    """A stream's writer, or the blobs; `written` only grows, so that a change shows what is to be synced."""

    written: int

    def sync(self) -> None:
        """Puts everything written so far on the disk."""
        ...


class GroupSync:
    """Syncs the streams and blobs of a lease together, in their order; a background thread calls it.

    Attributes:
        due_at: when `sync_if_due` will next do something, on the caller's clock.
        trouble: name of the error of the last sync, empty if it went well.
    """

    def __init__(self, writers: Iterable[Syncable], interval_s: float = 1.0) -> None:
        self._writers = tuple(writers)
        self._interval_s = interval_s
        self._synced: dict[Syncable, int] = {}
        self.due_at = float("-inf")
        self.trouble = ""

    def sync_if_due(self, now: float) -> bool:
        """Syncs the streams that got records since the last time; whether it was due."""
        if now < self.due_at:
            return False
        self.due_at = now + self._interval_s
        self.sync()
        return True

    def sync(self) -> None:
        """Syncs now. A failure is kept in `trouble`; those streams are tried again next time."""
        self.trouble = ""
        for writer in self._writers:
            written = writer.written
            if written == self._synced.get(writer, 0):
                continue
            try:
                writer.sync()
            except OSError as error:
                self.trouble = error.strerror or type(error).__name__
            else:
                self._synced[writer] = written


def require_durable(folder: str, mounts: Path = _MOUNTS) -> None:
    """Refuses a folder whose files do not outlive the machine.

    Where the kernel does not list its mounts, nothing is refused.

    Raises:
        PlacesError: the folder is in memory only.
    """
    kind = filesystem_of(Path(folder).stat().st_dev, mounts)
    if kind in _VOLATILE:
        raise PlacesError(
            f"durability='machine' needs a disk, but {folder} is on {kind}, which is lost with the machine's "
            "power; name a folder on a disk for the spool, or use durability='process'",
            folder=folder,
            filesystem=kind,
        )


def filesystem_of(device: int, mounts: Path = _MOUNTS) -> str:
    """Type of the filesystem with this device number, or an empty string.

    A line of mountinfo: `36 35 98:0 /root /mount options optional... - ext4 /dev/root options`.
    """
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        place, _, filesystem = line.partition(" - ")
        if place.split()[2:3] == [wanted]:
            return filesystem.split(" ", 1)[0]
    return ""
