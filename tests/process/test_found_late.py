"""Trainer and coordinator are killed together and found later: when it ended and when it was found (R10)."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.process.harness import wait_until
from tests.process.served import Served

HOUR_MS = 3_600_000


def age(path: Path, ago_ms: int) -> int:
    """Makes a file older; when it was touched now, epoch milliseconds."""
    at_ms = time.time_ns() // 1_000_000 - ago_ms
    os.utime(path, ns=(at_ms * 1_000_000, at_ms * 1_000_000))
    return at_ms


@pytest.mark.parametrize(("watched", "written"), [(1, 3), (3, 1)])
def test_an_end_that_is_found_late_is_dated_by_the_last_sign_of_life(
    served: Served, watched: int, written: int
) -> None:
    """G7: whoever looks at the page asks when the job died, not when somebody noticed."""
    owner = served.start('run = pluto.init(run_id="mine"); run.log({"a": 1.0}); tell("ready"); hear()')
    owner.expect("ready")
    mark = served.home / "run" / "coordinator.alive"
    first = wait_until(lambda: mark.exists() and mark.stat().st_mtime_ns, "the coordinator's mark")
    wait_until(lambda: mark.stat().st_mtime_ns > first, "the coordinator's mark again")
    wait_until(lambda: served.remote("mine")["status"] == "RUNNING", "the Run is open")
    owner.kill()
    served.kill_coordinator()
    watched_ms = age(mark, watched * HOUR_MS)
    written_ms = max(
        age(path, written * HOUR_MS) for path in (served.home / "spool").rglob("*") if path.is_file()
    )
    started_ms = time.time() * 1000
    served.cli("coordinator", "start")
    document = served.ended("mine")
    assert document["status"] == "FAILED"
    failure = document["verdict"]["first_failure"]
    assert document["ended_at"] == failure["at"]
    assert failure["at"] == max(watched_ms, written_ms)
    assert started_ms <= failure["found_at"] <= document["found_at"]
    assert served.ended_remotely("mine")["status"] == "FAILED"
    assert "found at" in served.cli("show", "mine")
