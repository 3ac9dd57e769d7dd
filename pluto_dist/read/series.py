"""Points of series as a table: plain columns, or Arrow, pandas and polars where they are installed.

`Together` is the series of all ranks of a Run as one. It is for reading only: the training logs as ever, and
nothing waits for anything. A rank that was restarted and logged a step again counts with what its newest
attempt logged last.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from pluto_dist.core.rules.together import reduced
from pluto_dist.read.columns import Chunk, Integers, Numbers, table

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

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


TOGETHER_COLUMNS = ("step", "count", "mean", "min", "max", "std", "max_rank")


class Together(msgspec.Struct, frozen=True):
    """One name over all ranks that logged it, in the order of its steps.

    Attributes:
        metric: as it was logged.
        ranks: that logged it.
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


def together(chunks: Iterable[Chunk]) -> list[Together]:
    """One for each name that ranks logged, by name; sides and processes without a rank are left out."""
    names: dict[str, dict[int, list[Chunk]]] = {}
    for chunk in chunks:
        lease = chunk.lease
        if lease is not None and lease.rank is not None and lease.role != "side":
            names.setdefault(chunk.metric, {}).setdefault(lease.rank, []).append(chunk)
    return [_together(metric, ranks) for metric, ranks in sorted(names.items())]


def _together(metric: str, chunks: dict[int, list[Chunk]]) -> Together:
    ranks = tuple(sorted(chunks))
    steps, counts, highest = array("q"), array("q"), array("q")
    means, lows, highs, deviations = array("d"), array("d"), array("d"), array("d")
    for step, who, values in _steps(ranks, [_points(chunks[rank]) for rank in ranks]):
        found = reduced(values)
        steps.append(step)
        counts.append(found.count)
        means.append(found.mean)
        lows.append(found.low)
        highs.append(found.high)
        deviations.append(found.deviation)
        highest.append(who[found.highest])
    return Together(
        metric=metric,
        ranks=ranks,
        steps=memoryview(steps),
        counts=memoryview(counts),
        means=memoryview(means),
        lows=memoryview(lows),
        highs=memoryview(highs),
        deviations=memoryview(deviations),
        highest=memoryview(highest),
    )


def _points(chunks: Sequence[Chunk]) -> dict[int, float]:
    """Step to value; a later attempt, and in it a later record, replaces an earlier one."""
    found: dict[int, float] = {}
    for chunk in sorted(chunks, key=lambda chunk: chunk.lease.attempt if chunk.lease is not None else 0):
        found.update(zip(chunk.steps, chunk.values, strict=True))
    return found


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
