"""What `log()` makes of its arguments: request lines by the server's rules, or a typed error."""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from decimal import Decimal
from enum import IntEnum, StrEnum
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pluto_dist.client.record import MAX_DEPTH, MAX_DICTS, Encoded, declaration, encode, epoch_ms
from pluto_dist.core.values.ids import MAX_STEP
from pluto_dist.errors import InvalidRecordError

TIME_MS = 1_760_000_000_000


def kind(value: object) -> str:
    return type(value).__name__  # pytest's own ids fail on very large integers


def log(data: object, step: object = 3, known: frozenset[str] = frozenset(), strict: bool = False) -> Encoded:
    return encode(data, step, TIME_MS, set(known), strict=strict)  # type: ignore[arg-type]


def metrics(data: object, known: frozenset[str] = frozenset()) -> dict[str, float]:
    line = log(data, known=known).metrics
    assert line is not None
    return json.loads(line)["data"]


def test_numbers_become_one_metrics_line() -> None:
    encoded = log({"loss": 0.5, "epoch": 2})
    assert encoded.metrics == b'{"time":1760000000000,"step":3,"data":{"loss":0.5,"epoch":2}}\n'
    assert encoded.data == ()
    assert encoded.rejections == ()


def test_strings_become_string_series_lines_beside_the_metrics() -> None:
    encoded = log({"loss": 0.5, "phase": "warm\nup"})
    assert json.loads(encoded.metrics or b"")["data"] == {"loss": 0.5}
    assert [json.loads(line) for line in encoded.data] == [
        {"time": TIME_MS, "data": "warm\nup", "dataType": "string-series", "logName": "phase", "step": 3}
    ]
    assert encoded.data[0].count(b"\n") == 1


def test_an_empty_record_is_no_line() -> None:
    assert log({}) == Encoded()
    assert log({"train": {}}) == Encoded()


@pytest.mark.parametrize("known", [frozenset(), frozenset({"x", "y"})], ids=["new", "known"])
@pytest.mark.parametrize(
    ("value", "token"),
    [
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (np.float32("nan"), "NaN"),
        (True, "1"),
        (False, "0"),
        (np.True_, "1"),
        (2**64 - 1, "18446744073709551615"),
        (-(2**63), "-9223372036854775808"),
        (2**64, "1.8446744073709552e19"),
        (-(2**63) - 1, "-9.223372036854775807e18"),
        (1e308, "1e308"),
        (5e-324, "5e-324"),
    ],
)
def test_each_number_arrives_as_the_token_that_the_server_takes(
    value: object, token: str, known: frozenset[str]
) -> None:
    line = log({"x": value, "y": 1e308}, known=known).metrics
    found = re.search(rb'"x":([^,]+),', line or b"")
    assert found is not None
    if "e" in token and token != "Infinity":
        assert float(found[1]) == float(token)
    else:
        assert found[1].decode() == token


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.5), 0.5),
        (np.float16(0.5), 0.5),
        (np.longdouble(0.5), 0.5),
        (np.int64(-7), -7),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.array(0.25), 0.25),
        (np.array([[0.25]]), 0.25),
        (Decimal("0.5"), 0.5),
        (Fraction(1, 4), 0.25),
        (IntEnum("Level", {"HIGH": 3}).HIGH, 3),
    ],
    ids=repr,
)
def test_scalars_of_other_libraries_are_taken_by_what_they_offer(value: object, expected: float) -> None:
    assert metrics({"x": value}) == {"x": expected}


class Tensor:
    """As a tensor of a library that is not installed."""

    def __init__(self, item: object, shape: tuple[int, ...] = ()) -> None:
        self._item, self.shape = item, shape

    def item(self) -> object:
        if isinstance(self._item, Exception):
            raise self._item
        return self._item


def test_a_tensor_is_asked_for_its_item() -> None:
    assert metrics({"x": Tensor(0.5)}) == {"x": 0.5}


