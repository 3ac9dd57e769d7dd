"""`log()` takes anything: what it accepts is right on the disk, what it refuses it names."""

from __future__ import annotations

import json
import math
import tempfile
import threading
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from pluto_dist.client.lease_files import LeaseFiles, Wall
from pluto_dist.client.notices import WarnOnce
from pluto_dist.client.record import PointLog, encode, epoch_ms
from pluto_dist.core.values.ids import MAX_STEP
from pluto_dist.errors import InvalidRecordError
from pluto_dist.spool.reader import list_streams, read_cut
from tests.fuzz.budget import fuzz
from tests.fuzz.hostile import keys, records, scalars, values
from tests.fuzz.values import integers

TIME_MS = 1_700_000_000_000
steps = integers | scalars


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Everything that stands in a lease's folder, read as strict JSON with the tokens the server takes."""
    found = []
    for stream, segments in list_streams(str(folder)).items():
        for number in sorted(segments):
            cut = read_cut(str(folder), stream, number, 0)
            assert cut.end == segments[number]
            assert not cut.damaged + cut.bad_declarations
            found += [json.loads(line) for line in cut.lines]
    return found


def numbers_in(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Values by name."""
    found: dict[str, Any] = {}
    for line in lines:
        found |= {line["logName"]: line["data"]} if "logName" in line else line["data"]
    return found


@fuzz(100, data=records | values, step=steps, strict=st.booleans())
def test_anything_gives_lines_or_a_typed_error(data: Any, step: Any, strict: bool) -> None:
    """G4: nothing but `InvalidRecordError` comes out of `log()`; lines are JSON of the server's form."""
    try:
        encoded = encode(data, step, TIME_MS, set(), strict=strict)
    except InvalidRecordError:
        return
    lines = [line for line in (encoded.metrics, *encoded.data) if line is not None]
    for line in lines:
        assert line.count(b"\n") == 1
        found = json.loads(line)
        assert found["time"] == TIME_MS
        assert 0 <= found["step"] <= MAX_STEP
        for name, value in (found["data"] if encoded.metrics == line else {}).items():
            assert name.strip()
            assert type(value) in (int, float)
    for rejection in encoded.rejections:
        assert len(str(rejection)) < 2000
    assert set(numbers_in([json.loads(line) for line in lines])) == set(encoded.new)


@fuzz(48, name=keys, value=values, before=st.floats(), step=st.integers(0, 9))
def test_neighbours_of_whatever_is_refused_are_logged(
    name: Any, value: Any, before: float, step: int
) -> None:
    """G6: one bad value costs itself and nothing else; what stands on the disk is what was given."""
    with tempfile.TemporaryDirectory() as spool:
        files = LeaseFiles(Path(spool), segment_bytes=1 << 20, quota_bytes=1 << 30)
        points = PointLog(files, Wall(), WarnOnce(), strict=False)
        points.log({"before": before}, step, None)
        try:
            points.log({"first": 1.5, name: value, "last": 2}, step, None)
        except InvalidRecordError:
            assert not isinstance(name, str) or not str.strip(str.__str__(name))
        else:
            found = numbers_in(lines_of(files.folder))
            assert name in ("first", "last") or (found["first"], found["last"]) == (1.5, 2)
        points.log({"after": "text"}, step, None)
        found = numbers_in(lines_of(files.folder))
        files.close()
        files.release()
    assert found["after"] == "text"
    assert found["before"] == before or (math.isnan(found["before"]) and math.isnan(before))


@fuzz(40, timestamp=scalars | values)
def test_any_timestamp_is_milliseconds_or_a_typed_error(timestamp: Any) -> None:
    """Seconds since 1970, or `InvalidRecordError`."""
    try:
        assert 0 <= epoch_ms(timestamp) < 2**63
    except InvalidRecordError as error:
        assert len(error.message) < 2000  # noqa: PT017 # any of them


def test_a_dict_that_changes_while_it_is_logged_is_logged_or_refused() -> None:
    """G4: another thread adds and removes keys all the while; lines are whole, errors are ours."""
    shared: dict[str, Any] = {"loss": 1.0}
    over = threading.Event()

    def change() -> None:
        number = 0
        while not over.is_set():
            number += 1
            shared[f"k{number % 50}"] = {"inner": number} if number % 3 else "text"
            shared.pop(f"k{(number * 7) % 50}", None)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for number in range(1000):
            try:
                encoded = encode(shared, number, TIME_MS, {"loss"})
            except InvalidRecordError:
                continue
            assert encoded.metrics is not None
            assert json.loads(encoded.metrics)["data"]["loss"] == 1.0
    finally:
        over.set()
        thread.join()
