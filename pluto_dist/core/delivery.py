"""Delivery of all streams: who may send now, under which names (G6, R7)."""

from __future__ import annotations

from pluto_dist.core.book import Points, feed_key
from pluto_dist.core.context import Context
from pluto_dist.core.events import NamesFound, PointSummary, Shipped, StreamsSeen
from pluto_dist.core.lane import Lane
from pluto_dist.core.records import Feed, Lease, Point, Run
from pluto_dist.core.requests import StreamKind
from pluto_dist.core.series import SeriesNames

CONSOLE_TURN_S = 0.05  # a Run's console streams take turns: line numbers are one global order
KINDS: dict[str, StreamKind] = {
    "metrics": "metrics",
    "data": "data",
    "console": "console",
    "files": "files",
}


def kind_of(stream: str) -> StreamKind | None:
    """Kind of a stream; a forked child's chain is `<kind>.p<pid>`. None for the lifecycle."""
    return KINDS.get(stream.partition(".")[0])


class Delivery:
    """The lanes of all leases."""

    def __init__(self, context: Context, names: SeriesNames) -> None:
        self._context = context
        self._book = context.book
        self._names = names
        self._lanes: dict[str, Lane] = {}
        self._settled: dict[tuple[str, str], dict[str, str | None]] = {}
        self._console_turn: dict[str, Lane] = {}
        self._looked: set[str] = set()

    def seen(self, event: StreamsSeen) -> None:
        """Sizes of a lease's streams are known."""
        lease = self._book.leases.get(event.lease_id)
        if lease is None or lease.run is None:
            return
        if event.final:
            self._looked.add(lease.lease_id)
        for stream, sizes in event.sizes.items():
            kind = kind_of(stream)
            if kind is not None:
                lane = self._lane(lease, stream, kind)
                lane.sizes, lane.final = sizes, lane.final or event.final
                self._kick(lane)
        self._hurry(lease)

    def names_found(self, event: NamesFound) -> None:
        """A batch declares new names: settle them, then send it."""
        lane = self._lanes.get(feed_key(event.lease_id, event.target, event.stream))
        run = lane.run if lane is not None else None
        if lane is None or run is None:
            return
        lane.busy = False
        participant = lane.lease.participant
        settled = self._names.settle(
            run.key,
            participant,
            event.names,
            wait_for_owner=participant != "owner" and self._owner_may_come(run),
            now=self._context.now.at,
        )
        self._known(run.key, participant).update(settled.names)
        for name, who, final in settled.collisions:
            self._context.note(run.key, "series_renamed", name=name, participant=who, final=final)
        self._context.touch(run.key)
        lane.not_before = settled.held_until or 0.0
        self._kick(lane)

    def shipped(self, event: Shipped) -> None:
        """A batch was accepted, or not."""
        lane = self._lanes.get(feed_key(event.lease_id, event.target, event.stream))
        run = lane.run if lane is not None else None
        if lane is None or run is None:
            return
        if self._console_turn.get(run.key) is lane:
            del self._console_turn[run.key]
        if lane.answered(event):
            self._count_points(lane.lease, run, event.summary)
            if lane.feed.kind == "console":
                self._context.change_run(run, next_line=run.next_line + event.lines)
            self._hurry(lane.lease)
        self._kick(lane)

    def wake(self) -> None:
        """Time has passed: try what was waiting."""
        for lane in tuple(self._lanes.values()):
            if lane.not_before and lane.ready:
                self._kick(lane)

    def kick_run(self, run: str) -> None:
        """The Run has become deliverable."""
        for lease in self._book.leases_of(run):
            for lane in self._lanes_of(lease):
                self._kick(lane)

    def deadline(self) -> float | None:
        """When the next waiting lane may go on."""
        waiting = (lane.not_before for lane in self._lanes.values() if lane.not_before and not lane.busy)
        return min(waiting, default=None)

    def complete(self, lease: Lease) -> bool:
        """Whether everything that the lease wrote is delivered; only a final look can tell."""
        looked = lease.lease_id in self._looked and all(lane.complete for lane in self._lanes_of(lease))
        return lease.removed or looked

    def pending_bytes(self, lease: Lease) -> int:
        """Bytes seen in the spool and not delivered yet."""
        return sum(lane.pending for lane in self._lanes_of(lease))

    def delivered(self, lease: Lease) -> int:
        """Records of the lease that the backend has accepted."""
        return sum(self._book.feeds[key].delivered for key in self._book.feed_keys(lease.lease_id))

    def passed(self, lease: Lease) -> int:
        """Records of the lease's own process that the cursors have passed; forked children are left out."""
        keys = self._book.feed_keys(lease.lease_id)
        return sum(self._book.feeds[key].passed for key in keys if self._book.feeds[key].stream in KINDS)

    def trouble(self, lease: Lease) -> str:
        """Why something of the lease is not delivered, "" if all is well."""
        return next((lane.trouble for lane in self._lanes_of(lease) if lane.trouble), "")

    def next_step(self, run: str, participant: str) -> int:
        """The automatic step with which a participant goes on."""
        known = self._book.runs.get(run)
        steps = [known.steps.get(participant, 0) if known is not None else 0]
        for lease in self._book.leases_of(run):
            if lease.participant == participant:
                steps.append(lease.next_step)
                steps.extend(self._book.feeds[key].next_step for key in self._book.feed_keys(lease.lease_id))
        return max(steps)

    def forget(self, lease: Lease) -> None:
        """The lease's folder is gone; its feeds stay in the book for their counts."""
        for key in self._book.feed_keys(lease.lease_id):
            self._lanes.pop(key, None)

    def _kick(self, lane: Lane) -> None:
        run = lane.run
        if run is None or not lane.ready or not self._deliverable(run):
            return
        lane.not_before = 0.0
        segment = lane.next_segment()
        if segment is None:
            lane.give_back()
        elif lane.feed.kind == "console" and self._console_turn.setdefault(run.key, lane) is not lane:
            lane.not_before = self._context.now.at + CONSOLE_TURN_S
        else:
            participant, stop = self._writer_at(lane, segment)
            lane.ship(segment, self._known(run.key, participant), stop)

    def _hurry(self, lease: Lease) -> None:
        """What an ended lease has left is on its way: its process may wait for the document that says so."""
        if not lease.alive and lease.run is not None:
            self._context.touch(lease.run)
            self._context.urgent.add(lease.run)

    def _lane(self, lease: Lease, stream: str, kind: StreamKind) -> Lane:
        key = feed_key(lease.lease_id, "run", stream)
        if key not in self._book.feeds:
            self._book.put_feed(Feed(lease_id=lease.lease_id, target="run", stream=stream, kind=kind))
        if key not in self._lanes:
            self._lanes[key] = Lane(self._context, key, "run")
        return self._lanes[key]

    def _lanes_of(self, lease: Lease) -> list[Lane]:
        return [self._lanes[key] for key in self._book.feed_keys(lease.lease_id) if key in self._lanes]

    def _deliverable(self, run: Run) -> bool:
        if run.id is None or run.stage == "refused":
            return False
        return run.target.mode == "local" or run.target.key_id in self._context.keys

    def _owner_may_come(self, run: Run) -> bool:
        owner = self._book.leases.get(run.owner) if run.owner is not None else None
        return run.stage != "ended" and (owner is None or owner.alive)

    def _known(self, run: str, participant: str) -> dict[str, str | None]:
        known = self._settled.get((run, participant))
        if known is None:
            known = self._settled[(run, participant)] = self._names.names_of(run, participant)
        return known

    def _writer_at(self, lane: Lane, segment: int) -> tuple[str, int | None]:
        """Who wrote there, and up to where: a superseded owner's later records are another's (R7)."""
        lease, start = lane.lease, lane.feed.offsets.get(segment, 0)
        fence = lease.fences.get(lane.feed.stream)
        if fence is None:
            return lease.participant, None
        if (segment, start) >= fence:
            return f"attempt{lease.attempt}", None
        return lease.participant, fence[1] if segment == fence[0] else None

    def _count_points(self, lease: Lease, run: Run, summary: dict[str, PointSummary]) -> None:
        if not summary:
            return
        known = self._known(run.key, lease.participant)
        points = self._book.points.get(lease.lease_id) or Points(run.key)
        series = dict(points.series)
        for name, batch in summary.items():
            final = known.get(name) or name
            before = series.get(final)
            series[final] = Point(batch.last, batch.step, batch.count + (before.count if before else 0))
        self._book.points.put(lease.lease_id, Points(run.key, series))
