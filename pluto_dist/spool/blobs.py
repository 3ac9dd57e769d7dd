"""Contents of logged files: kept beside the streams of a lease, and the lines that name them.

    <lease>/blobs/<blob>         one file's content as it was when it was logged; never changed afterwards
    <lease>/blobs/<blob>.link    a second link to the user's file: survives its deletion and replacement
    <lease>/blobs/<blob>.part    a copy that is being made, or was cut off; no line names it

A line of the files stream (see `file_lines`) names a blob; it is written after the blob is whole.

Keeping takes no longer for a large file than for a small one: only a small one is copied. For a large one the
first of these ways is taken that the filesystems support; `sources` finds later whether the content has held:

| way | copies | protects against deletion, renaming over it | against writing into it |
| --- | --- | --- | --- |
| copy, clone (FICLONE) | bytes; nothing | yes | yes |
| link | nothing | yes | no: noticed |
| reference | nothing | no: noticed | no: noticed |
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import stat
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from pluto_dist.spool.file_lines import BLOBS, LINK, Part, Seen
from pluto_dist.spool.sources import Found, NoSourceError, seen_in
from pluto_dist.spool.space import MIB, MIN_FREE, SHARE_OF_FREE, SIDE

COPY_UP_TO: Final = MIB  # bytes; about half a millisecond
KEPT_FILES: Final = 64  # of a folder; of one with more files only references are kept
TIME_S: Final = 0.004  # for the files of a folder; what is left then is kept by reference
_FICLONE: Final = 0x40049409  # linux/fs.h: the other file's blocks, shared until one of both is written
_PIECE: Final = MIB
_KERNEL_PIECE: Final = 1 << 30
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a named pipe must not hold up the caller
_NO_KERNEL_COPY: Final = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ETXTBSY}
)


class Blob(msgspec.Struct, frozen=True):
    """A content that is kept; `size` is in bytes.

    Attributes:
        name: its id.
        source, seen, linked: as in `FileLine`.
        moved: the file was changed while it was copied.
    """

    name: str
    size: int
    source: str = ""
    seen: Seen | None = None
    linked: bool = False
    moved: bool = False


class NoRoomError(ValueError):
    """The disk or the quota has no room for it; never leaves the client."""


class Blobs:
    """The blobs that one process keeps; any thread, forked child and signal handler may do so.

    Args:
        folder: the lease's folder.
        root: of the spool, which holds `leases/`.
        quota_bytes: limit of all blobs below the root, None for a tenth of what is free now. It is apart from
            the quota of the records, so that neither keeps the other out.
        copy_up_to: bytes of the largest file that is copied.
        sides_share: percent of the quota that all sides together may take, for a process that is one; else 0.
        durable: blobs are put on the disk by `sync`.

    Attributes:
        written: how many were kept.

    Raises:
        OSError: the default quota was asked for, and the root is missing.
    """

    def __init__(
        self,
        folder: str,
        root: str,
        quota_bytes: int | None = None,
        *,
        copy_up_to: int = COPY_UP_TO,
        sides_share: int = 0,
        durable: bool = False,
    ) -> None:
        self._folder = Path(folder) / BLOBS
        self._root = root
        self.quota_bytes = _free(root) // SHARE_OF_FREE if quota_bytes is None else quota_bytes
        self._copy_up_to = copy_up_to
        self._sides_share = sides_share
        self._no_clone: set[int] = set()
        self._durable = durable
        self._unsynced: deque[str] = deque()
        self.written = 0

    def keep(self, source: str | bytes, name: str = "") -> Blob:
        """Keeps bytes, or a file in the best of the quick ways; see the module's docstring.

        A file that cannot be copied for want of room is kept as a reference.

        Args:
            source: content, or path of a file.
            name: id of the blob, "" for a new one.

        Raises:
            NoSourceError: the file cannot be read, or is no regular file.
            NoRoomError: there is no room for the bytes now.
        """
        if isinstance(source, bytes):
            return self._write(source, len(source), name or _new_name())
        try:
            with os.fdopen(_opened(source), "rb", buffering=0) as file:
                return self._keep_file(file, source, self._copy_up_to, name or _new_name())
        except OSError as error:
            raise NoSourceError(f"{source!r} cannot be read: {error.strerror or error}") from error

    def keep_all(self, found: Sequence[Found]) -> tuple[Part, ...]:
        """Keeps the files of a folder; when that has taken `TIME_S`, or `copy_up_to` bytes, only references.

        So those of a folder of many files are references from the first one: a folder is uploaded as a whole
        or not at all, and to protect some of its files helps nobody.

        Raises:
            NoSourceError: one of them cannot be read, so nothing of the folder is kept.
        """
        parts, names = list[Part](), _names()
        until, room = time.monotonic() + TIME_S, self._copy_up_to
        roomy = len(found) <= KEPT_FILES and self._has_room(sum(file.size for file in found))
        try:
            for file in found:
                if not roomy or time.monotonic() > until:
                    parts.append(_referred(file, next(names)))
                    continue
                with os.fdopen(_opened(file.path), "rb", buffering=0) as opened:
                    blob = self._keep_file(opened, file.path, room, next(names), asked=True)
                room -= blob.size if blob.seen is None else 0
                parts.append(_part(file.name, blob))
        except OSError as error:
            for part in parts:
                self.discard(part)
            raise NoSourceError(f"{error.filename!r} cannot be read: {error.strerror or error}") from error
        return tuple(parts)

    def _keep_file(
        self, file: BinaryIO, source: str, copy_up_to: int, name: str, *, asked: bool = False
    ) -> Blob:
        """Args: asked: there is room."""
        seen = seen_in(os.fstat(file.fileno()))
        try:
            if seen.size <= copy_up_to:
                blob = self._write(file, seen.size, name, asked=asked)
                moved = seen_in(os.fstat(file.fileno())) != seen
                return msgspec.structs.replace(blob, moved=moved)
            if not asked:
                self._look_for_room(seen.size)
            kept = self._clone(file, seen, name) or self._link(file, source, seen, name)
        except NoRoomError:
            kept = None
        return kept or self._reference(source, seen, name)

    def _has_room(self, size: int) -> bool:
        try:
            self._look_for_room(size)
        except NoRoomError:
            return False
        return True

    def _clone(self, file: BinaryIO, seen: Seen, name: str) -> Blob | None:
        if seen.device in self._no_clone:
            return None
        part = self._folder / f"{name}.part"
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with os.fdopen(os.open(part, _CREATE, 0o600), "wb", buffering=0) as target:
                fcntl.ioctl(target.fileno(), _FICLONE, file.fileno())
            part.rename(self._folder / name)
        except OSError:  # another filesystem, or one that copies only byte by byte
            self._no_clone.add(seen.device)
            with suppress(OSError):
                part.unlink()
            return None
        moved = seen_in(os.fstat(file.fileno())) != seen
        return self._kept(Blob(name, (self._folder / name).stat().st_size, moved=moved))

    def _link(self, file: BinaryIO, source: str, seen: Seen, name: str) -> Blob | None:
        """Links the very file that is open, whatever its name stands for by now."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:  # with a folder, Python asks the system to follow the link in /proc
                os.link(f"/proc/self/fd/{file.fileno()}", name + LINK, dst_dir_fd=folder)
            finally:
                os.close(folder)
        except OSError:  # another filesystem, one without links, or another user's file
            return None
        return self._kept(Blob(name, seen.size, os.path.realpath(source), seen, linked=True))

    def _reference(self, source: str, seen: Seen, name: str) -> Blob:
        """Refers to the file by its name; for a symbolic link, by the name that it points to now."""
        self.written += 1
        return Blob(name, seen.size, os.path.realpath(source), seen)

    def discard(self, blob: Blob | Part) -> None:
        """No line names it after all."""
        name = blob.path if isinstance(blob, Part) else blob.name
        with suppress(OSError):  # it goes with the lease's folder
            (self._folder / (name + LINK if blob.linked else name)).unlink()

    def sync(self) -> None:
        """Puts on the disk what was kept since the last time.

        Raises:
            OSError: the disk could not; it is tried again.
        """
        while self._unsynced:
            name = self._unsynced[0]
            with suppress(FileNotFoundError):  # delivered and gone
                _sync(self._folder / name)
            self._unsynced.popleft()
        if self._folder.is_dir():
            _sync(self._folder)

    def _write(self, source: bytes | BinaryIO, size: int, name: str, *, asked: bool = False) -> Blob:
        if not asked:
            self._look_for_room(size)
        part = self._folder / f"{name}.part"
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with os.fdopen(os.open(part, _CREATE, 0o600), "wb", buffering=0) as target:
                _fill(target, source)
                size = os.fstat(target.fileno()).st_size
            part.rename(self._folder / name)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            if isinstance(error, _SourceError):
                raise
            raise NoRoomError(
                f"the spool {self._root} cannot take its {size:,} bytes: {error.strerror or error}"
            ) from error
        return self._kept(Blob(name, size))

    def _kept(self, blob: Blob) -> Blob:
        self.written += 1
        if self._durable and not blob.linked:  # what the user's file holds is put on the disk by its writer
            self._unsynced.append(blob.name)
        return blob

    def _look_at_sides(self, size: int) -> None:
        limit = self.quota_bytes * self._sides_share // 100
        used = usage(self._root, sides=True)
        if used + size > limit:
            raise NoRoomError(
                f"it has {size:,} bytes; files of sides that wait for delivery may take {limit:,} "
                f"(sides_share: {self._sides_share} % of files_quota) and have {used:,} now"
            )

    def _look_for_room(self, size: int) -> None:
        used = usage(self._root)
        if used + size > self.quota_bytes:
            raise NoRoomError(
                f"it has {size:,} bytes; files that wait for delivery may take {self.quota_bytes:,} and have "
                f"{used:,} now. Set files_quota (PLUTO_DIST_FILES_QUOTA) higher"
                + (", or log it when others are delivered" if size <= self.quota_bytes else "")
            )
        if self._sides_share:
            self._look_at_sides(size)
        try:
            free = _free(self._root)
        except OSError:  # the root is gone or closed to us; writing says why
            return
        if free - size < 2 * MIN_FREE:  # records go on behind the point where files stop
            raise NoRoomError(
                f"it has {size:,} bytes; the disk of the spool {self._root} has {free:,} left, of which "
                f"{2 * MIN_FREE:,} are kept for records. Free some, or set PLUTO_DIST_HOME to a larger disk"
            )


