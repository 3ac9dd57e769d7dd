"""The chart: dots where the points are, axes with numbers, nothing that is not finite."""

from __future__ import annotations

import math

import pytest

from pluto_dist.cli.chart import Curve, draw, picture

BLANK = "⠀"


def dots(lines: list[str]) -> list[str]:
    """The plot alone, without labels and axes."""
    return [line.split("┤")[-1].split("│")[-1] for line in lines[:-2]]


def test_a_rising_line_begins_at_the_bottom_left_and_ends_at_the_top_right():
    plot = dots(draw(Curve((step, float(step)) for step in range(100)), 40, 10))
    assert plot[-1][0] != BLANK
    assert plot[0][-1] != BLANK
    assert plot[0][0] == plot[-1][-1] == BLANK


def test_axes_have_the_ranges_as_labels():
    lines = draw(Curve([(10, 0.5), (250, 2.5)]), 60, 12)
    assert lines[0].strip().startswith("2.5 ┤")
    assert any(line.strip().startswith("0.5 ┤") for line in lines)
    assert lines[-1].split() == ["10", "250"]


@pytest.mark.parametrize("width", [20, 41, 80, 133])
def test_the_chart_keeps_to_its_width_and_height(width: int):
    lines = draw(Curve((step, step % 7.0) for step in range(500)), width, 14)
    assert len(lines) == 14
    assert max(map(len, lines)) <= width


def test_values_that_are_not_finite_are_left_out_and_counted():
    curve = Curve([(1, 1.0), (2, float("nan")), (3, float("inf")), (4, float("-inf"))])
    assert curve.skipped == 3
    assert len(curve.steps) == 1
    assert draw(curve, 40, 8)


def test_without_a_finite_point_there_is_no_chart():
    assert draw(Curve(), 40, 8) == []
    assert draw(Curve([(1, float("nan"))]), 40, 8) == []


@pytest.mark.parametrize("values", [[5.0], [0.0, 0.0], [1e308, -1e308, 1e308], [3e-320, 4e-320]])
def test_extreme_and_constant_values_are_drawn(values: list[float]):
    plot = dots(draw(Curve(enumerate(values)), 40, 8))
    assert any(set(row) - {BLANK} for row in plot)


def test_points_in_any_order_give_the_same_chart():
    points = [(step, float(step * step)) for step in range(50)]
    assert draw(Curve(reversed(points)), 40, 8) == draw(Curve(points), 40, 8)


def test_a_gap_between_points_is_bridged():
    plot = dots(draw(Curve([(0, 0.0), (100, 1.0)]), 30, 8))
    assert all(any(row[column] != BLANK for row in plot) for column in range(len(plot[0])))


def test_whole_columns_are_drawn_as_their_points_are():
    steps, values = [3, 1, 2, 2, 9], [1.0, math.nan, 1e308, 1e308, -math.inf]
    one_by_one, at_once = Curve(zip(steps, values, strict=True)), Curve()
    at_once.extend(steps, values)
    assert (
        (at_once.skipped, list(at_once.steps))
        == (one_by_one.skipped, list(one_by_one.steps))
        == (2, [3, 2, 2])
    )
    assert draw(at_once, 60, 8) == draw(one_by_one, 60, 8)


def test_a_band_lies_between_its_edges_and_belongs_to_the_range() -> None:
    steps = range(100)
    flat = Curve((step, 5.0) for step in steps)
    low, high = (
        Curve((step, 0.0 if step == 50 else 4.0) for step in steps),
        Curve((step, 10.0) for step in steps),
    )
    found = picture(flat, 62, 12, (low, high))
    assert found.lines[0].split()[0] == "10"
    assert found.lines[9].split()[0] == "0"
    assert len(found.shaded) == 50
    assert {rows for rows in found.shaded if rows is not None and rows[1] < 9} == {(0, 5)}
    assert [rows for rows in found.shaded if rows is not None and rows[1] == 9] == [(0, 9)]
    assert len(found.lines[0]) == found.left + len(found.shaded)


def test_a_band_has_gaps_where_there_is_no_point_and_may_be_empty() -> None:
    curve = Curve([(0, 1.0), (99, 2.0)])
    shaded = picture(curve, 62, 12, (curve, curve)).shaded
    assert [column for column, rows in enumerate(shaded) if rows is not None] == [0, 49]
    assert set(picture(curve, 62, 12, (Curve(), Curve())).shaded) == {None}
    assert picture(Curve(), 62, 12, (curve, curve)).lines == []
