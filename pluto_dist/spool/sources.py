"""The user's files: those of a folder or pattern, complete or not yet, and read as they were when logged.

A blob that is a copy never changes, but is shorter than its line says where the machine went down. A file of
the user's may change: it is compared with what was logged before the first byte is read and after the last
one, and the last piece is given out only then. So no reader gets a whole content that is not the logged one.

Limit: a filesystem notes a change in the time of the file, which moves in ticks (4 ms on most kernels). A
write in the very tick of the one before `log()` that leaves the size alone is not seen.

In a watched folder, a file that a process has open for writing is not complete. Where the filesystem does
not say who has (another host may, on a network filesystem), a file is complete when it has not changed for a
while.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Hashable, Iterator, Mapping
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
            raise ChangedError(f"{self.called} {_difference(self.seen, now)}; {_ADVICE}")


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
        return "was replaced by another file after it was logged"
    if now.size != then.size:
        return f"was changed (it had {then.size:,} bytes when it was logged, and has {now.size:,})"
    return "was written to after it was logged"


MOST_FILES: Final = 10_000  # of one artifact; finding and noting one takes about 20 us


class NoSourceError(ValueError):
    """The user's file cannot be had; never leaves the client."""


class Found(msgspec.Struct, frozen=True):
    """A file of a folder: its name below it, where it is, and what it is now."""

    name: str
    path: str
    seen: Seen

    @property
    def size(self) -> int:
        """Bytes."""
        return self.seen.size


def is_many(source: str) -> bool:
    """Whether a path means a folder, or a pattern; a file whose name looks like a pattern is a file."""
    return Path(source).is_dir() or (glob.has_magic(source) and not os.path.lexists(source))


def found_in(source: str, *, none: bool = False) -> tuple[tuple[Found, ...], tuple[str, ...]]:
    """The files of a folder, those that a pattern with `*`, `?` and `[…]` means, or the one; sorted by name.

    Links to files are followed, links to folders are not: they could lead anywhere, and round in circles.

    Args:
        source: the path.
        none: a folder or pattern may have no file.

    Returns:
        The files, and what was left out because it is none: pipes, devices, links to nowhere or to folders.

    Raises:
        NoSourceError: there is none, there are too many, or a folder cannot be read.
    """
    files: list[Found] = []
    left_out: list[str] = []
    try:
        for name, path, found in _each(source):
            if found is not None and stat.S_ISREG(found.st_mode):
                files.append(Found(name, path, seen_in(found)))
            else:
                left_out.append(name)
            if len(files) > MOST_FILES:
                raise NoSourceError(f"{source!r} has more than {MOST_FILES:,} files; pack them into one file")
    except OSError as error:
        raise NoSourceError(f"{error.filename!r} cannot be read: {error.strerror or error}") from error
    if not files and (left_out or not none):
        what = f"only {left_out[0]!r}, which is no file" if left_out else "is it the right place?"
        raise NoSourceError(f"{source!r} has no file: {what}")
    return tuple(sorted(files, key=lambda file: file.name)), tuple(left_out)


_One = tuple[str, str, os.stat_result | None]  # its name, its path without links, and what is there


def _each(source: str) -> Iterator[_One]:
    if Path(source).is_dir():
        yield from _below(source)
    elif is_many(source):
        yield from _matching(source)
    else:
        yield Path(source).name, os.path.realpath(source), Path(source).stat()


def _below(folder: str) -> Iterator[_One]:
    root = os.path.realpath(folder)
    folders = [root]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                    continue
                path = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                yield entry.path[len(root) + 1 :], path, _stat(entry)


def _matching(pattern: str) -> Iterator[_One]:
    """Files are called by what stands behind the last folder that the pattern names in full."""
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    root = str(Path(*parts[:fixed]))
    for path in glob.iglob(pattern, recursive=True):  # noqa: PTH207 # text in, text out
        if not Path(path).is_dir():
            yield os.path.relpath(path, root), os.path.realpath(path), _stat(Path(path))


def _stat(found: os.DirEntry[str] | Path) -> os.stat_result | None:
    try:
        return found.stat()
    except FileNotFoundError:  # a link to nowhere
        return None


SETTLE_S = 5.0  # without a change, where nobody can say whether a file is open


class Look(msgspec.Struct, frozen=True):
    """A file as it is now.

    Attributes:
        state: changes with its content: size, time, inode.
        written: whether a process has it open for writing; None where that cannot be known.
    """

    state: Hashable
    written: bool | None


class _Known(msgspec.Struct):
    state: Hashable
    since: float
    taken: bool = False


class Arrivals:
    """One watched folder.

    Args:
        taken: states of files that were taken before, by path.
    """

    def __init__(self, taken: Mapping[str, Hashable] | None = None) -> None:
        self._known = {path: _Known(state, 0.0, taken=True) for path, state in (taken or {}).items()}

    def look(self, found: Mapping[str, Look], now: float, *, last: bool = False) -> list[str]:
        """Files that are complete and were not taken yet, by path; they count as taken from now on.

        Args:
            found: all files that are there.
            now: seconds of a clock that does not jump.
            last: nothing will come any more, so that only a file that is open is still waited for.
        """
        for path in self._known.keys() - found.keys():
            del self._known[path]
        complete = []
        for path, look in sorted(found.items()):
            known = self._known.get(path)
            if known is None or known.state != look.state:  # new, or written once more
                known = self._known[path] = _Known(look.state, now)
            if not known.taken and _is_complete(look, now - known.since, last=last):
                known.taken = True
                complete.append(path)
        return complete

    def wants(self, path: str, state: Hashable) -> bool:
        """Whether this state of a file was not taken yet, so that it matters who has the file open."""
        known = self._known.get(path)
        return known is None or not known.taken or known.state != state

    def waits(self) -> bool:
        """Whether a file is there that is not complete."""
        return any(not known.taken for known in self._known.values())


def _is_complete(look: Look, unchanged_s: float, *, last: bool) -> bool:
    if look.written is None:
        return unchanged_s >= SETTLE_S
    # One more look: between two writes of one file some programs close it for a moment.
    return not look.written and (last or unchanged_s > 0)
