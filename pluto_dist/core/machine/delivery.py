"""Delivery: which stream may send now, and under which names (G6, R7).

One `Lane` per stream decides what it sends next; here is decided what lanes have to share: console lines of a
Run are numbered in one order, so its console lanes take turns; the status goes out alone; a new name is
settled before the first record under it is sent.
"""

from __future__ import annotations

from pluto_dist.core.machine.context import Context
from pluto_dist.core.machine.lane import Lane
from pluto_dist.core.rules.participants import (
    NODE,
    REDUCED,
    is_node,
    is_reduced,
    late_participant,
    node_label,
)
from pluto_dist.core.rules.series import LEFT_OUT, SeriesNames, Treatment, treatment
from pluto_dist.core.values.backend import LogType, StreamKind, kind_of
from pluto_dist.core.values.book import Points, cursor_key
from pluto_dist.core.values.effects import LookAtStreams
from pluto_dist.core.values.events import NamesFound, PointSummary, RecordSetAside, Shipped, StreamsSeen
from pluto_dist.core.values.records import Cursor, Lease, Point, Run

TURN_S = 0.05  # a Run's console streams take turns (line numbers are one global order), as does its status
QUIET_MS = 2000  # the status does not wait longer for what a side has on its way


class Delivery:
    """The lanes of all leases."""

    def __init__(self, context: Context, names: SeriesNames) -> None:
        self._context = context
        self._book = context.book
        self._names = names
        self._lanes: dict[str, Lane] = {}
        self._settled: dict[tuple[str, str, str, bool], dict[str, str | None]] = {}
        self._console_turn: dict[str, Lane] = {}
        self._looked: set[str] = set()
        self._held: dict[str, dict[Lane, None]] = {}
        self._troubled: dict[str, dict[Lane, None]] = {}

    def seen(self, event: StreamsSeen) -> None:
        """Takes the sizes of a lease's streams."""
        lease = self._book.leases.get(event.lease_id)
        if lease is None or lease.run is None or lease.removed:
            return
        if event.final:
            self._looked.add(lease.lease_id)
        for stream, sizes in event.sizes.items():
            kind = kind_of(stream)
            if kind is not None:
                lane = self._lane(lease, stream, kind)
                lane.seen(sizes, final=event.final)
                self._kick(lane)
        if not lease.alive:
            self._context.tell(lease)
            self._release_behind(lease)

    def looked(self, lease: Lease) -> bool:
        """Whether the streams of an ended lease were looked at for the last time."""
        return lease.lease_id in self._looked

    def reopen(self, lease: Lease) -> None:
        """Takes the last look at a lease's streams back: something will be added."""
        self._looked.discard(lease.lease_id)

    def look_again(self, lease: Lease) -> None:
        """Has the streams of an ended lease looked at once more; until then they are not complete."""
        self.reopen(lease)
        self._context.emit(LookAtStreams(lease_id=lease.lease_id, folder=lease.folder, final=True))

    def names_found(self, event: NamesFound) -> None:
        """A batch declares new names: settle them, then send it."""
        lane = self._lanes.get(cursor_key(event.lease_id, event.target, event.stream))
        run = lane.run if lane is not None else None
        if lane is None or run is None:
            return
        lane.called_off()
        lane.not_before = self._settle_names(run, lane, event.names)
        if lane.not_before:
            self._held.setdefault(run.key, {})[lane] = None
        elif lane.writer == "owner":
            self._release(run.key)
        if not lane.not_before and run.target.mode == "pluto" and self._book.unregistered(run.key):
            lane.wait_for_registration()
        self._context.touch(run.key)
        self._kick(lane)

    def names_registered(self, run: str) -> None:
        """The backend knows the names, so what waited for that may go."""
        for lease in self._book.leases_of(run):
            for lane in self.lanes_of(lease):
                if lane.registered():
                    self._kick(lane)

    def shipped(self, event: Shipped) -> None:
        """Takes the outcome of a batch."""
        lane = self._lanes.get(cursor_key(event.lease_id, event.target, event.stream))
        run = lane.run if lane is not None else None
        if lane is None or run is None:
            return
        if self._console_turn.get(run.key) is lane:
            del self._console_turn[run.key]
        trouble = lane.trouble
        if lane.answered(event):
            self._count_points(lane, run, event.summary)
            if lane.cursor.kind == "console":
                run = self._book.runs[run.key]  # repeats may just have been counted
                self._context.change_run(run, next_line=run.next_line + event.lines)
        if lane.trouble != trouble:
            self._note_trouble(run.key, lane)
            self._context.tell(lane.lease)
        self._went_on(lane)

    def put_aside(self, event: RecordSetAside) -> None:
        """Takes the outcome of setting a refused record aside."""
        lane = self._lanes.get(cursor_key(event.lease_id, event.target, event.stream))
        if lane is not None:
            lane.put_aside(event.error)
            self._went_on(lane)

    def quiet(self, run: Run) -> bool:
        """Whether no batch of the Run is in flight; one of a side is waited for only a moment."""
        since_ms = self._context.now.wall_ms - (run.decided_ms or 0)
        return since_ms > QUIET_MS or not any(
            lane.busy for lease in self._book.leases_of(run.key) for lane in self.lanes_of(lease)
        )

    def wake(self) -> None:
        """Tries all lanes that waited for a time that has come."""
        for lane in tuple(self._lanes.values()):
            if lane.not_before and lane.ready:
                self._kick(lane)

    def kick_run(self, run: str) -> None:
        """Tries all lanes of a Run."""
        for lease in self._book.leases_of(run):
            self.kick(lease)

    def kick(self, lease: Lease) -> None:
        """Tries all lanes of a lease."""
        for lane in self.lanes_of(lease):
            self._kick(lane)

    def deadline(self) -> float | None:
        """When the next waiting lane may go on."""
        waiting = (lane.not_before for lane in self._lanes.values() if lane.not_before and not lane.busy)
        return min(waiting, default=None)

    def complete(self, lease: Lease) -> bool:
        """Whether all that the lease wrote is delivered; never before the final look at its streams."""
        looked = lease.lease_id in self._looked and all(lane.complete for lane in self.lanes_of(lease))
        return lease.removed or looked

    def only_files_left(self, lease: Lease) -> bool:
        """Whether nothing but files is still to be delivered."""
        lanes = (lane for lane in self.lanes_of(lease) if lane.cursor.kind != "files")
        return lease.lease_id in self._looked and all(lane.complete for lane in lanes)

    def pending_bytes(self, lease: Lease) -> int:
        """Bytes seen in the spool and not delivered yet."""
        return sum(lane.pending for lane in self.lanes_of(lease))

    def passed(self, lease: Lease) -> int:
        """Records of the lease that have been delivered or set aside."""
        return sum(self._book.cursors[key].passed for key in self._book.cursor_keys(lease.lease_id))

    def trouble(self, run: str) -> str:
        """Why something of the Run is not delivered, "" if all is well."""
        return next((lane.trouble for lane in self._troubled.get(run, {}) if lane.trouble), "")

    def next_step(self, run: str, participant: str, *, member: bool = False) -> int:
        """The automatic step with which a participant goes on.

        Args:
            run, participant: key of the Run, and the participant in it.
            member: the participant is an owner or worker.
        """
        known = self._book.runs.get(run)
        steps = [known.steps.get(participant, 0) if known is not None else 0]
        if known is not None and member:
            steps.append(known.behind)
        if known is not None and known.fork_step is not None:
            steps.append(known.fork_step + 1)  # a fork goes on behind the step it was made from
        for lease in self._book.leases_by(run, participant):
            steps.append(lease.next_step)
            steps.extend(self._book.cursors[key].next_step for key in self._book.cursor_keys(lease.lease_id))
        return max(steps)

    def lease_removed(self, lease: Lease) -> None:
        """Drops the lanes of a lease whose folder is gone; its cursors stay in the book for their counts."""
        for key in self._book.cursor_keys(lease.lease_id):
            lane = self._lanes.pop(key, None)
            if lane is not None and lease.run is not None:
                self._troubled.get(lease.run, {}).pop(lane, None)

    def forget(self, run: str) -> None:
        self._names.forget(run)
        self._console_turn.pop(run, None)
        self._held.pop(run, None)
        self._troubled.pop(run, None)
        for key in [key for key in self._settled if key[0] == run]:
            del self._settled[key]
        for lease in self._book.leases_of(run):
            self._looked.discard(lease.lease_id)

    def _kick(self, lane: Lane) -> None:
        run = lane.run
        if run is None or not lane.ready or not self.deliverable(run) or _unfenced(lane.lease):
            return
        if run.key in self._context.reporting:  # the status goes out alone (G6)
            lane.not_before = self._context.now.at + TURN_S
            return
        lane.not_before = 0.0
        lane.give_back()  # also while more is to be sent: a quota counts what lies on the disk (G3)
        segment = lane.next_segment()
        if segment is None:
            return
        if lane.cursor.kind == "console" and self._console_turn.setdefault(run.key, lane) is not lane:
            lane.not_before = self._context.now.at + TURN_S
        else:
            writer, stop = _writer_at(lane, segment)
            lane.ship(segment, writer, self._known(run.key, writer, lane), stop)

    def _note_trouble(self, run: str, lane: Lane) -> None:
        troubled = self._troubled.setdefault(run, {})
        if lane.trouble:
            troubled[lane] = None
        else:
            troubled.pop(lane, None)

    def _went_on(self, lane: Lane) -> None:
        if not lane.lease.alive:
            self._context.tell(lane.lease)
        self._release_behind(lane.lease)
        run = lane.run
        if run is not None and run.ended and not run.reported:
            self._context.touch(run.key)  # the status may have waited for this
        self._kick(lane)

    def _settle_names(self, run: Run, lane: Lane, names: dict[str, LogType]) -> float:
        """Settles new names; returns until when those are held that wait for the owner, 0 if none does."""
        lease, writer = lane.lease, lane.writer
        how = {name: _treatment(run, lease, name, kind) for name, kind in names.items()}
        known = self._known(run.key, writer, lane)
        known.update(dict.fromkeys(name for name in names if how[name] in LEFT_OUT))
        together = {name: kind for name, kind in names.items() if how[name] == "reduced"}
        if together:  # the plain name is theirs before a side can have it
            self._settle_reduced(run, lease, together)
        may_wait = writer != "owner" and not is_reduced(lease)
        settled = self._names.settle(
            run.key,
            writer,
            {name: kind for name, kind in names.items() if how[name] not in LEFT_OUT},
            wait_for_owner=may_wait and self._owner_may_come(run),
            apart=[name for name in names if how[name] == "apart"],
            now=self._context.now.at,
        )
        known.update(settled.names)
        for name, who, final in settled.collisions:
            self._context.note(run.key, "series_renamed", name=name, participant=who, final=final)
        return settled.held_until or 0.0

    def _settle_reduced(self, run: Run, lease: Lease, names: dict[str, LogType]) -> None:
        node = node_label((lease,))
        self._names.settle(
            run.key,
            node or REDUCED,
            names,
            wait_for_owner=False,
            apart=names if node else (),
            now=self._context.now.at,
        )

    def _lane(self, lease: Lease, stream: str, kind: StreamKind) -> Lane:
        key = cursor_key(lease.lease_id, "run", stream)
        if key not in self._book.cursors:
            self._book.put_cursor(Cursor(lease_id=lease.lease_id, target="run", stream=stream, kind=kind))
        if key not in self._lanes:
            self._lanes[key] = Lane(self._context, key, "run")
        return self._lanes[key]

    def lanes_of(self, lease: Lease) -> list[Lane]:
        """Streams of a lease that have been seen."""
        return [self._lanes[key] for key in self._book.cursor_keys(lease.lease_id) if key in self._lanes]

    def deliverable(self, run: Run) -> bool:
        """Whether the Run's backend can take records now."""
        return run.id is not None and self._context.may_talk(run)

    def _owner_may_come(self, run: Run) -> bool:
        """Whether the owner may still declare a name: it is to come, lives, or left undelivered records."""
        owner = self._book.leases.get(run.owner) if run.owner is not None else None
        if owner is None:
            return not run.ended and not run.relay
        return owner.alive or not self.complete(owner)

    def _release_behind(self, lease: Lease) -> None:
        """Releases names that were held for the owner, once it is gone and all that it wrote is delivered."""
        run = self._book.runs.get(lease.run or "")
        if run is not None and run.key in self._held and not self._owner_may_come(run):
            self._release(run.key)

    def _release(self, run: str) -> None:
        """Tries the lanes again whose names were held for the owner."""
        for lane in self._held.pop(run, {}):
            lane.not_before = 0.0
            self._kick(lane)

    def _known(self, run: str, participant: str, lane: Lane) -> dict[str, str | None]:
        """Settled names; which are left out depends on what the process has asked for.

        Where numbers are reduced they have names of their own: a file that is logged under the name of one
        is not left out with it.
        """
        mode = lane.lease.rank_metrics
        reduced = mode == "reduce" and lane.cursor.kind == "metrics"
        key = (run, participant, mode, reduced)
        known = self._settled.get(key)
        if known is None:
            known = self._settled[key] = {} if reduced else self._names.names_of(run, participant)
        return known

    def _count_points(self, lane: Lane, run: Run, summary: dict[str, PointSummary]) -> None:
        if not summary or lane.lease.participant == NODE:  # no script logged these
            return
        known = self._known(run.key, lane.writer, lane)
        points = self._book.points.get(lane.lease.lease_id) or Points(run.key)
        series, count = dict(points.series), points.count
        for name, batch in summary.items():
            final = known.get(name, name)
            if final is None:
                continue
            before = series.get(final)
            series[final] = Point(batch.last, batch.step, batch.count + (before.count if before else 0))
            count += batch.count
        self._book.put_points(lane.lease.lease_id, Points(run.key, series, count))


def _unfenced(lease: Lease) -> bool:
    """Whether a superseded lease has no fences yet, so that its late records cannot be told from the rest."""
    return lease.end_reason == "superseded" and lease.fences is None


def _writer_at(lane: Lane, segment: int) -> tuple[str, int | None]:
    """The participant at the lane's cursor, and the offset where another begins, None for nowhere.

    Behind the fence of a superseded lease its records belong to `late_participant` (R7).
    """
    lease, start = lane.lease, lane.cursor.offsets.get(segment, 0)
    if lease.fences is None:
        return lease.participant, None
    fence = lease.fences.get(lane.cursor.stream)
    if fence is None or (segment, start) >= fence:
        return late_participant(lease.participant, lease.attempt), None
    return lease.participant, fence[1] if segment == fence[0] else None


def _treatment(run: Run, lease: Lease, name: str, log_type: LogType) -> Treatment:
    if is_reduced(lease):
        return "apart" if lease.opened.label else "shared"
    if is_node(lease):  # its names have the node's in them
        return "shared"
    return treatment(name, lease.rank_metrics, lease.opened.job, log_type, relayed=bool(run.relay))
