"""The files of a folder, or of a pattern, that is logged as one artifact."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from pluto_dist.spool.file_lines import Seen
from pluto_dist.spool.sources import seen_in

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


def found_in(source: str) -> tuple[tuple[Found, ...], tuple[str, ...]]:
    """The files of a folder, or those that a pattern with `*`, `?` and `[…]` means; sorted by name.

    Links to files are followed, links to folders are not: they could lead anywhere, and round in circles.

    Returns:
        The files, and what was left out because it is none: pipes, devices, links to nowhere or to folders.

    Raises:
        NoSourceError: there is none, there are too many, or a folder cannot be read.
    """
    files: list[Found] = []
    left_out: list[str] = []
    try:
        for name, path, found in _below(source) if Path(source).is_dir() else _matching(source):
            if found is not None and stat.S_ISREG(found.st_mode):
                files.append(Found(name, path, seen_in(found)))
            else:
                left_out.append(name)
            if len(files) > MOST_FILES:
                raise NoSourceError(f"{source!r} has more than {MOST_FILES:,} files; pack them into one file")
    except OSError as error:
        raise NoSourceError(f"{error.filename!r} cannot be read: {error.strerror or error}") from error
    if not files:
        what = f"only {left_out[0]!r}, which is no file" if left_out else "is it the right place?"
        raise NoSourceError(f"{source!r} has no file: {what}")
    return tuple(sorted(files, key=lambda file: file.name)), tuple(left_out)


_One = tuple[str, str, os.stat_result | None]  # its name, its path without links, and what is there


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
