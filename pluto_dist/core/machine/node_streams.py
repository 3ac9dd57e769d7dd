"""Streams that the node writes itself: its measurements, and what its ranks say together (R7).

Each is in a lease that no process holds, and is delivered like all other streams, over restarts of the
coordinator too.

Measurements are for the Runs with a live owner or worker here, under the participant `node`. The first sample
comes one interval after the Run's first owner or worker; by then it is known whether the job has more ranks
than this node holds.

For `rank_metrics="reduce"` there is one stream for each start of the job, so that a step which the next start
logs again is reduced from that start's values alone. Which values go out together decides `rules/together`,
in the worker that reads them; here is kept how far it came (`Reduction`). Nothing is lost and nothing counted
twice when the coordinator dies: a segment of a rank stays until no step in it can be corrected any more, and
what had gone out stands in the node's stream. A rank counts as delivered when everything of it was read, and
the status waits for the node's stream as for a rank's.
"""

from __future__ import annotations

from collections.abc import Container
from itertools import zip_longest
from zlib import crc32

import msgspec

from pluto_dist.core.machine.context import Context
from pluto_dist.core.machine.delivery import Delivery
from pluto_dist.core.machine.lane import Lane
from pluto_dist.core.rules.participants import (
    NODE,
    REDUCED,
    is_reduced,
    node_label,
    node_lease,
    reduced_lease,
)
from pluto_dist.core.values.effects import (
    EndReducing,
    EndSampling,
    NodeFeed,
    RankStreams,
    ReadLifecycle,
    ReduceRanks,
    SampleNode,
)
from pluto_dist.core.values.events import RanksReduced, StreamsSeen
from pluto_dist.core.values.records import Lease, Reduction, Run

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
        return _begun(self._context, lease)


GATHER_S = 0.05  # the streams of all ranks are looked at one after the other
AGAIN_S = 1.0  # after the disk has refused something


