"""What people are told while a Run goes on: once, by its owner."""

from __future__ import annotations

from typing import Any

import pytest

from pluto_dist.client.notices import Notices
from pluto_dist.core.values.messages import RunView, View

RUN = RunView(
    key="k", external_id="x", project="p", name="x", mode="local", status="RUNNING", phase="running"
)


def view(**fields: Any) -> View:
    """The view of an active owner."""
    given = {"generation": 1, "lease_id": "a", "request": 0, "state": "active", "folded": 1, "role": "owner"}
    return View(**{**given, "run": RUN, **fields})


def test_each_set_of_stuck_ranks_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Views repeat themselves; another rank that hangs is news."""
    tidings = Notices("warn")
    for who in ("stuck: rank1", "stuck: rank1", "", "stuck: rank1", "stuck: rank1, rank2"):
        tidings.take(view(stuck=who))
    assert [record.args for record in caplog.records] == [("x", "stuck: rank1"), ("x", "stuck: rank1, rank2")]
    assert "Run x: stuck: rank1. Nothing was ended" in caplog.text


@pytest.mark.parametrize("role", ["worker", "side"])
def test_only_the_owner_tells(caplog: pytest.LogCaptureFixture, role: str) -> None:
    """One line for a job, not one for each rank."""
    Notices("warn").take(view(stuck="stuck: rank1", role=role))
    assert not caplog.records
