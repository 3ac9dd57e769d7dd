"""A small line chart of braille dots: two across and four down in each character."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from operator import le
from typing import NamedTuple

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # Unicode's numbering, by column and row
_BLANK = 0x2800
_LABEL = 10  # characters of the longest label, -1.234e-05


class Curve:
    """Points of one series; what is not finite is counted and left out.

    Attributes:
        skipped: values that were not finite.
    """

    def __init__(self, points: Iterable[tuple[int, float]] = ()) -> None:
        self.steps = array("d")
        self.values = array("d")
        self.skipped = 0
        for step, value in points:
            self.add(step, value)

    def add(self, step: int, value: float) -> None:
        """One more point, in any order."""
        if math.isfinite(value):
            self.steps.append(step)
            self.values.append(value)
        else:
            self.skipped += 1

    def extend(self, steps: Sequence[int], values: Sequence[float]) -> None:
        """More points; those of a whole column are checked at once."""
        if math.isfinite(sum(values)):
            self.steps.extend(steps)
            self.values.extend(values)
            return
        for step, value in zip(steps, values, strict=True):
            self.add(step, value)


class Picture(NamedTuple):
    """A chart as text.

    Attributes:
        lines: with the axes; empty if there is no point to show.
        left: characters before the first column of the canvas.
        shaded: of each column of the canvas the first and the last row of the band, None where it has none.
    """

    lines: list[str]
    left: int = 0
    shaded: Sequence[tuple[int, int] | None] = ()


def draw(curve: Curve, width: int, height: int) -> list[str]:
    """Lines of the chart with its axes; an empty list if there is no point to show.

    Args:
        curve: what to show; points that share a column of dots are shown by their mean.
        width, height: characters of the whole chart, axes included.
    """
    return picture(curve, width, height).lines


def picture(curve: Curve, width: int, height: int, band: tuple[Curve, Curve] | None = None) -> Picture:
    """The chart, with what lies between two other curves as its band.

    Args:
        curve, width, height: as for `draw`.
        band: its lower and its upper edge, at the steps of the curve.
    """
    if not curve.steps:
        return Picture([])
    columns, rows = max(8, width - _LABEL - 2), max(3, height - 2)
    means = _columns(curve, 2 * columns, _mean)
    edges = _edges(band, columns) if band is not None else []
    ends = [end for edge in edges if edge is not None for end in edge]
    low, high = _range([mean for mean in means if mean is not None] + ends)
    labels = {0: high, rows // 2: high - (rows // 2) / (rows - 1) * (high - low), rows - 1: low}
    lines = [
        f"{f'{labels[row]:.4g}' if row in labels else '':>{_LABEL}} {'┤' if row in labels else '│'}{line}"
        for row, line in enumerate(_canvas(means, low, high, rows))
    ]
    first, last = f"{min(curve.steps):.0f}", f"{max(curve.steps):.0f}"
    between = " " * max(1, columns - len(first) - len(last))
    indent = " " * (_LABEL + 1)
    shaded = [
        None if edge is None else (_dot(edge[1], low, high, rows) // 4, _dot(edge[0], low, high, rows) // 4)
        for edge in edges
    ]
    axes = [f"{indent}└{'─' * columns}", f"{indent} {first}{between}{last}"]
    return Picture([*lines, *axes], _LABEL + 2, shaded)


def _edges(band: tuple[Curve, Curve], count: int) -> list[tuple[float, float] | None]:
    """The lowest and the highest of each column."""
    lows, highs = _columns(band[0], count, _lowest), _columns(band[1], count, _highest)
    return [
        None if low is None or high is None else (low, high) for low, high in zip(lows, highs, strict=True)
    ]


def _columns(curve: Curve, count: int, of: Callable[[Sequence[float]], float | None]) -> list[float | None]:
    """A value for each column of dots, None where there is no point."""
    steps, values = curve.steps, curve.values
    if not steps:
        return [None] * count
    if not all(map(le, steps, memoryview(steps)[1:])):
        order = sorted(range(len(steps)), key=steps.__getitem__)
        steps = array("d", map(steps.__getitem__, order))
        values = array("d", map(values.__getitem__, order))
    first, last = steps[0], steps[-1]
    scale = (count - 1) / (last - first) if last > first else 0.0
    edges = [bisect_left(steps, first + (column - 0.5) / scale) if scale else 0 for column in range(1, count)]
    found = [of(values[begin:end]) for begin, end in pairwise((0, *(edges if scale else ()), len(steps)))]
    return found + [None] * (count - len(found))


def _lowest(values: Sequence[float]) -> float | None:
    return min(values, default=None)


def _highest(values: Sequence[float]) -> float | None:
    return max(values, default=None)


def _mean(values: Sequence[float]) -> float | None:
    if not values:
        return None
    total = sum(values)
    if math.isfinite(total):
        return total / len(values)
    return sum(value / len(values) for value in values)  # each of them is finite, their sum is not


def _range(means: list[float]) -> tuple[float, float]:
    low, high = min(means), max(means)
    if low == high:
        room = abs(low) / 10 or 1.0
        return low - room, high + room
    return low, high


def _canvas(means: list[float | None], low: float, high: float, rows: int) -> list[str]:
    cells = [[_BLANK] * (len(means) // 2) for _ in range(rows)]
    before: tuple[int, int] | None = None
    for x, mean in enumerate(means):
        if mean is None:
            continue
        y = _dot(mean, low, high, rows)
        for dot_x, dot_y in _line(before or (x, y), (x, y)):
            cells[dot_y // 4][dot_x // 2] |= _DOTS[dot_x % 2][dot_y % 4]
        before = (x, y)
    return ["".join(map(chr, row)) for row in cells]


def _dot(value: float, low: float, high: float, rows: int) -> int:
    """Its row of dots, counted from the top."""
    return round((high / 2 - value / 2) / (high / 2 - low / 2) * (4 * rows - 1))


def _line(start: tuple[int, int], end: tuple[int, int]) -> Iterable[tuple[int, int]]:
    """Dots between two dots, without gaps."""
    (x0, y0), (x1, y1) = start, end
    steps = max(abs(x1 - x0), abs(y1 - y0), 1)
    for step in range(steps + 1):
        yield x0 + round((x1 - x0) * step / steps), y0 + round((y1 - y0) * step / steps)
