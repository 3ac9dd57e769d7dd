"""How a Run of the store ended, also where the coordinator could not write it down any more."""

from __future__ import annotations

import msgspec

from pluto_dist.backend.local.marks import Mark
from pluto_dist.core.control import status_report
from pluto_dist.core.document import Document, VerdictShown
from pluto_dist.core.records import Verdict
from pluto_dist.core.requests import StatusReport

UNSEEN = "its node went away before that was certain"


def ending_of(document: Document) -> StatusReport | None:
    """The terminal status with its reason and time, None for a Run that has not ended.

    Without a verdict it is what the coordinator expected last: all members have ended, and the rest was a
    wait, for an exit code or for a restart. Who calls this knows that there is no coordinator any more.
    """
    run = document.restore.run
    if run.verdict is not None:
        return status_report(run)
    expected = document.expected if document.expected is not None else _expected_before(document)
    if expected is None:
        return None
    members = [lease for lease in document.leases if lease.role != "side" and lease.epoch == document.epoch]
    verdict = Verdict(expected.status, f"{expected.reason}; {UNSEEN}", expected.first_failure)
    ended_ms = max((lease.ended_at or 0 for lease in members), default=0)
    return status_report(msgspec.structs.replace(run, verdict=verdict, ended_ms=ended_ms))


def _expected_before(document: Document) -> VerdictShown | None:
    """Of a document that does not say: only a Run without any failure waits for nothing but exit codes."""
    members = [
        lease for lease in document.leases if lease.role != "side" and lease.attempt == document.attempt
    ]
    owner = next((lease for lease in reversed(members) if lease.role == "owner"), None)
    if owner is None or any(lease.end_reason not in ("finished", "closed") for lease in members):
        return None
    if owner.end_reason != "finished" or document.phase == "restarting":
        return None
    return VerdictShown("COMPLETED", "the owner finished", None)


def is_told(ending: StatusReport | None, mark: Mark) -> bool:
    """Whether the server has this very end, or a cancel in its place (R10)."""
    return (
        ending is not None and mark.status in (ending.status, "CANCELLED") and mark.ended_ms == ending.at_ms
    )
