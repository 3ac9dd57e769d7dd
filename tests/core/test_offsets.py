"""Clocks of two nodes: the true difference is always inside, whatever the delays and the drift (G7)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pluto_dist.core.rules.nodes import DRIFT, UNKNOWN_S, Offset, read_ours, read_theirs, span

delays = st.floats(0.0, 30.0)
exchange = st.tuples(st.booleans(), delays, delays, delays)  # direction, pause before, on the way, until told


@settings(max_examples=300, deadline=None)
@given(
    difference=st.floats(-1e6, 1e6),
    drift=st.floats(-0.9 * DRIFT, 0.9 * DRIFT),
    exchanges=st.lists(exchange, max_size=12),
)
def test_the_truth_is_inside(
    difference: float, drift: float, exchanges: list[tuple[bool, float, float, float]]
):
    """Messages are late by anything, and told of later still."""
    now, offset = 1000.0, Offset()

    def theirs(at: float) -> float:
        return at * (1 + drift) - difference

    for from_them, pause_s, way_s, told_s in exchanges:
        now += pause_s
        if from_them:
            offset = read_theirs(offset, theirs(now), now + way_s)
        else:
            offset = read_ours(offset, now, theirs(now + way_s))
        now += way_s + told_s
        found = span(offset, now)
        slack = 1e-6
        if offset.low is not None and offset.high is not None:
            assert found.low - slack <= now - theirs(now) <= found.high + slack


def test_a_quick_exchange_in_both_directions_is_narrow():
    offset = read_theirs(Offset(), 500.0, 1000.004)
    offset = read_ours(offset, 1000.1, 600.105 - 500.0)
    assert span(read_ours(read_theirs(Offset(), 500.0, 1000.004), 1000.1, 500.105), 1000.1).spread < 0.01
    assert span(offset, 1000.1).spread >= 0


def test_a_slow_message_widens_nothing():
    quick = read_theirs(Offset(), 500.0, 1000.001)
    assert read_theirs(quick, 510.0, 1030.0) == quick


def test_without_both_bounds_only_the_kind_of_evidence_can_decide():
    assert span(Offset(), 0.0).spread == 2 * UNKNOWN_S
    assert span(read_theirs(Offset(), 500.0, 1000.0), 1000.0).spread == UNKNOWN_S
    assert span(read_ours(Offset(), 1000.0, 500.0), 1000.0).spread == UNKNOWN_S


def test_bounds_widen_with_their_age():
    offset = read_ours(read_theirs(Offset(), 500.0, 1000.001), 1000.0, 500.001)
    assert span(offset, 1000.0).spread < 0.003
    assert 0.3 < span(offset, 2000.0).spread < 0.5
