"""Settling: after every event, the consequences for each Run that it touched.

The order is fixed: claims, then entries that waited for them, then the verdict, then what the backend and the
store lack, then views for the processes. `rules/verdict` decides whether a Run has ended; here its verdict is
frozen, and it is reported once, after everything of owner and workers has been delivered.

Before a verdict all living members are polled (R10). The coordinator may have been away: stopped, without
room on its disk, or not yet started. Its clock then says that a deadline has passed, while what the members
did meanwhile stands unread in their lifecycle streams; so does the claim of a rank that came last in a short
job. So new leases are looked for, the streams of living members read and their processes checked once more.

`NodeReports` tells people of a failure on a node without the owner. `Retention` forgets Runs that ended long
ago and claims that came to nothing. `Idle` decides when the coordinator has had nothing to do for so long
that it ends (R3). `Leftovers` names sides that outlive their Run although a rank of it has started them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Protocol, runtime_checkable

import msgspec

from pluto_dist.core.machine.admission import Admission
from pluto_dist.core.machine.beats import BEAT_S, POLL_S
from pluto_dist.core.machine.cluster import Clusters
from pluto_dist.core.machine.context import Context, Shared
from pluto_dist.core.machine.control import Controls
from pluto_dist.core.machine.delivery import QUIET_MS, Delivery
from pluto_dist.core.machine.folding import Folding
from pluto_dist.core.machine.node_streams import Reducing, Sampling
from pluto_dist.core.machine.store import DocumentWriter
from pluto_dist.core.machine.views import RunSituations, Views
from pluto_dist.core.rules.claims import sought
from pluto_dist.core.rules.verdict import (
    Assessment,
    codes_awaited,
    describe,
    first_failure,
    who_failed,
)
from pluto_dist.core.values.cluster import StoredVerdict
from pluto_dist.core.values.effects import PollMembers, RemoveLease
from pluto_dist.core.values.records import Lease, Run, Verdict

ROUNDS = 20  # settling one Run may touch it, or another one, again; it never takes more than a few rounds


class Settling:
    """Settles Runs; keeps their deadlines, and the ended leases whose folders are still there."""

    def __init__(
        self,
        context: Context,
        shared: Shared,
        admission: Admission,
        folding: Folding,
        delivery: Delivery,
        controls: Controls,
        document_writer: DocumentWriter,
        situations: RunSituations,
        views: Views,
        sampling: Sampling,
        reducing: Reducing,
        clusters: Clusters,
        leftovers: Leftovers,
    ) -> None:
        self._context = context
        self._book = context.book
        self._admission = admission
        self._folding = folding
        self._delivery = delivery
        self._controls = controls
        self._document_writer = document_writer
        self._situations = situations
        self._views = views
        self._sampling = sampling
        self._reducing = reducing
        self._clusters = clusters
        self._leftovers = leftovers
        self._polls = MemberPolls(context)
        self._reports = NodeReports(context, shared)
        self._deadlines: dict[str, float] = {}
        self._gone: set[str] = set()

    def settle(self) -> Container[str]:
        """Settles all touched Runs and returns them; writes documents and sends views that have changed."""
        runs, news = self._settle_all()
        self._polls.close()
        for key in runs:
            self._document_writer.changed(key)
        self._document_writer.write_due(self._views.last_word)
        self._views.tell(runs, news)
        return runs

    def polled(self, run: str) -> None:
        """Takes the end of a poll of a Run's members."""
        self._polls.polled(run)

    def deadline(self) -> float | None:
        """When a Run has to be settled again, if nothing happens before."""
        return min(self._deadlines.values(), default=None)

    def gone(self, lease_id: str) -> None:
        """Notes that a lease's process is dead: its folder may go once everything in it is delivered."""
        self._gone.add(lease_id)
        self._context.news[lease_id] = None
        lease = self._book.leases.get(lease_id)
        if lease is not None and lease.rank_metrics == "reduce":
            self._context.touch(lease.run)  # the ranks' series together may have waited for it

    def at_rest(self, run: Run) -> bool:
        """Whether nothing is left to do for the Run."""
        delivered = all(
            self._delivery.complete(lease) and not any(lane.kept for lane in self._delivery.lanes_of(lease))
            for lease in self._book.leases_of(run.key)
            if not lease.alive
        )
        over = run.reported or (bool(run.relay) and self._admission.phase(run) == "detached")
        over = over and not self._clusters.expects_more(run)
        return over and delivered and self._document_writer.safe(run) and self._controls.settled(run)

    def forget(self, run: str) -> None:
        self._deadlines.pop(run, None)
        self._polls.forget(run)
        self._reports.forget(run)

    def _settle_all(self) -> tuple[dict[str, None], dict[str, None]]:
        """Settles until nothing changes any more; returns the Runs and leases that were settled.

        It takes rounds, because settling one Run may touch another: the end of a lease decides a claim.
        """
        runs: dict[str, None] = {}
        news: dict[str, None] = {}
        self._touch_due()
        self._stop_seeking()
        for _ in range(ROUNDS):
            if self._context.touched or self._context.news or self._claim_is_due():
                self._admission.retry()
            self._folding.fold_all()
            touched, changed = self._context.take_changes()
            if not touched and not changed:
                return runs, news
            for key in touched:
                run = self._book.runs.get(key)
                if run is not None:
                    runs[key] = None
                    self._settle_run(run)
            for lease_id in changed:
                news[lease_id] = None
                self._remove_if_done(lease_id)
        raise RuntimeError(f"Runs {tuple(self._context.touched)} do not come to rest")

    def _touch_due(self) -> None:
        now = self._context.now.at
        for key in [key for key, at in self._deadlines.items() if at <= now]:
            del self._deadlines[key]
            self._context.touch(key)
        for key in self._views.due():
            self._context.touch(key)

    def _stop_seeking(self) -> None:
        """Deletes Runs of other nodes that were looked for only for claims, once no claim waits for them."""
        for run in self._book.runs.opening:
            if sought(run) and not self._admission.awaited(run):
                self._book.delete_run(run.key)

    def _claim_is_due(self) -> bool:
        due = self._admission.deadline()
        return due is not None and due <= self._context.now.at

    def _settle_run(self, run: Run) -> None:
        situation = self._context.situation(run)
        members, assessment = situation.members, situation.assessment
        verdict = assessment.verdict or self._nobody_comes(run)
        if run.cluster is not None:
            run = self._of_all_nodes(run, members, assessment, verdict)
        elif verdict is not None and not run.ended and self._polls.over(run, members):
            run = self._end(run, verdict, members)
        alone = run.cluster is None or self._clusters.trouble(run)
        if run.relay and alone and assessment.phase in ("detached", "restarting"):
            self._reports.tell(run, members)
        self._leftovers.settled(run)
        node = self._sampling.plan(run)
        if node is not None:
            self.gone(node.lease_id)
        for lease_id in self._reducing.plan(run, self._gone):
            self.gone(lease_id)
        delivered, quiet = self._situations.delivered(run), self._delivery.quiet(run)
        beat_s = _beat_s(run, assessment, members)
        may_report = delivered and quiet and self._clusters.may_report(run)
        ends = delivered and quiet and assessment.expected is not None and not run.ended
        self._controls.advance(run, may_report=may_report, beat_s=beat_s, ends=ends)
        self._plan(run, assessment, self._status_by(run, delivered=delivered, quiet=quiet))
        for lease in self._book.left(run.key):
            self._remove_if_done(lease.lease_id)

    def _of_all_nodes(
        self, run: Run, members: tuple[Lease, ...], assessment: Assessment, verdict: Verdict | None
    ) -> Run:
        """Settles a Run of several nodes: notes when this one is done; the verdict comes from the store."""
        shared = self._clusters.of(run)
        if shared is None:
            return run
        done = verdict is not None if not run.relay else self._node_is_done(assessment, members)
        if run.ended and shared.stored() is None:  # by this node alone, or by a person
            shared.over(run, members, run.verdict, settled=run.reported or run.forced)
        elif done and not run.ended and self._polls.over(run, members):
            nobody = verdict is not None and assessment.verdict is None
            shared.over(run, members, verdict, settled=nobody)
        self._clusters.advance(run, members)
        stored = shared.stored()
        if stored is not None and not run.forced:
            return self._as_stored(run, members, stored, number=shared.round, sent=shared.sent())
        alone = self._clusters.last_resort(run) if not run.ended else None
        return self._end(run, alone, members) if alone is not None else run

    def _as_stored(
        self, run: Run, members: tuple[Lease, ...], stored: StoredVerdict, *, number: int, sent: bool
    ) -> Run:
        """The Run ends as all nodes know it, also where this one had decided alone.

        Of one status the first reason stays, because a server has been told it; parts have all the same one.
        A cancel that is known here is later than another verdict that is stored; the seat is to store it.
        """
        cancelled = stored.verdict.status == "CANCELLED"
        if run.cancelled and run.ended and not cancelled:
            return run
        another = run.status != stored.verdict.status or not run.ended
        if run.target.mode == "local":
            another = another or (run.verdict, run.ended_ms) != (stored.verdict, stored.ended_ms)
        if another:
            heard = cancelled and (run.cancelled or run.ended)  # an end gives way to the server alone
            run = self._end(run, stored.verdict, members, stored.ended_ms, round=number, cancelled=heard)
            run = self._context.change_run(run, reported=False)
        if run.round != number:
            run = self._context.change_run(run, round=number)
        if sent and not run.reported:
            run = self._context.change_run(run, telling=True, reported=True)
        return run

    def _node_is_done(self, assessment: Assessment, members: tuple[Lease, ...]) -> bool:
        """Whether on a node without the owner all members have ended and none may be started again."""
        codes = codes_awaited(members, self._context.now.at)
        return assessment.phase == "detached" and bool(members) and codes is None

    def _nobody_comes(self, run: Run) -> Verdict | None:
        """The end of a Run whose opener went elsewhere, which would stay RUNNING for ever; else None."""
        if run.owner is not None or run.opening or run.relay or self._admission.expects_owner(run):
            return None
        return run.prior.verdict if run.prior is not None else Verdict("TERMINATED", "nobody came to own it")

    def _end(
        self,
        run: Run,
        verdict: Verdict,
        members: tuple[Lease, ...],
        ended_ms: int | None = None,
        **changes: object,
    ) -> Run:
        """Freezes the verdict; without `ended_ms` an end that is found late is dated by its last member."""
        self._context.urgent.add(run.key)
        self._context.note(run.key, "ended", status=verdict.status, reason=verdict.reason)
        if ended_ms is None and run.prior is not None and verdict is run.prior.verdict:
            ended_ms = run.prior.ended_ms
        last = max(members, key=lambda member: member.ended_ms or 0, default=None)
        late = last is not None and last.found_ms > 0 and not any(member.alive for member in members)
        last_ms = last.ended_ms if late and last is not None else self._context.now.wall_ms
        return self._context.change_run(
            run,
            status=verdict.status,
            verdict=verdict,
            ended_ms=ended_ms or last_ms,
            found_ms=self._context.now.wall_ms if late and not ended_ms else 0,
            **changes,
        )

    def _status_by(self, run: Run, *, delivered: bool, quiet: bool) -> float | None:
        """Until when late records hold up the status, None if none do."""
        if not run.ended or run.reported:
            return None
        if not delivered:
            left_ms = self._situations.files_by_ms(run) - self._context.now.wall_ms
            return self._context.now.at + left_ms / 1000 if left_ms > 0 else None
        return None if quiet else self._context.now.at + QUIET_MS / 1000

    def _plan(self, run: Run, assessment: Assessment, status_by: float | None) -> None:
        codes = codes_awaited(self._context.situation(run).members, self._context.now.at)
        candidates = (
            assessment.deadline,
            codes if run.cluster is not None else None,
            self._clusters.run_deadline(run.key),
            self._controls.deadline(run.key),
            status_by,
        )
        deadlines = [at for at in candidates if at is not None and at > self._context.now.at]
        if deadlines:
            self._deadlines[run.key] = min(deadlines)
        else:
            self._deadlines.pop(run.key, None)

    def _remove_if_done(self, lease_id: str) -> None:
        """Removes the folder of a lease whose process is dead, once everything in it is delivered."""
        lease = self._book.leases.get(lease_id)
        if lease is None or lease.removed or lease.alive or lease_id not in self._gone:
            return
        if lease.participant and not self._delivery.complete(lease):
            return
        if any(lane.kept or lane.correctable for lane in self._delivery.lanes_of(lease)):
            return
        self.remove(lease)

    def remove(self, lease: Lease) -> None:
        """Removes the folder of a lease, whatever is in it."""
        self._gone.discard(lease.lease_id)
        # `removed` is committed before the folder goes: a crash between the two only repeats the removal.
        self._context.emit(RemoveLease(lease_id=lease.lease_id, folder=lease.folder))
        self._book.put_lease(msgspec.structs.replace(lease, removed=True))
        self._delivery.lease_removed(lease)
        self._folding.lease_removed(lease.lease_id)
        self._views.lease_removed(lease.lease_id)


