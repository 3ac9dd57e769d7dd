"""Points of series as a table: plain columns, or Arrow, pandas and polars where they are installed.

`Together` is the series of all ranks of a Run as one. It is for reading only: the training logs as ever, and
nothing waits for anything. Where the ranks' numbers were reduced on their way (`rank_metrics="reduce"`), it
is what went out then; of several nodes it is put together.

A job that was started again logs steps a second time: at such a step the newest start counts alone, so that
ranks of two trainings are never averaged. Where a single rank was replaced, it counts with what its newest
process logged last, beside the others.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from pluto_dist.core.rules.participants import NODE
from pluto_dist.core.rules.together import STATISTICS, Reduced, merged, reduced
from pluto_dist.core.values.document import LeaseShown
from pluto_dist.read.columns import Chunk, Integers, Numbers, table

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from pluto_dist.core.values.document import Document

COLUMNS = ("name", "step", "value", "time", "metric", "rank", "label", "role", "attempt", "lease_id")


class Curve(msgspec.Struct, frozen=True):
    """One series in the order of its steps, ready to be drawn.

    Attributes:
        name: final name of the series.
        metric: as its process logged it.
        rank: of its process, None for a plain process or a side.
        label: of its process.
        steps, times, values: of the same length; times in epoch milliseconds.
    """

    name: str
    metric: str
    rank: int | None
    label: str
    steps: Integers
    times: Integers
    values: Numbers

    def __len__(self) -> int:
        return len(self.steps)

    def between(self, first: int | None, last: int | None) -> Curve:
        """The part from one step to another, both included; None for an open end."""
        begin = 0 if first is None else bisect_left(self.steps, first)
        end = len(self.steps) if last is None else bisect_left(self.steps, last + 1)
        return self._cut(slice(begin, end))

    def thinned(self, points: int) -> Curve:
        """At most about so many points; of each part the smallest and the largest value stay, and NaN gaps.

        Args:
            points: how many are wanted, 4 or more.
        """
        count = len(self.steps)
        if count <= points:
            return self
        parts = max(2, points // 2)
        edges = [count * part // parts for part in range(parts + 1)]
        kept = [index for first, last in pairwise(edges) for index in self._ends(first, last)]
        return msgspec.structs.replace(
            self,
            steps=memoryview(array("q", [self.steps[index] for index in kept])),
            times=memoryview(array("q", [self.times[index] for index in kept])),
            values=memoryview(array("d", [self.values[index] for index in kept])),
        )

    def _ends(self, first: int, last: int) -> list[int]:
        part = self.values[first:last].tolist()
        low, high = min(part), max(part)
        if low != low or high != high:  # noqa: PLR0124 # NaN: min and max then depend on the order
            finite = [value for value in part if value == value]  # noqa: PLR0124
            if not finite:
                return [first]
            low, high = min(finite), max(finite)
        return sorted({first + part.index(low), first + part.index(high)})

    def _cut(self, part: slice) -> Curve:
        return msgspec.structs.replace(
            self, steps=self.steps[part], times=self.times[part], values=self.values[part]
        )


class Series:
    """Points of one or more series; a long table with a row for each point.

    Columns: `name` (final), `step`, `value`, `time`, `metric` (as it was logged), `rank` (null for a plain
    process or a side), `label`, `role`, `attempt`, `lease_id`. Rows come series by series, each in the order
    in which it was logged. Without pyarrow, pandas and polars there are still `columns()`, `curves()` and
    `rows()`.
    """

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = tuple(chunks)

    def __len__(self) -> int:
        return sum(len(chunk.steps) for chunk in self._chunks)

    def __repr__(self) -> str:
        return (
            f"<Series {', '.join(self.names[:8])}{', …' if len(self.names) > 8 else ''}: {len(self)} points>"
        )

    @property
    def num_rows(self) -> int:
        """Number of points."""
        return len(self)

    @property
    def column_names(self) -> list[str]:
        """Names of the columns."""
        return list(COLUMNS)

    @property
    def names(self) -> list[str]:
        """Final names of the series, each once."""
        return list(dict.fromkeys(chunk.name for chunk in self._chunks))

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """The points as they were read, without copies."""
        return self._chunks

    def columns(self) -> dict[str, list[Any]]:
        """Plain lists, one for each column; `time` in epoch milliseconds."""
        found: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        for chunk in self._chunks:
            found["step"].extend(chunk.steps)
            found["value"].extend(chunk.values)
            found["time"].extend(chunk.times)
            for name, value in chunk.facts.items():
                found[name].extend([value] * len(chunk.steps))
        return found

    def rows(self) -> Iterator[dict[str, Any]]:
        """A dict for each point."""
        for chunk in self._chunks:
            facts = chunk.facts
            for step, value, time in zip(chunk.steps, chunk.values, chunk.times, strict=True):
                yield {**facts, "step": step, "value": value, "time": time}

    def curves(self) -> list[Curve]:
        """One for each series, its points in the order of their steps."""
        groups: dict[str, list[Chunk]] = {}
        for chunk in self._chunks:
            groups.setdefault(chunk.name, []).append(chunk)
        return [_curve(group) for group in groups.values()]

    def together(self) -> list[Together]:
        """The ranks of each name reduced to one: at each step count, mean, extremes, deviation.

        Ask for `every_rank=True`, else there is only the series with the plain name.
        """
        return together(self._chunks)

    def to_arrow(self) -> pa.Table:
        """An Arrow table; texts are dictionaries, `time` is a timestamp in milliseconds, UTC.

        Raises:
            ImportError: pyarrow is not installed.
        """
        return table(self._chunks)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """For libraries that take Arrow data from any object."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def to_pandas(self) -> pd.DataFrame:
        """A pandas DataFrame.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas as pd

        try:
            return self.to_arrow().to_pandas()
        except ImportError:
            frame = pd.DataFrame(self.columns())
            frame["time"] = pd.to_datetime(frame["time"], unit="ms", utc=True)
            return frame

    def to_polars(self) -> pl.DataFrame:
        """A polars DataFrame.

        Raises:
            ImportError: polars is not installed.
        """
        import polars as pl

        try:
            found = pl.from_arrow(self.to_arrow())
        except ImportError:
            frame = pl.DataFrame(self.columns(), infer_schema_length=None)
            return frame.with_columns(pl.col("time").cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"))
        assert isinstance(found, pl.DataFrame)  # noqa: S101 # a table makes a frame
        return found


class Wanted:
    """Which series: all, or final names and patterns of them.

    Args:
        names: None for all; one or several names, in which `*`, `?` and `[…]` stand for others.
        every_rank: also series that were logged under that name and got a suffix.
        patterns: False takes names as they are.
    """

    def __init__(
        self, names: str | Iterable[str] | None, *, every_rank: bool = False, patterns: bool = True
    ) -> None:
        self._names = None if names is None else ({names} if isinstance(names, str) else set(names))
        wild = (name for name in self._names or () if any(char in name for char in "*?["))
        self._patterns = list(wild) if patterns else []
        self._every_rank = every_rank
        self._known: dict[tuple[str, str], bool] = {}

    def has(self, name: str, metric: str) -> bool:
        """Whether a series with this final name, logged under that one, is among them."""
        key = (name, metric)
        if key not in self._known:
            self._known[key] = self._fits(name) or (self._every_rank and self._fits(metric))
        return self._known[key]

    def without(self, names: Collection[str]) -> list[str]:
        """Names that were asked for as they are, and are not among these."""
        asked = (self._names or set()) - set(self._patterns)
        return sorted(asked.difference(names))

    def _fits(self, name: str) -> bool:
        if self._names is None or name in self._names:
            return True
        return any(fnmatchcase(name, pattern) for pattern in self._patterns)


def _curve(chunks: Sequence[Chunk]) -> Curve:
    first = chunks[-1]
    facts = first.facts
    steps, times, values = array("q"), array("q"), array("d")
    for chunk in chunks:
        steps.frombytes(chunk.steps.tobytes())
        times.frombytes(chunk.times.tobytes())
        values.frombytes(chunk.values.tobytes())
    ends = [chunk for chunk in chunks if len(chunk.steps)]
    follow = all(a.steps[-1] <= b.steps[0] for a, b in pairwise(ends))
    if not (follow and all(chunk.ordered for chunk in ends)):
        order = sorted(range(len(steps)), key=steps.__getitem__)
        steps = array("q", [steps[index] for index in order])
        times = array("q", [times[index] for index in order])
        values = array("d", [values[index] for index in order])
    rank = facts["rank"]
    return Curve(
        first.name,
        first.metric,
        rank if isinstance(rank, int) else None,
        str(facts["label"] or ""),
        memoryview(steps),
        memoryview(times),
        memoryview(values),
    )


def no_points_of(document: Document, name: str) -> str:
    """Why a Run has no points of a metric here, with the names that may be meant; for people."""
    import difflib

    known_point = document.summary.get(name)
    if known_point is not None and isinstance(known_point.last, str):
        return f"{name!r} is a series of texts, not of numbers: texts({name!r}) of `pluto_dist.read` has it"
    if known_point is not None and document.mode == "pluto":
        where = f"are on the server, {document.url}"
        return f"the points of {name!r} {where}; what was delivered is not kept here"
    near = difflib.get_close_matches(name, document.summary, n=3)
    listed = ", ".join(sorted(document.summary)[:20])
    known = f"it has: {listed}" if listed else "it has no points yet"
    known = f"did you mean {' or '.join(near)}?" if near else known
    return f"Run {document.display_id or document.key} has no points of a metric {name!r} here; {known}"


TOGETHER_COLUMNS = ("step", "count", "mean", "min", "max", "std", "max_rank")


class Together(msgspec.Struct, frozen=True):
    """One name over all ranks that logged it, in the order of its steps.

    Attributes:
        metric: as it was logged.
        ranks: that logged it; where only what they say together was kept, those that had the largest value.
        steps: at which at least one rank has a value.
        counts: of ranks that have one.
        means, lows, highs, deviations: of their values; deviations divide by the count, as numpy does.
        highest: which rank has the largest value, or the first that is not a number.
    """

    metric: str
    ranks: tuple[int, ...]
    steps: Integers
    counts: Integers
    means: Numbers
    lows: Numbers
    highs: Numbers
    deviations: Numbers
    highest: Integers

    def __len__(self) -> int:
        return len(self.steps)

    def columns(self) -> dict[str, list[Any]]:
        """Plain lists under `step`, `count`, `mean`, `min`, `max`, `std` and `max_rank`."""
        views = (self.steps, self.counts, self.means, self.lows, self.highs, self.deviations, self.highest)
        return {name: view.tolist() for name, view in zip(TOGETHER_COLUMNS, views, strict=True)}


def is_together(lease: LeaseShown | None) -> bool:
    """Whether a lease is a node's for what its ranks say together, which no process holds."""
    return lease is not None and not lease.pid and lease.participant != NODE


