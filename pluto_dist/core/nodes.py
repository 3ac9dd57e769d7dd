"""The node as a participant, and what it is called where a Run has several.

It has a lease for its system metrics, but no process holds that.

Such a lease is never alive, so it keeps nothing alive, has no say in a verdict, and is no attached process.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

import msgspec

from pluto_dist.core.ids import Identity, Job
from pluto_dist.core.lifecycle import Opened
from pluto_dist.core.records import Lease

NODE: Final = "node"
LINES_OF_A_NODE = 1_000_000_000


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


def node_label(members: Iterable[Lease]) -> str:
    """What the node is called in the names of its metrics; "" for a job of one node."""
    return next((node_name(lease.opened) for lease in members if lease.opened.job.nodes > 1), "")


def node_name(claim: Opened) -> str:
    """`node1` within a job, the host's name for a node that no job knows.

    Numbers and not hosts, since a job that is requeued elsewhere goes on with its series.
    """
    job = claim.job
    if job.nodes > 1:
        return f"node{job.node_rank}"
    return claim.identity.host.partition(".")[0].replace("/", "_") or "elsewhere"


def first_line(claim: Opened) -> int:
    """Number of a relay's first console line: readers sort by number alone, so each node has a block."""
    number = claim.job.node_rank or 1000 + zlib.crc32(node_name(claim).encode()) % 9000
    return number * LINES_OF_A_NODE + 1
