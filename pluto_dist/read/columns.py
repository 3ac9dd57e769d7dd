"""A Run's numbers as columns: what series, charts and exports are made of.

Records of a metrics stream are read in pieces and gathered by the names they hold, since most records of a
stream hold the same ones: a block is a table of such records. Memory is flat: a piece, and the blocks that
are being gathered, about `GATHERED_VALUES` values. What was gathered can be kept beside the Run for the next
look, see `ColumnFiles`. Chunks become an Arrow table, without a copy of their numbers, where pyarrow is there
(the extra `read`).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import struct
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from operator import le
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zlib import crc32

import msgspec

from pluto_dist.backend.local.reading import Segment, read_metrics
from pluto_dist.core.values.document import LeaseShown
from pluto_dist.core.values.ids import UNREADABLE
from pluto_dist.spool.frames import segment_name

if TYPE_CHECKING:
    import pyarrow as pa


GATHERED_VALUES = 1 << 20


Int64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


class _Metrics(msgspec.Struct):
    time: Int64
    step: Int64
    data: dict[str, float]


_many = msgspec.json.Decoder(list[_Metrics])
Integers = memoryview  # of format "q"
Numbers = memoryview  # of format "d"


class Block(msgspec.Struct, frozen=True):
    """Records of one segment that hold the same names.

    Attributes:
        start: offset in the segment at which its first record may begin.
        end: offset behind its last record.
        names: as they were logged.
        steps, times: of each record; times in epoch milliseconds.
        values: for each name a column, in the order of `names`.
        ordered: steps never fall.
    """

    start: int
    end: int
    names: tuple[str, ...]
    steps: Integers
    times: Integers
    values: tuple[Numbers, ...]
    ordered: bool


class Chunk(msgspec.Struct, frozen=True):
    """Points of one series by one lease, in the order in which they were logged.

    Attributes:
        name: final name of the series; `loss/rank3` where rank 3 logs the name of another participant.
        metric: as its process logged it, `loss`; also of what the ranks say together, `loss/max`.
        lease_id: whose points they are.
        lease: what is known of the process, None if the Run's document does not have it yet.
        steps, times, values: columns of the same length; times in epoch milliseconds.
        ordered: steps never fall.
        statistic: which one it is of what a node's ranks say together (`core.rules.together`), else "".
    """

    name: str
    metric: str
    lease_id: str
    lease: LeaseShown | None
    steps: Integers
    times: Integers
    values: Numbers
    ordered: bool
    statistic: str = ""

    def since(self, step: int) -> Chunk:
        """The points of this step and later ones."""
        if self.ordered:
            first = bisect_left(self.steps, step)
            return self if first == 0 else self.part(slice(first, None))
        return self.picked([index for index, found in enumerate(self.steps) if found >= step])

    def picked(self, kept: Sequence[int]) -> Chunk:
        """The points with these indices."""
        return msgspec.structs.replace(
            self,
            steps=memoryview(array("q", [self.steps[index] for index in kept])),
            times=memoryview(array("q", [self.times[index] for index in kept])),
            values=memoryview(array("d", [self.values[index] for index in kept])),
        )

    @property
    def start(self) -> tuple[int, int, int]:
        """Of the process: later starts of a job, and later owners, have the larger one."""
        lease = self.lease
        return (lease.epoch, lease.attempt, lease.granted_at or 0) if lease is not None else (0, 0, 0)

    def part(self, part: slice) -> Chunk:
        """Some of its points, without a copy."""
        return msgspec.structs.replace(
            self, steps=self.steps[part], times=self.times[part], values=self.values[part]
        )

    @property
    def facts(self) -> dict[str, str | int | None]:
        """The columns that are the same for all of its points."""
        lease = self.lease
        return {
            "name": self.name,
            "metric": self.metric,
            "rank": lease.rank if lease is not None else None,
            "label": lease.label if lease is not None else None,
            "role": lease.role if lease is not None else None,
            "attempt": lease.attempt if lease is not None else None,
            "lease_id": self.lease_id,
        }


class _Table:
    __slots__ = ("end", "flat", "names", "start", "steps", "times")

    def __init__(self, names: tuple[str, ...], start: int) -> None:
        self.names, self.start, self.end = names, start, start
        self.steps, self.times, self.flat = array("q"), array("q"), array("d")

    def block(self) -> Block:
        width = len(self.names)
        return Block(
            self.start,
            self.end,
            self.names,
            memoryview(self.steps),
            memoryview(self.times),
            tuple(memoryview(self.flat[index::width]) for index in range(width)),
            all(map(le, self.steps, memoryview(self.steps)[1:])),
        )


def gathered(segment: Segment, start: int = 0) -> Iterator[Block]:
    """Blocks of a metrics segment from an offset on; lines that hold no record are left out.

    Blocks end together, at least at the fence: those that were yielded so far are all that stands before the
    `start` of the next one's piece.
    """
    tables: dict[tuple[str, ...], _Table] = {}
    held = 0
    for cut in segment.cuts(start):
        if tables and (held >= GATHERED_VALUES or cut.start == segment.fence):
            yield from _emptied(tables)
            held = 0
        for record in decoded(cut.lines):
            names = tuple(record.data)
            table = tables.get(names)
            if table is None:
                if not names:
                    continue
                table = tables[names] = _Table(names, cut.start)
            table.steps.append(record.step)
            table.times.append(record.time)
            table.flat.extend(record.data.values())
            held += len(names)
        for table in tables.values():
            table.end = cut.end
    yield from _emptied(tables)


def _emptied(tables: dict[tuple[str, ...], _Table]) -> Iterator[Block]:
    for table in tables.values():
        yield table.block()
    tables.clear()


def decoded(lines: Iterable[bytes]) -> list[_Metrics]:
    """Records of metrics lines, in one go where all of them are JSON."""
    try:
        return _many.decode(b"[" + b",".join(lines) + b"]")
    except UNREADABLE:  # NaN and infinities are no JSON
        return [record for record in map(_lenient, lines) if record is not None]


def _lenient(line: bytes) -> _Metrics | None:
    try:
        return msgspec.convert(msgspec.to_builtins(read_metrics(line)), _Metrics)
    except UNREADABLE:
        return None


def column_of(
    block: Block, index: int, name: str, lease: tuple[str, LeaseShown | None], origin: tuple[str, str]
) -> Chunk:
    """One series of a block.

    Args:
        block, index: which.
        name: its final one.
        lease: its id, and what is known of it.
        origin: the name that was logged, and the statistic.
    """
    metric, statistic = origin
    lease_id, known = lease
    values = block.values[index]
    return Chunk(name, metric, lease_id, known, block.steps, block.times, values, block.ordered, statistic)


MAGIC = b"pdcols1\n"
FOLDER = "columns"
WORTH_BYTES = 1 << 20  # a smaller part is read again as fast
EDGE_BYTES = 256  # of both ends of a part, for its checksum

_NAME = re.compile(r"(?P<segment>.+)\.(?P<start>\d{1,18})-(?P<end>\d{1,18})\.columns", re.ASCII)
_LENGTH = struct.Struct("<Q")


# Files of columns that were gathered once:
#
#     runs/<key>/columns/<lease>/<stream>-<n>.<start>-<end>.columns
#
# A file holds the blocks of a part of one segment. Segments only grow, so a file stays right while its bytes
# of the segment are there: it remembers a checksum of their ends. A file that does not fit, of another
# version, or damaged, is thrown away and made anew. Nothing else depends on these files; they may be deleted
# at any time. Only a reader makes them, never a trainer or a coordinator, and only in a store that it may
# write to.
#
# Format, all numbers little-endian and aligned to 8 bytes: magic; for each block its steps and times (int64)
# and its columns of values (float64); a JSON index; its length (uint64); magic.


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


def arrow() -> Any:
    """The library.

    Raises:
        ImportError: it is not installed; says what to install.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(
            "pyarrow is not installed: `pip install 'pluto-dist[read]'`; columns(), curves() and rows() "
            "need no library"
        ) from error
    return pyarrow