@pytest.mark.parametrize("text", [StrEnum("Phase", {"WARM": "warm"}).WARM, np.str_("warm")], ids=repr)
def test_text_subclasses_are_logged_by_their_value(text: str) -> None:
    assert json.loads(log({"phase": text}).data[0])["data"] == "warm"


def test_nested_dicts_are_flattened_with_slashes() -> None:
    encoded = log({"train": {"loss": 1.0, "phase": "a", "gpu": OrderedDict(mem=2)}, "lr": 3.0})
    assert metrics({"train": {"loss": 1.0, "gpu": OrderedDict(mem=2)}, "lr": 3.0}) == {
        "train/loss": 1.0,
        "train/gpu/mem": 2,
        "lr": 3.0,
    }
    assert encoded.new == {
        "train/loss": "METRIC",
        "train/phase": "DATA",
        "train/gpu/mem": "METRIC",
        "lr": "METRIC",
    }


def test_only_names_not_seen_before_are_to_be_declared() -> None:
    """R7"""
    assert log({"loss": 1.0, "lr": 2.0}, known=frozenset({"loss"})).new == {"lr": "METRIC"}
    assert log({"loss": 1.0}, known=frozenset({"loss"})).new == {}
    assert log({"loss": math.nan}, known=frozenset({"loss"})).new == {}
    assert (
        declaration({"loss": "METRIC", "phase": "DATA"}) == b'{"declare":{"loss":"METRIC","phase":"DATA"}}\n'
    )


def test_encoding_does_not_change_what_is_known() -> None:
    known: set[str] = set()
    encode({"loss": 1.0}, 0, TIME_MS, known)
    assert known == set()


def test_known_and_new_names_give_the_same_line() -> None:
    data = {"a": 0.1, "b/c": -7, "d": 1e-9, "e": 2**63}
    assert log(data).metrics == log(data, known=frozenset(data)).metrics


@pytest.mark.parametrize(
    ("value", "type_name", "advice"),
    [
        (None, "NoneType", "leave the key out"),
        ([1.0], "list", "mean"),
        ((1, 2), "tuple", "mean"),
        (1j, "complex", ".real"),
        (np.complex64(1j), "complex64", "only numbers"),
        (np.zeros((2, 3)), "ndarray", "shape (2, 3)"),
        (np.zeros(0), "ndarray", "shape (0,)"),
        (
            Tensor(RuntimeError("device-side assert\nlong trace")),
            "Tensor",
            "RuntimeError: device-side assert",
        ),
        (Tensor(None), "Tensor", "only numbers"),
        (np.datetime64("2026-01-01"), "datetime64", "only numbers"),
        (b"bytes", "bytes", "str(value)"),
        (object(), "object", "float(value)"),
        (Tensor, "type", "only numbers"),
        (10**400, "int", "logarithm"),
    ],
    ids=kind,
)
def test_a_value_that_cannot_be_logged_is_left_out_with_advice(
    value: object, type_name: str, advice: str
) -> None:
    encoded = log({"loss": 0.5, "bad": value, "phase": "warm"})
    assert json.loads(encoded.metrics or b"")["data"] == {"loss": 0.5}
    assert len(encoded.data) == 1
    (rejection,) = encoded.rejections
    assert (rejection.name, rejection.type_name) == ("bad", type_name)
    assert advice in rejection.advice
    assert "\n" not in rejection.advice
    assert "bad" not in encoded.new


def test_strict_raises_where_a_value_would_be_left_out() -> None:
    with pytest.raises(InvalidRecordError, match=r"'train/bad' \(NoneType\): there is no value; leave"):
        log({"train": {"bad": None}}, strict=True)
    assert log({"loss": 1.0}, strict=True).metrics


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "was given None; pass a dict"),
        ([("loss", 1.0)], "a value of type list"),
        (0.5, "pass a dict of names and values"),
        ({1: 0.5}, "the key 1; names are texts"),
        ({"train": {b"x": 0.5}}, "type bytes under 'train/'"),
        ({10**5000: 1.0}, "an integer of 16610 bits"),
    ],
    ids=kind,
)
def test_a_wrong_record_is_an_error_at_once(data: object, message: str) -> None:
    with pytest.raises(InvalidRecordError, match=re.escape(message)):
        log(data)


