"""What a batch holds, and its lines under final names, against the plain reading of each line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pluto_dist.core.values.events import PointSummary
from pluto_dist.spool.batches import contents, renamed

NAMES = st.sampled_from(["loss", "lr", "acc", "grad"])
VALUES = st.floats(-9, 9) | st.just(float("nan")) | st.just(float("inf"))
RECORDS = st.lists(
    st.tuples(st.integers(0, 5), st.dictionaries(NAMES, st.floats(-9, 9), min_size=1)), max_size=30
)


def line(step: int, data: dict[str, float]) -> bytes:
    """As `log()` writes it."""
    return json.dumps({"time": 1, "step": step, "data": data}, separators=(",", ":")).encode() + b"\n"


@given(RECORDS)
def test_of_each_name_the_value_of_the_highest_step_counts_and_of_equals_the_last(
    records: list[tuple[int, dict[str, float]]],
) -> None:
    """The same as looking at every value of every line in its order."""
    expected: dict[str, PointSummary] = {}
    for step, data in records:
        for name, value in data.items():
            seen = expected.get(name, PointSummary(0.0, -1, 0))
            last = (value, step) if step >= seen.step else (seen.last, seen.step)
            expected[name] = PointSummary(*last, seen.count + 1)
    found = contents("metrics", [line(step, data) for step, data in records])
    assert found.summary == expected
    assert found.names == dict.fromkeys(expected, "METRIC")
    assert found.max_step == max((step for step, _ in records), default=-1)


def test_lines_with_values_that_are_no_json_are_summed_up_too() -> None:
    """NaN arrives as such; a line that nobody can read is left to the backend."""
    lines = [b'{"time":1,"step":1,"data":{"a":NaN}}\n', b'{"time":1,"step":2,"data":{"a":2,"b":1}}\n', b"?\n"]
    assert contents("metrics", lines).summary == {"a": PointSummary(2.0, 2, 2), "b": PointSummary(1.0, 2, 1)}


def test_renamed_lines_keep_their_values_as_they_were_written() -> None:
    """R7: digits stay, also those that a double has not; a series without a name is left out."""
    known = {"a": "a/rank1", "b": None}
    lines = [b'{"time":7,"step":3,"data":{"a":0.10000000000000000001,"b":1,"c":-0.0}}\n']
    assert renamed("metrics", lines, known) == (
        b'{"time":7,"step":3,"data":{"a/rank1":0.10000000000000000001,"c":-0.0}}\n',
    )
    assert renamed("metrics", [line(1, {"b": 1.0})], known) == ()


def test_lines_that_msgspec_does_not_read_are_renamed_too() -> None:
    """R7, for NaN and for fields that are not ours: refusing those is the backend's part."""
    known: dict[str, str | None] = {"a": "a/rank1"}
    odd = [b'{"time":1,"step":1,"data":{"a":NaN}}\n', b'{"time":1,"step":1,"data":{"a":1},"x":2}\n', b"?\n"]
    assert renamed("metrics", odd, known) == (
        b'{"time":1,"step":1,"data":{"a/rank1":NaN}}\n',
        b'{"time":1,"step":1,"data":{"a/rank1":1},"x":2}\n',
        b"?\n",
    )


@given(
    st.lists(st.dictionaries(st.text(min_size=1, max_size=4), VALUES, min_size=1, max_size=4), max_size=20),
    st.sampled_from(["/rank1", '/"%b\\', "/é"]),
)
def test_one_suffix_for_all_names_is_put_in_without_reading_the_lines(
    records: list[dict[str, float]], suffix: str
) -> None:
    """R7: what comes out says the same as when each line is read, whatever is in names and values."""
    lines = [line(step, data) for step, data in enumerate(records)]
    known: dict[str, str | None] = {name: name + suffix for data in records for name in data}
    found = renamed("metrics", lines, known, contents("metrics", lines))
    wanted = [{f"{name}{suffix}": repr(value) for name, value in data.items()} for data in records]
    told = [json.loads(each)["data"] for each in found]
    assert [{name: repr(value) for name, value in data.items()} for data in told] == wanted


@pytest.mark.parametrize(
    "odd",
    [
        b'{"time":1,"step":1,"data":{"a" : 1.0,"b":2.0}}\n',
        b'{"data":{"a":1.0,"b":2.0},"time":1,"step":1}\n',
        b'{"time":1,"step":1,"data":{"a":1.0,"b":2.0,"a":1.0}}\n',
    ],
)
def test_a_line_that_is_written_in_another_way_gets_its_suffix_too(odd: bytes) -> None:
    """R7: spaces, another order of the fields, a name twice."""
    known: dict[str, str | None] = {"a": "a/rank1", "b": "b/rank1"}
    lines = [line(0, {"a": 1.0, "b": 2.0}), odd]
    found = renamed("metrics", lines, known, contents("metrics", lines))
    assert [json.loads(each)["data"] for each in found] == [{"a/rank1": 1.0, "b/rank1": 2.0}] * 2


def test_names_of_files_and_values_have_the_type_with_which_they_are_registered() -> None:
    """R7; a line that is none is left to the backend."""
    file = {"path": "0" * 32, "fileName": "f", "fileType": "pt", "logName": "m", "step": 3, "time": 9}
    lines = [json.dumps(each).encode() for each in (file | {"logType": "IMAGE"}, file | {"logType": "?"})]
    found = contents("files", lines)
    assert (found.names, found.max_step, found.summary) == ({"m": "IMAGE"}, 3, {"m": PointSummary("f", 3, 1)})
    values = [
        {"time": 1, "data": "{}", "dataType": kind, "logName": kind, "step": 1}
        for kind in ("histogram", "table", "string-series")
    ]
    assert contents("data", [json.dumps(each).encode() for each in values]).names == {
        "histogram": "HISTOGRAM",
        "table": "TABLE",
        "string-series": "DATA",
    }
    (renamed_line,) = renamed("files", [json.dumps(file).encode()], {"m": "m/rank1"})
    assert json.loads(renamed_line) == file | {"logName": "m/rank1"}
