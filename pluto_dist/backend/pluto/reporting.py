"""The final status of a Run: sent to the server, and read back.

The server ignores a status of a lower severity than it has, and answers 200 all the same. To replace it, the
Run has to be resumed first. That is done where a person asked for it, and where the end at the server is its
liveness monitor's.
"""

from __future__ import annotations

from pluto_dist.backend.pluto import guard
from pluto_dist.backend.pluto.client import Client, read_details, read_history
from pluto_dist.backend.pluto.exchange import Failed, failed
from pluto_dist.backend.pluto.history import ended_by_monitor
from pluto_dist.core.values.backend import Outcome, Rejected, StatusReport, Told, Unknown


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
