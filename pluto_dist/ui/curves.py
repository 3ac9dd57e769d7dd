"""Series thinned for a chart: of each part of the axis the mean, the smallest and the largest value.

All lines of a chart share one axis, so that ranks can be put together as a band and Runs lie over each other.
Where there are no more places than asked for, each step is its own part and nothing is lost; else the axis is
cut into parts of equal width. A value that is not finite has no place on a chart: it is counted.
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
FEWEST = 60  # places of a line, however many lines there are
UNIQUE = 20  # times the places: of more points than that it is not asked how many steps are equal


class Line(msgspec.Struct, frozen=True):
    """One line of a chart before it is thinned.

    Attributes:
        label: for people.
        xs: places on the axis, in order.
        ys: values.
        rank: of its process, None for a band, a plain process or a side.
        band: how many series it is made of; more than one is a band.
        run: key of its Run.
    """

    run: str
    label: str
    rank: int | None
    band: int
    xs: Array
    ys: Array


class Drawn(msgspec.Struct, frozen=True):
    """One line of a chart: at each place of the axis the mean, and what it is the mean of.

    Attributes:
        mean: None where the line has no point, `NAN` where it has none that is finite.
        low, high: smallest and largest; None where they are the mean everywhere.
        count: points in the window.
        odd: how many of them are not finite.
    """

    run: str
    label: str
    rank: int | None
    band: int
    mean: list[Value]
    low: list[Value] | None
    high: list[Value] | None
    count: int
    odd: int


class Chart(msgspec.Struct, frozen=True):
    """What is drawn.

    Attributes:
        x: places on the axis.
        lines: each as long as `x`.
        thinned: a place stands for several steps.
        first, last: the ends of everything there is, whatever the window; None of nothing.
    """

    x: list[float]
    lines: list[Drawn]
    thinned: bool
    first: float | None
    last: float | None


def line_of(
    run: str, label: str, chunks: Sequence[Chunk], axis: Axis, begin_ms: int, *, rank: int | None, band: int
) -> Line:
    """Points of one series, or of several that make a band, in the order of the axis.

    Args:
        run: key of the Run.
        label: for people.
        chunks: its points.
        axis: what is along the chart.
        begin_ms: when the Run was made, for `elapsed`, which is in seconds.
        rank, band: as in `Line`.
    """
    xs = _joined([chunk.steps if axis == "step" else chunk.times for chunk in chunks], np.int64).astype(float)
    ys = _joined([chunk.values for chunk in chunks], np.float64)
    if axis == "elapsed":
        xs = (xs - begin_ms) / 1000
    if len(xs) > 1 and not bool(np.all(xs[1:] >= xs[:-1])):
        order = np.argsort(xs, kind="stable")
        xs, ys = xs[order], ys[order]
    return Line(run, label, rank, band, xs, ys)


def chart_of(
    lines: Sequence[Line],
    places: int,
    first: float | None = None,
    last: float | None = None,
) -> Chart:
    """A chart of these lines.

    Args:
        lines: those with the most to say first.
        places: how many the chart has room for.
        first, last: the window, both included; None for an open end.
        left_out: for the answer.
    """
    ends = [(line.xs[0], line.xs[-1]) for line in lines if len(line.xs)]
    inside = [_between(line, first, last) for line in lines]
    places = max(min(FEWEST, places), min(places, VALUES // max(1, 3 * len(inside))))
    edges, thinned = _parts(inside, places)
    begins = _first_places(inside, edges)
    kept = np.isfinite(begins)
    return Chart(
        x=begins[kept].tolist(),
        lines=[_drawn(line, edges, kept) for line in inside],
        thinned=thinned,
        first=float(min(end[0] for end in ends)) if ends else None,
        last=float(max(end[1] for end in ends)) if ends else None,
    )


def _between(line: Line, first: float | None, last: float | None) -> Line:
    begin = 0 if first is None else int(np.searchsorted(line.xs, first, "left"))
    end = len(line.xs) if last is None else int(np.searchsorted(line.xs, last, "right"))
    return msgspec.structs.replace(line, xs=line.xs[begin:end], ys=line.ys[begin:end])


def _parts(lines: Sequence[Line], places: int) -> tuple[Array, bool]:
    """Where the parts begin, and whether one holds several places.

    Of a band whose series have no place in common, as on an axis of time, a part holds about one point each.
    """
    held = [line.xs for line in lines if len(line.xs)]
    if not held:
        return np.empty(0), False
    longest = max(len(line.xs) / line.band for line in lines)
    if max(map(len, held)) <= UNIQUE * places:
        found = np.unique(np.concatenate([np.unique(axis) for axis in held]))
        apart = len(found) > 2 * longest and any(line.band > 1 for line in lines)
        if len(found) <= places and not apart:
            return found, False
        if apart:
            places = max(1, min(places, int(longest)))
    low, high = min(axis[0] for axis in held), max(axis[-1] for axis in held)
    if low == high:
        return np.array([low]), False
    return np.linspace(low, high, places, endpoint=False), True


def _first_places(lines: Iterable[Line], edges: Array) -> Array:
    """The first place that any line has in each part, infinity where none has one."""
    found = np.full(len(edges), np.inf)
    for line in lines:
        begins, held = _begins(line.xs, edges)
        found[held] = np.minimum(found[held], line.xs[begins])
    return found


def _begins(xs: Array, edges: Array) -> tuple[Array, Array]:
    """Indices at which the parts that hold something begin, and which these are."""
    if not len(xs):
        return np.empty(0, np.int64), np.zeros(len(edges), bool)
    begins = np.searchsorted(xs, edges, "left")
    held = np.append(begins[1:], len(xs)) > begins
    return begins[held], held


def _drawn(line: Line, edges: Array, kept: Array) -> Drawn:
    begins, held = _begins(line.xs, edges)
    mean, low, high = (np.full(len(edges), np.nan) for _ in range(3))
    fine = np.isfinite(line.ys)
    if len(begins):
        ys = line.ys if fine.all() else np.where(fine, line.ys, np.nan)
        low[held], high[held] = np.fmin.reduceat(ys, begins), np.fmax.reduceat(ys, begins)
        counts = np.add.reduceat(fine, begins, dtype=np.int64)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            sums = np.add.reduceat(np.where(fine, line.ys, 0.0), begins)
            middle = np.clip(sums / counts, low[held], high[held])  # sums of huge values overflow
        mean[held] = middle
    same = bool(np.array_equal(low[held], high[held], equal_nan=True))
    return Drawn(
        run=line.run,
        label=line.label,
        rank=line.rank,
        band=line.band,
        mean=_plain(mean[kept], held[kept]),
        low=None if same else _plain(low[kept], held[kept]),
        high=None if same else _plain(high[kept], held[kept]),
        count=len(line.ys),
        odd=int(len(fine) - np.count_nonzero(fine)),
    )


def _plain(numbers: Array, held: Array) -> list[Value]:
    found: list[Value] = numbers.tolist()
    for index in np.flatnonzero(np.isnan(numbers)).tolist():
        found[index] = NAN if held[index] else None
    return found


def _joined(parts: Sequence[memoryview], kind: type) -> Array:
    arrays: list[Array] = [np.frombuffer(part, kind) for part in parts]
    return np.concatenate(arrays) if arrays else np.empty(0, kind)
