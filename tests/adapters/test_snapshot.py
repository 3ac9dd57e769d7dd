"""The config at `init()` as strict JSON: complete where it can be, readable where not, bounded."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import enum
import functools
import json
import math
import sys
import types
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pluto_dist.client.values import MAX_ARRAY, MAX_BYTES, MAX_DEPTH, MAX_REPR, MAX_VALUES, snapshot
from pluto_dist.errors import InvalidRecordError


def taken(value: object) -> Any:
    return config({"x": value})["x"]


def config(value: object) -> Any:
    found = snapshot(value)
    assert found.cut == ()
    return strict(found.json)


def strict(text: bytes) -> Any:
    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    assert b"\\u0000" not in text
    return json.loads(text, parse_constant=refuse)


class Color(enum.Enum):
    RED = "red"
    MIX = (1, 2)


class Level(enum.IntEnum):
    HIGH = 3


class Mode(enum.StrEnum):
    FAST = "fast"


@dataclasses.dataclass
class Optimizer:
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    inner: object = None


class Point(NamedTuple):
    x: int
    y: int


class Packed(msgspec.Struct):
    a: int = 1


class Attrs:
    """As a class made by attrs."""

    __attrs_attrs__ = (types.SimpleNamespace(name="a"), types.SimpleNamespace(name="never_set"))
    a = 1


class Model:
    """As a pydantic model."""

    def model_dump(self) -> dict[str, object]:
        return {"a": Path("/data"), "b": {1}}


class Pretrained:
    """As a config of a model library."""

    def to_dict(self) -> dict[str, object]:
        return {"layers": 2}


class Opaque:
    def __init__(self) -> None:
        self.secret = "not for the config"


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no repr\nsecond line")


class Table:
    """As a data frame: turning it into a dict would take minutes."""

    shape = (10**9, 3)

    def to_dict(self) -> dict[str, object]:
        raise AssertionError("asked for")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (1, 1),
        (2**64 - 1, 2**64 - 1),
        (2**64, "18446744073709551616"),
        (10**5000, "an integer of 16610 bits"),
        (0.5, 0.5),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (np.float32("nan"), "NaN"),
        (np.float64(0.5), 0.5),
        (np.int32(3), 3),
        (np.True_, True),
        (np.array(3), 3),
        (np.array([1.0, math.nan]), [1.0, "NaN"]),
        (np.eye(2), [[1.0, 0.0], [0.0, 1.0]]),
        (np.zeros(MAX_ARRAY + 1), f"<ndarray of shape ({MAX_ARRAY + 1},)>"),
        (Table(), f"<Table of shape ({10**9}, 3)>"),
        (Decimal("0.5"), 0.5),
        ("a\0b\ud800", "a\ufffdb\ufffd"),
        (np.str_("a"), "a"),
        (b"ab", "b'ab'"),
        (bytearray(3), "<3 bytes>"),
        (1j, "1j"),
        (Path("/data/x"), "/data/x"),
        (Color.RED, "red"),
        (Color.MIX, "MIX"),
        (Level.HIGH, 3),
        (Mode.FAST, "fast"),
        (datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.UTC), "2026-01-02T03:00:00+00:00"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.timedelta(hours=1), "1:00:00"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        ((1, [2, (3,)]), [1, [2, [3]]]),
        ({3, 20, 1}, [1, 3, 20]),
        ({"b", 1, None}, [None, 1, "b"]),
        (collections.deque([1, 2]), [1, 2]),
        (range(3), [0, 1, 2]),
        ({1: 2}.keys(), [1]),
        (Point(1, 2), {"x": 1, "y": 2}),
        (Optimizer(inner=Optimizer()), None),
        (Packed(), {"a": 1}),
        (Attrs(), {"a": 1}),
        (Model(), {"a": "/data", "b": [1]}),
        (Pretrained(), {"layers": 2}),
        (types.SimpleNamespace(a=1), {"a": 1}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (int, "builtins.int"),
        (Optimizer, f"{__name__}.Optimizer"),
        (math.sqrt, "math.sqrt"),
        (np.dtype("float32"), "dtype('float32')"),
        ((each for each in ()), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_value_has_its_json(value: object, expected: object) -> None:
    if isinstance(value, Optimizer):
        inner = {"lr": 0.1, "betas": [0.9, 0.99], "inner": None}
        expected = {**inner, "inner": inner}
    if isinstance(value, types.GeneratorType):
        expected = "<generator object <genexpr>>"
    assert taken(value) == expected


def test_opaque_objects_are_their_repr_without_addresses() -> None:
    assert taken(Opaque()) == f"<{__name__}.Opaque object>"
    assert " at 0x" not in taken(functools.partial(Opaque().__init__))
    assert taken(Broken()) == "<Broken that cannot be read: RuntimeError: no repr>"
    assert len(taken(types.SimpleNamespace)) < 100
    long = type("Long", (), {"__repr__": lambda self: "y" * 5000})()
    assert taken(long) == "y" * MAX_REPR + "… (5000 characters)"


@pytest.mark.parametrize(
    "value",
    [
        {"lr": 0.1},
        argparse.Namespace(lr=0.1),
        types.SimpleNamespace(lr=0.1),
        dataclasses.make_dataclass("C", [("lr", float)])(0.1),
        collections.OrderedDict(lr=0.1),
    ],
)
def test_a_config_is_any_collection_of_named_values(value: object) -> None:
    assert config(value) == {"lr": 0.1}


def test_no_config_is_an_empty_one() -> None:
    assert snapshot(None).json == b"{}"


@pytest.mark.parametrize("value", [[1], "text", 3, Opaque(), Optimizer])
def test_a_config_without_names_is_refused(value: object) -> None:
    with pytest.raises(InvalidRecordError, match="pass named values"):
        snapshot(value)


def test_keys_become_texts_and_none_is_lost() -> None:
    keys = {
        1: "a",
        "1": "b",
        (1, 2): "c",
        None: "d",
        False: "e",
        2.5: "f",
        "n\0": "g",
        Level.HIGH: "h",
        b"k": "i",
    }
    assert config(keys) == {
        "1": "a",
        "1 (str)": "b",
        "(1, 2)": "c",
        "None": "d",
        "False": "e",
        "2.5": "f",
        "n\ufffd": "g",
        "3": "h",
        "b'k'": "i",
    }


def test_what_contains_itself_is_named_so() -> None:
    loop: dict[str, object] = {"a": 1}
    loop["list"] = [loop]
    assert config(loop) == {"a": 1, "list": ["<contains itself>"]}


def test_one_object_at_two_places_is_no_cycle() -> None:
    shared = {"a": 1}
    assert config({"x": shared, "y": [shared, shared]}) == {"x": shared, "y": [shared, shared]}


def test_depth_is_bounded() -> None:
    deep: dict[str, object] = {}
    for _ in range(MAX_DEPTH):
        deep = {"d": deep}
    found = snapshot(deep)
    assert found.cut == ("/".join("d" * MAX_DEPTH),)
    assert f"deeper than {MAX_DEPTH}" in found.json.decode()


def test_shared_objects_cannot_multiply_without_bound() -> None:
    wide: object = 1
    for _ in range(40):
        wide = [wide, wide]
    found = snapshot({"x": wide})
    assert found.cut
    assert len(found.json) <= MAX_BYTES
    assert snapshot({"x": range(10**12), "y": 1}).cut == ("x",)
    assert strict(snapshot({"x": [0] * MAX_VALUES, "y": 1}).json)["y"] == 1


def test_above_the_limit_the_largest_values_are_cut_and_named() -> None:
    values = {"small": 1, "text": "x" * 3000, "deep": {"list": list(range(2000)), "keep": "y" * 100}}
    found = snapshot(values, limit=1000)
    assert found.cut == ("deep/list", "text")
    assert len(found.json) <= 1000
    assert strict(found.json) == {
        "small": 1,
        "text": "<cut: 3002 bytes>",
        "deep": {"list": "<cut: 8891 bytes>", "keep": "y" * 100},
    }


def test_nothing_is_cut_below_the_limit() -> None:
    assert snapshot({"x": "y" * 100}, limit=108).cut == ()
    assert snapshot({"x": "y" * 100}, limit=107).cut == ("x",)


def test_the_limit_is_what_a_message_may_carry() -> None:
    assert snapshot({"x": "y" * (5 * 2**20), "z": 1}).cut == ("x",)


def test_too_many_names_are_refused() -> None:
    with pytest.raises(InvalidRecordError, match="the limit is 1000"):
        snapshot({f"key {n}": n for n in range(200)}, limit=1000)


def test_omegaconf_is_resolved_without_being_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Config:
        pass

    class OmegaConf:
        @staticmethod
        def is_config(value: object) -> bool:
            return isinstance(value, Config)

        @staticmethod
        def to_container(value: object, *, resolve: bool, throw_on_missing: bool) -> object:
            assert not throw_on_missing
            if resolve:
                raise KeyError("interpolation")
            return {"lr": "${base.lr}"}

    Config.__module__ = "omegaconf.dictconfig"
    monkeypatch.setitem(sys.modules, "omegaconf", types.SimpleNamespace(OmegaConf=OmegaConf))  # type: ignore[arg-type]
    assert config(Config()) == {"lr": "${base.lr}"}


def test_a_snapshot_does_not_follow_later_changes() -> None:
    values = {"a": [1]}
    found = snapshot(values)
    values["a"].append(2)
    assert strict(found.json) == {"a": [1]}


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, exclude_categories=()))
    | st.binary()
    | st.complex_numbers()
    | st.datetimes()
    | st.decimals(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.text() | st.integers() | st.none() | st.binary(), inner, max_size=3)
        | st.builds(types.SimpleNamespace, a=inner)
    ),
)


@given(st.dictionaries(st.text(st.characters(codec=None, exclude_categories=())), anything))
def test_anything_becomes_strict_json(values: dict[str, object]) -> None:
    found = snapshot(values)
    assert isinstance(strict(found.json), dict)
    assert found.json.decode()
