"""What `log()` does around a record: steps, times, and arguments that have no effect."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from pluto_dist.client.lease_files import LeaseFiles, Wall
from pluto_dist.client.notices import WarnOnce
from pluto_dist.client.record import PointLog
from pluto_dist.errors import InvalidRecordError
from pluto_dist.spool.reader import records


@pytest.fixture
def files(tmp_path: Path) -> LeaseFiles:
    return LeaseFiles(tmp_path, segment_bytes=1 << 20, quota_bytes=None)


def points_of(files: LeaseFiles, *, strict: bool = False) -> PointLog:
    return PointLog(files, Wall(), WarnOnce(), strict=strict)


def written(files: LeaseFiles) -> list[dict[str, object]]:
    return [json.loads(line) for line in records(str(files.folder), "metrics", 1)]


@pytest.mark.parametrize("step", [7, np.int64(7), np.uint8(7), 7.0], ids=lambda step: type(step).__name__)
def test_automatic_steps_go_on_behind_any_kind_of_step(files: LeaseFiles, step: int) -> None:
    points = points_of(files)
    points.log({"loss": 1.0}, step, None)
    points.log({"loss": 1.0}, None, None)
    assert (points.highest, type(points.highest)) == (8, int), "it travels in the last entry of the lease"


@pytest.mark.parametrize("timestamp", [-1, 0.1 * 1e13, float("nan"), "2026-01-01", True])
def test_a_time_that_cannot_be_meant_is_now_with_one_warning(
    files: LeaseFiles, timestamp: object, caplog: pytest.LogCaptureFixture
) -> None:
    """As with the official client: it does not end a training."""
    points = points_of(files)
    before = Wall().ms()
    for _ in range(3):
        points.log({"loss": 1.0}, None, timestamp)  # type: ignore[arg-type] # that is the test
    times = [record["time"] for record in written(files) if "time" in record]
    assert len(times) == 3
    assert all(before <= time <= Wall().ms() for time in times)  # type: ignore[operator] # numbers
    assert len([each for each in caplog.records if "time of the call" in each.message]) == 1
    with pytest.raises(InvalidRecordError, match="timestamp is"):
        points_of(files, strict=True).log({"loss": 1.0}, None, timestamp)  # type: ignore[arg-type] # as above


@pytest.mark.parametrize(
    ("commit", "said"), [(False, "pass the same step="), (True, ""), (1_764_000_000.5, "as timestamp=")]
)
def test_commit_has_no_effect_and_what_may_have_been_meant_is_told_once(
    files: LeaseFiles, commit: object, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    points = points_of(files)
    points.check_commit(commit)
    points.check_commit(commit)
    assert [said in each.message for each in caplog.records] == ([True] if said else [])