@pytest.mark.parametrize("name", ["", " \t\u00a0"])
def test_a_blank_name_is_left_out_and_its_neighbours_are_logged(name: str) -> None:
    """The server refuses the whole request for one; a training does not end because of it."""
    encoded = log({"loss": 0.5, name: 1.0, "train": {name: 2.0, "acc": 0.9}})
    assert json.loads(encoded.metrics or b"")["data"] == {"loss": 0.5, "train/acc": 0.9}
    assert [each.advice for each in encoded.rejections] == ["its name is blank; give it one"] * 2
    with pytest.raises(InvalidRecordError, match="name is blank"):
        log({name: 1.0}, strict=True)


class EqualsLoss:
    def __eq__(self, other: object) -> bool:
        return other == "loss"

    def __hash__(self) -> int:
        return hash("loss")


def test_a_key_that_only_equals_a_known_name_is_refused() -> None:
    with pytest.raises(InvalidRecordError, match="EqualsLoss"):
        log({EqualsLoss(): 0.5}, known=frozenset({"loss"}))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (-1, "step is -1; steps go from 0"),
        (MAX_STEP + 1, "steps go from 0 to 9223372036854775806"),
        (10**5000, "an integer of 16610 bits"),
        (3.5, "step is 3.5; pass a whole number"),
        (math.nan, "step is nan; pass a whole number"),
        (True, "step is True"),
        (np.True_, "pass a whole number"),
        ("3", "step is '3'"),
        (None, "step is None"),
        ([3], "type list"),
        (np.array([1, 2]), "shape (2,)"),
    ],
    ids=kind,
)
def test_a_wrong_step_is_an_error_at_once(step: object, message: str) -> None:
    with pytest.raises(InvalidRecordError, match=re.escape(message)):
        log({"loss": 0.5}, step=step)


@pytest.mark.parametrize(
    "step",
    [7, np.int32(7), np.uint64(7), np.array(7), Tensor(7), 7.0, np.float32(7.0)],
    ids=lambda step: type(step).__name__,
)
def test_any_integer_is_a_step(step: object) -> None:
    assert json.loads(log({"loss": 0.5}, step=step).metrics or b"")["step"] == 7


@pytest.mark.parametrize(
    "timestamp", [0, 0.0, 1.001, 1_760_000_000, 1_760_000_000.123, np.float64(1.5), Decimal("2.5")]
)
def test_timestamps_are_seconds(timestamp: float) -> None:
    assert epoch_ms(timestamp) == round(float(timestamp) * 1000)
    assert type(epoch_ms(timestamp)) is int


@pytest.mark.parametrize("timestamp", [-1, math.nan, math.inf, -math.inf, True, "2026-01-01", None, [1], 1j])
def test_a_wrong_timestamp_is_an_error(timestamp: object) -> None:
    with pytest.raises(InvalidRecordError, match=r"timestamp is .*; pass"):
        epoch_ms(timestamp)


@pytest.mark.parametrize("timestamp", [1_760_000_000_000, 1.76e12, 10**18, 10**5000], ids=kind)
def test_milliseconds_are_refused_with_the_way_out(timestamp: float) -> None:
    with pytest.raises(InvalidRecordError, match=r"milliseconds.*timestamp / 1000"):
        epoch_ms(timestamp)


def test_nul_and_lone_surrogates_are_replaced_in_names_and_texts() -> None:
    encoded = log({"a\0b": 1.0, "c\ud800": 2.0, "pair \ud83d\ude00": 3.0, "text": "x\0y\udfff"})
    assert json.loads(encoded.metrics or b"")["data"] == {"a\ufffdb": 1.0, "c\ufffd": 2.0, "pair 😀": 3.0}
    assert json.loads(encoded.data[0])["data"] == "x\ufffdy\ufffd"
    assert set(encoded.new) == {"a\ufffdb", "c\ufffd", "pair 😀", "text"}


