"""Sampling: when the node is measured, and for which Runs: those with a live owner or worker here.

The first sample comes one interval after the Run's first owner or worker; by then it is known whether the job
has more ranks than this node holds. The measurements belong to the participant `node` and are delivered like
all other records, over restarts of the coordinator too.
"""

from __future__ import annotations

from zlib import crc32

from pluto_dist.core.machine.context import Context
from pluto_dist.core.machine.delivery import Delivery
from pluto_dist.core.rules.participants import NODE, node_label, node_lease
from pluto_dist.core.values.effects import EndSampling, NodeFeed, ReadLifecycle, SampleNode
from pluto_dist.core.values.records import Lease, Run

SHORTEST_S = 1.0


class Sampling:
    """Instants of the next samples, by Run."""

    def __init__(self, context: Context, delivery: Delivery) -> None:
        self._context = context
        self._book = context.book
        self._delivery = delivery
        self._next: dict[str, float] = {}
        self._ended: set[str] = set()

    def plan(self, run: Run) -> Lease | None:
        """Plans samples of a Run that has changed; returns the node's lease if no member is left here."""
        interval = self._interval(run)
        if interval is not None:
            self._next.setdefault(run.key, self._context.now.at + interval)
            return None
        self._next.pop(run.key, None)
        # Not only once the Run has ended: the last process out waits for these records, and the end for it.
        lease = self._lease(run)
        if lease is not None:
            self._ended.add(lease.lease_id)
            self._context.emit(EndSampling(lease_id=lease.lease_id))
            self._delivery.look_again(lease)
        return lease

    def sample(self) -> None:
        """Has the node measured for the Runs whose sample is due."""
        now = self._context.now.at
        feeds: list[NodeFeed] = []
        for key in [key for key, at in self._next.items() if at <= now]:
            run = self._book.runs.get(key)
            interval = self._interval(run) if run is not None else None
            if run is None or interval is None:
                del self._next[key]
                continue
            self._next[key] = now + interval
            feeds.append(self._feed(run))
        if feeds:
            self._context.emit(SampleNode(feeds=tuple(feeds)))

    def deadline(self) -> float | None:
        """When the next sample is due."""
        return min(self._next.values(), default=None)

    def forget(self, run: str) -> None:
        self._next.pop(run, None)
        for lease in self._book.leases_of(run):
            self._ended.discard(lease.lease_id)

    def _interval(self, run: Run) -> float | None:
        if run.ended:
            return None
        asked = [lease.opened.system_metrics_s for lease in self._members(run)]
        return max(SHORTEST_S, min((each for each in asked if each), default=0.0)) if any(asked) else None

    def _members(self, run: Run) -> list[Lease]:
        return [lease for lease in self._book.leases_of(run.key) if lease.role != "side" and lease.alive]

    def _lease(self, run: Run) -> Lease | None:
        open_ones = (lease for lease in self._nodes(run) if lease.lease_id not in self._ended)
        return next(open_ones, None)

    def _nodes(self, run: Run) -> list[Lease]:
        """The node's own leases of a Run; each is ended from the start, because no process holds it."""
        return [
            lease for lease in self._book.left(run.key) if lease.participant == NODE and not lease.removed
        ]

    def _feed(self, run: Run) -> NodeFeed:
        lease = self._lease(run) or self._begin(run)
        return NodeFeed(
            lease_id=lease.lease_id,
            folder=lease.folder,
            first_step=self._delivery.next_step(run.key, NODE),
            host=lease.opened.label or "",
            store=run.target.store,
            earlier=tuple(each.folder for each in self._nodes(run) if each is not lease),
        )

    def _begin(self, run: Run) -> Lease:
        now, members = self._context.now, self._members(run)
        lease_id = f"{crc32(run.key.encode()):08x}{now.wall_ms:016x}"
        lease = node_lease(lease_id, members[0], node_label(members), now.at, now.wall_ms)
        self._book.put_lease(lease)
        self._context.touch(run.key)
        # There is nothing to read there, but from now on the folder is looked at.
        self._context.emit(ReadLifecycle(lease_id=lease.lease_id, folder=lease.folder))
        return lease
