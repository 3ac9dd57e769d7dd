"""The short way of a record is the long way, only faster."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pluto_dist.client import record
from pluto_dist.client.record import numbers_in

KNOWN = {"a", "b", "a/b", "a/a"}
BUILT_IN = [0.5, -1, True, 2**64 - 1, 2**64, 10**400, float("nan"), float("inf"), 1e308, "text", None]
SCALARS = [np.float32(0.1), np.float64(0.1), np.int64(3), np.bool_(True), np.longdouble(0.1), np.complex64(1)]
ARRAYS = [np.array(2.5), np.array([2.5]), np.array([1, 2])]
NUMBERS = st.sampled_from([*BUILT_IN, *SCALARS, *ARRAYS])
KEYS = st.sampled_from(["a", "b", "new", "a/b", " ", "", "é", "nul\0", "surrogate\ud800"])
RECORDS = st.recursive(
    st.dictionaries(KEYS, NUMBERS, max_size=4),
    lambda inner: st.dictionaries(KEYS, NUMBERS | inner, max_size=4),
)


@given(RECORDS)
def test_what_the_short_way_takes_the_long_way_writes_alike(data: dict[str, Any]) -> None:
    long = record._encode_any(data, 7, 1, KNOWN, strict=False)
    assert record.encode(data, 7, 1, KNOWN) == long
    short = record.encode_known(data, 7, 1, KNOWN)
    assert short in (None, long.metrics)


def test_each_value_is_read_once() -> None:
    """A tensor on a GPU is copied for it."""
    read = []

    class Scalar:
        shape = ()

        def item(self) -> float:
            read.append(1)
            return 0.5

    assert record.encode({"a": Scalar()}, 0, 1, KNOWN).metrics == b'{"time":1,"step":0,"data":{"a":0.5}}\n'
    assert read == [1]


@pytest.mark.parametrize("value", [np.array([1.0, 2.0]), "text", None, [1.0], {1: 2.0}, {"b": [1]}])
def test_what_needs_a_look_goes_the_long_way(value: object) -> None:
    assert numbers_in({"a": value}) is None


def test_dicts_that_contain_themselves_go_the_long_way() -> None:
    data: dict[str, Any] = {"a": 1.0}
    data["b"] = data
    assert numbers_in(data) is None
