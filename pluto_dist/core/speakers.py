"""Who is speaking: the name in front of a console line, where a Run has more than one participant."""

from __future__ import annotations

from collections.abc import Iterable

from pluto_dist.core.nodes import is_node
from pluto_dist.core.records import Lease


def speaker_of(lease: Lease, leases: Iterable[Lease], *, relayed: bool = False) -> str:
    """`rank3`, or the label of a process without a rank; "" for the only participant of its Run.

    A rank of a job with several is never alone, also while the others have not come yet; nor is anybody on
    a node that only relays.
    """
    several = (lease.opened.job.world_size or 1) > 1 or relayed
    others = (other.participant for other in leases if not is_node(other))
    if not several and all(other in ("", lease.participant) for other in others):
        return ""
    return f"rank{lease.rank}" if lease.rank is not None else lease.label
