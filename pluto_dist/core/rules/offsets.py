"""Offset between the clocks of two nodes, as an interval that holds the true value.

Clocks cannot be compared directly; only messages bound their difference. What a node wrote at `s` by its
clock and was read here at `a` proves that mine - theirs <= a - s. What was written here at `t` and read there
at `b` proves that mine - theirs >= t - b. Each bound holds for good, but for the drift of the clocks: it
widens with its age. A few exchanges give a few milliseconds (seen: 7 to 10 ms over a cluster store that is
written each second).
"""

from __future__ import annotations

import msgspec

DRIFT = 200e-6  # two clocks that NTP does not slew are apart by less than this
UNKNOWN_S = 60.0  # for a bound that is not known yet: wide enough that only the kind of evidence decides


class Offset(msgspec.Struct, frozen=True):
    """Bounds of mine - theirs, each with the time here at which it was learned; None for one that is not."""

    low: float | None = None
    low_at: float = 0.0
    high: float | None = None
    high_at: float = 0.0


class Span(msgspec.Struct, frozen=True):
    """An interval from `low` to `high`."""

    low: float
    high: float

    @property
    def spread(self) -> float:
        """The width of the interval."""
        return self.high - self.low


HERE = Span(0.0, 0.0)  # a node's clock and itself


def read_theirs(offset: Offset, written_at: float, read_at: float) -> Offset:
    """A document that the other node wrote at `written_at`, by its clock, was read here."""
    high = read_at - written_at
    if offset.high is not None and offset.high + DRIFT * (read_at - offset.high_at) <= high:
        return offset
    return msgspec.structs.replace(offset, high=high, high_at=read_at)


def read_ours(offset: Offset, written_at: float, read_there_at: float) -> Offset:
    """The other node's document says when, by its clock, it read what was written here at `written_at`.

    The bound dates from the writing and not from the telling, which may come a minute later.
    """
    low = written_at - read_there_at
    if offset.low is not None and offset.low - DRIFT * (written_at - offset.low_at) >= low:
        return offset
    return msgspec.structs.replace(offset, low=low, low_at=written_at)


def span(offset: Offset, now: float) -> Span:
    """The interval of mine - theirs now."""
    low = None if offset.low is None else offset.low - DRIFT * (now - offset.low_at)
    high = None if offset.high is None else offset.high + DRIFT * (now - offset.high_at)
    if low is None and high is None:
        return Span(-UNKNOWN_S, UNKNOWN_S)
    if low is None:
        return Span((high or 0.0) - UNKNOWN_S, high or 0.0)
    return Span(low, max(low, high) if high is not None else low + UNKNOWN_S)
