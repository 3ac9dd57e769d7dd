"""What all ranks say together: one name at one step, reduced to a few numbers.

Counts, extremes and which rank had the largest are exact; mean and deviation do not depend on the order of
the values. A value that is not a number makes mean, extremes and deviation not a number, and its rank is the
one that is named: where one rank has NaN, that is what a person must see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec


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
