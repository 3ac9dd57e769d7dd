"""Who is speaking, and who records it: the console of a Run with more than one participant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pluto_dist.core.nodes import is_node
from pluto_dist.core.records import Lease

COMMAND: Final = "command"  # what a launcher records is what its command says


def speaker_of(lease: Lease, leases: Iterable[Lease], *, relayed: bool = False) -> str:
    """The name in front of a line; "" for the only participant of its Run.

    A rank of a job with several is never alone, also while the others have not come yet; nor is anybody on
    a node that only relays.
    """
    several = relayed or ((lease.opened.job.world_size or 1) > 1 and not lease.opened.launcher)
    others = (other.participant for other in leases if not is_node(other))
    if not several and all(other in ("", lease.participant) for other in others):
        return ""
    return name_of(lease.rank, lease.label, launcher=lease.opened.launcher)


def name_of(rank: int | None, label: str, *, launcher: bool) -> str:
    """`rank3`, the label of a process without a rank, or `command` for what a launcher has started."""
    if launcher:
        return COMMAND
    return f"rank{rank}" if rank is not None else label


def relieved_launchers(leases: Iterable[Lease]) -> frozenset[str]:
    """Leases of launchers below which a process records its own console: they record none meanwhile.

    What a process prints passes through its launcher too, so one of the two has to be silent. It is the
    launcher, because the process knows its rank, and which of its lines belong together.
    """
    return frozenset(
        lease.opened.launched_by for lease in leases if lease.state == "active" and records_console(lease)
    ) - {""}


def records_console(lease: Lease) -> bool:
    """Whether a process records what it prints: by itself an owner or worker outside of notebooks does."""
    if lease.opened.console == "auto":
        return lease.role != "side" and not lease.opened.notebook
    return lease.opened.console != "off"
