"""Lines that are decoded in rows come to what each line by itself comes to."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pluto_dist.core.values.events import PointSummary
from pluto_dist.spool import batches
from pluto_dist.spool.batches import renamed

ROW = 300  # more than are decoded at once


def line(step: int, data: dict[str, float]) -> bytes:
    """As `log()` writes it."""
    return json.dumps({"time": 1, "step": step, "data": data}, separators=(",", ":")).encode() + b"\n"


def one_by_one(lines: Sequence[bytes]) -> dict[str, PointSummary]:
    """The plain rule: the newest value is that of the highest step, and of two of one step the later."""
    found: dict[str, PointSummary] = {}
    for each in lines:
        try:
            record = json.loads(each)
        except ValueError:
            continue
        for name, value in record["data"].items():
            before = found.get(name)
            shown = value if math.isfinite(value) else json.dumps(value)
            if before is None or record["step"] >= before.step:
                found[name] = PointSummary(shown, record["step"], 1 + (before.count if before else 0))
            else:
                found[name] = PointSummary(before.last, before.step, before.count + 1)
    return found


def in_order(record: bytes) -> str:
    """A line, whatever the order of its names."""
    return record.decode() if record.startswith(b'{"cut') else json.dumps(json.loads(record), sort_keys=True)


NAMES = (
    ("loss",),
    ("loss", "lr"),
    ("lr", "loss"),
    ("m1", "m2"),
    ("m1", "m12"),
    ('a "quoted" name', "\u00e9"),
)
VALUES = (0.5, -3, 1e300, 2**60, float("nan"), float("inf"))
LINES = st.builds(
    lambda step, names, values: line(step, dict(zip(names, values, strict=False))),
    st.integers(0, 5),
    st.sampled_from(NAMES),
    st.lists(st.sampled_from(VALUES), min_size=2, max_size=2),
)
ROWS = st.builds(lambda count, one: [one] * count, st.integers(1, 20), LINES | st.just(b'{"cut'))


@given(st.lists(ROWS, max_size=12))
def test_rows_come_to_what_single_lines_come_to(rows: list[list[bytes]]) -> None:
    lines = tuple(one for row in rows for one in row)
    found = batches.metrics(lines)
    assert found.summary == one_by_one(lines)
    assert set(found.names) == set(found.summary)


@pytest.mark.parametrize("every", [ROW + 1, 100, 9, 3, 2])
def test_other_names_now_and_then_are_not_lost(every: int) -> None:
    lines = tuple(
        line(step, {"loss": step, "val": 0.5} if step % every == 0 else {"loss": step, "lr": 0.1})
        for step in range(ROW)
    )
    found = batches.metrics(lines)
    assert found.summary == one_by_one(lines)
    assert found.max_step == ROW - 1


def test_a_line_that_lacks_a_name_of_the_row_is_not_taken_for_one_of_it() -> None:
    row = [line(step, {"a": 1.0, "b": 2.0}) for step in range(ROW)]
    lines = (*row, line(ROW, {"a": 1.0}), line(ROW + 1, {"a": 1.0, "b": 2.0, "c": 3.0}))
    found = batches.metrics(lines).summary
    assert {name: point.count for name, point in found.items()} == {"a": ROW + 2, "b": ROW + 1, "c": 1}


@given(st.lists(ROWS, max_size=12))
def test_rows_are_renamed_as_single_lines_are(rows: list[list[bytes]]) -> None:
    """R7."""
    known: dict[str, str | None] = {"loss": "loss/rank1", "lr": "100%/\u00e9", "m1": None, "m2": "m2"}
    lines = tuple(one for row in rows for one in row)
    single = [out for one in lines for out in renamed("metrics", [one], known)]
    assert list(map(in_order, renamed("metrics", lines, known))) == list(map(in_order, single))


def test_renamed_rows_keep_values_as_they_were_written() -> None:
    """R7: digits stay, also those that a double has not."""
    odd = b'{"time":7,"step":3,"data":{"a":0.10000000000000000001,"b":-0.0}}\n'
    found = renamed("metrics", [odd] * ROW, {"a": "a%b/rank1"})
    assert set(found) == {b'{"time":7,"step":3,"data":{"a%b/rank1":0.10000000000000000001,"b":-0.0}}\n'}
    assert len(found) == ROW