def corrected(read: Callable[[], Iterator[Chunk]]) -> Iterator[Chunk]:
    """The points of what a node's ranks say together, each step once: with what was said of it last.

    A correction comes after later steps, so it is known by its step: the points are read twice, and of the
    first time only the steps are kept that were said again.

    Args:
        read: gives the points, in the order in which they went out.
    """
    again: Counter[tuple[str, int]] = Counter()
    tops: dict[str, int] = {}
    for chunk in read():
        again.update((chunk.name, chunk.steps[index]) for index in _late(chunk, tops))
    tops.clear()
    for chunk in read():
        late = set(_late(chunk, tops)) if again else set()
        kept = [index for index in range(len(chunk.steps)) if _is_last(again, chunk, index, late)]
        yield chunk if len(kept) == len(chunk.steps) else chunk.picked(kept)


def _late(chunk: Chunk, tops: dict[str, int]) -> list[int]:
    """Indices of points behind which their series had been already; moves `tops`, its highest steps, on."""
    top, found = tops.get(chunk.name, -1), []
    for index, step in enumerate(chunk.steps):
        if step > top:
            top = step
        else:
            found.append(index)
    tops[chunk.name] = top
    return found


def _is_last(again: Counter[tuple[str, int]], chunk: Chunk, index: int, late: Container[int]) -> bool:
    """Whether nothing more is said of a point's step; counts down what is left of it."""
    key = (chunk.name, chunk.steps[index])
    if key not in again:
        return True
    if index in late:
        again[key] -= 1
        return again[key] == 0
    return False  # the first of several


