"""What all ranks say together, exact beside numpy."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pluto_dist.core.rules.together import (
    STATISTICS,
    WAIT_S,
    Gathering,
    Line,
    chosen_from,
    merged,
    origins,
    reduced,
    series_of,
    statistics,
    statistics_in,
    statistics_of,
)


@given(st.lists(st.floats(-1e150, 1e150), min_size=1, max_size=64))
def test_it_is_what_numpy_says(values: list[float]) -> None:
    found, array = reduced(values), np.array(values)
    scale = float(np.max(np.abs(array)))
    assert (found.count, found.low, found.high) == (len(values), array.min(), array.max())
    assert found.highest == int(array.argmax())
    assert found.mean == pytest.approx(float(array.mean()), rel=1e-12, abs=1e-13 * scale)
    assert found.deviation == pytest.approx(float(array.std()), rel=1e-9, abs=1e-12 * scale)


def test_mean_and_deviation_do_not_depend_on_the_order() -> None:
    rng = random.Random(1)
    values = [rng.gauss(1e6, 1) for _ in range(300)]
    before = reduced(values)
    rng.shuffle(values)
    after = reduced(values)
    assert (before.mean, before.deviation) == (after.mean, after.deviation)


def test_a_rank_with_nan_is_named() -> None:
    found = reduced([1.0, math.nan, 9.0, math.nan])
    assert (found.count, found.highest) == (4, 1)
    assert all(map(math.isnan, (found.mean, found.low, found.high, found.deviation)))


@pytest.mark.parametrize(
    ("values", "mean", "deviation"),
    [
        ([math.inf, 1.0], math.inf, math.nan),
        ([math.inf, -math.inf], math.nan, math.nan),
        ([1.7e308, 1.7e308, 1.7e308], 1.7e308, 0.0),
        ([3.0], 3.0, 0.0),
        ([-0.0], 0.0, 0.0),
    ],
)
def test_what_is_not_finite_or_near_the_end_of_the_doubles(
    values: list[float], mean: float, deviation: float
) -> None:
    found = reduced(values)
    assert found.mean == pytest.approx(mean, nan_ok=True)
    assert found.deviation == pytest.approx(deviation, nan_ok=True, abs=1e292)
    assert (found.low, found.high) == (min(values), max(values))


class Stream(msgspec.Struct):
    """What one rank logs, how much of it was taken, and up to where that was kept."""

    records: list[tuple[int, dict[str, float]]] = []
    taken: int = 0
    kept: int = 0


class Ranks:
    """Ranks that log, and a gathering that may be begun anew at any time; keeps all that went out."""

    def __init__(self, count: int, limit: int = 1_000_000) -> None:
        self.streams = {rank: Stream([]) for rank in range(count)}
        self.living = set(range(count))
        self.out: list[Line] = []
        self.now = 100.0
        self.limit = limit
        self.gathering = Gathering(limit=limit)
        self.keep()

    def keep(self) -> None:
        """How far it came is on disk; what went out is there before."""
        for stream in self.streams.values():
            stream.kept = stream.taken
        self.kept = (self.gathering.floors, self.gathering.late)

    def log(self, rank: int, step: int, **values: float) -> None:
        """Logs and is read at once."""
        self.streams[rank].records.append((step, values))
        self.read(rank)

    def read(self, rank: int) -> None:
        stream = self.streams[rank]
        for step, values in stream.records[stream.taken :]:
            self.gathering.add(rank, step, round(self.now * 1000), values, self.now, again=False)
        stream.taken = len(stream.records)

    def due(self) -> list[Line]:
        lines = self.gathering.due(self.now, self.living, set())
        self.out += lines
        return lines

    def begin_anew(self) -> None:
        """As a coordinator that finds the streams, what went out, and how far its predecessor came."""
        names = self.gathering.names
        self.gathering = Gathering(self.kept[0], late=self.kept[1], limit=self.limit)
        for rank, stream in self.streams.items():
            for step, values in stream.records[: stream.kept]:
                self.gathering.add(rank, step, round(self.now * 1000), values, self.now, again=True)
        for line in self.out:
            data = {
                final: found[index]
                for name, found in line.data.items()
                for final, index in series_of(name, names).items()
            }
            for name in line.data:
                said = statistics_in(name, data)
                assert said is not None
                self.gathering.said(name, line.step, line.time, said)
        for rank, stream in self.streams.items():
            stream.taken = stream.kept
            self.read(rank)

    def shown(self) -> dict[tuple[str, int], tuple[float, ...]]:
        """What a server shows that keeps the value with the latest time."""
        newest: dict[tuple[str, int], tuple[int, tuple[float, ...]]] = {}
        for line in self.out:
            for name, found in line.data.items():
                before = newest.get((name, line.step))
                assert before is None or before[0] < line.time, "a correction that would lose"
                newest[name, line.step] = (line.time, found)
        return {key: found for key, (_, found) in newest.items()}

    def expected(self) -> dict[tuple[str, int], tuple[float, ...]]:
        """By all that was logged."""
        values: dict[tuple[str, int], dict[int, float]] = {}
        for rank, stream in self.streams.items():
            for step, data in stream.records:
                for name, value in data.items():
                    values.setdefault((name, step), {})[rank] = value
        return {key: statistics(found) for key, found in values.items()}


def test_a_step_goes_out_when_every_living_rank_has_logged_it() -> None:
    ranks = Ranks(3)
    ranks.log(0, 0, loss=1.0)
    ranks.log(1, 0, loss=2.0)
    assert ranks.due() == []
    ranks.log(2, 0, loss=6.0)
    (line,) = ranks.due()
    assert line == Line(0, 100_000, {"loss": (3.0, 1.0, 6.0, statistics({0: 1.0, 1: 2.0, 2: 6.0})[3], 2, 3)})
    assert ranks.due() == []


def test_what_one_rank_alone_logs_goes_out_when_the_others_are_past_it() -> None:
    ranks = Ranks(2)
    ranks.log(0, 0, loss=1.0, lr=0.1)
    ranks.log(1, 0, loss=2.0)
    assert [set(line.data) for line in ranks.due()] == [{"loss"}]
    ranks.log(1, 1, loss=2.0)
    assert [set(line.data) for line in ranks.due()] == [{"lr"}]


def test_an_eval_that_counts_epochs_is_not_passed_by_batches() -> None:
    """Rank 1 is at batch 101 when rank 0 logs the eval of epoch 2, and will log it too."""
    ranks = Ranks(2)
    for epoch in (1, 2):
        for rank in (0, 1):
            ranks.log(rank, epoch * 100, loss=1.0)
        ranks.due()
        ranks.log(0, epoch, acc=0.5)
        if epoch == 2:
            assert ranks.due() == []
        ranks.log(1, epoch, acc=0.7)
        assert [(line.step, line.data["acc"][-1]) for line in ranks.due()] == [(epoch, 2)]


def test_a_late_rank_is_waited_for_and_corrects_the_step() -> None:
    """The step goes out with the count it had; the correction is later by its time, and wins."""
    ranks = Ranks(2)
    ranks.log(0, 7, loss=1.0)
    ranks.now += WAIT_S - 0.1
    assert ranks.due() == []
    assert ranks.gathering.deadline() == 100.0 + WAIT_S
    ranks.now += 0.2
    (first,) = ranks.due()
    assert first.data["loss"][-1] == 1
    ranks.streams[1].records.append((7, {"loss": 3.0}))
    ranks.gathering.add(1, 7, 50_000, {"loss": 3.0}, ranks.now, again=False)  # its clock is behind
    ranks.streams[1].taken = 1
    (second,) = ranks.due()
    assert second.data["loss"] == statistics({0: 1.0, 1: 3.0})
    assert ranks.shown() == ranks.expected()


def test_a_rank_of_which_records_wait_to_be_read_is_waited_for() -> None:
    ranks = Ranks(2)
    ranks.log(0, 0, loss=1.0)
    ranks.now += 10 * WAIT_S
    assert ranks.gathering.due(ranks.now, {0, 1}, {1}) == []
    assert len(ranks.gathering.due(ranks.now, {0, 1}, {0})) == 1


def test_a_rank_that_has_ended_is_not_waited_for_but_counts() -> None:
    ranks = Ranks(2)
    ranks.log(1, 0, loss=5.0)
    ranks.living = {0}
    ranks.log(0, 0, loss=1.0)
    assert ranks.due()[0].data["loss"][-1] == 2


def test_the_same_value_again_says_nothing_new() -> None:
    ranks = Ranks(1)
    ranks.log(0, 0, loss=math.nan)
    assert len(ranks.due()) == 1
    ranks.log(0, 0, loss=math.nan)
    assert ranks.due() == []


def test_what_was_given_up_is_not_reduced_from_a_part() -> None:
    """The oldest step goes out as it is; what comes for it is counted, and changes nothing."""
    ranks = Ranks(2, limit=4)
    for step in range(6):
        ranks.log(0, step, loss=float(step))
    ranks.due()
    assert ranks.gathering.held <= 4
    assert ranks.gathering.floors == {"loss": 1}
    for step in range(6):
        ranks.log(1, step, loss=10.0)
    ranks.due()
    assert ranks.gathering.late >= 2
    shown = ranks.shown()
    assert {key for key, found in shown.items() if found[-1] == 1} >= {("loss", 0), ("loss", 1)}
    late = ranks.gathering.late
    ranks.keep()
    ranks.begin_anew()
    assert ranks.due() == []
    assert ranks.gathering.late == late


def test_steps_that_fall_are_given_up_from_the_lowest() -> None:
    """Below the floor nothing is held, so a coordinator that begins anew finds all that it had."""
    ranks = Ranks(2, limit=3)
    for step in (10, 5, 7):
        ranks.log(0, step, loss=1.0)
    ranks.log(0, 20, loss=1.0)
    assert ranks.gathering.floors == {"loss": 5}
    ranks.keep()
    ranks.begin_anew()
    assert {line.step for line in ranks.due() or ranks.gathering.due(200.0, set(), set())} >= {7, 10, 20}


def test_a_name_that_a_script_has_made_itself_is_not_written_over() -> None:
    """G10"""
    assert series_of("loss", {"loss", "loss/max"}) == {
        "loss": 0, "loss/min": 1, "loss/ranks/max": 2, "loss/std": 3, "loss/max_rank": 4, "loss/count": 5,
    }  # fmt: skip
    data = {"loss": 0.0, "loss/min": 1.0, "loss/max": 9.0, "loss/ranks/max": 2.0}
    data |= {"loss/std": 3.0, "loss/max_rank": 4.0, "loss/count": 5.0}
    assert statistics_in("loss", data) == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    assert statistics_in("loss/max", data) is None


LOGGED = st.tuples(
    st.just("log"),
    st.integers(0, 2),
    st.integers(0, 4),
    st.dictionaries(
        st.sampled_from(["loss", "acc"]),
        st.sampled_from([0.0, 1.0, -2.5, math.nan, math.inf, -math.inf]),
        min_size=1,
    ),
)
DONE = st.tuples(st.sampled_from(["due", "keep", "wait", "die", "begin anew"]), st.integers(0, 2))


@given(st.lists(st.one_of(LOGGED, LOGGED, DONE), max_size=60))
def test_in_whatever_order_it_happens_the_last_word_is_of_all_values(story: list[Any]) -> None:
    """G3: nothing lost, nothing counted twice, whenever it is begun anew."""
    ranks = Ranks(3)
    for what, *how in story:
        ranks.now += 1.0
        if what == "log":
            ranks.log(how[0], how[1], **how[2])
        elif what in ("due", "keep"):
            ranks.due()
            if what == "keep":
                ranks.keep()
        elif what == "wait":
            ranks.now += WAIT_S
            ranks.due()
        elif what == "die":
            ranks.living.discard(how[0])
        else:
            ranks.begin_anew()
    ranks.living.clear()
    ranks.due()
    shown, expected = ranks.shown(), ranks.expected()
    assert shown.keys() == expected.keys()
    assert {key: list(map(repr, found)) for key, found in shown.items()} == {
        key: list(map(repr, found)) for key, found in expected.items()
    }
    ranks.begin_anew()
    assert ranks.due() == [], "what had gone out went out again"


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=80), st.integers(2, 12))
def test_memory_is_bounded_and_no_step_shows_less_than_it_did(
    story: list[tuple[int, int]], limit: int
) -> None:
    ranks = Ranks(3, limit=limit)
    counts: dict[int, float] = {}
    for number, (rank, step) in enumerate(story):
        ranks.log(rank, step, loss=float(number))
        assert ranks.gathering.held <= limit
        for line in ranks.due():
            assert line.data["loss"][-1] >= counts.get(line.step, 0)
            counts[line.step] = line.data["loss"][-1]
        ranks.keep()
        if number % 7 == 3:
            ranks.begin_anew()


def test_what_is_chosen_of_a_name_is_that_of_the_first_pattern() -> None:
    chosen = chosen_from(" loss = mean, tokens=sum ,grad/*=max,x=y=all")
    assert chosen == (("loss", "mean"), ("tokens", "sum"), ("grad/*", "max"), ("x=y", "all"))
    assert statistics_of("tokens", chosen) == ("sum",)
    assert statistics_of("grad/w", chosen) == ("max",)
    assert statistics_of("Loss", chosen) == statistics_of("x=y", chosen) == STATISTICS
    assert chosen_from("") == ()


@pytest.mark.parametrize("text", ["loss", "=mean", "loss=median", "loss=mean,,acc"])
def test_what_is_no_choice_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"loss|=mean|acc"):
        chosen_from(text)


@given(st.dictionaries(st.integers(0, 9), st.floats(-1e100, 1e100), min_size=1))
def test_one_statistic_is_that_of_all(values: dict[int, float]) -> None:
    for index, each in enumerate(STATISTICS):
        assert statistics(values, (each,)) == (statistics(values)[index],)
    assert statistics(values, ("sum",)) == (math.fsum(values.values()),)


def test_a_sum_of_what_is_not_finite() -> None:
    assert statistics({0: math.inf, 1: 1.0}, ("sum",)) == (math.inf,)
    assert math.isnan(statistics({0: math.inf, 1: -math.inf}, ("sum",))[0])
    assert statistics({0: 1.7e308, 1: 1.7e308}, ("sum",)) == (math.inf,)


@given(st.lists(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=8), min_size=1, max_size=5))
def test_nodes_together_are_what_numpy_says_of_all_their_ranks(nodes: list[list[float]]) -> None:
    """R7: each node reduces its own ranks; nothing but rounding is lost when they are put together."""
    parts = [reduced(values) for values in nodes]
    array = np.array([value for values in nodes for value in values])
    found, scale = merged(parts), float(np.max(np.abs(array)))
    assert (found.count, found.low, found.high) == (len(array), float(array.min()), float(array.max()))
    assert found.mean == pytest.approx(float(array.mean()), rel=1e-12, abs=1e-12 * scale)
    assert found.deviation == pytest.approx(float(array.std()), rel=1e-7, abs=1e-7 * scale)


@pytest.mark.parametrize(
    ("nodes", "mean", "high"),
    [
        ([[1.0], [math.nan, 2.0]], math.nan, math.nan),
        ([[1.0], [math.inf]], math.inf, math.inf),
        ([[-math.inf], [math.inf]], math.nan, math.inf),
        ([[1.7e308, 1.7e308], [1.7e308]], 1.7e308, 1.7e308),
    ],
)
def test_nodes_together_where_a_value_is_no_plain_number(
    nodes: list[list[float]], mean: float, high: float
) -> None:
    found = merged([reduced(values) for values in nodes])
    assert found.mean == pytest.approx(mean, nan_ok=True)
    assert found.high == pytest.approx(high, nan_ok=True)


def test_each_series_of_a_line_tells_whose_statistic_it_is() -> None:
    """Also where a script has logged `loss/max` itself, and where only one statistic was asked for."""
    names = ("loss", "loss/max", "lr")
    series = {final for name in ("loss", "loss/max") for final in series_of(name, names)} | {"lr"}
    found = origins(series)
    assert {final for final, (name, _) in found.items() if name == "loss"} == set(series_of("loss", names))
    assert found["loss/ranks/max"] == ("loss", "max")
    assert found["loss/max"] == ("loss/max", "mean")
    assert found["loss/max/max"] == ("loss/max", "max")
    assert found["lr"] == ("lr", "")
    assert origins(["grad", "grad/max"]) == {"grad": ("grad", ""), "grad/max": ("grad/max", "")}
