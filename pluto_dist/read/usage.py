"""CPU and memory of processes on this machine, as the kernel counts them: without their children."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pluto_dist.core.values.document import LeaseShown
from pluto_dist.host.identity import identity_of
from pluto_dist.read.processes import OPEN, Usage
from pluto_dist.read.settle import claim_of

if TYPE_CHECKING:
    import psutil  # type: ignore[import-untyped, unused-ignore]


class UsageMeter:
    """Looks at processes time and again; the first look at one has no percentage.

    Args:
        spool: folder of this node's leases, which say who they are; None measures nothing.
    """

    def __init__(self, spool: Path | None) -> None:
        self._spool = spool
        self._processes: dict[str, psutil.Process | None] = {}  # None: it cannot be seen from here

    def look(self, leases: Iterable[LeaseShown]) -> dict[str, Usage]:
        """What the processes of open leases use; those that cannot be seen from here are missing."""
        open_ones = [lease.lease_id for lease in leases if lease.state in OPEN]
        for gone in self._processes.keys() - set(open_ones):
            del self._processes[gone]
        found = {lease_id: self._usage(lease_id) for lease_id in open_ones}
        return {lease_id: usage for lease_id, usage in found.items() if usage is not None}

    def _usage(self, lease_id: str) -> Usage | None:
        import psutil

        first = lease_id not in self._processes
        if first:
            self._processes[lease_id] = _process(self._spool / lease_id) if self._spool is not None else None
        process = self._processes[lease_id]
        if process is None:
            return None
        try:
            with process.oneshot():
                cpu, memory = process.cpu_percent(), process.memory_info().rss
        except psutil.Error:  # ended in this instant, or hidden
            return None
        return Usage(None if first else cpu, memory)


def _process(folder: Path) -> psutil.Process | None:
    """The process of a lease, if it is the one that has its pid here; a number may be given to another."""
    import psutil

    try:
        claim = claim_of(str(folder))
        seen = identity_of(claim.identity.pid) if claim is not None else None
        if claim is None or seen is None or not claim.identity.same_process(seen):
            return None
        return psutil.Process(seen.pid)
    except (psutil.Error, OSError):
        return None