def _names() -> Iterator[str]:
    """Ids of the parts of one artifact."""
    begin = os.urandom(12).hex()
    return (f"{begin}{number:08x}" for number in itertools.count())


def _new_name() -> str:
    return os.urandom(16).hex()


def _referred(file: Found, name: str) -> Part:
    if not os.access(file.path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), file.path)
    return Part(file.name, name, file.size, file.path, file.seen)


def _part(name: str, blob: Blob) -> Part:
    return Part(name, blob.name, blob.size, blob.source, blob.seen, blob.linked)


class _SourceError(OSError):
    """Reading the user's file failed, not writing ours."""


def usage(root: str, *, sides: bool = False) -> int:
    """Bytes of all blobs below a spool's root, unfinished ones included; or only of those of sides."""
    try:
        leases = os.scandir(Path(root) / "leases")
    except OSError:
        return 0
    with leases:
        return sum(
            _size_below(Path(lease.path) / BLOBS)
            for lease in leases
            if not sides or Path(lease.path, SIDE).exists()
        )


def _opened(path: str) -> int:
    fd = os.open(path, _READ)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no regular file; a folder is logged as an Artifact")
    return fd


def _fill(target: BinaryIO, source: bytes | BinaryIO) -> None:
    """Copies by the kernel where it can: that shares blocks on filesystems that copy on write."""
    if isinstance(source, bytes):
        _write_all(target, source)
        return
    try:
        left = os.fstat(source.fileno()).st_size
        while left > 0:
            copied = os.copy_file_range(source.fileno(), target.fileno(), min(left, _KERNEL_PIECE))
            left = left - copied if copied else 0  # it has become shorter
    except AttributeError:  # not on this platform
        pass
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
    while piece := _read(source):
        _write_all(target, piece)


def _read(source: BinaryIO) -> bytes:
    try:
        return source.read(_PIECE)
    except OSError as error:
        raise _SourceError(error.errno, error.strerror) from error


def _write_all(target: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[target.write(view) :]


def _size_below(folder: Path) -> int:
    total = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # delivered and removed in this instant
                total += entry.stat(follow_symlinks=False).st_size
    return total


def _free(path: str) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