class Reducing:
    """The node's leases for what ranks say together; what is due and what is under way, by lease."""

    def __init__(self, context: Context, delivery: Delivery) -> None:
        self._context = context
        self._book = context.book
        self._delivery = delivery
        self._runs: set[str] = set()
        self._due: dict[str, float] = {}
        self._busy: dict[str, tuple[str, ...]] = {}
        self._told: dict[str, tuple[str, ...]] = {}

    def seen(self, event: StreamsSeen) -> None:
        """Takes news of a lease's streams: if it is a rank's, they are to be read."""
        lease = self._book.leases.get(event.lease_id)
        if lease is None or lease.run is None or not (lease.rank_metrics == "reduce" or is_reduced(lease)):
            return
        self._runs.add(lease.run)
        self._context.touch(lease.run)
        if not is_reduced(lease):
            self._groups(lease.run)
            self._soon(self._context.reduced_by.get(lease.lease_id, ""))

    def plan(self, run: Run, gone: Container[str]) -> list[str]:
        """Plans what follows for a Run that has changed; returns leases of the node that are done.

        Args:
            gone: leases into which nothing is written any more, by no child of their process either.
        """
        return [
            lease.lease_id
            for lease, members in (self._groups(run.key) if run.key in self._runs else [])
            if not lease.removed and self._is_done(run, lease, members, gone)
        ]

    def look(self) -> None:
        """Has those read that are due."""
        now = self._context.now.at
        for lease_id in [each for each, at in self._due.items() if at <= now and each not in self._busy]:
            del self._due[lease_id]
            lease = self._book.leases.get(lease_id)
            run = self._book.runs.get(lease.run or "") if lease is not None else None
            if lease is not None and run is not None and not self._state(lease).over:
                self._reduce(run, lease, self._members(lease))

    def reduced(self, event: RanksReduced) -> None:
        """Takes the outcome: how far it came, and when something will be due."""
        lease_id, now = event.lease_id, self._context.now.at
        told = self._busy.pop(lease_id, ())
        lease = self._book.leases.get(lease_id)
        if lease is None or lease.run is None:
            return
        self._context.touch(lease.run)
        if event.error:
            self._due[lease_id] = now + AGAIN_S
            self._context.note_once(lease.run, "reducing_trouble", why=event.error)
            return
        before = self._state(lease)
        self._told[lease_id] = told
        self._book.reductions.put(lease_id, event.state)
        if event.state.late and not before.late:
            self._context.note(lease.run, "reduced_without", values=str(event.state.late))
        if event.unread:
            self._soon(lease_id)
        elif event.again_at is not None:
            self._due[lease_id] = min(event.again_at, self._due.get(lease_id, event.again_at))
        for member in self._members(lease):
            self._context.news[member.lease_id] = None
            if any(len(lane.sizes) > 1 for lane in self._lanes(member)):
                self._delivery.kick(member)

    def deadline(self) -> float | None:
        """When something is due."""
        return min((at for lease, at in self._due.items() if lease not in self._busy), default=None)

    def forget(self, run: str) -> None:
        self._runs.discard(run)
        for lease in self._book.leases_of(run):
            self._context.reduced_by.pop(lease.lease_id, None)
            for known in (self._due, self._busy, self._told):
                known.pop(lease.lease_id, None)

    def _is_done(self, run: Run, lease: Lease, members: list[Lease], gone: Container[str]) -> bool:
        """Whether nothing more will come; reads what is to be read, and has the rest delivered."""
        state, living = self._state(lease), self._living(run, members)
        if state.over:
            self._look_again(lease)
            return True
        if living != self._told.get(lease.lease_id):
            self._soon(lease.lease_id)  # whoever ended is not waited for any more
        if living or lease.lease_id in self._due or lease.lease_id in self._busy or self._unread(members):
            return False
        self._look_again(lease)
        # A rank that came last in a short job would be reduced with what the others have logged (R4).
        may_come = not (run.ended or run.relay) and lease.epoch >= run.start_epoch
        if may_come or not all(member.removed or member.lease_id in gone for member in members):
            return False
        self._book.reductions.put(lease.lease_id, Reduction(floors=state.floors, late=state.late, over=True))
        self._context.emit(EndReducing(lease_id=lease.lease_id))
        for member in members:
            self._context.news[member.lease_id] = None
        self._context.touch(run.key)
        return True

    def _look_again(self, lease: Lease) -> None:
        """Has the last look at the node's stream taken, which makes it complete once it is delivered."""
        if not self._delivery.looked(lease):
            self._delivery.look_again(lease)

    def _reduce(self, run: Run, lease: Lease, members: list[Lease]) -> None:
        living = self._living(run, members)
        self._delivery.reopen(lease)
        self._busy[lease.lease_id] = living
        self._context.emit(
            ReduceRanks(
                run=run.key,
                lease_id=lease.lease_id,
                folder=lease.folder,
                state=self._state(lease),
                members=tuple(
                    RankStreams(
                        member.lease_id,
                        member.folder,
                        member.rank or 0,
                        {lane.cursor.stream: dict(lane.readable) for lane in self._lanes(member)},
                        member.lease_id in living,
                    )
                    for member in members
                ),
                now=self._context.now.at,
                chosen=lease.opened.reduce,
            )
        )

    def _groups(self, run: str) -> list[tuple[Lease, list[Lease]]]:
        """The node's leases of a Run, each with the ranks of its start; one is begun where there is none."""
        own = sorted(
            (lease for lease in self._book.left(run) if is_reduced(lease)), key=lambda lease: lease.epoch
        )
        ranks = [lease for lease in self._book.leases_of(run) if lease.rank_metrics == "reduce"]
        for epoch in self._missing(self._book.runs[run], [lease.epoch for lease in own], ranks):
            member = next(rank for rank in ranks if rank.epoch >= epoch)
            own = sorted([*own, self._begin(member, epoch)], key=lambda lease: lease.epoch)
        groups: list[tuple[Lease, list[Lease]]] = []
        for lease, later in zip_longest(own, own[1:]):
            end = later.epoch if later is not None else None
            members = [
                rank for rank in ranks if lease.epoch <= rank.epoch and (end is None or rank.epoch < end)
            ]
            self._context.reduced_by.update(
                dict.fromkeys((rank.lease_id for rank in members), lease.lease_id)
            )
            groups.append((lease, members))
        return groups

    def _missing(self, run: Run, epochs: list[int], ranks: list[Lease]) -> list[int]:
        """First epochs of starts that have numbers and no lease of the node; all former ones count as one."""
        logged = [rank.epoch for rank in ranks if any(lane.sizes for lane in self._lanes(rank))]
        former = [epoch for epoch in logged if epoch < min([run.start_epoch, *epochs])]
        present = max(logged, default=-1) >= run.start_epoch and max(epochs, default=-1) < run.start_epoch
        return ([min(former)] if former else []) + ([run.start_epoch] if present else [])

    def _begin(self, member: Lease, epoch: int) -> Lease:
        now, node = self._context.now, node_label((member,))
        lease_id = f"{crc32(f'{member.run} {REDUCED} {epoch}'.encode()):08x}{now.wall_ms:016x}"
        lease = reduced_lease(lease_id, member, node, now.at, now.wall_ms)
        return _begun(self._context, msgspec.structs.replace(lease, epoch=epoch))

    def _members(self, lease: Lease) -> list[Lease]:
        return next((members for own, members in self._groups(lease.run or "") if own is lease), [])

    def _living(self, run: Run, members: list[Lease]) -> tuple[str, ...]:
        """Ranks that a step waits for: none once the Run has ended, though one may go on."""
        return () if run.ended else tuple(member.lease_id for member in members if member.alive)

    def _unread(self, members: list[Lease]) -> bool:
        return any(
            not self._delivery.looked(member) or any(lane.unreduced for lane in self._lanes(member))
            for member in members
            if not (member.alive or member.removed)
        )

    def _lanes(self, member: Lease) -> list[Lane]:
        return [lane for lane in self._delivery.lanes_of(member) if lane.cursor.kind == "metrics"]

    def _state(self, lease: Lease) -> Reduction:
        return self._book.reductions.get(lease.lease_id) or Reduction()

    def _soon(self, lease_id: str) -> None:
        if lease_id:
            at = self._context.now.at + GATHER_S
            self._due[lease_id] = min(at, self._due.get(lease_id, at))


def _begun(context: Context, lease: Lease) -> Lease:
    lease = context.book.put_lease(lease)
    context.touch(lease.run)
    # There is nothing to read there, but from now on the folder is looked at.
    context.emit(ReadLifecycle(lease_id=lease.lease_id, folder=lease.folder))
    return lease
