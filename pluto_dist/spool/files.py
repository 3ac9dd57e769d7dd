"""The few file operations of the spool, and those of the operating system.

Writer, reader and space use nothing else of the operating system, so that a simulation can run the same
code over files in memory. Errors are plain `OSError`.

A writer keeps one descriptor number for its whole life and changes what stands behind it with `dup2`:
closing and reopening under threads can write into a foreign file that got the number in between. A number
that must not be written to is *shut*: it refers to something read-only, so `write` raises EBADF.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import posix
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol


class Files(Protocol):
    """The operations, as a protocol. Paths are absolute; folders are the user's own."""

    def open_shut(self) -> int:
        """A new descriptor number that refuses writes."""
        ...

    def create(self, path: str) -> int:
        """A new file opened for appending; marked as being written until its last descriptor goes.

        Raises:
            FileExistsError: the name is taken.
        """
        ...

    def write(self, fd: int, data: bytes, /) -> int:
        """One `write()`; the count may be short."""
        ...

    def replace(self, fd: int, new: int) -> int:
        """Lets `fd` refer to what `new` refers to, and gives `new` back. Returns the number to use.

        That is `fd`, unless it was closed by foreign code meanwhile: then it may be a foreign file's.
        """
        ...

    def shut(self, fd: int) -> None:
        """Has `fd` refuse writes from now on."""
        ...

    def close(self, fd: int) -> None:
        """Gives the number back, if it is still ours."""
        ...

    def sync(self, path: str) -> None:
        """fsync of a file or a folder."""
        ...

    def sizes(self, folder: str) -> dict[str, int]:
        """Names and sizes of the regular files there that belong to this user; {} without the folder."""
        ...

    def folders(self, folder: str) -> list[str]:
        """Names of the folders there; [] without the folder. Links are left out."""
        ...

    def read_at(self, path: str, offset: int, count: int) -> bytes:
        """Up to `count` bytes; fewer only at the end of the file.

        Raises:
            OSError: ELOOP for a link, EPERM for what is no regular file of this user.
        """
        ...

    def being_written(self, path: str) -> bool:
        """Whether a descriptor of `create` still refers to this file, in any process."""
        ...

    def unlink_if(self, path: str, size: int) -> bool:
        """Deletes the file if it has exactly this size and is not being written; whether it did."""
        ...

    def unlink(self, path: str) -> None:
        """Deletes the file."""
        ...

    def touch_older(self, path: str, before: float) -> bool:
        """Sets the times of a file or folder to now if it was last changed before; whether it did."""
        ...

    def free_bytes(self, path: str) -> int:
        """Bytes that an unprivileged user may still write on this filesystem."""
        ...


_CREATE: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ABOVE_STDIO: Final = 3

_Identity = tuple[int, int]


