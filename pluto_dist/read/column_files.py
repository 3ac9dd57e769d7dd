"""Columns that were gathered once, kept beside the Run for the next look.

    runs/<key>/columns/<lease>/<stream>-<n>.<start>-<end>.columns

A file holds the blocks of a part of one segment. Segments only grow, so a file stays right while its bytes of
the segment are there: it remembers a checksum of their ends. A file that does not fit, of another version, or
damaged, is thrown away and made anew. Nothing else depends on these files; they may be deleted at any time.
Only a reader makes them, never a trainer or a coordinator, and only in a store that it may write to.

Format, all numbers little-endian and aligned to 8 bytes: magic; for each block its steps and times (int64)
and its columns of values (float64); a JSON index; its length (uint64); magic.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import msgspec

from pluto_dist.backend.local.reading import Segment
from pluto_dist.core.values.ids import UNREADABLE
from pluto_dist.read.columns import Block, gathered
from pluto_dist.spool.frames import segment_name

MAGIC = b"pdcols1\n"
FOLDER = "columns"
WORTH_BYTES = 1 << 20  # a smaller part is read again as fast
EDGE_BYTES = 256  # of both ends of a part, for its checksum

_NAME = re.compile(r"(?P<segment>.+)\.(?P<start>\d{1,18})-(?P<end>\d{1,18})\.columns", re.ASCII)
_LENGTH = struct.Struct("<Q")


class _Kept(msgspec.Struct, frozen=True):
    start: int
    end: int
    names: tuple[str, ...]
    count: int
    at: int
    ordered: bool


class _Index(msgspec.Struct, frozen=True):
    check: int
    blocks: tuple[_Kept, ...]


_index = msgspec.json.Decoder(_Index)


class ColumnFiles:
    """The column files of one Run.

    Args:
        run: folder of the Run in its store.
        make: whether new ones are made; those that are there are used in any case.
    """

    def __init__(self, run: Path, *, make: bool = True) -> None:
        self._root = run / FOLDER
        self._make = make and run.is_dir() and sys.byteorder == "little"

    def blocks(self, segment: Segment) -> Iterator[Block]:
        """Blocks of a metrics segment, from files as far as they reach."""
        at = 0
        for path, end in self._chain(segment):
            kept = _read(path, segment, at, end)
            if kept is None:
                self._drop(path)
                break
            yield from kept
            at = end
        yield from self._gathered(segment, at)

    def _chain(self, segment: Segment) -> Iterator[tuple[Path, int]]:
        """Files that follow each other from the segment's start, and where they end."""
        parts: dict[int, tuple[int, Path]] = {}
        if sys.byteorder == "little":
            for path, start, end in _parts(self._root / segment.lease_id, segment):
                parts[start] = max(parts.get(start, (0, path)), (end, path))
        at = 0
        while (found := parts.pop(at, None)) is not None:
            at = found[0]
            yield found[1], at

    def _gathered(self, segment: Segment, start: int) -> Iterator[Block]:
        size = _size(segment)
        if not self._make or size - start < WORTH_BYTES:
            yield from gathered(segment, start)
            return
        draft = _Draft(self._root / segment.lease_id, segment, start)
        try:
            for block in gathered(segment, start):
                draft.add(block)
                yield block
            draft.keep()
        finally:
            draft.close()

    def _drop(self, path: Path) -> None:
        with contextlib.suppress(OSError):  # another user's: it is read past
            path.unlink()


class _Draft:
    """A file that is being made; trouble with it ends the making, never the reading."""

    def __init__(self, folder: Path, segment: Segment, start: int) -> None:
        self._folder, self._segment, self._start = folder, segment, start
        self._path = folder / f".{os.getpid()}.{os.urandom(4).hex()}.draft"
        self._kept: list[_Kept] = []
        self._fd: int | None = None
        with contextlib.suppress(OSError):  # a store that this reader may not write to
            folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._at = 0
        self._write(MAGIC)

    def add(self, block: Block) -> None:
        """One more block."""
        at = self._at
        for column in (block.steps, block.times, *block.values):
            self._write(column.cast("B"))
        self._kept.append(_Kept(block.start, block.end, block.names, len(block.steps), at, block.ordered))

    def keep(self) -> None:
        """Everything was added: the file gets its name."""
        end = max((kept.end for kept in self._kept), default=self._start)
        check = _check(self._segment, self._start, end)
        if self._fd is None or end == self._start or check is None:
            return
        index = msgspec.json.encode(_Index(check, tuple(self._kept)))
        self._write(index + _LENGTH.pack(len(index)) + MAGIC)
        name = segment_name(self._segment.stream, self._segment.number)
        if self._fd is not None:
            with contextlib.suppress(OSError):
                self._path.replace(self._folder / f"{name}.{self._start}-{end}.columns")

    def close(self) -> None:
        """Gives the descriptor back, and removes what has no name."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _write(self, data: bytes | memoryview) -> None:
        if self._fd is None:
            return
        view = memoryview(data)
        self._at += len(view)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:  # no space: the next look reads the records again
            os.close(self._fd)
            self._fd = None


def _parts(folder: Path, segment: Segment) -> Iterator[tuple[Path, int, int]]:
    name = segment_name(segment.stream, segment.number)
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            found = _NAME.fullmatch(entry.name)
            if found is not None and found["segment"] == name:
                yield Path(entry.path), int(found["start"]), int(found["end"])


def _read(path: Path, segment: Segment, start: int, end: int) -> list[Block] | None:
    """Blocks of a file, None if it does not fit the segment."""
    try:
        with path.open("rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        index = _index_of(view)
        if index.check != _check(segment, start, end):
            return None
        if any(kept.start < segment.fence < kept.end for kept in index.blocks):  # superseded since then
            return None
        return [_block(view, kept) for kept in index.blocks]
    except (OSError, *UNREADABLE, struct.error):
        return None


def _index_of(view: memoryview) -> _Index:
    tail = len(view) - len(MAGIC)
    length: int = _LENGTH.unpack_from(view, tail - _LENGTH.size)[0]
    if view[:8] != MAGIC or view[tail:] != MAGIC or not 0 < length < tail:
        raise ValueError("no file of columns")
    begin = tail - _LENGTH.size - length
    index = _index.decode(view[begin : begin + length])
    for kept in index.blocks:
        if kept.at < len(MAGIC) or kept.at % 8 or kept.at + 8 * kept.count * (2 + len(kept.names)) > begin:
            raise ValueError("a block reaches beyond its file")
    return index


def _block(view: memoryview, kept: _Kept) -> Block:
    width = 8 * kept.count

    def column(number: int, form: str) -> memoryview:
        begin = kept.at + number * width
        return view[begin : begin + width].cast(form)  # type: ignore[call-overload, no-any-return]

    values = tuple(column(number, "d") for number in range(2, 2 + len(kept.names)))
    return Block(kept.start, kept.end, kept.names, column(0, "q"), column(1, "q"), values, kept.ordered)


def _check(segment: Segment, start: int, end: int) -> int | None:
    """Checksum of the ends of a part of the segment; None if it does not reach so far any more."""
    for path in segment.paths:
        with contextlib.suppress(OSError), path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < end:
                continue
            check = 0
            for at in (start, max(start, end - EDGE_BYTES)):
                file.seek(at)
                check = crc32(file.read(min(EDGE_BYTES, end - at)), check)
            return check
    return None


def _size(segment: Segment) -> int:
    return max((_size_of(path) for path in segment.paths), default=0)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
