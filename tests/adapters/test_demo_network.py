"""The demo's network: its gradient is the slope of its loss, and following it makes the loss smaller."""

from __future__ import annotations

import random

import pytest

from pluto_dist.cli.demo.job.network import Momentum, Network, Sample, load_digits

TRAIN, TEST = load_digits()


def loss_with(network: Network, position: int, change: float, batch: list[Sample]) -> float:
    moved = Network()
    weights = network.weights
    weights[position] += change
    moved.weights = weights
    return moved.test(batch)[0]


def test_data_set_is_whole() -> None:
    """1,797 images as published, in two disjoint parts, scaled to 0..1 with a constant for the bias."""
    assert (len(TRAIN), len(TEST)) == (1437, 360)
    digits_found = [sample.digit for sample in TRAIN + TEST]
    assert [digits_found.count(digit) for digit in range(10)] == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]
    for sample in TRAIN + TEST:
        assert len(sample.image) == 65
        assert sample.image[-1] == 1.0
        assert 0.0 <= min(sample.image) <= max(sample.image) <= 1.0


def test_gradient_is_the_slope_of_the_loss() -> None:
    """Central differences at thirty weights of both layers."""
    network, batch = Network(seed=3), TRAIN[:7]
    gradient = network.gradient(batch)
    rng = random.Random(5)
    for position in rng.sample(range(len(gradient.weights)), 30):
        step = 1e-5
        slope = (loss_with(network, position, step, batch) - loss_with(network, position, -step, batch)) / (
            2 * step
        )
        assert gradient.weights[position] == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_gradient_reports_loss_and_hits_of_its_batch() -> None:
    network, batch = Network(seed=3), TRAIN[:20]
    loss, accuracy = network.test(batch)
    found = network.gradient(batch)
    assert found.loss == pytest.approx(loss)
    assert found.accuracy == accuracy


def test_mean_of_the_ranks_gradients_is_the_gradient_of_their_batches() -> None:
    """What data parallel training rests on."""
    network, one, other = Network(seed=3), TRAIN[:6], TRAIN[6:12]
    whole = network.gradient(one + other).weights
    parts = zip(network.gradient(one).weights, network.gradient(other).weights, strict=True)
    assert list(whole) == pytest.approx([(left + right) / 2 for left, right in parts])


def test_descending_learns() -> None:
    network, optimiser, batch = Network(seed=3), Momentum(0.05), TRAIN[:30]
    before = network.test(batch)[0]
    for _ in range(15):
        optimiser.descend(network, network.gradient(batch).weights)
    assert network.test(batch)[0] < before / 2


def test_momentum_keeps_part_of_the_last_step() -> None:
    network = Network()
    start = list(network.weights)
    slope = network.gradient(TRAIN[:1]).weights
    optimiser = Momentum(rate=0.1, keep=0.5)
    for _ in range(2):
        optimiser.descend(network, slope)
    moved = [old - 0.1 * each - 0.15 * each for old, each in zip(start, slope, strict=True)]
    assert list(network.weights) == pytest.approx(moved)


def test_weights_of_another_size_are_refused() -> None:
    network = Network()
    with pytest.raises(ValueError, match="3 weights for a network of 2410"):
        network.weights = [0.0, 0.0, 0.0]