class RealFiles:
    """The operating system's files.

    "Being written" is a `flock` that the writing descriptor holds. It ends with the last process that has
    the descriptor, however that process ends, and tells a chain whose writer lives from one that is over.
    Where the filesystem has no locks, no file counts as being written.
    """

    def __init__(self) -> None:
        self._ours: dict[int, tuple[_Identity, ...]] = {}
        self._refusing = -1
        self._refusal: _Identity | None = None

    def open_shut(self) -> int:
        fd = fcntl.fcntl(self._shut_source(), fcntl.F_DUPFD_CLOEXEC, _ABOVE_STDIO)
        return self._keep(fd)

    def create(self, path: str) -> int:
        fd = os.open(path, _CREATE, 0o600)
        try:
            fd = _above_stdio(fd)
            with suppress(OSError):  # a filesystem without locks; see the class
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return self._keep(fd)

    write = staticmethod(posix.write)  # eventlet puts one into `os` that lets others run; log() does not wait

    def replace(self, fd: int, new: int) -> int:
        if fd == new:  # the old one was closed by foreign code, and the new one got its number
            return fd
        if not self._is_ours(fd):
            self._ours.pop(fd, None)
            return new
        self._redirect(fd, new)
        self.close(new)
        return fd

    def shut(self, fd: int) -> None:
        if self._is_ours(fd) and (source := self._shut_source()) != fd:
            self._redirect(fd, source)

    def close(self, fd: int) -> None:
        ours = self._is_ours(fd)
        self._ours.pop(fd, None)  # first: another thread may get the number as soon as it is free
        if ours:
            os.close(fd)

    def sync(self, path: str) -> None:
        fd = os.open(path, _READ)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sizes(self, folder: str) -> dict[str, int]:
        sizes: dict[str, int] = {}
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # deleted since the folder was read
                        found = entry.stat(follow_symlinks=False)
                        if _is_own_file(found):
                            sizes[entry.name] = found.st_size
        except FileNotFoundError:
            return {}
        return sizes

    def folders(self, folder: str) -> list[str]:
        try:
            with os.scandir(folder) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []

    def read_at(self, path: str, offset: int, count: int) -> bytes:
        fd = _open_own(path)
        try:
            data = os.pread(fd, count, offset)
            while 0 < len(data) < count:  # a signal may cut a long read short
                more = os.pread(fd, count - len(data), offset + len(data))
                if not more:
                    break
                data += more
            return data
        finally:
            os.close(fd)

    def being_written(self, path: str) -> bool:
        fd = _open_own(path)
        try:
            return _is_locked(fd)
        finally:
            os.close(fd)

    def unlink_if(self, path: str, size: int) -> bool:
        fd = _open_own(path)
        try:
            if os.fstat(fd).st_size != size or _is_locked(fd):
                return False
            Path(path).unlink()
            return True
        finally:
            os.close(fd)

    def unlink(self, path: str) -> None:
        Path(path).unlink()

    def touch_older(self, path: str, before: float) -> bool:
        if Path(path).lstat().st_mtime >= before:
            return False
        os.utime(path, follow_symlinks=False)
        return True

    def free_bytes(self, path: str) -> int:
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def _shut_source(self) -> int:
        """The end of a pipe for reading, kept so that `shut` works when no new one is to be had.

        Foreign code may close it. The next one may then get the number of a writer that was closed too, whose
        next segment takes its place. So it is known by what it is, which no foreign descriptor can be.
        """
        if self._refusal is None or _identity_now(self._refusing) != self._refusal:
            read, write = os.pipe()
            os.close(write)
            self._refusing = self._keep(_above_stdio(read))
            self._refusal = _identity(self._refusing)
        return self._refusing

    def _redirect(self, fd: int, source: int) -> None:
        """dup2; a fork in the middle of it must find the number to be ours, before and after."""
        now = self._ours[source]
        self._ours[fd] += now
        os.dup2(source, fd, inheritable=False)
        self._ours[fd] = now

    def _keep(self, fd: int) -> int:
        self._ours[fd] = (_identity(fd),)
        return fd

    def _is_ours(self, fd: int) -> bool:
        """Whether the number still refers to what we put there: daemonising code closes all it finds."""
        return _identity_now(fd) in self._ours.get(fd, ())


@functools.cache
def real_files() -> RealFiles:
    """The object that all writers and readers of a process share: it keeps a descriptor open."""
    return RealFiles()


def _identity(fd: int) -> _Identity:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _identity_now(fd: int) -> _Identity | None:
    """None for a number that is not open."""
    try:
        return _identity(fd)
    except OSError:
        return None


def _above_stdio(fd: int) -> int:
    """Moves a descriptor off 0 to 2: they are free in a daemon, and foreign code prints to them."""
    if fd >= _ABOVE_STDIO:
        return fd
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_STDIO)
    os.close(fd)
    return moved


def _open_own(path: str) -> int:
    fd = os.open(path, _READ)
    if not _is_own_file(os.fstat(fd)):
        os.close(fd)
        raise PermissionError(errno.EPERM, "no regular file of this user", path)
    return fd


def _is_own_file(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def _is_locked(fd: int) -> bool:
    """Probes with a shared lock; it goes with the descriptor."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
