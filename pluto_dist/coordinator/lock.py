"""The coordinator's own lock (R3): one per runtime folder.

A `flock` on a file that stays: the kernel drops it when the coordinator dies, so there are no stale locks. It
is taken by the script that spawns the coordinator (`spawn.py`) and inherited, or by a coordinator that was
started by hand. A client never has it, because a flock survives in forked children; neither has a child of
the coordinator.

It does not promise that the file is still the one that others would lock, for the runtime folder may have
been deleted. So the holder asks `is_intact()` before any effect leaves, and ends if not. What was decided in
between is fenced by the generation, which is kept in the database.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from pluto_dist.errors import PlacesError
from pluto_dist.host.places import open_private
from pluto_dist.host.spawn import try_lock


class FileId(NamedTuple):
    """Device and inode of a file, whatever its name."""

    device: int
    inode: int


def file_id(path: Path) -> FileId | None:
    """The file that a path names now, None if there is none; links are not followed."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return FileId(found.st_dev, found.st_ino)


class CoordinatorLock:
    """Held until `release()` or the end of the process.

    Every check compares with the file that was there when the lock was taken.

    Args:
        path: of the lock file.
        descriptor: of the locked file; closed by `release()`.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        found = os.fstat(descriptor)
        self._path = path
        self._descriptor = descriptor
        self._held = FileId(found.st_dev, found.st_ino)

    def is_intact(self) -> bool:
        """Whether the path still names the file that is locked."""
        return file_id(self._path) == self._held

    def release(self) -> None:
        """Lets the next coordinator start; the file stays, so that no process locks a deleted one."""
        os.close(self._descriptor)


def take(path: Path) -> CoordinatorLock | None:
    """Takes the lock without waiting.

    Returns:
        None if another coordinator has it.

    Raises:
        PlacesError: the filesystem has no flock.
        OSError: the file cannot be opened.
    """
    return _locked(path, open_private(path, os.O_RDWR | os.O_CREAT))


def adopt(path: Path, descriptor: int) -> CoordinatorLock | None:
    """The lock that this process has inherited.

    Returns:
        None if the descriptor is not that of the lock file, or another coordinator has the lock.

    Raises:
        PlacesError: the filesystem has no flock.
        OSError: there is no such descriptor.
    """
    os.set_inheritable(descriptor, False)
    return _locked(path, descriptor)


def _locked(path: Path, descriptor: int) -> CoordinatorLock | None:
    try:
        taken = try_lock(descriptor)
    except OSError as error:
        os.close(descriptor)
        raise PlacesError(
            f"the filesystem of {path} has no flock ({error.strerror}); set PLUTO_DIST_HOME to a folder on "
            "local disk",
            path=str(path),
        ) from error
    lock = CoordinatorLock(path, descriptor)
    if taken and lock.is_intact():  # else it was deleted in this instant
        return lock
    lock.release()
    return None
