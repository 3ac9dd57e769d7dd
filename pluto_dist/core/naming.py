"""What leases and participants are called (R7, G10): two live processes never share a participant.

A participant is who writes, over restarts: `owner`, `rank3`, or a label. The next process with the same rank
or label goes on with the same series, but only once the one before it has ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pluto_dist.core.ids import Role
from pluto_dist.core.records import Lease

RESERVED = re.compile(r"owner|node|(rank|attempt)\d.*")  # what other kinds of participants are called


def label_of(lease: Lease, role: Role, others: Iterable[Lease], relay: str = "") -> str:
    """What people call it; unique among live leases where series belong to labels.

    Args:
        relay: the node's name in the Run, where others may have processes without a label too.
    """
    rank = lease.opened.job.rank if role != "side" else None
    nameless = f"{role}-{relay}" if relay else role
    wanted = lease.opened.label or (nameless if rank is None else f"rank{rank}")
    if role == "owner" or rank is not None:
        return wanted
    if RESERVED.fullmatch(wanted):
        wanted = f"{role}-{wanted}"
    return _free(wanted, {other.label for other in _others_alive(lease, others)})


def participant_of(lease: Lease, role: Role, label: str, others: Iterable[Lease]) -> str:
    """Who writes: series belong to this name."""
    if role == "owner":
        return "owner"
    rank = lease.opened.job.rank if role == "worker" else None
    taken = {other.participant for other in _others_alive(lease, others)}
    return _free(label if rank is None else f"rank{rank}", taken)


def late_participant(participant: str, attempt: int) -> str:
    """Who writes what a superseded lease has still written (R7)."""
    late = f"attempt{attempt}"
    return late if participant == "owner" else f"{participant}/{late}"


def _others_alive(lease: Lease, others: Iterable[Lease]) -> Iterable[Lease]:
    return (other for other in others if other.alive and other.lease_id != lease.lease_id)


def _free(wanted: str, taken: set[str]) -> str:
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}-{number}", number + 1
    return name
