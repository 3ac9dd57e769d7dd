"""The node as a participant: it has a lease for its system metrics, but no process holds that.

Such a lease is never alive, so it keeps nothing alive, has no say in a verdict, and is no attached process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from pluto_dist.core.ids import Identity, Job
from pluto_dist.core.records import Lease

NODE: Final = "node"


def is_node(lease: Lease) -> bool:
    """Whether this is a node's own lease; no process has the pid 0."""
    return lease.identity.pid == 0


def node_lease(lease_id: str, member: Lease, host: str, at: float, wall_ms: int) -> Lease:
    """A lease for the system metrics of the Run that `member` belongs to.

    Args:
        lease_id: of the new lease.
        member: an owner or worker on this node; the folder lies beside its folder.
        host: stands in the names of metrics, "" for the plain names.
        at, wall_ms: now.
    """
    identity = Identity(member.identity.boot_id, member.identity.pid_ns, 0, 0, host=member.identity.host)
    opened = msgspec.structs.replace(
        member.opened,
        identity=identity,
        job=Job(key=""),
        verb="attach",
        label=host or None,
        ancestors=(),
        config=msgspec.Raw(b"{}"),
        tags=(),
        launcher=False,
    )
    return Lease(
        lease_id=lease_id,
        folder=member.folder.removesuffix(member.lease_id) + lease_id,
        opened=opened,
        state="ended",
        run=member.run,
        role="side",
        label=NODE,
        participant=NODE,
        epoch=member.epoch,
        attempt=member.attempt,
        granted_at=at,
        granted_ms=wall_ms,
        ended_at=at,
        ended_ms=wall_ms,
    )


def host_label(members: Iterable[Lease]) -> str:
    """The host's name, if the job has more ranks than are here; "" for a job of one node."""
    here = list(members)
    ranks = {lease.opened.job.rank for lease in here}
    for lease in here:
        job = lease.opened.job
        if job.node_rank > 0 or (job.world_size or 1) > len(ranks):
            return lease.identity.host.partition(".")[0].replace("/", "_")
    return ""
