"""What all ranks say together, exact beside numpy."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pluto_dist.core.rules.together import reduced


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