def schema() -> pa.Schema:
    """Columns and their types."""
    lib = arrow()
    text = lib.dictionary(lib.int32(), lib.string())
    return lib.schema(
        [
            ("name", text),
            ("step", lib.int64()),
            ("value", lib.float64()),
            ("time", lib.timestamp("ms", tz="UTC")),
            ("metric", text),
            ("rank", lib.int32()),
            ("label", text),
            ("role", text),
            ("attempt", lib.int32()),
            ("lease_id", text),
        ]
    )


def table(chunks: Sequence[Chunk]) -> pa.Table:
    """One table of all chunks."""
    lib = arrow()
    batches = [lib.Table.from_batches([batch]) for batch in batches_of(chunks)]
    if not batches:
        return schema().empty_table()
    return lib.concat_tables(batches).unify_dictionaries()


def batches_of(chunks: Iterable[Chunk]) -> Iterable[pa.RecordBatch]:
    """A batch for each chunk that is not empty."""
    lib, form = arrow(), schema()
    for chunk in chunks:
        count = len(chunk.steps)
        if count:
            columns = [_column(lib, field, chunk, count) for field in form]
            yield lib.RecordBatch.from_arrays(columns, schema=form)


def _column(lib: Any, field: Any, chunk: Chunk, count: int) -> Any:
    if field.name in ("step", "time", "value"):
        numbers = {"step": chunk.steps, "time": chunk.times, "value": chunk.values}[field.name]
        return lib.Array.from_buffers(field.type, count, [None, lib.py_buffer(numbers)])
    fact = chunk.facts[field.name]
    if fact is None:
        return lib.nulls(count, field.type)
    if isinstance(fact, int):
        return lib.repeat(lib.scalar(fact, field.type), count)
    indices = lib.repeat(lib.scalar(0, lib.int32()), count)
    return lib.DictionaryArray.from_arrays(indices, lib.array([fact], lib.string()))
