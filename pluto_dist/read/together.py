"""Series of all ranks of a Run as one: at each step how many have a value, its mean, extremes and deviation.

For reading only: the training logs as ever, and nothing waits for anything. A rank that was restarted and
logged a step again counts with what its newest attempt logged last.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from pluto_dist.core.rules.together import reduced
from pluto_dist.read.columns import Chunk, Integers, Numbers

COLUMNS = ("step", "count", "mean", "min", "max", "std", "max_rank")


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
        return {name: view.tolist() for name, view in zip(COLUMNS, views, strict=True)}


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
