"""The lock by which a process shows, to any pid namespace, that it lives (R2).

A POSIX record lock belongs to the process, not to the descriptor. The kernel drops it when the process dies,
however it dies; a forked child does not have it; `exec` drops it, because the descriptor is closed on exec.

The trap: closing ANY descriptor of the file in the holder drops the lock. So the holder opens the file once,
here, and nothing else in that process may open it, not even to read it. The prober is another process.

On the same descriptor there is a `flock`, which is the opposite: forked children share it, so it lasts until
the last of them has ended or executed another program. It tells whether any process may still write. Only on
Linux; elsewhere a child that has not written when its parent dies is not waited for.

What a probe does not promise: "free" is death only if the holder once had the lock (it takes it before it
announces its lease) and only on a filesystem of this host; and a process that hangs holds it too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
from pathlib import Path
from typing import Literal

from pluto_dist.errors import PlacesError
from pluto_dist.host.private_files import open_private

LOCK_NAME = "lease.lock"

LockState = Literal["held", "free", "missing"]

# Elsewhere the two kinds of lock are one, and the second would meet the first.
_FORKS_SHARE = sys.platform == "linux"

# struct flock with its tail padding: type and whence first on Linux, last on macOS.
_FLOCK = "=qqihh" if sys.platform == "darwin" else "@hhqqi0q"

# (pid, path) → holder. A fork inherits the entries but not the locks, hence the pid. Changed only by single
# dict operations, which are atomic: a lock could be held by another thread at the moment of a fork.
_held: dict[tuple[int, str], object] = {}


class LeaseLock:
    """Holds the lock on one lease file for the life of the process, or until `release()`.

    Losing the object changes nothing: there is no finaliser.
    """

    def __init__(self, path: Path) -> None:
        """Makes the file if it is missing and takes the lock at once.

        Raises:
            RuntimeError: this process holds it already; a second descriptor would endanger the lock.
            PlacesError: another process holds it, or the filesystem has no such locks.
            OSError: the file cannot be opened safely.
        """
        self.path = path
        self._entry = (os.getpid(), os.path.realpath(path))
        if _held.setdefault(self._entry, self) is not self:
            raise RuntimeError(f"{path} is locked by this process already; a lease file is opened once")
        try:
            self._descriptor = _open_locked(path)
            self._file = _file_of(self._descriptor)
        except BaseException:
            del _held[self._entry]
            raise

    def release(self) -> None:
        """Drops the lock after the lease has ended; idempotent.

        A forked child, which never had the lock, only closes its copy of the descriptor. Code that closes all
        descriptors may have done so before, and the number may be a foreign file's.
        """
        if _held.pop(self._entry, None) is self and _file_of(self._descriptor) == self._file:
            os.close(self._descriptor)


class LeaseProbe:
    """Looks, from another process, whether a lease file is locked; never takes the lock itself."""

    def __init__(self, path: Path) -> None:
        """Opens the file; `LeaseProbe` keeps to this inode even if the path is replaced."""
        self._descriptor: int | None = None
        try:
            self._descriptor = open_private(path, os.O_RDONLY)
        except FileNotFoundError:
            return

    def state(self) -> LockState:
        """Whether the lock is held at this instant; `missing` if there was no file.

        Raises:
            OSError: the filesystem cannot say.
        """
        if self._descriptor is None:
            return "missing"
        asked = struct.pack(_FLOCK, *_flock_fields(fcntl.F_WRLCK))
        answer = struct.unpack(_FLOCK, fcntl.fcntl(self._descriptor, fcntl.F_GETLK, asked))
        return "free" if answer[_TYPE_AT] == fcntl.F_UNLCK else "held"

    def has_family(self) -> bool:
        """Whether the holder or a child that it forked lives, whatever became of the holder's own lock."""
        if self._descriptor is None or not _FORKS_SHARE:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        return False

    def close(self) -> None:
        """Gives the descriptor back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _file_of(descriptor: int) -> tuple[int, int] | None:
    """Device and inode, None for a descriptor that is not open."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


_TYPE_AT = 3 if sys.platform == "darwin" else 0


def _flock_fields(lock_type: int) -> tuple[int, ...]:
    """The whole file, asked from its start."""
    whence, start, length, pid = os.SEEK_SET, 0, 0, 0
    if sys.platform == "darwin":
        return (start, length, pid, lock_type, whence)
    return (lock_type, whence, start, length, pid)


def _open_locked(path: Path) -> int:
    descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _FORKS_SHARE:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise PlacesError(_why(path, error), path=str(path)) from error
    return descriptor


def _why(path: Path, error: OSError) -> str:
    if error.errno in {errno.EACCES, errno.EAGAIN}:
        return f"{path} is locked by another process; two processes cannot share a lease's folder"
    return (
        f"the filesystem of {path} has no POSIX locks ({error.strerror}); set PLUTO_DIST_HOME to local disk"
    )
