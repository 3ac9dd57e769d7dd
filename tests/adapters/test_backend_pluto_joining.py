"""Joining a Run that another node owns: found, and left as it is (R12, G8)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from pluto_dist.core.requests import BackendRun, Opened, OpenRequest, Status, StatusReport, Unavailable
from tests.adapters.backend_contract import opened
from tests.adapters.test_backend_pluto_server import ServerRig
from tests.pluto_server.clock import Clock
from tests.pluto_server.server import PlutoServer

SAME = ("status", "statusUpdated", "statusMetadata", "config", "tags", "name")


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


def made(rig: ServerRig, status: Status | None = None, launch: str = "l1") -> Opened:
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


@pytest.mark.parametrize("by", ["external_id", "id", "display_id"])
@pytest.mark.parametrize("status", [None, "COMPLETED", "FAILED", "TERMINATED"])
def test_joining_leaves_a_run_as_it_is(rig: ServerRig, by: str, status: Status | None) -> None:
    """G8, R8: what looking for an external id has reopened is put back, with its time and its reason."""
    run = made(rig, status)
    before = rig.operator.run(run.id)
    ids = {"external_id": {}, "id": {"external_id": None, "id": run.id}}
    named = ids.get(by, {"external_id": None, "display_id": run.display_id})
    joined = opened(rig.backend.open(ask(rig, "join", **named)))
    after = rig.operator.run(run.id)
    assert {name: after[name] for name in SAME} == {name: before[name] for name in SAME}
    assert (joined.id, joined.resumed, joined.was_status) == (run.id, True, status or "RUNNING")
    assert (joined.tags, joined.config) == (("a",), b'{"lr":1}')


def test_a_rank_of_the_launch_that_ended_the_run_puts_the_end_back(rig: ServerRig) -> None:
    """R8: its node was cut off while the job ran, and delivers late."""
    run = made(rig, "COMPLETED")
    rig.backend.open(ask(rig, "join", launch="l1"))
    assert rig.status(run.id) == "COMPLETED"


def test_a_rank_of_the_next_launch_leaves_it_to_its_owner(rig: ServerRig) -> None:
    """R8, R12: the owner's node is about to take the Run up, or has; it must not be ended under it."""
    run = made(rig, "FAILED")
    joined = opened(rig.backend.open(ask(rig, "join", launch="l2")))
    assert joined.was_status == "RUNNING"
    owner = rig.another()
    opened(owner.open(ask(rig, "either", key="second", launch="l2")))
    owner.close()
    late = opened(rig.backend.open(ask(rig, "join", launch="l2")))
    assert (late.was_status, rig.status(run.id)) == ("RUNNING", "RUNNING")
    handle = BackendRun("second", rig.target, run.id, "demo")
    rig.backend.report(handle, StatusReport("COMPLETED", None, 0))
    assert opened(rig.backend.open(ask(rig, "join", launch="l2"))).was_status == "COMPLETED"
    assert rig.status(run.id) == "COMPLETED"


def test_an_end_that_cannot_be_put_back_is_tried_again(rig: ServerRig) -> None:
    """R8: not joined until the Run is as it was."""
    run = made(rig, "COMPLETED")
    rig.operator.add_fault(kind="status", service="api", route="/api/runs/status/update", status=500, count=3)
    result = rig.backend.open(ask(rig, "join"))
    assert isinstance(result, Unavailable)
    assert "COMPLETED" in result.reason
    rig.operator.remove_fault()
    assert opened(rig.backend.open(ask(rig, "join"))).was_status == "COMPLETED"
    assert rig.status(run.id) == "COMPLETED"
