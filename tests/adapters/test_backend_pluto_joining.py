"""Joining a Run that another node owns: found, and left as it is (R12, G8)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from pluto_dist.core.values.backend import (
    BackendRun,
    OpenRequest,
    RunOpened,
    Status,
    StatusReport,
    Unavailable,
)
from tests.adapters.backend_contract import opened
from tests.adapters.test_backend_pluto_server import ServerRig
from tests.pluto_server.clock import Clock
from tests.pluto_server.server import PlutoServer
from tests.pluto_server.talk import Client


@pytest.fixture
def rig() -> Iterator[ServerRig]:
    with PlutoServer(Clock(time.time)) as server:
        rig = ServerRig(server)
        yield rig
        rig.backend.close()


def ask(rig: ServerRig, want: str, **fields: Any) -> OpenRequest:
    """What a coordinator asks for."""
    usual = {"key": want, "target": rig.target, "project": "demo", "name": "n", "external_id": "x"}
    return OpenRequest(**{**usual, "want": want, **fields})  # type: ignore[arg-type] # by its name


def made(rig: ServerRig, status: Status | None = None, launch: str = "l1") -> RunOpened:
    """The owner's node makes the Run, and perhaps ends it a day ago."""
    run = opened(rig.backend.open(ask(rig, "create", tags=("a",), config=b'{"lr":1}', launch=launch)))
    if status is not None:
        handle = BackendRun("create", rig.target, run.id, "demo")
        ended_ms = rig.operator.now_ms() - 86_400_000
        rig.backend.report(handle, StatusReport(status, b'{"why":"it was so"}', ended_ms))
    return run


def test_a_run_that_is_not_there_may_come(rig: ServerRig) -> None:
    """R12: nothing is made, so that name, tags and config are those of the owner's node."""
    for fields in ({}, {"external_id": None, "id": 77}, {"external_id": None, "display_id": "DEM-9"}):
        result = rig.backend.open(ask(rig, "join", **fields))
        assert isinstance(result, Unavailable)
        assert result.absent
        assert "its owner" in result.reason
    assert rig.run_count() == 0


def test_an_outage_is_no_absence(rig: ServerRig) -> None:
    rig.fault("status", service="api", status=503)
    result = rig.backend.open(ask(rig, "join"))
    assert isinstance(result, Unavailable)
    assert not result.absent


@pytest.mark.parametrize("by", ["external_id", "id", "display_id", "external_id of another client"])
@pytest.mark.parametrize("status", [None, "COMPLETED", "FAILED", "TERMINATED"])
def test_joining_only_reads(rig: ServerRig, by: str, status: Status | None) -> None:
    """G8: row and history are what they were, `updatedAt` included."""
    run_id = made(rig, status).id if "another" not in by else made_elsewhere(rig, status)
    before, history = rig.operator.run(run_id), rig.operator.history(run_id)
    ids = {"id": {"external_id": None, "id": run_id}}
    ids["display_id"] = {"external_id": None, "display_id": before["displayId"]}
    joined = opened(rig.backend.open(ask(rig, "join", **ids.get(by, {}))))
    assert (rig.operator.run(run_id), rig.operator.history(run_id)) == (before, history)
    assert (joined.id, joined.resumed, joined.was_status) == (run_id, True, status or "RUNNING")
    assert (joined.tags, joined.config) == (("a",), b'{"lr":1}')
    assert rig.operator.check() == []


def made_elsewhere(rig: ServerRig, status: Status | None) -> int:
    sender = Client(rig.server.urls, "another client")
    given = {"runName": "n", "projectName": "demo", "externalId": "x", "tags": ["a"], "config": '{"lr":1}'}
    run_id: int = sender.api("create", **given).json["runId"]
    if status is not None:
        sender.api("status/update", runId=run_id, status=status)
    return run_id


def test_a_rank_of_the_launch_that_ended_the_run_joins_it_as_it_is(rig: ServerRig) -> None:
    """R12: its node was cut off while the job ran, and delivers late."""
    run = made(rig, "COMPLETED")
    assert opened(rig.backend.open(ask(rig, "join", launch="l1"))).was_status == "COMPLETED"
    assert rig.status(run.id) == "COMPLETED"


def test_a_rank_of_the_next_launch_waits_for_its_owners_node(rig: ServerRig) -> None:
    """R12: the owner's node is about to take the Run up; until then the old end says nothing."""
    run = made(rig, "FAILED")
    early = rig.backend.open(ask(rig, "join", launch="l2"))
    assert isinstance(early, Unavailable)
    assert early.absent
    assert rig.status(run.id) == "FAILED"
    owner = rig.another()
    opened(owner.open(ask(rig, "either", key="second", launch="l2")))
    owner.close()
    late = opened(rig.backend.open(ask(rig, "join", launch="l2")))
    assert (late.was_status, rig.status(run.id)) == ("RUNNING", "RUNNING")
    handle = BackendRun("second", rig.target, run.id, "demo")
    rig.backend.report(handle, StatusReport("COMPLETED", None, 0))
    assert opened(rig.backend.open(ask(rig, "join", launch="l2"))).was_status == "COMPLETED"
    assert rig.status(run.id) == "COMPLETED"


def test_an_outage_of_what_writes_is_no_matter(rig: ServerRig) -> None:
    """G1, G8: with 503 on `status/update` a COMPLETED Run used to stay RUNNING, and the monitor failed it."""
    run = made(rig, "COMPLETED")
    rig.operator.add_fault(kind="status", service="api", route="/api/runs/status/update", status=503)
    assert opened(rig.backend.open(ask(rig, "join"))).was_status == "COMPLETED"
    rig.operator.advance(3600)
    assert rig.operator.monitor_cycle() == []
    assert rig.status(run.id) == "COMPLETED"
