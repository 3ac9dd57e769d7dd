"""The coordinator's own lock (R3): one per runtime folder.

Only the exec'd coordinator takes it, never a client: a flock survives in forked children. It comes from
`filelock`, whose Unix lock is a flock on a file that stays: the kernel drops it when the coordinator dies, so
there are no stale locks. Where a filesystem has no flock, filelock would fall back to "the file exists",
which a SIGKILL leaves behind; that is refused here.

What it does not promise: that the file is still the one others would lock. Somebody may have deleted the
runtime folder, so the holder asks `is_intact()` each second and ends if not. What was decided in between is
fenced by the generation, which is kept in the database.

Importing filelock takes 73 ms, so only the coordinator imports this module.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout, UnixFileLock

from pluto_dist.errors import PlacesError
from pluto_dist.host.private_files import FILE_MODE, open_private


class FileId(NamedTuple):
    """Which file, whatever its name."""

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
    """Held from `take()` to `release()` or the end of the process.

    Every check compares with the file that was there when the lock was taken.
    """

    def __init__(self, lock: UnixFileLock, path: Path, held: FileId) -> None:
        self._lock = lock
        self._path = path
        self._held = held

    def is_intact(self) -> bool:
        """Whether the path still names the file that is locked."""
        return file_id(self._path) == self._held

    def release(self) -> None:
        """Lets the next coordinator start; the file stays, so that nobody locks a deleted one."""
        self._lock.release()


def take(path: Path) -> CoordinatorLock | None:
    """Takes the lock without waiting.

    Returns:
        None if another coordinator has it.

    Raises:
        PlacesError: the filesystem has no flock.
        OSError: the file cannot be opened.
    """
    os.close(open_private(path, os.O_RDWR | os.O_CREAT))  # FileLock would empty what a second name leads to
    lock = FileLock(path, mode=FILE_MODE, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    except NotImplementedError as error:
        raise PlacesError(_no_flock(path), path=str(path)) from error
    held = file_id(path)
    if not isinstance(lock, UnixFileLock):
        lock.release()
        raise PlacesError(_no_flock(path), path=str(path))
    if held is None:  # deleted in this instant
        lock.release()
        return None
    return CoordinatorLock(lock, path, held)


def _no_flock(path: Path) -> str:
    return f"the filesystem of {path} has no flock; set PLUTO_DIST_HOME to a folder on local disk"
