"""The data set: handwritten digits of 8 × 8 pixels. Source and licence: data/README.md."""

from __future__ import annotations

import gzip
from importlib import resources
from typing import NamedTuple

PIXELS = 64
CLASSES = 10
BRIGHTEST = 16
TEST_EVERY = 5


class Sample(NamedTuple):
    """One image, pixels from 0 to 1 and a constant 1 for the bias, and the digit it shows."""

    image: list[float]
    digit: int


def load() -> tuple[list[Sample], list[Sample]]:
    """1,437 samples to train on and 360 to test with."""
    packed = resources.files(__package__).joinpath("data/optdigits.csv.gz").read_bytes()
    samples = [_sample(line) for line in gzip.decompress(packed).decode("ascii").splitlines()]
    test = samples[::TEST_EVERY]
    del samples[::TEST_EVERY]
    return samples, test


def _sample(line: str) -> Sample:
    *pixels, digit = map(int, line.split(","))
    return Sample([*(pixel / BRIGHTEST for pixel in pixels), 1.0], digit)
