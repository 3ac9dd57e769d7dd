"""What disks, other programs and people do to files."""

from __future__ import annotations

import random
from typing import Literal, NamedTuple

from hypothesis import strategies as st

How = Literal["flip", "cut", "insert", "delete", "zero", "length", "magic"]


class Damage(NamedTuple):
    """One change; `at` is a share of the size, so that one damage fits every file."""

    how: How
    at: float
    size: int
    seed: int


damages = st.lists(
    st.builds(
        Damage,
        st.sampled_from(["flip", "cut", "insert", "delete", "zero", "length", "magic"]),
        st.floats(0, 1),
        st.integers(1, 64),
        st.integers(0, 1 << 16),
    ),
    min_size=1,
    max_size=3,
)


def damaged(data: bytes, changes: list[Damage]) -> bytes:
    """The bytes after the changes."""
    for change in changes:
        at = min(len(data), int(change.at * len(data)))
        data = _one(data, change, at)
    return data


def _one(data: bytes, change: Damage, at: int) -> bytes:
    noise = random.Random(change.seed).randbytes(change.size)
    match change.how:
        case "flip":
            return data[:at] + bytes(b ^ 0x10 for b in data[at : at + 1]) + data[at + 1 :]
        case "cut":
            return data[:at]
        case "insert":
            return data[:at] + noise + data[at:]
        case "delete":
            return data[:at] + data[at + change.size :]
        case "zero":
            return data[:at] + bytes(len(data[at : at + change.size])) + data[at + change.size :]
        case "length":  # where a header's length may stand: as large as it can be
            return data[:at] + b"\xff" * len(data[at : at + 4]) + data[at + 4 :]
        case "magic":  # the beginning of a frame where there is none, with a length that nothing has
            return data[:at] + b"\xf8\xc1\xff\xfe" + noise[:4] + b"\xff\xff\x7f\x00" + data[at:]
