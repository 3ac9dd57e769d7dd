"""The status of a Run on the server: the final one, sent and read back, and who has changed it.

The server ignores a status of a lower severity than it has, and answers 200 all the same. To replace it, the
Run has to be resumed first. That is done where a person asked for it, and where the end at the server is its
liveness monitor's.

The history tells whether our own call has reopened a Run (R8). A Run is looked up before it is created, so
this is the exception: `create` met an ended Run that the look-up had missed. The newest event is then a
`resume`, and it is as young as our call. Both times are the server's. The limit: another user's resume within
the same seconds cannot be told from ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from pluto_dist.backend.pluto import guard
from pluto_dist.backend.pluto.client import TERMINAL, Client, StatusEvent, read_details, read_history
from pluto_dist.backend.pluto.exchange import Failed, failed
from pluto_dist.core.values.backend import Outcome, Rejected, Status, StatusReport, Told, Unknown

MONITOR = "stale-monitor"  # source of the events of the server's liveness monitor
RESUME = "resume"
Todo = Literal["nothing", "status", "resume and status"]

SLACK_MS = 2_000  # the `Date` header has whole seconds, and a proxy may add its own


class Reporting:
    """One report of one Run; if a step fails, all are repeated.

    Once the server may have the status, a later step that fails makes the outcome `Unknown`: it must not lead
    to another question for a cancel, which would come too late (R10).

    Raises:
        UnfitError: the report cannot be sent, whatever is done to it.
    """

    def __init__(self, client: Client, run_id: int, report: StatusReport) -> None:
        self._client = client
        self._run_id = run_id
        self._report = report
        metadata = None if report.metadata is None else guard.fit_object(report.metadata)
        self._fields: dict[str, object] = {"statusMetadata": metadata}  # None clears that of an earlier end
        if guard.epoch_ms(report.at_ms):
            self._fields["statusUpdated"] = report.at_ms

    def send(self) -> Outcome:
        """`Told` with the status that the Run has after it."""
        return self._insist() if self._report.force else self._tell_unless_ended_otherwise()

    def _insist(self) -> Outcome:
        now = read_details(self._client, self._run_id)
        if isinstance(now, Failed):
            return now.outcome
        return self._tell() if now.status in ("RUNNING", self._report.status) else self._resume_and_tell()

    def _tell_unless_ended_otherwise(self) -> Outcome:
        told = self._tell()
        if not isinstance(told, Told) or told.status == self._report.status:
            return told
        history = read_history(self._client, self._run_id)
        if isinstance(history, Failed):
            return _taken(history)
        return self._resume_and_tell() if ended_by_monitor(history.in_order()) else told

    def _resume_and_tell(self) -> Outcome:
        failure = failed(self._client.resume({"runId": self._run_id}))
        return failure.outcome if failure is not None else self._tell()

    def _tell(self) -> Outcome:
        failure = failed(self._client.set_status(self._run_id, self._report.status, self._fields))
        if failure is not None:
            return failure.outcome
        now = read_details(self._client, self._run_id)
        return _taken(now) if isinstance(now, Failed) else Told(status=now.status)


def _taken(failure: Failed) -> Outcome:
    """Outcome where the status was sent but could not be read back; a deleted Run has rejected it."""
    outcome = failure.outcome
    return outcome if isinstance(outcome, Rejected) else Unknown(f"not read back: {outcome.reason}")


class Reopening(msgspec.Struct, frozen=True):
    """A change by our call: the status before, and since when the Run had it (None if not recorded)."""

    status: Status
    since_ms: int | None


def reopening(events: Sequence[StatusEvent], called_ms: int) -> Reopening | None:
    """The change that the call has made, None if it made none.

    Args:
        events: the Run's history in the order of writing.
        called_ms: the server's time at our call.
    """
    if not events:
        return None
    newest = events[-1]
    before = newest.from_status
    if before is None or before not in TERMINAL:
        return None
    if newest.source != RESUME or newest.at_ms < called_ms - SLACK_MS:
        return None
    ended = next((event for event in reversed(events[:-1]) if event.to_status == before), None)
    return Reopening(before, ended.at_ms if ended else None)


def ended_by_monitor(events: Sequence[StatusEvent]) -> bool:
    """Whether the Run's last change was the liveness monitor's.

    Args:
        events: the Run's history in the order of writing.
    """
    return bool(events) and events[-1].source == MONITOR


def left_to_do(events: Sequence[StatusEvent], was: Status) -> Todo:
    """The calls that put back the end of a Run that our request has reopened.

    The monitor marks a Run FAILED that was reopened and then left; a lower severity than FAILED is ignored
    unless the Run is RUNNING again. Any other change since was made by another user, and stays.

    Args:
        events: the Run's history in the order of writing.
        was: the status before.
    """
    reaped = ended_by_monitor(events)
    since = events[:-1] if reaped else events
    if not since or since[-1].source != RESUME or since[-1].from_status != was:
        return "nothing"
    return "resume and status" if reaped else "status"