def together(chunks: Iterable[Chunk]) -> list[Together]:
    """One for each name that ranks logged, by name; sides and processes without a rank are left out."""
    names: dict[str, list[Chunk]] = {}
    for chunk in chunks:
        lease = chunk.lease
        if is_together(lease):
            if chunk.statistic:
                names.setdefault(chunk.metric, []).append(chunk)
        elif lease is not None and lease.rank is not None and lease.role != "side":
            names.setdefault(chunk.metric, []).append(chunk)
    return [_together(metric, found) for metric, found in sorted(names.items())]


def _together(metric: str, chunks: Sequence[Chunk]) -> Together:
    ranks: set[int] = set()
    found: dict[int, Reduced] = {}
    for start in _starts(chunks):
        if is_together(start[0].lease):
            said = {step: merged(parts) for step, parts in _said(start).items()}
            ranks |= {each.highest for each in said.values()}
        else:
            by_rank = _by_rank(start)
            said = dict(_reduced(by_rank))
            ranks |= by_rank.keys()
        found |= said
    steps = sorted(found)
    rows = [found[step] for step in steps]
    return Together(
        metric=metric,
        ranks=tuple(sorted(ranks)),
        steps=_integers(steps),
        counts=_integers(row.count for row in rows),
        means=_numbers(row.mean for row in rows),
        lows=_numbers(row.low for row in rows),
        highs=_numbers(row.high for row in rows),
        deviations=_numbers(row.deviation for row in rows),
        highest=_integers(row.highest for row in rows),
    )


