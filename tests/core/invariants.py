"""What must be true after every event, whatever happened: the guarantees as checks on the book.

They are called by the world; a failure names the guarantee and the event after which it does not hold.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from pluto_dist.core.values import effects as do
from pluto_dist.core.values import events as on
from pluto_dist.core.values.records import Cursor, Lease, Run, Verdict

if TYPE_CHECKING:
    from tests.core.driver import Driver


class Invariants:
    """Remembers what must not go back."""

    def __init__(self, world: Driver) -> None:
        self._world = world
        self._epochs: dict[str, int] = {}
        self._verdicts: dict[str, Verdict] = {}
        self.endings: dict[str, int] = defaultdict(int)

    def check(self, event: on.Event) -> None:
        """After each event."""
        self._no_spinning(event)
        for run in self._world.book.runs:
            leases = self._world.book.leases_of(run.key)
            self._one_owner(run, leases)
            self._epochs_rise(run)
            self._verdict_is_frozen(run, event)
            self._names_are_apart(run)
            self._moves_are_legal(run)
        self._cursors_are_honest()

    def _moves_are_legal(self, run: Run) -> None:
        """A part of the machine that asks for an illegal move is wrong, although the move is refused."""
        history = self._world.book.histories.get(run.key)
        refused = (
            [event.detail for event in history.events if event.name == "illegal_move"] if history else []
        )
        assert not refused, f"{run.key}: {refused}"

    def removed(self, lease_id: str) -> None:
        """G3: a folder goes only when all that was written is accepted or set aside."""
        spool = self._world.spools.get(lease_id)
        lease = self._world.book.leases.get(lease_id)
        if spool is None or lease is None or lease.run is None:
            return
        for stream, segments in spool.streams.items():
            for number, segment in segments.items():
                for record in segment.records:
                    self._arrived(lease_id, stream, number, record.start)

    def _no_spinning(self, event: on.Event) -> None:
        """After a `Ticked` the deadline is in the future, so that nobody spins."""
        if not isinstance(event, on.Ticked):
            return
        deadline = self._world.core.deadline()
        assert deadline is None or deadline > self._world.now, f"deadline {deadline} after {event}"

    def _one_owner(self, run: Run, leases: tuple[Lease, ...]) -> None:
        """G2."""
        owners = [lease for lease in leases if lease.role == "owner" and lease.alive]
        assert len(owners) <= 1, f"G2: {run.key} has owners {[lease.label for lease in owners]}"
        with_epoch = [lease for lease in leases if lease.role == "owner" and lease.epoch == run.epoch]
        assert len(with_epoch) <= 1, f"G2: two owner leases with epoch {run.epoch}"
        assert all(lease.epoch <= run.epoch for lease in leases), "a lease is ahead of its Run"

    def _epochs_rise(self, run: Run) -> None:
        assert run.epoch >= self._epochs.get(run.key, 0), f"epoch of {run.key} went back to {run.epoch}"
        self._epochs[run.key] = run.epoch

    def _verdict_is_frozen(self, run: Run, event: on.Event) -> None:
        """R10, G1: an end has a reason that gives it the right, and stays."""
        before = self._verdicts.get(run.key)
        if run.verdict is None:
            self._verdicts.pop(run.key, None)
            assert run.relay or run.status == "RUNNING", f"{run.key} is {run.status} without a verdict"
            return
        by_all_nodes = (
            run.round > 0
        )  # what one node has decided alone, and whose owner lives, is no matter then
        forced_elsewhere = run.cluster is not None and "finish --force" in run.verdict.reason
        by_person = isinstance(event, on.Asked | on.Beaten) or forced_elsewhere or by_all_nodes
        if before is not None:
            reopened = run.prior is not None and run.prior.verdict == before  # and ended again, in one event
            assert before == run.verdict or by_person or reopened, (
                f"the verdict of {run.key} has changed: {event}"
            )
        else:
            self.endings[run.key] += 1
            owner = self._world.book.leases.get(run.owner or "")
            gone = run.launcher_gone_at is not None
            nobody = run.owner is None  # a reopening that was refused, or nobody came to own it
            assert by_person or nobody or gone or (owner is not None and not owner.alive), (
                f"G1: {run.key} became {run.status} while its owner lives: {event}"
            )
        if before is not None and before != run.verdict:
            self.endings[run.key] += 1
        assert run.status == run.verdict.status
        self._verdicts[run.key] = run.verdict

    def _names_are_apart(self, run: Run) -> None:
        """G10: no two participants share a series, nor two names of one participant."""
        writers: dict[str, tuple[str, str]] = {}
        for name, series in self._world.book.series_of(run.key).items():
            finals = {final: (who, name) for who, final in series.others.items()}
            if series.participant and not series.plain:
                finals[name] = (series.participant, name)
            for final, writer in finals.items():
                assert writers.setdefault(final, writer) == writer, f"G10: {final} is {writer} and another"

    def _cursors_are_honest(self) -> None:
        """G6: a cursor passes what was accepted or set aside, and nothing else."""
        for cursor in self._world.book.cursors:
            if cursor.target == "store":
                self._copies_are_there(cursor)
                continue
            spool = self._world.spools.get(cursor.lease_id)
            for number, offset in cursor.offsets.items() if spool is not None else ():
                segment = spool.streams.get(cursor.stream, {}).get(number) if spool is not None else None
                for record in segment.records if segment is not None else ():
                    if record.end <= offset and not record.damaged:
                        self._arrived(cursor.lease_id, cursor.stream, number, record.start)

    def copies_dropped(self, effect: do.DropCopies) -> None:
        """G3: a copy goes when the server has what stands in it."""
        spool = self._world.spools.get(effect.lease_id)
        for stream, number in effect.segments if spool is not None else ():
            segment = spool.streams.get(stream, {}).get(number) if spool is not None else None
            end = self._world.copies.get((effect.lease_id, stream, number), 0)
            for record in segment.records if segment is not None else ():
                if record.end <= end and not record.damaged:
                    self._arrived(effect.lease_id, stream, number, record.start)

    def _copies_are_there(self, cursor: Cursor) -> None:
        """G3: what the book says of copies is in the store."""
        for number, end in cursor.offsets.items():
            kept = self._world.copies.get((cursor.lease_id, cursor.stream, number), 0)
            assert kept >= end, f"G3: the copy of {cursor.lease_id}/{cursor.stream}/{number} ends at {kept}"

    def _arrived(self, lease_id: str, stream: str, number: int, start: int) -> None:
        place = (lease_id, stream, number, start)
        assert place in self._world.server.accepted or place in self._world.set_aside, f"G3, G6: lost {place}"
