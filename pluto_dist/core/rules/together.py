"""What all ranks say together: one name at one step, reduced to a few numbers.

Counts, extremes and which rank had the largest are exact; mean and deviation do not depend on the order of
the values. A value that is not a number makes mean, extremes and deviation not a number, and its rank is the
one that is named: where one rank has NaN, that is what a person must see.

`reduced` is the rule for the values of one name at one step. `Gathering` says when a step may go out
(`rank_metrics="reduce"`, R7): when every living rank has logged the name there or gone past it, or after
`WAIT_S`. What comes later corrects the step: it goes out again with all values that it has by then.

Only the newest `limit` values are held. The oldest steps are given up for them, whole: a value that comes
for a step that was given up is counted and left out, so nothing is ever reduced from a part of what had been
reduced before.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Final

import msgspec

WAIT_S: Final = 10.0  # as long a step waits for a rank that lives and has not logged it
VALUES: Final = 250_000  # held of one Run, about 80 bytes each
STATISTICS: Final = ("mean", "min", "max", "std", "max_rank", "count")


class Reduced(msgspec.Struct, frozen=True):
    """Of the values of several ranks.

    Attributes:
        count: of ranks that have one.
        mean, low, high: of them.
        deviation: standard deviation of the values themselves (divided by their number).
        highest: index of the first largest one, or of the first that is not a number.
    """

    count: int
    mean: float
    low: float
    high: float
    deviation: float
    highest: int


def reduced(values: Sequence[float]) -> Reduced:
    """At least one value."""
    count = len(values)
    with suppress(OverflowError, ValueError):
        mean = math.fsum(values) / count
        if math.isfinite(mean):  # then each of them is
            high = max(values)
            deviation = math.sqrt(math.fsum([(value - mean) ** 2 for value in values]) / count)
            return Reduced(count, mean, min(values), high, deviation, values.index(high))
    return _reduced_with_care(values)


def _reduced_with_care(values: Sequence[float]) -> Reduced:
    """Values that are not finite, or whose sum or squares are not."""
    count = len(values)
    broken = next((index for index, value in enumerate(values) if math.isnan(value)), None)
    if broken is not None:
        return Reduced(count, math.nan, math.nan, math.nan, math.nan, broken)
    mean, high = _mean(values), max(values)
    if math.isfinite(mean):
        apart = [value - mean for value in values]
        deviation = math.sqrt(_mean([each * each for each in apart]))
    else:
        deviation = math.nan
    return Reduced(count, mean, min(values), high, deviation, values.index(high))


def _mean(values: Sequence[float]) -> float:
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # each of them is finite, their sum is not
        return math.fsum(value / len(values) for value in values)
    except ValueError:  # both infinities
        return math.nan


def statistics(values: Mapping[int, float], which: tuple[str, ...] = STATISTICS) -> tuple[float, ...]:
    """Statistics of the values by rank; of two ranks with the largest the lower one is named."""
    ranks = sorted(values)
    if which == ("sum",):
        return (_sum(values.values()),)
    found = reduced([values[rank] for rank in ranks])
    every = (found.mean, found.low, found.high, found.deviation, ranks[found.highest], found.count)
    return every if which is STATISTICS else tuple(every[STATISTICS.index(each)] for each in which)


def _sum(values: Collection[float]) -> float:
    try:
        return math.fsum(values)
    except OverflowError:
        return sum(values)
    except ValueError:  # both infinities
        return math.nan


def series_of(name: str, taken: Collection[str] = (), which: tuple[str, ...] = STATISTICS) -> dict[str, int]:
    """The series of one name -> index in `which`; the plain one is the first, by default the mean.

    Args:
        name: as ranks log it.
        which: the statistics.
        taken: all names that ranks log; one that a script has made itself (`loss/max`) is not written over.
    """
    found = {name: 0}
    for index, statistic in enumerate(which[1:], 1):
        final = f"{name}/{statistic}"
        found[f"{name}/ranks/{statistic}" if final in taken else final] = index
    return found


def statistics_in(
    name: str, data: Mapping[str, float], which: tuple[str, ...] = STATISTICS
) -> tuple[float, ...] | None:
    """The statistics of a name in what went out under `series_of`; None where they are not complete."""
    values = [data.get(name)]
    for statistic in which[1:]:
        values.append(data.get(f"{name}/ranks/{statistic}", data.get(f"{name}/{statistic}")))
    found = tuple(value for value in values if value is not None)
    return found if len(found) == len(which) else None


def origins(series: Collection[str]) -> dict[str, tuple[str, str]]:
    """The inverse of `series_of`: for each series of one line that went out, the name and which statistic.

    The statistic is "" where a series stands for itself: it is the only one of its name.
    """
    found = {name: (name, "") for name in series}
    for name in series:
        finals = [name, *(_final_in(name, each, series) for each in STATISTICS[1:])]
        if all(final in found for final in finals):
            found.update(zip(finals, ((name, each) for each in STATISTICS), strict=True))
    return found


def _final_in(name: str, statistic: str, series: Collection[str]) -> str:
    aside = f"{name}/ranks/{statistic}"
    return aside if aside in series else f"{name}/{statistic}"


def merged(parts: Sequence[Reduced]) -> Reduced:
    """What several nodes' ranks say together, of what each node's do; `highest` are ranks here, as they come.

    Args:
        parts: at least one; of two with the largest value, or one that is not a number, the first counts.
    """
    if len(parts) == 1:
        return parts[0]
    count = sum(part.count for part in parts)
    broken = next((part for part in parts if math.isnan(part.high)), None)
    if broken is not None:
        return Reduced(count, math.nan, math.nan, math.nan, math.nan, broken.highest)
    top = max(parts, key=lambda part: part.high)
    low = min(part.low for part in parts)
    try:
        mean = math.fsum(part.mean * (part.count / count) for part in parts)
    except ValueError:  # both infinities
        return Reduced(count, math.nan, low, top.high, math.nan, top.highest)
    if not math.isfinite(mean):
        return Reduced(count, mean, low, top.high, math.nan, top.highest)
    apart = ((part, part.mean - mean) for part in parts)
    squares = [(part.deviation * part.deviation + each * each) * (part.count / count) for part, each in apart]
    return Reduced(count, mean, low, top.high, math.sqrt(math.fsum(squares)), top.highest)


Chosen = tuple[tuple[str, str], ...]  # pattern of names, statistic


def chosen_from(text: str) -> Chosen:
    """What is wanted of names, from `loss=mean, tokens=sum`; `all` stands for all of `STATISTICS`.

    Raises:
        ValueError: it is nothing of the kind.
    """
    found = []
    for part in filter(None, map(str.strip, text.split(","))):
        pattern, _, statistic = (each.strip() for each in part.rpartition("="))
        if not pattern or statistic not in (*STATISTICS, "sum", "all"):
            raise ValueError(part)
        found.append((pattern, statistic))
    return tuple(found)


def statistics_of(name: str, chosen: Chosen) -> tuple[str, ...]:
    """What is worked out of a name: the one statistic of the first pattern that fits, else all."""
    statistic = next((each for pattern, each in chosen if fnmatchcase(name, pattern)), "all")
    return STATISTICS if statistic == "all" else (statistic,)


class Line(msgspec.Struct, frozen=True):
    """What goes out of one step: by name its statistics, and the time of it in epoch milliseconds."""

    step: int
    time: int
    data: dict[str, tuple[float, ...]]


class _Unit:
    """The values of one name at one step, by rank.

    Attributes:
        number: in the order in which units were begun.
        time: of the newest record, epoch milliseconds.
        since: when the first value came that has not gone out.
        waits: there is such a value.
        said, said_ms: what has gone out, and its time; None for nothing.
    """

    __slots__ = ("number", "said", "said_ms", "since", "step", "time", "values", "waits")

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number
        self.values: dict[int, float] = {}
        self.time = 0
        self.since = 0.0
        self.waits = False
        self.said: tuple[float, ...] | None = None
        self.said_ms = -1


class _Track:
    """One name: its units by step, the last step of each rank, and the highest step that was given up.

    Attributes:
        which: statistics that are worked out.
        ordered: units were begun in the order of their steps, the newest last.
    """

    __slots__ = ("floor", "last", "name", "newest", "ordered", "units", "which")

    def __init__(self, name: str, floor: int, which: tuple[str, ...]) -> None:
        self.name, self.floor, self.which = name, floor, which
        self.units: dict[int, _Unit] = {}
        self.last: dict[int, int] = {}
        self.newest = -1
        self.ordered = True


class Gathering:
    """Values of all ranks on their way together; takes records and the time, gives lines.

    Attributes:
        late: values left out, because their step had been given up.
        reached: highest step of each rank.
        held: values that are held.

    Args:
        floors: highest step of each name that was given up before.
        late: counted before.
        limit: values that are held at most.
        chosen: what is wanted of names.
    """

    def __init__(
        self,
        floors: Mapping[str, int] | None = None,
        *,
        late: int = 0,
        limit: int = VALUES,
        chosen: Chosen = (),
    ) -> None:
        self._chosen = chosen
        self._tracks: dict[str, _Track] = {}
        for name, floor in (floors or {}).items():
            self._track(name, floor)
        self._said: dict[tuple[str, int], tuple[int, tuple[float, ...]]] = {}
        self._limit = limit
        self._units: deque[tuple[_Track, _Unit]] = deque()
        self._waiting: dict[int, tuple[_Track, _Unit]] = {}
        self._given_up: list[tuple[_Track, _Unit]] = []
        self._number = 0
        self._newest = 0
        self.late = late
        self.reached: dict[int, int] = {}
        self.held = 0

    @property
    def names(self) -> Collection[str]:
        """All names that ranks have logged."""
        return self._tracks.keys()

    @property
    def floors(self) -> dict[str, int]:
        """Highest step of each name that was given up."""
        return {name: track.floor for name, track in self._tracks.items() if track.floor >= 0}

    @property
    def oldest(self) -> int:
        """Number of the oldest unit that is held, one more than the newest if none is."""
        return self._units[0][1].number if self._units else self._number + 1

    def take_newest(self) -> int:
        """Number of the newest unit of which a value came or went out since the last call, 0 for none.

        Records and lines of which the newest unit is older than `oldest` are not needed to begin anew.
        """
        newest, self._newest = self._newest, 0
        return newest

    def add(
        self, rank: int, step: int, time_ms: int, values: Mapping[str, float], now: float, *, again: bool
    ) -> None:
        """Takes one record.

        Args:
            rank: whose.
            step, time_ms, values: of the record.
            now: seconds, of the clock of `due`.
            again: it was taken before; what was given up of it is not late.
        """
        tracks, newest = self._tracks, self._newest
        for name, value in values.items():
            track = tracks.get(name)
            if track is None:
                track = self._track(name)
            last = track.last
            if step > last.get(rank, -1):
                last[rank] = step
            unit = track.units.get(step)
            if unit is None:
                if step <= track.floor:
                    self.late += not again
                    continue
                unit = self._begin(track, step)
            if not unit.waits:
                unit.waits, unit.since = True, now
                self._waiting[unit.number] = (track, unit)
            if time_ms > unit.time:  # noqa: PLR1730 # max() takes longer, and this runs for each value
                unit.time = time_ms
            if unit.number > newest:  # noqa: PLR1730 # the same
                newest = unit.number
            if rank not in unit.values:
                self.held += 1
            unit.values[rank] = value
        self._newest = newest
        if step > self.reached.get(rank, -1):
            self.reached[rank] = step
        while self.held > self._limit:
            self._give_up()

    def said(self, name: str, step: int, time_ms: int, statistics: tuple[float, ...]) -> None:
        """Takes what went out before: what is the same does not go out again.

        It may be ahead of the records that were taken again: how far they were taken is kept after they went
        out.
        """
        track = self._tracks.get(name)
        unit = track.units.get(step) if track is not None else None
        if unit is not None:
            unit.said, unit.said_ms = statistics, time_ms
            self._newest = max(self._newest, unit.number)
        else:
            self._said[name, step] = time_ms, statistics

    def due(self, now: float, living: AbstractSet[int], unread: AbstractSet[int]) -> list[Line]:
        """What goes out now, step by step in the order in which they were begun.

        Args:
            now: seconds.
            living: ranks that may still log.
            unread: those of which records are known that were not taken yet; they are waited for longer.
        """
        going, self._given_up = self._given_up, []
        for number, (track, unit) in sorted(self._waiting.items()):
            awaited = self._awaited(track, unit, living)
            if not awaited or (now >= unit.since + WAIT_S and not any(rank in unread for rank in awaited)):
                going.append((track, unit))
                del self._waiting[number]
        return self._lines(going)

    def deadline(self) -> float | None:
        """When a step has waited long enough, None if none waits."""
        since = min((unit.since for _, unit in self._waiting.values()), default=None)
        return since + WAIT_S if since is not None else None

    def _track(self, name: str, floor: int = -1) -> _Track:
        track = self._tracks[name] = _Track(name, floor, statistics_of(name, self._chosen))
        return track

    def _begin(self, track: _Track, step: int) -> _Unit:
        self._number += 1
        unit = track.units[step] = _Unit(step, self._number)
        track.ordered = track.ordered and step > track.newest
        track.newest = max(track.newest, step)
        if (track.name, step) in self._said:
            unit.said_ms, unit.said = self._said.pop((track.name, step))
        self._units.append((track, unit))
        return unit

    def _awaited(self, track: _Track, unit: _Unit, living: AbstractSet[int]) -> list[int]:
        """Living ranks that may still log this name at this step.

        A rank that logs the name is past a step when it has logged the name at a later one: an eval may count
        epochs where the training counts batches. Of a rank that never did any later step says so.
        """
        last, reached, step = track.last, self.reached, unit.step
        return [
            rank
            for rank in living - unit.values.keys()
            if (last[rank] if rank in last else reached.get(rank, -1)) <= step
        ]

    def _give_up(self) -> None:
        """Gives the oldest step up; of a name whose steps fell, the lowest one: below it nothing is held."""
        track, unit = self._units[0]
        if not track.ordered:
            unit = track.units[min(track.units)]
        del track.units[unit.step]
        track.floor = max(track.floor, unit.step)
        self.held -= len(unit.values)
        if self._waiting.pop(unit.number, None) is not None:
            self._given_up.append((track, unit))
        while self._units and self._units[0][0].units.get(self._units[0][1].step) is not self._units[0][1]:
            self._units.popleft()

    def _lines(self, going: Iterable[tuple[_Track, _Unit]]) -> list[Line]:
        data: dict[int, dict[str, tuple[float, ...]]] = {}
        times: dict[int, int] = {}
        units: list[_Unit] = []
        for track, unit in going:
            unit.waits = False
            found = statistics(unit.values, track.which)
            if unit.said is not None and all(map(_alike, found, unit.said)):
                continue
            unit.said = found
            units.append(unit)
            self._newest = max(self._newest, unit.number)
            data.setdefault(unit.step, {})[track.name] = found
            # The server keeps the later one of two values of a step, so a correction is later by its time.
            times[unit.step] = max(times.get(unit.step, 0), unit.time, unit.said_ms + 1)
        for unit in units:
            unit.said_ms = times[unit.step]
        return [Line(step, times[step], names) for step, names in data.items()]


def _alike(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))
