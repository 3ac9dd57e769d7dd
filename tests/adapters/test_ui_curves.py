"""Series for a chart: thinned without losing an extreme, together as a band, and read as they grow."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

import pytest

from pluto_dist import read
from pluto_dist.core.rules.participants import REDUCED
from pluto_dist.core.rules.together import series_of
from pluto_dist.core.values.records import Point, SeriesOwner
from pluto_dist.read.columns import Chunk
from pluto_dist.read.series import Wanted
from pluto_dist.ui.curves import Axis, Line, chart_of, part_of
from pluto_dist.ui.opened import Asked, Follower, Opened
from pluto_dist.ui.run import metrics_of
from tests.adapters.documents import lease
from tests.adapters.test_cli_lookup import Machine, machine
from tests.adapters.test_read import kept, node_lease, put, together_line
from tests.adapters.test_read import line as line_of

__all__ = ["machine"]  # the fixture


def chunk(values: Sequence[float], steps: Sequence[int] | None = None, begin_ms: int = 1000) -> Chunk:
    steps = range(len(values)) if steps is None else steps
    times = array("q", (begin_ms + 10 * step for step in steps))
    columns = memoryview(array("q", steps)), memoryview(times), memoryview(array("d", values))
    return Chunk("x", "x", "a", None, *columns, ordered=list(steps) == sorted(steps))


def line(*chunks: Chunk, axis: Axis = "step") -> Line:
    parts = (part_of(f"rank {rank}", [each], axis, 1000) for rank, each in enumerate(chunks))
    return Line("run", "x", None, tuple(parts))


def test_a_short_series_is_drawn_as_it_is():
    found = chart_of([line(chunk([1.0, 3.0, 2.0]))], 100)
    assert (found.x, found.lines[0].mean, found.lines[0].low) == ([0, 1, 2], [1, 3, 2], None)
    assert (found.thinned, found.first, found.last) == (False, 0, 2)


def test_a_long_series_keeps_every_extreme_and_its_mean():
    values = [math.sin(n / 50) for n in range(100_000)]
    values[77_777], values[33_333] = 50.0, -40.0
    found = chart_of([line(chunk(values))], 500)
    (drawn,) = found.lines
    assert found.thinned
    assert len(found.x) == 500
    assert drawn.low is not None
    assert drawn.high is not None
    assert (max(drawn.high), min(drawn.low)) == (50.0, -40.0)
    part = found.x.index(next(place for place in reversed(found.x) if place <= 77_777))
    inside = values[int(found.x[part]) : int(found.x[part + 1])]
    assert drawn.mean[part] == pytest.approx(sum(inside) / len(inside))
    assert (drawn.low[part], drawn.high[part]) == (min(inside), max(inside))
    assert drawn.count == 100_000


def test_a_window_shows_every_step_that_there_is_room_for():
    found = chart_of([line(chunk([float(n) for n in range(100_000)]))], 500, 40_000, 40_099)
    assert (found.x[0], found.x[-1], found.thinned) == (40_000, 40_099, False)
    assert found.lines[0].mean == [float(n) for n in range(40_000, 40_100)]
    assert (found.first, found.last) == (0, 99_999)


def test_ranks_are_a_band_of_smallest_mean_and_largest_at_each_step():
    found = chart_of([line(chunk([1.0, 2.0]), chunk([3.0, 2.0]), chunk([8.0, 2.0, 7.0]))], 100)
    (drawn,) = found.lines
    assert (drawn.low, drawn.mean, drawn.high) == ([1, 2, 7], [4, 2, 7], [8, 2, 7])
    assert (drawn.names, drawn.lowest, drawn.highest) == (
        ["rank 0", "rank 1", "rank 2"],
        [0, 0, 2],
        [2, 0, 2],
    )


def test_a_rank_that_has_nothing_finite_is_neither_the_lowest_nor_the_highest():
    found = chart_of([line(chunk([math.nan, math.nan]), chunk([3.0, math.inf]), chunk([2.0]))], 100)
    (drawn,) = found.lines
    assert (drawn.low, drawn.high) == ([2.0, "NaN"], [3.0, "NaN"])
    assert (drawn.lowest, drawn.highest, drawn.odd) == ([2, -1], [1, -1], 3)
    assert drawn.odd_in == ["rank 0", "rank 1"]


def test_of_too_many_lines_those_that_are_furthest_from_the_others_are_drawn():
    lines = [line(chunk([float(number % 3)] * 50)) for number in range(100)]
    lines[71], lines[5] = line(chunk([9.0] * 50)), line(chunk([1.0] * 49 + [-90.0]))
    lines[6] = line(chunk([math.nan] * 50))
    found = chart_of(lines, 100, most=2)
    assert [each.mean[-1] for each in found.lines] == [-90.0, 9.0]
    assert found.left_out == 98


def test_ranks_whose_times_never_meet_are_a_band_on_an_axis_of_time():
    parts = [chunk([1.0] * 50, begin_ms=1000 + rank) for rank in range(4)]
    parts[3] = chunk([5.0] * 50, begin_ms=1003)
    found = chart_of([line(*parts, axis="elapsed")], 400)
    (drawn,) = found.lines
    assert len(found.x) == 50
    assert (drawn.low, drawn.high) == ([1.0] * 50, [5.0] * 50)
    assert found.x[:2] == [0.0, 0.01]


def test_lines_share_an_axis_and_have_no_value_where_they_have_no_point():
    found = chart_of([line(chunk([1.0, 2.0], [0, 4])), line(chunk([5.0], [2]))], 100)
    assert found.x == [0, 2, 4]
    assert [each.mean for each in found.lines] == [[1.0, None, 2.0], [None, 5.0, None]]


def test_what_is_not_finite_is_counted_and_breaks_the_line():
    found = chart_of([line(chunk([1.0, math.nan, 3.0, math.inf, -math.inf]))], 100)
    (drawn,) = found.lines
    assert (drawn.mean, drawn.odd, drawn.count) == ([1.0, "NaN", 3.0, "NaN", "NaN"], 3, 5)


def test_a_series_of_nothing_but_nan_and_one_of_nothing():
    found = chart_of([line(chunk([math.nan] * 10_000))], 100)
    assert found.lines[0].odd == found.lines[0].count == 10_000
    assert set(found.lines[0].mean) == {"NaN"}
    assert chart_of([], 100).x == chart_of([line(chunk([]))], 100).x == []
    assert chart_of([line(chunk([1.0], [7]))] * 2, 100, 8, 9).lines[0].count == 0


def test_values_at_the_edge_of_what_a_number_can_hold_have_a_mean():
    found = chart_of([line(chunk([1.7e308, 1.7e308]), chunk([1.7e308, -1.7e308]))], 100)
    assert found.lines[0].mean == [1.7e308, 0.0]


def test_of_a_step_that_was_logged_again_after_a_restart_the_last_value_counts():
    """As `Run.together` has it; on an axis of time both are there."""
    before, after = chunk([1.0, 2.0, 3.0]), chunk([20.0, 30.0, 40.0], [1, 2, 3], begin_ms=9000)
    part = part_of("x", [before, after], "step", 1000)
    assert (part.xs.tolist(), part.ys.tolist()) == ([0, 1, 2, 3], [1.0, 20.0, 30.0, 40.0])
    assert len(part_of("x", [before, after], "time", 1000).xs) == 6


def test_steps_out_of_order_are_put_in_order():
    found = chart_of([line(chunk([5.0, 1.0, 3.0], [9, 2, 4]))], 100)
    assert (found.x, found.lines[0].mean) == ([2, 4, 9], [1.0, 3.0, 5.0])


def record(step: int, **values: float) -> bytes:
    inside = ",".join(f'"{name}":{value}' for name, value in values.items())
    return b'{"time":%d,"step":%d,"data":{%s}}\n' % (step, step, inside.encode())


def points(follower: Follower) -> list[tuple[str, int, float]]:
    return sorted(
        (found.name, step, value)
        for found in follower.chunks()
        for step, value in zip(found.steps, found.values, strict=True)
    )


def test_what_is_followed_is_what_is_read_at_once(machine: Machine):
    owner = SeriesOwner("owner", "METRIC", others={"rank1": "x/rank1"})
    kept(machine, lease("a", rank=0), lease("b", "rank1"), series={"x": owner})
    follower, steps = Follower(), iter(range(1000))
    for size in (1, 3, 1, 50, 2, 1, 1):
        new = [next(steps) for _ in range(size)]
        put(machine, "key-1", "a", [record(step, x=step / 2, y=1.0) for step in new], first=new[0])
        put(machine, "key-1", "b", [record(step, x=step * 2) for step in new], first=new[0])
        assert follower.look(read.run("1", machine.base)) == 3 * (new[-1] + 1)
        rows = read.run("1", machine.base).series().rows()
        assert points(follower) == sorted((row["name"], row["step"], row["value"]) for row in rows)
    assert len(list(follower.chunks(Wanted("y")))) < 5


def test_points_stay_when_their_delivered_segment_is_removed(machine: Machine):
    """A Run of a server: what was delivered is not kept on the disk."""
    kept(machine)
    path = put(machine, "key-1", "a", [record(0, x=1.0)])
    follower = Follower()
    follower.look(read.run("1", machine.base))
    put(machine, "key-1", "a", [record(1, x=2.0)], segment=2)
    path.unlink()
    assert follower.look(read.run("1", machine.base)) == 2
    assert points(follower) == [("x", 0, 1.0), ("x", 1, 2.0)]


def test_records_behind_a_fence_that_came_later_change_their_name(machine: Machine):
    """R7: what a superseded lease wrote late is another series, also for who has read it before."""
    kept(machine)
    path = put(machine, "key-1", "a", [record(0, x=1.0)])
    fence = path.stat().st_size
    put(machine, "key-1", "a", [record(1, x=2.0)], first=1)
    follower = Follower()
    follower.look(read.run("1", machine.base))
    assert points(follower) == [("x", 0, 1.0), ("x", 1, 2.0)]
    owner = SeriesOwner("owner", "METRIC", others={"attempt0": "x/attempt0"})
    kept(machine, lease("a", fences={"metrics": (1, fence)}), series={"x": owner})
    follower.look(read.run("1", machine.base))
    assert points(follower) == [("x", 0, 1.0), ("x/attempt0", 1, 2.0)]


def test_what_was_reduced_on_its_way_is_a_band_too(machine: Machine):
    """R7: mean between lowest and highest, corrected; the extremes are no charts of their own."""
    names = {final: SeriesOwner(REDUCED, "METRIC") for final in series_of("loss")}
    found = kept(
        machine,
        node_lease("t"),
        lease("e", "eval", pid=7),
        series={**names, "loss": SeriesOwner(REDUCED, "METRIC", {"eval": "loss/eval"})},
        summary={name: Point(1.0, 1, 2) for name in (*names, "loss/eval")},
    )
    steps = [{0: 1.0, 1: 3.0}, {0: 5.0}]
    lines = [together_line(step, "loss", values) for step, values in enumerate(steps)]
    put(machine, "key-1", "t", [*lines, together_line(1, "loss", {0: 5.0, 1: 6.0, 2: 10.0})])
    put(machine, "key-1", "e", [line_of(0, loss=4.0)])
    band, beside = chart_of(Opened(machine.lookup(), "key-1").lines(Asked(metric="loss"), "step"), 100).lines
    assert (band.low, band.mean, band.high, band.band) == ([1, 5], [2, 7], [3, 10], 3)
    assert (beside.label, beside.mean) == ("eval", [4, None])
    (alone,) = chart_of(
        Opened(machine.lookup(), "key-1").lines(Asked(metric="loss/count"), "step"), 100
    ).lines
    assert alone.mean == [2, 3]
    charts = {metric.name: metric.others for metric in metrics_of(found)}
    assert charts == {
        "loss": ("loss/eval",),
        **{f"loss/{statistic}": () for statistic in ("std", "max_rank", "count")},
    }
    assert [metric.name for metric in metrics_of(found) if not metric.spread] == ["loss"]
