"""The content of a logged file, read as it was when it was logged, or not at all.

A blob that is a copy never changes, but is shorter than its line says where the machine went down. A file of
the user's may change: it is compared with what was logged before the first byte is read and after the last
one, and the last piece is given out only then. So no reader gets a whole content that is not the logged one.

Limit: a filesystem notes a change in the time of the file, which moves in ticks (4 ms on most kernels). A
write in the very tick of the one before `log()` that leaves the size alone is not seen.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from pluto_dist.spool.file_lines import FileLine, Part, Seen

PIECE: Final = 1 << 20
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a named pipe must not hold up the caller


class ChangedError(Exception):
    """The user's file is gone, or is not what was logged any more; the message says which and how."""


class Source(msgspec.Struct, frozen=True):
    """One content.

    Attributes:
        path: where it is now, absolute.
        size: bytes.
        seen: state of the user's file when it was logged; None for a copy.
        called: the user's name of the file.
    """

    path: str
    size: int
    seen: Seen | None = None
    called: str = ""

    def check(self) -> None:
        """Checks that the content is there, and as it was.

        Raises:
            ChangedError: it is not.
            OSError: it cannot be read.
        """
        os.close(self._opened())

    def pieces(self, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` on; constant memory. What was added to a copy's end is left out.

        Raises:
            ChangedError: it is not what was logged; at the latest in place of the last piece.
            OSError: it cannot be read.
        """
        left = self.size - start if length is None else length
        fd = self._opened()
        try:
            while left > 0:
                piece = os.pread(fd, min(PIECE, left), start)
                if not piece:
                    self._compare(fd)  # says that it is shorter, unless it has grown again since
                    raise ChangedError(f"{self.called or self.path} changed while it was read; {_ADVICE}")
                start, left = start + len(piece), left - len(piece)
                if not left:
                    self._compare(fd)
                yield piece
        finally:
            os.close(fd)

    def sha256(self) -> str:
        """The checksum of the whole content, in hexadecimal digits.

        Raises:
            ChangedError, OSError: as for `pieces`.
        """
        import hashlib

        found = hashlib.sha256()
        for piece in self.pieces():
            found.update(piece)
        return found.hexdigest()

    def _opened(self) -> int:
        try:
            fd = os.open(self.path, _READ)
        except (FileNotFoundError, NotADirectoryError) as error:
            if self.seen is None:
                raise
            raise ChangedError(f"{self.called} was deleted before it was read; {_ADVICE}") from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ChangedError(f"{self.called or self.path} is no regular file")
            self._compare(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _compare(self, fd: int) -> None:
        now = seen_in(os.fstat(fd))
        if self.seen is None:
            if now.size < self.size:
                raise ChangedError(f"the copy {self.path} has {now.size:,} of {self.size:,} bytes; {_LOST}")
            return
        if now != self.seen:
            raise ChangedError(f"{self.called} {_difference(self.seen, now)} before it was read; {_ADVICE}")


_ADVICE: Final = "log() had not copied it. Leave a file as it is until it is delivered, or raise files_copy"

_LOST: Final = 'the machine went down before they were on the disk, which durability="machine" waits for'


def source_of(line: FileLine | Part) -> Source:
    """The content of a line with an absolute path."""
    size = line.size if isinstance(line, Part) else line.file_size
    if line.seen is not None:
        return Source(line.path, size, line.seen, line.source)
    if not size:  # lines of early versions do not say it
        with suppress(OSError):  # reading it says why
            size = Path(line.path).stat().st_size
    return Source(line.path, size)


def sources_of(line: FileLine) -> tuple[Source, ...]:
    """The contents of a line: one, or those of a folder's files."""
    return tuple(map(source_of, line.contents))


def seen_in(found: os.stat_result) -> Seen:
    """The state of a file now."""
    return Seen(found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev)


def _difference(then: Seen, now: Seen) -> str:
    if (now.device, now.inode) != (then.device, then.inode):
        return "was replaced by another file"
    if now.size != then.size:
        return f"was changed (it had {then.size:,} bytes when it was logged, and has {now.size:,})"
    return "was written to after it was logged"
