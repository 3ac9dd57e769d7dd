"""What leases and participants are called (R7, G10): two live processes never share a participant.

A participant is who writes, over restarts: `owner`, `rank3`, or a label. The next process with the same rank
or label goes on with the same series, but only once the one before it has ended. Without a label nothing says
that two processes do the same work, so each has a series of its own: `worker`, `worker-2`, `worker-3`. The
process that `pluto-dist run` starts has a place, as a rank has: the next one goes on with its series.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pluto_dist.core.ids import Role
from pluto_dist.core.records import Lease, Run

RESERVED = re.compile(r"owner|node|(rank|attempt)\d.*")  # what other kinds of participants are called


def label_of(lease: Lease, role: Role, others: Sequence[Lease], run: Run) -> str:
    """What people call it; unique among live leases where series belong to labels.

    The node's name is part of it on a relay, where other nodes may have processes without a label too.
    """
    rank = lease.opened.job.rank if role != "side" else None
    given = lease.opened.label
    if role == "owner" or rank is not None:
        return given or (role if rank is None else f"rank{rank}")
    if given is None and not _is_the_command(lease, role):
        return _free(f"{role}-{run.relay}" if run.relay else role, _ever_used(lease, others, run))
    given = given or role
    wanted = f"{role}-{given}" if RESERVED.fullmatch(given) else given
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


def _is_the_command(lease: Lease, role: Role) -> bool:
    return role == "worker" and bool(lease.opened.launched_by) and not lease.parent


def _ever_used(lease: Lease, others: Iterable[Lease], run: Run) -> set[str]:
    """Names that other processes have in this Run, or had; those of an earlier coordinator too."""
    used = set(run.steps)
    for other in others:
        if other.alive or not other.identity.same_process(lease.identity):
            used |= {other.label, other.participant}
    return used


def _free(wanted: str, taken: set[str]) -> str:
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}-{number}", number + 1
    return name
