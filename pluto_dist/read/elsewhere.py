"""Processes of a job on its other nodes, beside those of this one, as the cluster store has them.

A node tells of itself when something changes, else each minute: so whether a process lives is known at once,
and its step may be a minute old. Therefore it has no lag and no rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.engine import ClusterAddress
from pluto_dist.errors import ClusterUnavailableError
from pluto_dist.read.processes import Health, Process

if TYPE_CHECKING:
    from pluto_dist.read.nodes import NodeThere, ProcessThere, RunThere

EVERY_S = 5.0

Ask = Callable[[ClusterAddress, int], "list[RunThere]"]


class OtherNodes:
    """What the cluster store says, asked from time to time.

    Attributes:
        trouble: why it could not be read, "" if it could.

    Args:
        address: of the store, None where there is none.
        ask: lists its Runs.
    """

    def __init__(self, address: ClusterAddress | None, ask: Ask | None = None) -> None:
        self.trouble = ""
        self._address, self._ask = address, ask
        self._runs: list[RunThere] = []
        self._next_at = float("-inf")

    def look(self, now: float, wall_ms: int) -> None:
        """Asks, if it is time; what was known before stays while the store is away."""
        if self._address is None or now < self._next_at:
            return
        self._next_at = now + EVERY_S
        from pluto_dist.read.nodes import runs_there  # loads an HTTP client

        try:
            self._runs = (self._ask or runs_there)(self._address, wall_ms)
            self.trouble = ""
        except ClusterUnavailableError as error:
            self.trouble = error.message

    def processes(self, document: Document, wall_ms: int) -> list[Process]:
        """Those of a Run that its document on this node does not have."""
        mine = (document.run_id, document.project)
        run = next((each for each in self._runs if (each.run_id, each.project) == mine), None)
        if run is None:
            return []
        here = {lease.lease_id for lease in document.leases}
        return list(_processes(run, here, document.attempt, wall_ms))


def _processes(run: RunThere, here: set[str], attempt: int, wall_ms: int) -> Iterator[Process]:
    for node in run.nodes:
        if node.attempt != attempt or not (node.current or node.present):
            continue
        for process in node.processes:
            if process.lease_id not in here:
                health: Health = "ended" if not process.alive else "well" if node.present else "lost"
                yield Process(lease=_lease(node, process, wall_ms), health=health, word_s=node.said_s)


def _lease(node: NodeThere, process: ProcessThere, wall_ms: int) -> LeaseShown:
    """As far as the other node has told."""
    return LeaseShown(
        lease_id=process.lease_id,
        role=process.role,
        label=process.label,
        participant=process.label,
        rank=process.rank,
        pid=process.pid,
        host=node.host,
        epoch=0,
        attempt=node.attempt,
        state="active" if process.alive else "ended",
        granted_at=wall_ms - round(1000 * process.age_s) if process.age_s is not None else None,
        last_seen_at=wall_ms - round(1000 * node.said_s),
        ended_at=None,
        end_reason=None,
        delivered=0,
        written=0,
        last_step=process.step,
        rejected=0,
        dropped=0,
    )
