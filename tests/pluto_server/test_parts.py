"""The small parts by themselves: clock, JSON, schemas, series, sqids."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from . import sqids
from .clock import Clock, iso
from .ingest_lines import read_metrics
from .jsontext import deep_merge, dumps, is_storable, jsonb, parse
from .metrics import MetricStore, Series
from .zod import array, enum, nullish, number, obj, optional, string


def test_clock_moves_forward_only() -> None:
    """Its source may stand still."""
    clock = Clock(lambda: 1_600_000_000.5)
    assert clock.now_ms() == 1_600_000_000_500
    assert clock.advance(0.25) == 1_600_000_000_750
    with pytest.raises(ValueError, match="cannot go back by 1 s"):
        clock.advance(-1)


def test_times_are_printed_with_milliseconds() -> None:
    """In UTC, with Z; no time is null."""
    assert iso(1_600_000_200_007) == "2020-09-13T12:30:00.007Z"
    assert iso(None) is None


@given(st.integers(min_value=0, max_value=2**63))
def test_sqids_decode_to_what_was_encoded(run_id: int) -> None:
    """Any run id."""
    assert sqids.decode(sqids.encode(run_id)) == run_id


def test_sqids_have_five_letters_at_least() -> None:
    """And what is no sqid decodes to nothing."""
    assert len(sqids.encode(0)) == 5
    assert sqids.decode("") is sqids.decode("a/b") is None


def test_json_is_strict_and_its_numbers_are_javascript_numbers() -> None:
    """1.0 is 1; NaN is no JSON."""
    assert dumps(parse('{"a": 1.0, "b": 1.5, "c": 1e2}')) == '{"a":1,"b":1.5,"c":100}'
    for text in ("NaN", "[Infinity]", "-Infinity"):
        with pytest.raises(ValueError, match="is not JSON"):
            parse(text)


def test_merge_is_deep_over_objects_only() -> None:
    """Lists and scalars replace, null overwrites."""
    base = {"a": 1, "n": {"x": 1, "l": [1, 2]}}
    assert deep_merge(base, {"a": None, "n": {"y": 2, "l": [3]}}) == {
        "a": None,
        "n": {"x": 1, "y": 2, "l": [3]},
    }
    assert base == {"a": 1, "n": {"x": 1, "l": [1, 2]}}


def test_jsonb_orders_keys_by_length_then_bytes() -> None:
    """At every depth."""
    assert dumps(jsonb({"opt": {"name": 1, "b": 2}, "lr": [{"z": 1, "a": 2}]})) == (
        '{"lr":[{"a":2,"z":1}],"opt":{"b":2,"name":1}}'
    )


def test_nul_is_found_in_keys_and_values() -> None:
    """At every depth."""
    assert not is_storable({"a": ["x\0"]})
    assert not is_storable({"\0": 1})
    assert not is_storable(["\ud800"])
    assert is_storable({"a": ["x", 1, None, "\U0001f600"]})


def test_schema_issues_name_the_path() -> None:
    """All bad fields at once; the rule over fields only when all are well typed."""
    check = obj(
        {"a": string(), "n": optional(number(whole=True, at_least=0)), "l": nullish(array(enum("X", "Y")))},
        lambda body: [{"code": "custom"}],
    )
    issues = check({"a": None, "n": -1, "l": ["X", "Z"]}, [])
    assert [(issue["code"], issue["path"]) for issue in issues] == [
        ("invalid_type", ["a"]),
        ("too_small", ["n"]),
        ("invalid_enum_value", ["l", 1]),
    ]
    assert check({"a": "", "l": None}, []) == [{"code": "custom"}]
    assert check([], [])[0]["message"] == "Expected object, received array"


class TestSeries:
    """Conflicts, visibility."""

    @pytest.mark.parametrize("steps", [[1, 2, 3], [3, 1, 2], [2, 2, 2]])
    def test_only_another_value_is_a_conflict(self, steps: list[int]) -> None:
        """Rising steps or not; NaN equals NaN."""
        series = Series()
        assert [series.add(step, 1, math.nan) for step in steps] == [None] * 3
        before = [series.add(step, 2, 5.0) for step in sorted(set(steps))]
        assert all(value is not None and math.isnan(value) for value in before)

    def test_writes_stay_hidden_from_their_place_on(self) -> None:
        """Each batch appears at its own time."""
        store, key = MetricStore(), ("o", "p", 1)
        for step, visible_ms in ((0, None), (1, 100), (2, 200)):
            store.add(key, [(5, step, {"m": 1.0})], visible_ms)
        assert [store.largest_step(key, now_ms) for now_ms in (50, 100, 200)] == [0, 1, 2]
        assert store.newest_time(1, 50) == 5
        assert store.newest_time(2, 50) is None


LINE = st.fixed_dictionaries(
    {
        "time": st.integers(0, 2**64 - 1),
        "step": st.integers(0, 2**64 - 1),
        "data": st.dictionaries(st.text(min_size=1).filter(str.strip), st.floats(-1e9, 1e9), min_size=1),
    }
)


@given(st.lists(LINE))
def test_the_quick_reading_of_a_body_agrees_with_the_exact_one(lines: list[dict[str, object]]) -> None:
    """A line that the quick way refuses sends the whole body the exact way; the result is the same."""
    body = "\n".join(map(dumps, lines)).encode()
    quick = read_metrics(body)
    slow = read_metrics(body + b'\n{"time": 1, "step": 1, "data": {"m": "NaN"}}')
    assert slow.items[: len(quick.items)] == quick.items
    assert quick.fault is None or slow.fault is not None
