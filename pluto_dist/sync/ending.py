"""How a Run of the store ended, also where the coordinator could not write it down any more."""

from __future__ import annotations

import msgspec

from pluto_dist.backend.local.marks import Mark
from pluto_dist.core.control import status_report
from pluto_dist.core.document import Document
from pluto_dist.core.records import Verdict
from pluto_dist.core.requests import StatusReport

UNSEEN = "finished; its node went away before the exit code was seen"


def ending_of(document: Document) -> StatusReport | None:
    """The terminal status with its reason and time, None for a Run that has not ended.

    Without a verdict, a Run whose owner and workers have all finished is completed: it was only waiting for
    an exit code.
    """
    run = document.restore.run
    if run.verdict is not None:
        return status_report(run)
    members = [
        lease for lease in document.leases if lease.role != "side" and lease.attempt == document.attempt
    ]
    owner = next((lease for lease in reversed(members) if lease.role == "owner"), None)
    if owner is None or any(lease.end_reason not in ("finished", "closed") for lease in members):
        return None
    if owner.end_reason != "finished":
        return None
    return status_report(
        msgspec.structs.replace(run, verdict=Verdict("COMPLETED", UNSEEN), ended_ms=owner.ended_at)
    )


def is_told(ending: StatusReport | None, mark: Mark) -> bool:
    """Whether the server has this very end, or a cancel in its place (R10)."""
    return (
        ending is not None and mark.status in (ending.status, "CANCELLED") and mark.ended_ms == ending.at_ms
    )
