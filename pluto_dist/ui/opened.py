"""Runs that pages have open: what is kept between two looks at one, and its points as they grow.

`Follower` reads only what is new. Blocks that were kept in files (`read.columns.ColumnFiles`) stay there,
mapped; what came since is held in memory, as it is for a Run whose delivered records are removed. Blocks are
joined so that a long Run with a look each second does not become many small ones.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from pluto_dist.backend.local.reading import Segment, segments
from pluto_dist.backend.local.store import Store
from pluto_dist.core.rules.series import FinalNames
from pluto_dist.core.values.document import Document
from pluto_dist.errors import MachineError
from pluto_dist.read.board import Board, RunSeen, last_samples
from pluto_dist.read.columns import Block, Chunk, ColumnFiles, gathered
from pluto_dist.read.lookup import Found, Lookup
from pluto_dist.read.processes import failed_lease
from pluto_dist.read.run import Run, chunks_of
from pluto_dist.read.series import Wanted
from pluto_dist.read.settle import remark_on
from pluto_dist.read.streams import last_lines
from pluto_dist.spool.reader import list_streams
from pluto_dist.ui.curves import Axis, Line, Part, part_of
from pluto_dist.ui.run import BAND, Page, is_late, is_member, page_of

Key = tuple[str, str, int]


class _Followed(msgspec.Struct):
    """A segment, how far it was read, and its blocks by the names they hold."""

    segment: Segment
    end: int
    blocks: dict[tuple[str, ...], list[Block]]

    @property
    def is_over_the_fence(self) -> bool:
        """A fence was put into the middle of a block, whose records now belong to two participants."""
        fence = self.segment.fence
        return any(block.start < fence < block.end for each in self.blocks.values() for block in each)


class Follower:
    """The points of one Run; may be used by several threads."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._followed: dict[Key, _Followed] = {}
        self._document: Document | None = None

    def look(self, run: Run) -> int:
        """Reads what is new since the look before.

        Returns:
            How many values there are now.
        """
        with self._turn:
            self._document = run.document
            make = run.document.mode == "local"
            files = ColumnFiles(Store(run.store).run(run.key), make=make)
            for segment in segments(run.document, run.roots):
                if segment.kind == "metrics":
                    self._follow(segment, files)
            return sum(
                len(block.steps) * len(block.names)
                for followed in self._followed.values()
                for blocks in followed.blocks.values()
                for block in blocks
            )

    def chunks(self, wanted: Wanted | None = None) -> Iterator[Chunk]:
        """Points of series, lease by lease, as they were at the last look."""
        with self._turn:
            if self._document is None:
                return
            names = FinalNames(self._document)
            found = [(each.segment, list(each.blocks.values())) for each in self._followed.values()]
        for segment, tables in found:
            for blocks in tables:
                for block in tuple(blocks):
                    yield from chunks_of(segment, block, names, wanted)

    def _follow(self, segment: Segment, files: ColumnFiles) -> None:
        key = (segment.lease_id, segment.stream, segment.number)
        known = self._followed.get(key)
        if known is not None:
            known.segment = segment
        if known is None or known.is_over_the_fence:
            known = self._followed[key] = _Followed(segment, 0, {})
        new = gathered(segment, known.end) if known.end else files.blocks(segment)
        for block in new:
            known.end = max(known.end, block.end)
            _append(known.blocks.setdefault(block.names, []), block, segment.fence)


def _append(blocks: list[Block], new: Block, fence: int) -> None:
    """Puts a block behind the others; those that are not much larger are joined with it."""
    while blocks and len(blocks[-1].steps) <= 2 * len(new.steps) and not blocks[-1].start < fence < new.end:
        new = _joined(blocks.pop(), new)
    blocks.append(new)


