"""Metric points: every write in arrival order, and the de-duplicated view that readers get.

24 bytes a point while the steps of a series rise, plus an index once they do not. Points become visible to
readers some time after they were accepted; until then only the raw writes show them.
"""

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

RunKey: TypeAlias = tuple[str, str, int]  # tenant, project name and run id as the request's headers said


@dataclass(frozen=True, slots=True)
class Point:
    """One stored value."""

    step: int
    time: int
    value: float


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two writes of one (name, step) with different values."""

    name: str
    step: int
    before: float
    after: float


def same(one: float, other: float) -> bool:
    """Equal as stored values: NaN equals NaN."""
    return one == other or (math.isnan(one) and math.isnan(other))


class Series:
    """The writes of one metric name in one run."""

    __slots__ = ("_hidden", "_latest", "steps", "times", "values")

    def __init__(self) -> None:
        self.steps = array("Q")
        self.times = array("Q")
        self.values = array("d")
        self._latest: dict[int, int] | None = None
        self._hidden: list[tuple[int, int]] = []

    def add(self, step: int, time: int, value: float) -> float | None:
        """Append a write; the value an earlier write gave this step, when it differs."""
        steps = self.steps
        before = None
        if self._latest is not None or (steps and step <= steps[-1]):
            before = self._previous(step)
        steps.append(step)
        self.times.append(time)
        self.values.append(value)
        if self._latest is not None:
            self._latest[step] = len(steps) - 1
        return None if before is None or same(before, value) else before

    def _previous(self, step: int) -> float | None:
        if self._latest is None:
            place = bisect_left(self.steps, step)
            if place < len(self.steps) and self.steps[place] == step:
                self._latest = {known: at for at, known in enumerate(self.steps)}
                return self.values[place]
            self._latest = {known: at for at, known in enumerate(self.steps)}
            return None
        at = self._latest.get(step)
        return None if at is None else self.values[at]

    def hide_until(self, start: int, visible_ms: int) -> None:
        """Writes from position `start` on are for readers only from this time."""
        self._hidden.append((start, visible_ms))

    def visible(self, now_ms: int) -> int:
        """How many writes readers can see."""
        while self._hidden and self._hidden[0][1] <= now_ms:
            self._hidden.pop(0)
        return self._hidden[0][0] if self._hidden else len(self.steps)

    def raw(self, upto: int | None = None) -> Iterator[Point]:
        """Every write in arrival order."""
        rows = zip(self.steps, self.times, self.values, strict=True)
        for place, (step, time, value) in enumerate(rows):
            if upto is not None and place >= upto:
                return
            yield Point(step, time, value)

    def points(self, now_ms: int) -> list[Point]:
        """One point a step, by step: the largest time wins, the later write among equals."""
        best: dict[int, Point] = {}
        for point in self.raw(self.visible(now_ms)):
            known = best.get(point.step)
            if known is None or point.time >= known.time:
                best[point.step] = point
        return [best[step] for step in sorted(best)]


class MetricStore:
    """All series, by run and name."""

    def __init__(self) -> None:
        self._series: dict[RunKey, dict[str, Series]] = {}

    def add(
        self, key: RunKey, lines: Iterable[tuple[int, int, dict[str, float]]], visible_ms: int | None
    ) -> tuple[int, list[Conflict]]:
        """Append lines of (time, step, values); the number of points and the conflicts among them."""
        names = self._series.setdefault(key, {})
        grown: dict[str, int] = {}
        conflicts: list[Conflict] = []
        count = 0
        for time, step, values in lines:
            count += len(values)
            for name, value in values.items():
                series = names.get(name)
                if series is None:
                    series = names[name] = Series()
                if visible_ms is not None and name not in grown:
                    grown[name] = len(series.steps)
                before = series.add(step, time, value)
                if before is not None:
                    conflicts.append(Conflict(name, step, before, value))
        if visible_ms is not None:
            for name, start in grown.items():
                names[name].hide_until(start, visible_ms)
        return count, conflicts

    def series(self, key: RunKey) -> dict[str, Series]:
        """The series of one run under one tenant and project name."""
        return self._series.get(key, {})

    def forget(self, key: RunKey) -> None:
        """The run was deleted."""
        self._series.pop(key, None)

    def keys(self) -> list[RunKey]:
        """Every (tenant, project, run) that data was sent for, right or wrong."""
        return list(self._series)

    def largest_step(self, key: RunKey, now_ms: int) -> int | None:
        """The largest visible step of a run, None without visible points."""
        return max(
            (max(s.steps[:n]) for s in self.series(key).values() if (n := s.visible(now_ms))), default=None
        )

    def newest_time(self, run_id: int, now_ms: int) -> int | None:
        """The largest visible time of a run's points, whatever tenant and project they were sent under."""
        mine = (
            series for key, named in self._series.items() if key[2] == run_id for series in named.values()
        )
        return max((max(s.times[:n]) for s in mine if (n := s.visible(now_ms))), default=None)

    def count(self, key: RunKey) -> int:
        """Accepted writes of one run."""
        return sum(len(series.steps) for series in self.series(key).values())
