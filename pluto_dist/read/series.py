"""Points of series as a table: plain columns, or Arrow, pandas and polars where they are installed."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from pluto_dist.read.arrow import table
from pluto_dist.read.columns import Chunk, Integers, Numbers
from pluto_dist.read.together import Together, together

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
