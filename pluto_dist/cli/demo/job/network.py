"""A small neural network in plain Python: one hidden layer of rectified units, softmax, cross-entropy.

It learns handwritten digits of 8 × 8 pixels (source and licence: data/README.md). Rank 0 writes its weights
into checkpoint files and hands them over.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import random
from array import array
from collections.abc import Iterator, Sequence
from importlib import resources
from itertools import islice
from operator import mul
from pathlib import Path
from typing import NamedTuple

PIXELS = 64
CLASSES = 10
BRIGHTEST = 16
TEST_EVERY = 5
HIDDEN = 32
Rows = list[list[float]]


class Sample(NamedTuple):
    """One image, pixels from 0 to 1 and a constant 1 for the bias, and the digit it shows."""

    image: list[float]
    digit: int


def load_digits() -> tuple[list[Sample], list[Sample]]:
    """1,437 samples to train on and 360 to test with."""
    packed = resources.files(__package__).joinpath("data/optdigits.csv.gz").read_bytes()
    samples = [_sample(line) for line in gzip.decompress(packed).decode("ascii").splitlines()]
    test = samples[::TEST_EVERY]
    del samples[::TEST_EVERY]
    return samples, test


def _sample(line: str) -> Sample:
    *pixels, digit = map(int, line.split(","))
    return Sample([*(pixel / BRIGHTEST for pixel in pixels), 1.0], digit)


class Gradient(NamedTuple):
    """Mean over a batch of the loss's derivative by each weight, with the mean loss and the share of hits."""

    weights: array[float]
    loss: float
    accuracy: float


class Network:
    """64 pixels, 32 hidden units, 10 digits. The last weight of each row is its bias.

    Args:
        seed: two networks of one seed have equal weights.
    """

    def __init__(self, seed: int = 0) -> None:
        rng = random.Random(seed)  # noqa: S311 # weights are no secret
        self._hidden = _random_rows(rng, HIDDEN, PIXELS)
        self._output = _random_rows(rng, CLASSES, HIDDEN)

    @property
    def weights(self) -> array[float]:
        """All weights in one piece, for exchange and checkpoints."""
        return array("d", (weight for row in self._rows() for weight in row))

    @weights.setter
    def weights(self, weights: Sequence[float]) -> None:
        wanted = sum(map(len, self._rows()))
        if len(weights) != wanted:
            raise ValueError(f"{len(weights)} weights for a network of {wanted}")
        rest = iter(weights)
        for row in self._rows():
            row[:] = islice(rest, len(row))

    def probabilities(self, image: Sequence[float]) -> list[float]:
        """The probability of each digit."""
        return self._forward(image)[1]

    def test(self, samples: Sequence[Sample]) -> tuple[float, float]:
        """Mean loss and share of hits."""
        found = [(self.probabilities(sample.image), sample.digit) for sample in samples]
        loss = sum(_loss(likely, digit) for likely, digit in found)
        return loss / len(found), sum(_hit(likely, digit) for likely, digit in found) / len(found)

    def gradient(self, batch: Sequence[Sample]) -> Gradient:
        """Back-propagation."""
        hidden = [[0.0] * (PIXELS + 1) for _ in range(HIDDEN)]
        output = [[0.0] * (HIDDEN + 1) for _ in range(CLASSES)]
        loss, hits = 0.0, 0
        for image, digit in batch:
            active, likely = self._forward(image)
            loss += _loss(likely, digit)
            hits += _hit(likely, digit)
            wrong = likely[:]
            wrong[digit] -= 1.0
            for unit in range(HIDDEN):
                if active[unit] > 0:
                    blame = sum(error * row[unit] for error, row in zip(wrong, self._output, strict=True))
                    _add(hidden[unit], blame, image)
            for row, error in zip(output, wrong, strict=True):
                _add(row, error, active)
        size = len(batch)
        mean = array("d", (value / size for row in (*hidden, *output) for value in row))
        return Gradient(mean, loss / size, hits / size)

    def _rows(self) -> Iterator[list[float]]:
        yield from self._hidden
        yield from self._output

    def _forward(self, image: Sequence[float]) -> tuple[list[float], list[float]]:
        """Hidden units with a constant 1 for the bias, and the probabilities."""
        active = [max(0.0, sum(map(mul, row, image))) for row in self._hidden]
        active.append(1.0)
        return active, _softmax([sum(map(mul, row, active)) for row in self._output])


class Momentum:
    """Steepest descent that keeps part of its last step.

    Args:
        rate: length of a step for a gradient of 1.
        keep: share of the last step that goes into the next one.
    """

    def __init__(self, rate: float, keep: float = 0.9) -> None:
        self._rate = rate
        self._keep = keep
        self._step: list[float] = []

    def descend(self, network: Network, gradient: array[float]) -> None:
        """Changes the network's weights."""
        last = self._step or [0.0] * len(gradient)
        self._step = [self._keep * old - self._rate * new for old, new in zip(last, gradient, strict=True)]
        network.weights = [old + step for old, step in zip(network.weights, self._step, strict=True)]


def _random_rows(rng: random.Random, rows: int, inputs: int) -> Rows:
    deviation = math.sqrt(2 / inputs)  # keeps the scale of activity from layer to layer (He et al. 2015)
    return [[*(rng.gauss(0, deviation) for _ in range(inputs)), 0.0] for _ in range(rows)]


def _softmax(scores: list[float]) -> list[float]:
    highest = max(scores)
    powers = [math.exp(score - highest) for score in scores]
    total = sum(powers)
    return [power / total for power in powers]


def _loss(likely: Sequence[float], digit: int) -> float:
    return -math.log(max(likely[digit], 1e-12))


def _hit(likely: Sequence[float], digit: int) -> bool:
    return likely[digit] == max(likely)


def _add(row: list[float], factor: float, values: Sequence[float]) -> None:
    row[:] = [old + factor * value for old, value in zip(row, values, strict=True)]


def save_network(folder: Path, step: int, network: Network) -> Path:
    """Writes one, whole or not at all."""
    unfinished = folder / "unfinished"
    unfinished.write_bytes(network.weights.tobytes())
    return unfinished.rename(folder / f"step-{step:06}.weights")


def checksum(body: bytes) -> str:
    """Short, for people to compare."""
    return hashlib.sha256(body).hexdigest()[:16]


def load_network(path: Path) -> Network:
    """The network as it was saved."""
    weights = array("d")
    weights.frombytes(path.read_bytes())
    network = Network()
    network.weights = weights
    return network
