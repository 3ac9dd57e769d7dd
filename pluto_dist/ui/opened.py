"""Runs that pages have open: what is kept between two looks at one."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import msgspec

from pluto_dist.errors import MachineError
from pluto_dist.read.board import Board, RunSeen
from pluto_dist.read.columns import Chunk
from pluto_dist.read.console import last_lines
from pluto_dist.read.follow import Follower
from pluto_dist.read.lookup import Found, Lookup
from pluto_dist.read.machines import last_samples
from pluto_dist.read.processes import failed_lease
from pluto_dist.read.run import Run
from pluto_dist.read.series import Wanted
from pluto_dist.read.settle import remark_on
from pluto_dist.spool.reader import list_streams
from pluto_dist.ui.curves import Axis, Line, Part, part_of
from pluto_dist.ui.run import BAND, Page, is_late, is_member, page_of

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
        wall_ms: epoch milliseconds.
    """

    def __init__(
        self, lookup: Lookup, key: str, wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._lookup, self._key, self._wall_ms = lookup, key, wall_ms
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
        now_ms = self._wall_ms()
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
                for stream, segments in list_streams(str(root / lease_id)).items():
                    for number, size in segments.items():
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