def _integers(values: Iterable[int]) -> Integers:
    return memoryview(array("q", values))


def _numbers(values: Iterable[float]) -> Numbers:
    return memoryview(array("d", values))


def _starts(chunks: Iterable[Chunk]) -> list[list[Chunk]]:
    """The points by the start of the job in which they were logged, the newest last.

    A new start is one before which all processes of the one before had ended; then each has a later epoch or
    attempt. Where one goes on, it was a single rank that was replaced, or an owner that was followed.
    """
    found: list[list[Chunk]] = []
    for chunk in sorted(chunks, key=lambda chunk: chunk.start):
        if not found or _is_over(found[-1], chunk):
            found.append([])
        found[-1].append(chunk)
    return found


def _is_over(start: Iterable[Chunk], chunk: Chunk) -> bool:
    new = chunk.lease
    if is_together(new):  # a node has one lease for each start
        return any(_is_followed(before.lease, new) for before in start)
    return all(_is_replaced(before, chunk) for before in start)


def _is_followed(old: LeaseShown | None, new: LeaseShown | None) -> bool:
    return old is not None and new is not None and old.participant == new.participant and old != new


def _is_replaced(before: Chunk, chunk: Chunk) -> bool:
    old, new = before.lease, chunk.lease
    if old is None or new is None or before.start[:2] >= chunk.start[:2]:
        return False
    if old.end_reason == "superseded":
        return True
    return old.ended_at is not None and old.ended_at <= (new.granted_at or 0)


def _said(chunks: Iterable[Chunk]) -> dict[int, list[Reduced]]:
    """At each step what the ranks of each node say together; what went out last counts."""
    nodes: dict[str, dict[str, dict[int, float]]] = {}
    for chunk in chunks:
        node = chunk.lease.participant if chunk.lease is not None else ""
        points = nodes.setdefault(node, {}).setdefault(chunk.statistic, {})
        points.update(zip(chunk.steps, chunk.values, strict=True))
    found: dict[int, list[Reduced]] = {}
    for statistics in nodes.values():
        columns = [statistics.get(each, {}) for each in STATISTICS]
        for step in columns[0]:
            values = [column[step] for column in columns if step in column]
            if len(values) == len(STATISTICS):
                mean, low, high, deviation, rank, count = values
                row = Reduced(int(count), mean, low, high, deviation, int(rank))
                found.setdefault(step, []).append(row)
    return found


def _by_rank(chunks: Iterable[Chunk]) -> dict[int, dict[int, float]]:
    """Step to value of each rank; a later process, and of it a later record, replaces an earlier one."""
    ranks: dict[int, dict[int, float]] = {}
    for chunk in chunks:
        if chunk.lease is not None and chunk.lease.rank is not None:
            points = ranks.setdefault(chunk.lease.rank, {})
            points.update(zip(chunk.steps, chunk.values, strict=True))
    return dict(sorted(ranks.items()))


def _reduced(points: Mapping[int, dict[int, float]]) -> Iterator[tuple[int, Reduced]]:
    """Each step with what the ranks that have a value there say together."""
    for step, who, values in _steps(list(points), list(points.values())):
        found = reduced(values)
        yield step, msgspec.structs.replace(found, highest=who[found.highest])


def _steps(
    ranks: Sequence[int], points: Sequence[dict[int, float]]
) -> Iterator[tuple[int, Sequence[int], Sequence[float]]]:
    """Each step with the ranks that have a value there, and the values."""
    steps = sorted(set().union(*points))
    if all(len(each) == len(steps) for each in points):  # all ranks have all steps
        columns = [[each[step] for step in steps] for each in points]
        for step, *values in zip(steps, *columns, strict=True):
            yield step, ranks, values
        return
    for step in steps:
        there = [(rank, each[step]) for rank, each in zip(ranks, points, strict=True) if step in each]
        yield step, [rank for rank, _ in there], [value for _, value in there]
