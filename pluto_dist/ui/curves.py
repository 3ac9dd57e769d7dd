"""Series thinned for a chart: of each part of the axis the mean, the smallest and the largest value.

All lines of a chart share one axis, so that ranks can be put together as a band and Runs lie over each other.
Where there are no more places than asked for, each step is its own part and nothing is lost; else the axis is
cut into parts of equal width. A value that is not finite has no place on a chart: it is counted. A band keeps
which of its series was the lowest and which the highest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from pluto_dist.read.columns import Chunk

Value = float | Literal["NaN"] | None
NAN: Literal["NaN"] = "NaN"
Axis = Literal["step", "time", "elapsed"]
Array = np.ndarray[Any, Any]

VALUES = 60_000  # of all lines of an answer: so many are drawn in a moment
NAMED = 5  # series that have something odd
FEWEST = 60  # places of a line, however many lines there are
UNIQUE = 20  # times the places: of more points than that it is not asked how many steps are equal


class Part(msgspec.Struct, frozen=True):
    """One series: places on the axis, in order, and its values."""

    label: str
    xs: Array
    ys: Array


class Line(msgspec.Struct, frozen=True):
    """One line of a chart before it is thinned.

    Attributes:
        run: key of its Run.
        label: for people.
        rank: of its process, None for a band, a plain process or a side.
        parts: one series, or those that make a band; at least one.
        ends: of ranks that were reduced on their way, the lowest and the highest; the part is their mean.
        ranks: then how many they are.
    """

    run: str
    label: str
    rank: int | None
    parts: tuple[Part, ...]
    ends: tuple[Part, Part] | None = None
    ranks: int = 0


class Drawn(msgspec.Struct, frozen=True):
    """One line of a chart: at each place of the axis the mean, and what it is the mean of.

    Attributes:
        run, label, rank: as in `Line`.
        band: how many series, or ranks, it is made of; more than one is a band.
        mean: None where the line has no point, `NAN` where it has none that is finite.
        low, high: smallest and largest; None where they are the mean everywhere.
        names: labels of a band's series; None where ranks were reduced on their way, or without a band.
        lowest, highest: which of `names` had them, -1 where none had; None without names.
        count: points in the window.
        odd: how many of them are not finite.
        odd_in: labels of the series that have such a value, the first few.
    """

    run: str
    label: str
    rank: int | None
    band: int
    mean: list[Value]
    low: list[Value] | None
    high: list[Value] | None
    names: list[str] | None
    lowest: list[int] | None
    highest: list[int] | None
    count: int
    odd: int
    odd_in: list[str]


class Chart(msgspec.Struct, frozen=True):
    """What is drawn.

    Attributes:
        x: places on the axis.
        lines: each as long as `x`.
        thinned: a place stands for several steps.
        first, last: the ends of everything there is, whatever the window; None of nothing.
        left_out: lines that are too many to be drawn: those that are nearest to the middle.
    """

    x: list[float]
    lines: list[Drawn]
    thinned: bool
    first: float | None
    last: float | None
    left_out: int = 0


class _Thin(msgspec.Struct, frozen=True):
    """A series thinned to the parts of the axis; NaN where it has nothing finite."""

    sums: Array
    counts: Array
    low: Array
    high: Array
    held: Array


def part_of(label: str, chunks: Sequence[Chunk], axis: Axis, begin_ms: int) -> Part:
    """One series in the order of the axis.

    Args:
        label: for people.
        chunks: its points.
        axis: what is along the chart.
        begin_ms: when the Run was made, for `elapsed`, which is in seconds.
    """
    xs = _joined([chunk.steps if axis == "step" else chunk.times for chunk in chunks], np.int64).astype(float)
    ys = _joined([chunk.values for chunk in chunks], np.float64)
    if axis == "elapsed":
        xs = (xs - begin_ms) / 1000
    if len(xs) > 1 and not bool(np.all(xs[1:] >= xs[:-1])):
        order = np.argsort(xs, kind="stable")
        xs, ys = xs[order], ys[order]
    if axis == "step" and len(xs) > 1:  # of one that was logged again, after a restart, the last counts
        last = np.append(xs[1:] != xs[:-1], True)
        xs, ys = (xs, ys) if last.all() else (xs[last], ys[last])
    return Part(label, xs, ys)


def chart_of(
    lines: Sequence[Line],
    places: int,
    first: float | None = None,
    last: float | None = None,
    most: int | None = None,
) -> Chart:
    """A chart of these lines.

    Args:
        lines: what is drawn.
        places: how many the chart has room for.
        first, last: the window, both included; None for an open end.
        most: so many lines; of more those that are furthest from the others.
    """
    ends = [(part.xs[0], part.xs[-1]) for line in lines for part in line.parts if len(part.xs)]
    inside = [_between(line, first, last) for line in lines]
    drawn = min(len(inside), most or len(inside))
    places = max(min(FEWEST, places), min(places, VALUES // max(1, 3 * drawn)))
    edges, thinned = _edges(inside, places)
    begins = _first_places(inside, edges)
    kept = np.isfinite(begins)
    thin = [[_thinned(part, edges) for part in line.parts] for line in inside]
    ends_of = [[_thinned(part, edges) for part in line.ends or ()] for line in inside]
    chosen = _furthest(thin, most) if most is not None and len(thin) > most else range(len(thin))
    return Chart(
        x=begins[kept].tolist(),
        lines=[_drawn(inside[index], thin[index], ends_of[index], kept) for index in chosen],
        thinned=thinned,
        first=float(min(end[0] for end in ends)) if ends else None,
        last=float(max(end[1] for end in ends)) if ends else None,
        left_out=len(thin) - len(chosen),
    )


def _between(line: Line, first: float | None, last: float | None) -> Line:
    parts = tuple(_cut(part, first, last) for part in line.parts)
    if line.ends is None:
        return msgspec.structs.replace(line, parts=parts)
    low, high = (_cut(part, first, last) for part in line.ends)
    return msgspec.structs.replace(line, parts=parts, ends=(low, high))


def _cut(part: Part, first: float | None, last: float | None) -> Part:
    begin = 0 if first is None else int(np.searchsorted(part.xs, first, "left"))
    end = len(part.xs) if last is None else int(np.searchsorted(part.xs, last, "right"))
    return Part(part.label, part.xs[begin:end], part.ys[begin:end])


def _edges(lines: Sequence[Line], places: int) -> tuple[Array, bool]:
    """Where the parts of the axis begin, and whether one holds several places.

    Of a band whose series have no place in common, as on an axis of time, a part holds about one point each.
    """
    held = [part.xs for line in lines for part in line.parts if len(part.xs)]
    if not held:
        return np.empty(0), False
    longest = max(map(len, held))
    if longest <= UNIQUE * places:
        found = np.unique(np.concatenate([np.unique(axis) for axis in held]))
        apart = len(found) > 2 * longest and any(len(line.parts) > 1 for line in lines)
        if len(found) <= places and not apart:
            return found, False
        if apart:
            places = max(1, min(places, longest))
    low, high = min(axis[0] for axis in held), max(axis[-1] for axis in held)
    if low == high:
        return np.array([low]), False
    return np.linspace(low, high, places, endpoint=False), True


def _first_places(lines: Iterable[Line], edges: Array) -> Array:
    """The first place that any line has in each part, infinity where none has one."""
    found = np.full(len(edges), np.inf)
    for xs in (part.xs for line in lines for part in line.parts):
        begins, held = _begins(xs, edges)
        found[held] = np.minimum(found[held], xs[begins])
    return found


def _begins(xs: Array, edges: Array) -> tuple[Array, Array]:
    """Indices at which the parts that hold something begin, and which these are."""
    if not len(xs):
        return np.empty(0, np.int64), np.zeros(len(edges), bool)
    begins = np.searchsorted(xs, edges, "left")
    held = np.append(begins[1:], len(xs)) > begins
    return begins[held], held


def _thinned(part: Part, edges: Array) -> _Thin:
    begins, held = _begins(part.xs, edges)
    sums, counts = np.zeros(len(edges)), np.zeros(len(edges), np.int64)
    low, high = np.full(len(edges), np.nan), np.full(len(edges), np.nan)
    if len(begins):
        fine = np.isfinite(part.ys)
        ys = part.ys if fine.all() else np.where(fine, part.ys, np.nan)
        low[held], high[held] = np.fmin.reduceat(ys, begins), np.fmax.reduceat(ys, begins)
        counts[held] = np.add.reduceat(fine, begins, dtype=np.int64)
        with np.errstate(over="ignore", invalid="ignore"):
            sums[held] = np.add.reduceat(np.where(fine, part.ys, 0.0), begins)
    return _Thin(sums, counts, low, high, held)


def _mean(thin: Sequence[_Thin], low: Array, high: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        middle = sum(each.sums for each in thin) / sum(each.counts for each in thin)
        return np.clip(middle, low, high)  # sums of huge values overflow


def _furthest(lines: Sequence[Sequence[_Thin]], most: int) -> list[int]:
    """Indices of the lines that are furthest from the middle of all, in their order."""
    means = np.array([_mean(thin, thin[0].low, thin[0].high) for thin in lines])
    with np.errstate(all="ignore"):
        ordered = np.sort(means, axis=0)  # NaN at the end
        middle = ordered[np.maximum(0, (np.isfinite(means).sum(axis=0) - 1) // 2), np.arange(means.shape[1])]
        away = np.abs(means - middle)
        scores = np.where(np.isfinite(away), away, 0.0).sum(axis=1)
    return sorted(np.argsort(-scores, kind="stable")[:most].tolist())


def _drawn(line: Line, thin: Sequence[_Thin], ends: Sequence[_Thin], kept: Array) -> Drawn:
    among = ends or thin
    lows, highs = np.array([each.low for each in among]), np.array([each.high for each in among])
    low, high = np.fmin.reduce(lows), np.fmax.reduce(highs)
    mean = _mean(thin, low, high)[kept]
    held = np.logical_or.reduce([each.held for each in thin])[kept]
    same = bool(np.array_equal(low, high, equal_nan=True))
    band = len(line.parts) > 1
    count = sum(len(part.ys) for part in line.parts)
    return Drawn(
        run=line.run,
        label=line.label,
        rank=line.rank,
        band=line.ranks or len(line.parts),
        mean=_plain(mean, held),
        low=None if same else _plain(low[kept], held),
        high=None if same else _plain(high[kept], held),
        names=[part.label for part in line.parts] if band else None,
        lowest=_which(np.argmin(np.where(np.isnan(lows), np.inf, lows), axis=0)[kept], mean)
        if band
        else None,
        highest=_which(np.argmax(np.where(np.isnan(highs), -np.inf, highs), axis=0)[kept], mean)
        if band
        else None,
        count=count,
        odd=count - int(sum(each.counts.sum() for each in thin)),
        odd_in=[
            part.label
            for part, each in zip(line.parts, thin, strict=True)
            if each.counts.sum() < len(part.ys)
        ][:NAMED],
    )


def _which(found: Array, mean: Array) -> list[int]:
    whose: list[int] = np.where(np.isnan(mean), -1, found).tolist()
    return whose


def _plain(numbers: Array, held: Array) -> list[Value]:
    found: list[Value] = numbers.tolist()
    for index in np.flatnonzero(np.isnan(numbers)).tolist():
        found[index] = NAN if held[index] else None
    return found


def _joined(parts: Sequence[memoryview], kind: type) -> Array:
    arrays: list[Array] = [np.frombuffer(part, kind) for part in parts]
    return np.concatenate(arrays) if arrays else np.empty(0, kind)
