"""Lists of Runs: filters, order, pages; and the rows of a Run's processes."""

from __future__ import annotations

import msgspec
import pytest

from pluto_dist.core.values.document import Document
from pluto_dist.errors import UsageError
from pluto_dist.read.listing import Listed, Wanted, chosen, listed, page_of, since_ms, statuses
from pluto_dist.read.settle import situation
from tests.adapters.coordinators import answering, knowing
from tests.adapters.documents import document, lease
from tests.adapters.test_cli_lookup import Machine, machine

__all__ = ["machine"]  # the fixture


def several(machine: Machine) -> list[Listed]:
    def here(number: int, **more: object) -> Document:
        return msgspec.structs.replace(machine.here(f"key-{number}", number=number), **more)  # type: ignore[arg-type]

    machine.keep(
        here(1, created_at=1000, ended_at=9000, status="FAILED", tags=("a", "b"), points=5, name="c"),
        here(2, created_at=2000, ended_at=2500, status="COMPLETED", tags=("a",), points=50, name="b"),
        here(3, created_at=3000, leases=(lease("x", host="far"),), points=1, name="a"),
    )
    return listed(machine.lookup())


def keys(found: list[Listed]) -> list[str]:
    return [each.known.head.key[-1] for each in found]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(), "123"),
        (Wanted(status=("FAILED",)), "1"),
        (Wanted(status=("FAILED", "COMPLETED")), "12"),
        (Wanted(status=("RUNNING",)), ""),
        (Wanted(status=("UNKNOWN",)), "3"),
        (Wanted(tags=("a",)), "12"),
        (Wanted(tags=("a", "b")), "1"),
        (Wanted(since_ms=2000), "23"),
        (Wanted(project="other"), ""),
    ],
)
def test_filters(machine: Machine, wanted: Wanted, expected: str):
    assert keys(chosen(several(machine), wanted)) == list(expected)


@pytest.mark.parametrize(
    ("by", "expected"),
    [("created", "123"), ("points", "312"), ("name", "321"), ("duration", "213"), ("ended", "213")],
)
def test_order(machine: Machine, by: str, expected: str):
    found = several(machine)
    assert keys(chosen(found, Wanted(), by=by)) == list(expected)
    assert keys(chosen(found, Wanted(), by=by, reverse=True)) == list(expected)[::-1]


def test_the_newest_runs_are_on_the_first_page_and_at_its_bottom(machine: Machine):
    found = several(machine)
    assert keys(page_of(found, 1, 2)) == ["2", "3"]
    assert keys(page_of(found, 2, 2)) == ["1"]
    assert page_of(found, 3, 2) == []
    assert page_of(found, 1, None) == found


def test_a_status_that_does_not_exist_is_no_empty_list():
    assert statuses(["failed", "gone", "RUNNING"]) == ("FAILED", "GONE", "RUNNING")
    with pytest.raises(UsageError, match="status 'FAILD' is none; there are RUNNING, COMPLETED, FAILED"):
        statuses(["faild"])


def test_since_takes_ages_and_dates():
    assert since_ms("90m", 10_000) == 4_600_000
    assert since_ms("1.5h", 10_000) == 4_600_000
    assert since_ms("1970-01-02T00:00:00+00:00") == 86_400_000
    with pytest.raises(UsageError, match="yesterday"):
        since_ms("yesterday")


@pytest.mark.parametrize(
    ("phase", "state", "live", "standing"),
    [
        ("running", "active", True, "running"),
        ("orphaned", "ended", True, "gone"),
        ("finishing", "ended", True, "gone"),
        ("restarting", "ended", True, "running"),
        ("detached", "ended", True, "detached"),
        ("running", "active", False, "unknown"),
        ("orphaned", "ended", False, "gone"),
    ],
)
def test_a_run_is_called_running_only_where_a_process_is_known_to_live(
    phase: str, state: str, live: bool, standing: str
):
    """G7."""
    found = msgspec.structs.replace(document(lease("a", state=state)), phase=phase)
    seen = situation(found, live=live, spool=None)
    assert seen.standing == standing
    assert (seen.status == "RUNNING") == (standing in ("running", "detached"))


def test_a_live_coordinator_is_believed(machine: Machine):
    with answering(machine.socket, knowing(document(lease("a")))):
        (found,) = listed(machine.lookup())
    assert found.situation.standing == "running"
