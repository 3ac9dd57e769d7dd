"""Timeline: the leases of a Run as lanes over time, with restarts and deaths.

A lane is a participant, so that a rank that was restarted is one line with several spans.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.ids import Role
from pluto_dist.core.values.records import RunEvent
from pluto_dist.read.processes import failed_lease, state_of

MARKED = frozenset(
    {
        *("opened", "reopened", "restarted", "superseded", "taken_over", "launcher_gone", "seat_claimed"),
        *("owned_here", "ranks_stuck", "ranks_go_on", "side_failed", "side_died", "cancelled", "ended"),
    }
)


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One lease on a lane; instants are epoch milliseconds.

    Attributes:
        lease_id, label, host, pid, epoch, attempt: of the lease.
        begin: when it was granted.
        end: when it ended, None while it has not.
        ended: how, as `state_of`; "" while it has not.
        failed_first: it began the end of the Run, or of its last attempt that failed.
    """

    lease_id: str
    label: str
    host: str
    pid: int
    epoch: int
    attempt: int
    begin: int
    end: int | None
    ended: str
    failed_first: bool


class Lane(msgspec.Struct, frozen=True):
    """One participant over all restarts, its spans by their beginning."""

    participant: str
    label: str
    role: Role
    rank: int | None
    spans: tuple[Span, ...]


class Timeline(msgspec.Struct, frozen=True):
    """The leases of a Run over time.

    Attributes:
        begin, end: epoch milliseconds between which all of it lies; `end` is now for a Run that goes on.
        lanes: owner, ranks by number, then sides by their beginning.
        marks: events that concern the whole, oldest first.
    """

    begin: int
    end: int
    lanes: tuple[Lane, ...]
    marks: tuple[RunEvent, ...]


def timeline_of(document: Document, now_ms: int) -> Timeline:
    """The Run's timeline; leases that were never granted, and those of no process, are left out."""
    failed = failed_lease(document)
    lanes: dict[str, list[LeaseShown]] = {}
    for lease in document.leases:
        if lease.granted_at is not None and lease.pid:  # the node's own metrics have no process
            lanes.setdefault(lease.participant, []).append(lease)
    made = [_lane(leases, failed.lease_id if failed is not None else "") for leases in lanes.values()]
    end = document.ended_at if document.ended_at is not None else now_ms
    instants = [span.end for lane in made for span in lane.spans if span.end is not None]
    begins = [span.begin for lane in made for span in lane.spans]
    return Timeline(
        begin=min((document.created_at, *begins)),
        end=max((end, *instants)),
        lanes=tuple(sorted(made, key=_order)),
        marks=tuple(event for event in document.events if event.name in MARKED),
    )


def _lane(leases: Iterable[LeaseShown], failed: str) -> Lane:
    found = sorted(leases, key=lambda lease: (lease.granted_at or 0, lease.attempt))
    spans = tuple(
        Span(
            lease_id=lease.lease_id,
            label=lease.label,
            host=lease.host,
            pid=lease.pid,
            epoch=lease.epoch,
            attempt=lease.attempt,
            begin=lease.granted_at or 0,
            end=lease.ended_at,
            ended=state_of(lease) if lease.end_reason else "",
            failed_first=lease.lease_id == failed,
        )
        for lease in found
    )
    last = found[-1]
    return Lane(last.participant, last.label, last.role, last.rank, spans)


def _order(lane: Lane) -> tuple[bool, bool, int, int]:
    rank = lane.rank if lane.rank is not None else -1
    return (lane.role != "owner", lane.role == "side", rank, lane.spans[0].begin)