def test_two_spellings_of_one_name_keep_the_last_value_and_say_so() -> None:
    encoded = log({"a/b": 1.0, "a": {"b": 2.0}})
    assert json.loads(encoded.metrics or b"")["data"] == {"a/b": 2.0}
    assert [rejection.name for rejection in encoded.rejections] == ["a/b"]


def test_a_dict_that_contains_itself_is_left_out() -> None:
    data: dict[str, object] = {"loss": 1.0}
    data["self"] = {"again": data}
    encoded = log(data)
    assert json.loads(encoded.metrics or b"")["data"] == {"loss": 1.0}
    assert [(found.name, found.advice[:15]) for found in encoded.rejections] == [
        ("self/again", "it contains its")
    ]


def test_depth_is_bounded() -> None:
    def nested(depth: int) -> dict[str, object]:
        data: dict[str, object] = {"x": 1.0}
        for _ in range(depth):
            data = {"d": data}
        return data

    assert log(nested(MAX_DEPTH)).rejections == ()
    (rejection,) = log({"loss": 1.0, **nested(MAX_DEPTH + 1)}).rejections
    assert f"deeper than {MAX_DEPTH}" in rejection.advice


def test_shared_dicts_cannot_multiply_without_bound() -> None:
    data: dict[str, object] = {"x": 1.0}
    for _ in range(30):
        data = {"a": data, "b": data}
    rejections = log(data).rejections
    assert any(f"more than {MAX_DICTS} dicts" in rejection.advice for rejection in rejections)


def test_a_very_long_text_is_one_line() -> None:
    (line,) = log({"text": "é\n" * 1_000_000}).data
    assert line.index(b"\n") == len(line) - 1


any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=8)  # surrogates too
any_number = st.floats() | st.integers() | st.integers(-(2**70), 2**70) | st.booleans() | st.decimals()
any_leaf = any_number | any_text | st.none() | st.binary(max_size=3) | st.complex_numbers() | st.just([1])
any_data = st.recursive(
    st.dictionaries(any_text, any_leaf, max_size=5),
    lambda inner: st.dictionaries(any_text | st.integers(), inner | any_leaf, max_size=4),
)


def parse(line: bytes) -> dict[str, object]:
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    found = json.loads(line, object_pairs_hook=_no_repeats)
    assert isinstance(found, dict)
    return found


def _no_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def check_metrics(line: bytes, step: object) -> None:
    fields = parse(line)
    assert fields.keys() == {"time", "step", "data"}
    assert (fields["time"], fields["step"]) == (TIME_MS, step)
    values = fields["data"]
    assert isinstance(values, dict)
    assert values
    for name, value in values.items():
        assert name.strip()
        assert type(value) is float or (type(value) is int and -(2**63) <= value < 2**64)


def check_data(line: bytes, step: object) -> None:
    fields = parse(line)
    assert fields.keys() == {"time", "data", "dataType", "logName", "step"}
    assert (fields["time"], fields["step"], fields["dataType"]) == (TIME_MS, step, "string-series")
    assert isinstance(fields["data"], str)
    assert str(fields["logName"]).strip()


@given(any_data | any_leaf, st.integers(-2, 2**65) | any_leaf)
def test_anything_gives_valid_lines_or_a_typed_error(data: object, step: object) -> None:
    try:
        encoded = log(data, step=step)
    except InvalidRecordError:
        return
    if encoded.metrics is not None:
        check_metrics(encoded.metrics, step)
    for line in encoded.data:
        check_data(line, step)
    if encoded.new:
        parse(declaration(encoded.new))


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats() | st.integers(-(2**65), 2**65)))
def test_known_names_give_the_same_values_as_new_ones(data: dict[str, float]) -> None:
    assert log(data, known=frozenset("abcdef")).metrics == log(data).metrics
