"""A Run's numbers as columns: what series, charts and exports are made of.

Records of a metrics stream are read in pieces and gathered by the names they hold, since most records of a
stream hold the same ones: a block is a table of such records. Memory is flat: a piece, and the blocks that
are being gathered, about `GATHERED_VALUES` values. What was gathered can be kept beside the Run, see
`column_files`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from operator import le
from typing import Annotated

import msgspec

from pluto_dist.backend.local.reading import Segment, read_metrics
from pluto_dist.core.values.document import LeaseShown
from pluto_dist.core.values.ids import UNREADABLE

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
