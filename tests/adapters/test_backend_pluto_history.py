"""Whether our own call reopened a Run, and since when it had been ended (R8)."""

from datetime import UTC, datetime

import pytest

from pluto_dist.backend.pluto.client import History, StatusEvent
from pluto_dist.backend.pluto.reporting import SLACK_MS, Reopening, reopening
from pluto_dist.core.values.backend import Status

CALLED_MS = 1_000_000


def event(number: int, before: Status | None, after: Status, at_ms: int, source: str = "api") -> StatusEvent:
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return StatusEvent(id=str(number), from_status=before, to_status=after, source=source, created_at=moment)


CREATED = event(1, None, "RUNNING", 100_000)
COMPLETED = event(2, "RUNNING", "COMPLETED", 200_000)


def test_young_resume_from_an_ended_status_is_ours() -> None:
    """R8"""
    resumed = event(3, "COMPLETED", "RUNNING", CALLED_MS + 5, "resume")
    assert reopening([CREATED, COMPLETED, resumed], CALLED_MS) == Reopening("COMPLETED", 200_000)


def test_resume_by_somebody_before_our_call_is_not_ours() -> None:
    """R8: that Run lives; putting its status back would end it."""
    resumed = event(3, "COMPLETED", "RUNNING", CALLED_MS - SLACK_MS - 1, "resume")
    assert reopening([CREATED, COMPLETED, resumed], CALLED_MS) is None


def test_seconds_of_the_date_header_are_allowed_for() -> None:
    resumed = event(3, "COMPLETED", "RUNNING", CALLED_MS - SLACK_MS, "resume")
    assert reopening([CREATED, COMPLETED, resumed], CALLED_MS) is not None


@pytest.mark.parametrize(
    "newest",
    [
        event(3, "COMPLETED", "RUNNING", CALLED_MS, "api"),
        event(3, "RUNNING", "FAILED", CALLED_MS, "stale-monitor"),
        event(3, None, "RUNNING", CALLED_MS, "resume"),
    ],
)
def test_other_changes_are_not_ours(newest: StatusEvent) -> None:
    assert reopening([CREATED, COMPLETED, newest], CALLED_MS) is None


def test_no_history_means_nothing_was_reopened() -> None:
    assert reopening([], CALLED_MS) is None


def test_time_of_an_end_without_event_is_not_known() -> None:
    """A cancel by the web page leaves no event."""
    resumed = event(3, "CANCELLED", "RUNNING", CALLED_MS, "resume")
    assert reopening([CREATED, COMPLETED, resumed], CALLED_MS) == Reopening("CANCELLED", None)


def test_time_is_that_of_the_last_such_end() -> None:
    again = event(3, "COMPLETED", "RUNNING", 300_000, "resume")
    later = event(4, "RUNNING", "COMPLETED", 400_000)
    ours = event(5, "COMPLETED", "RUNNING", CALLED_MS, "resume")
    assert reopening([CREATED, COMPLETED, again, later, ours], CALLED_MS) == Reopening("COMPLETED", 400_000)


def test_history_is_put_into_the_order_of_writing() -> None:
    """The server sorts by a time that clients may set, so a backdated end comes before the creation."""
    backdated = event(10, "RUNNING", "COMPLETED", 50_000)
    assert History((backdated, CREATED, COMPLETED)).in_order() == (CREATED, COMPLETED, backdated)