def _beat_s(run: Run, assessment: Assessment, members: tuple[Lease, ...]) -> float | None:
    """Seconds between heartbeats, None for none: a dead job's Run is never kept alive (G7)."""
    if run.relay:
        lives = run.status == "RUNNING" and assessment.phase in ("running", "restarting")
    else:
        lives = not run.ended and assessment.phase != "opening"
    if not lives:
        return None
    return POLL_S if any(member.alive for member in members) else BEAT_S


class MemberPolls:
    """Runs whose members are being polled, and Runs whose poll this very event has ended."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._asked: set[str] = set()
        self._polled: set[str] = set()

    def over(self, run: Run, members: Iterable[Lease]) -> bool:
        """Whether a verdict may be made now; if not, the members are polled."""
        if run.key in self._polled:
            return True
        if run.key not in self._asked:
            self._asked.add(run.key)
            living = tuple((member.lease_id, member.folder) for member in members if member.alive)
            self._context.emit(PollMembers(run=run.key, members=living))
        return False

    def polled(self, run: str) -> None:
        """Takes the end of a poll; what was new of the members came before this, as events."""
        self._asked.discard(run)
        self._polled.add(run)
        self._context.touch(run)

    def close(self) -> None:
        """Ends the event: a poll counts for it alone, and a later verdict needs another one."""
        self._polled.clear()

    def forget(self, run: str) -> None:
        self._asked.discard(run)


FORGET_MS = 24 * 3600 * 1000  # ended Runs are remembered this long; the store and the server keep them
TOPICS_MS = 7 * FORGET_MS  # … and this long if something was handed over there, which only they keep
FORGET_EVERY_S = 3600.0


@runtime_checkable
class Part(Protocol):
    """A part of the machine that keeps something by Run beside the book."""

    def forget(self, run: str) -> None:
        """Forgets all that is kept of a Run, whose records may still be in the book."""
        ...


class Retention:
    """Deletes what is old, now and then.

    Args:
        parts: all parts that keep something by Run.
    """

    def __init__(self, context: Context, parts: Iterable[Part]) -> None:
        self._context = context
        self._book = context.book
        self._parts = tuple(parts)
        self._next_at = float("-inf")

    def forget_old(self) -> None:
        """Deletes, if it is time, Runs that were reported long ago, and old claims that got no Run."""
        now = self._context.now
        if now.at < self._next_at:
            return
        self._next_at = now.at + FORGET_EVERY_S
        before_ms = now.wall_ms - FORGET_MS
        for run in self._book.runs:
            if self._done_with(run, now.wall_ms):
                self.forget(run.key)
        for lease in self._book.leases:
            if lease.run is None and lease.removed and (lease.ended_ms or 0) < before_ms:
                self._book.delete_lease(lease.lease_id)

    def forget(self, run: str) -> None:
        """Deletes a Run, of whose leases no folder is left."""
        self._forget(run)
        self._book.delete_run(run)

    def forget_gone(self) -> None:
        """Has all parts forget Runs that were deleted from the book."""
        for run in self._book.take_deleted():
            if run not in self._book.runs:
                self._forget(run)

    def _forget(self, run: str) -> None:
        for part in self._parts:
            part.forget(run)

    def _done_with(self, run: Run, now_ms: int) -> bool:
        leases = self._book.leases_of(run.key)
        before_ms = now_ms - (TOPICS_MS if self._book.topics_of(run.key) else FORGET_MS)
        ended_ms = max((lease.ended_ms or 0 for lease in leases), default=0) if run.relay else run.decided_ms
        over = run.reported or (bool(run.relay) and not run.opening)
        return over and (ended_ms or 0) < before_ms and all(lease.removed for lease in leases)


class Idle:
    """The time at rest, after which the coordinator ends.

    Args:
        exit_s: seconds at rest after which to end.
    """

    def __init__(self, exit_s: float) -> None:
        self.exit_s = exit_s
        self._since: float | None = None

    def long_enough(self, at_rest: bool, now: float) -> bool:
        """Whether to end now; True once, then after as long again: a message may have kept the process."""
        if not at_rest:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        if now < self._since + self.exit_s:
            return False
        self._since = now
        return True

    def deadline(self) -> float | None:
        """When `long_enough` will be True, None while there is something to do."""
        return self._since + self.exit_s if self._since is not None else None


LONGEST_REPORT = 1000  # characters


class NodeReports:
    """The first failure on a node without the owner, for the Run's events and its config.

    The verdict is made on the owner's node, from the evidence there: connection errors, or its launcher's
    SIGTERM. Under `pluto_dist.failures` in the config people see which rank of which node failed first.
    """

    def __init__(self, context: Context, shared: Shared) -> None:
        self._context = context
        self._shared = shared
        self._told: set[tuple[str, int]] = set()

    def tell(self, run: Run, members: tuple[Lease, ...]) -> None:
        """Reports the first failure, once all members of the attempt on this node have ended."""
        found = first_failure(run, members)
        if found is None or found[0] or (run.key, run.epoch) in self._told:
            return
        self._told.add((run.key, run.epoch))
        what = f"{who_failed(found[1])}: {describe(found[1])}"
        self._context.note_once(run.key, "failed_on_this_node", attempt=str(run.attempt), what=what)
        patch = {"pluto_dist": {"failures": {run.relay: {f"attempt {run.attempt}": what[:LONGEST_REPORT]}}}}
        self._shared.update_config(run.key, msgspec.json.encode(patch))

    def forget(self, run: str) -> None:
        self._told = {told for told in self._told if told[0] != run}


LEFT_AFTER_S = 30.0  # a side that looks at `run.status` has ended by then


class Leftovers:
    """Sides that outlive their Run although a rank of it has started them.

    torchrun ends a job by a signal to the process groups of the ranks that it still has. What a rank that
    died first had started gets none, and outlives torchrun. Nothing is ended because of it here either: a
    side is its own master. One event and one line of that process name it.

    When to look is kept in memory only: another coordinator looks anew.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._book = context.book
        self._look_at: dict[str, float] = {}
        self._looked: set[str] = set()

    def settled(self, run: Run) -> None:
        """The Run was looked at: it may have ended, or been taken up again."""
        if not run.ended:
            self.forget(run.key)
        elif run.key not in self._looked:
            self._looked.add(run.key)
            self._look_at[run.key] = self._context.now.at + LEFT_AFTER_S

    def look(self) -> None:
        """Names those of the Runs for which it is time."""
        now = self._context.now.at
        for key in [key for key, at in self._look_at.items() if at <= now]:
            del self._look_at[key]
            leases = self._book.leases_of(key)
            ranks = [lease for lease in leases if lease.role != "side"]
            for side in leases:
                starter = _starter(side, ranks)
                if side.alive and side.role == "side" and starter is not None:
                    self._name(key, side, starter)

    def deadline(self) -> float | None:
        """When there is something to look for."""
        return min(self._look_at.values(), default=None)

    def forget(self, run: str) -> None:
        self._look_at.pop(run, None)
        self._looked.discard(run)

    def _name(self, key: str, side: Lease, starter: Lease) -> None:
        self._context.change_lease(side, left_over=starter.label)
        self._context.note(
            key,
            "left_over",
            label=side.label,
            pid=str(side.identity.pid),
            host=side.identity.host,
            started_by=starter.label,
        )


def _starter(side: Lease, ranks: list[Lease]) -> Lease | None:
    """The owner or worker in whose process the side was started, if that process is no more."""
    above = (rank for parent in side.opened.ancestors for rank in ranks if rank.identity.same_process(parent))
    nearest = next(above, None)
    return nearest if nearest is not None and not nearest.alive else None