def _joined(first: Block, second: Block) -> Block:
    follow = not len(first.steps) or not len(second.steps) or first.steps[-1] <= second.steps[0]
    return Block(
        first.start,
        second.end,
        first.names,
        _both(first.steps, second.steps),
        _both(first.times, second.times),
        tuple(_both(a, b) for a, b in zip(first.values, second.values, strict=True)),
        first.ordered and second.ordered and follow,
    )


def _both(first: memoryview, second: memoryview) -> memoryview:
    return memoryview(b"".join((first, second))).cast(first.format)  # type: ignore[call-overload, no-any-return]


OPEN = 16  # Runs whose points are held on to
LAST_LINES = 20
FRESH_S = 0.9  # a page has it anew each second; between, only the sizes of files are looked at

Sizes = dict[tuple[str, str, int], int]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Which series of a Run go into a chart.

    Attributes:
        metric: the name under which processes logged them; "" if `names` says which.
        names: final names that belong together, for example those of the cores of a node.
        lines: each series is a line; else those of the ranks are a band.
    """

    metric: str = ""
    names: tuple[str, ...] = ()
    lines: bool = False

    @property
    def wanted(self) -> Wanted:
        """The choice in the words of `read.series`."""
        if self.metric:
            return Wanted(self.metric, every_rank=True, patterns=False)
        return Wanted(self.names, patterns=False)


class Opened:
    """One Run; may be used by several threads.

    Args:
        lookup: of its own.
        key: of the Run.
    """

    def __init__(self, lookup: Lookup, key: str) -> None:
        self._lookup, self._key = lookup, key
        self._board = Board(lookup, [key])
        self._turn = threading.Lock()
        self._seen: RunSeen | None = None
        self._seen_at = float("-inf")
        self._follower = Follower()
        self._sizes: Sizes = {}

    def seen(self) -> RunSeen:
        """The Run as of now, or of a moment ago.

        Raises:
            RunNotFoundError: there is none.
            MachineError: its document cannot be read, because it is damaged or of a newer version.
        """
        with self._turn:
            if self._seen is None or time.monotonic() >= self._seen_at + FRESH_S:
                found = self._board.look()
                if not found:
                    raise MachineError(self._board.remark or f"Run {self._key} cannot be read now")
                self._seen, self._seen_at = found[0], time.monotonic()
            return self._seen

    def page(self, *, whole: bool = False) -> Page:
        """Everything but points; raises as `seen`."""
        seen = self.seen()
        lease, roots = failed_lease(seen.document), self.run().roots
        lines = last_lines(lease, roots, LAST_LINES) if lease is not None else ()
        sampled = last_samples(seen.document, roots)
        unsettled = self._board.remark
        remark = remark_on(seen.document, self._lookup, seen.situation, unsettled, live=seen.live)
        now_ms = time.time_ns() // 1_000_000
        return page_of(seen, now_ms, remark=remark, last_lines=lines, sampled=sampled, whole=whole)

    def run(self) -> Run:
        """The Run as notebooks have it, for all other reading; raises as `seen`."""
        seen = self.seen()
        return Run(self._lookup, Found(seen.document, b"", seen.store, seen.live))

    def sizes(self) -> Sizes:
        """Bytes of each segment by lease and stream: a cheap sign that something was written."""
        run = self.run()
        found: Sizes = {}
        for root in run.roots:
            for lease_id in {*_folders(run.roots[0]), *(lease.lease_id for lease in run.leases)}:
                for stream, sizes in list_streams(str(root / lease_id)).items():
                    for number, size in sizes.items():
                        key = (lease_id, stream, number)
                        found[key] = max(size, found.get(key, 0))
        return found

    def lines(self, asked: Asked, axis: Axis) -> list[Line]:
        """Lines of a chart.

        Raises:
            RunNotFoundError, MachineError: as `seen`.
        """
        run = self.run()
        sizes = {key: size for key, size in self.sizes().items() if key[1].startswith("metrics")}
        with self._turn:
            if sizes != self._sizes or not sizes:
                self._follower.look(run)
                self._sizes = sizes
        together: list[Chunk] = []
        apart: list[Chunk] = []
        for chunk in sorted(self._follower.chunks(asked.wanted), key=lambda chunk: chunk.start):
            reduced = chunk.statistic and chunk.metric == asked.metric
            (together if reduced else apart).append(chunk)
        make = partial(part_of, axis=axis, begin_ms=run.document.created_at)
        return [*_reduced_lines(self._key, together, make), *self._lines(asked, apart, make)]

    def _lines(self, asked: Asked, found: Iterable[Chunk], make: Callable[..., Part]) -> list[Line]:
        groups: dict[str, list[Chunk]] = {}
        for chunk in found:
            groups.setdefault(chunk.name, []).append(chunk)
        ordered = sorted(groups.items(), key=lambda item: _order(item[0], item[1][-1]))
        parts = [(chunks[-1], make(_label(chunks[-1]), chunks)) for _, chunks in ordered]
        band = [part for chunk, part in parts if not asked.lines and _belongs(chunk, asked)]
        if len(band) < 2:
            return [Line(self._key, part.label, _rank(chunk), (part,)) for chunk, part in parts]
        apart = [(chunk, part) for chunk, part in parts if not _belongs(chunk, asked)]
        return [
            Line(self._key, f"{len(band)} series", None, tuple(band)),
            *(Line(self._key, part.label, _rank(chunk), (part,)) for chunk, part in apart),
        ]


def _reduced_lines(key: str, found: Iterable[Chunk], make: Callable[..., Part]) -> list[Line]:
    """A line for each node whose ranks were reduced on their way: their mean, between lowest and highest."""
    nodes: dict[str, dict[str, list[Chunk]]] = {}
    for chunk in found:
        node = chunk.lease.label if chunk.lease is not None else ""
        nodes.setdefault(node, {}).setdefault(chunk.statistic, []).append(chunk)
    lines = []
    for node, chunks in sorted(nodes.items()):
        mean, low, high = (make(node, chunks.get(each, [])) for each in BAND)
        ranks = max((int(max(chunk.values)) for chunk in chunks.get("count", ())), default=0)
        lines.append(Line(key, node, None, (mean,), (low, high), ranks))
    return lines


class Shelf:
    """The Runs that are open; the one that was not looked at for longest is put away first.

    Args:
        make: a lookup.
    """

    def __init__(self, make: Callable[[], Lookup]) -> None:
        self._make = make
        self._turn = threading.Lock()
        self._open: OrderedDict[str, Opened] = OrderedDict()

    def run(self, key: str) -> Opened:
        """A Run, opened if need be."""
        with self._turn:
            found = self._open.pop(key, None) or Opened(self._make(), key)
            self._open[key] = found
            while len(self._open) > OPEN:
                self._open.popitem(last=False)
            return found


def _belongs(chunk: Chunk, asked: Asked) -> bool:
    role = chunk.lease.role if chunk.lease is not None else None
    return not asked.metric or is_member(role, chunk.metric, chunk.name)


def _label(chunk: Chunk) -> str:
    """The writer of a series, for people; the series' name where that says more."""
    rank = _rank(chunk)
    if rank is not None and not is_late(chunk.metric, chunk.name):
        return f"rank {rank}"
    if chunk.lease is None or chunk.lease.pid == 0 or chunk.name != chunk.metric:
        return chunk.name.removeprefix(f"{chunk.metric}/").removeprefix("sys/")
    return chunk.lease.label


def _rank(chunk: Chunk) -> int | None:
    return chunk.lease.rank if chunk.lease is not None else None


def _order(name: str, chunk: Chunk) -> tuple[bool, int, str]:
    rank = _rank(chunk)
    return (rank is None, rank if rank is not None else 0, name)


def _folders(root: Path) -> Iterable[str]:
    try:
        return [path.name for path in root.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
