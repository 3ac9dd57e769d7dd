"""After every event: what has become of each Run that it touched.

The order is fixed: claims, then entries that waited for them, then the verdict, then what the backend and the
store have to be told, then what the participants have to be told. A verdict is frozen when it is made; it is
reported once, after everything of owner and workers has been delivered.
"""

from __future__ import annotations

import msgspec

from pluto_dist.core.admission import Admission
from pluto_dist.core.context import Context
from pluto_dist.core.control import Controls
from pluto_dist.core.delivery import QUIET_MS, Delivery
from pluto_dist.core.effects import RemoveLease
from pluto_dist.core.filing import Filing
from pluto_dist.core.folding import Folding
from pluto_dist.core.hearing import Hearings
from pluto_dist.core.phase import Assessment, assess, members_of
from pluto_dist.core.records import Run, Verdict
from pluto_dist.core.relaying import NodeReports, sought
from pluto_dist.core.sampling import Sampling
from pluto_dist.core.shared import Shared
from pluto_dist.core.standing import Standings
from pluto_dist.core.views import Views

ROUNDS = 20  # settling one Run may touch it, or another one, again; it never takes more than a few rounds


class Settling:
    """Deadlines of Runs and the ends of leases."""

    def __init__(
        self,
        context: Context,
        shared: Shared,
        admission: Admission,
        folding: Folding,
        delivery: Delivery,
        controls: Controls,
        filing: Filing,
        standings: Standings,
        views: Views,
        sampling: Sampling,
    ) -> None:
        self._context = context
        self._book = context.book
        self._admission = admission
        self._folding = folding
        self._delivery = delivery
        self._controls = controls
        self._filing = filing
        self._standings = standings
        self._views = views
        self._sampling = sampling
        self._hearings = Hearings(context)
        self._reports = NodeReports(context, shared)
        self._deadlines: dict[str, float] = {}
        self._gone: set[str] = set()

    def settle(self) -> None:
        """Settles all touched Runs and tells their participants what they do not know yet."""
        runs, news = self._settle_all()
        self._hearings.close()
        for key in runs:
            self._filing.changed(key)
        self._filing.write_due(self._views.last_word)
        self._views.tell(runs, news)

    def heard(self, run: str) -> None:
        """The members of a Run were heard for its verdict."""
        self._hearings.heard(run)

    def deadline(self) -> float | None:
        """When some Run has to be looked at again."""
        return min(self._deadlines.values(), default=None)

    def gone(self, lease_id: str) -> None:
        """The process of a lease is dead; its folder may go once it is delivered."""
        self._gone.add(lease_id)
        self._context.news[lease_id] = None

    def at_rest(self, run: Run) -> bool:
        """Whether nothing is left to do for the Run."""
        delivered = all(
            self._delivery.complete(lease) and not any(lane.kept for lane in self._delivery.lanes_of(lease))
            for lease in self._book.leases_of(run.key)
            if not lease.alive
        )
        over = run.reported or (bool(run.relay) and self._admission.phase(run) == "detached")
        return over and delivered and self._filing.safe(run) and self._controls.settled(run)

    def forget(self, run: str) -> None:
        """The Run is forgotten."""
        self._deadlines.pop(run, None)
        self._hearings.forget(run)
        self._reports.forget(run)

    def _settle_all(self) -> tuple[dict[str, None], dict[str, None]]:
        """Goes on until nothing changes any more; returns the Runs and leases that were settled."""
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

    def _stop_seeking(self) -> None:
        """Who wanted to join a Run of another node is gone."""
        for run in self._book.runs:
            if sought(run) and not self._admission.awaited(run):
                self._book.delete_run(run.key)

    def _claim_is_due(self) -> bool:
        due = self._admission.deadline()
        return due is not None and due <= self._context.now.at

    def _settle_run(self, run: Run) -> None:
        leases = self._book.leases_of(run.key)
        members = members_of(run, leases)
        assessment = assess(run, members, self._context.now.at)
        verdict = assessment.verdict or self._nobody_comes(run)
        if verdict is not None and not run.ended and self._hearings.over(run, members):
            run = self._end(run, verdict)
        if run.relay and assessment.phase in ("detached", "restarting"):
            self._reports.tell(run, members)
        node = self._sampling.plan(run)
        if node is not None:
            self.gone(node.lease_id)
        delivered, quiet = self._standings.delivered(run), self._delivery.quiet(run)
        ends = assessment.expected is not None and not run.ended
        self._controls.advance(run, may_report=delivered and quiet, lives=_lives(run, assessment), ends=ends)
        self._plan(run, assessment, self._status_by(run, delivered=delivered, quiet=quiet))
        for lease in leases:
            self._remove_if_done(lease.lease_id)

    def _nobody_comes(self, run: Run) -> Verdict | None:
        """A Run that was opened for a claim which then went elsewhere must not go on for ever."""
        if run.owner is not None or run.opening or run.relay or self._admission.expects_owner(run):
            return None
        return run.prior.verdict if run.prior is not None else Verdict("TERMINATED", "nobody came to own it")

    def _end(self, run: Run, verdict: Verdict) -> Run:
        """Freezes the verdict."""
        self._context.urgent.add(run.key)
        self._context.note(run.key, "ended", status=verdict.status, reason=verdict.reason)
        restored = run.prior is not None and verdict is run.prior.verdict
        ended_ms = run.prior.ended_ms if restored and run.prior is not None else None
        return self._context.change_run(
            run, status=verdict.status, verdict=verdict, ended_ms=ended_ms or self._context.now.wall_ms
        )

    def _status_by(self, run: Run, *, delivered: bool, quiet: bool) -> float | None:
        """When the status is not held up any more by what is late, None if it is not."""
        if not run.ended or run.reported:
            return None
        if not delivered:
            left_ms = self._standings.files_by_ms(run) - self._context.now.wall_ms
            return self._context.now.at + left_ms / 1000 if left_ms > 0 else None
        return None if quiet else self._context.now.at + QUIET_MS / 1000

    def _plan(self, run: Run, assessment: Assessment, status_by: float | None) -> None:
        candidates = (assessment.deadline, self._controls.deadline(run.key), status_by)
        deadlines = [at for at in candidates if at is not None and at > self._context.now.at]
        if deadlines:
            self._deadlines[run.key] = min(deadlines)
        else:
            self._deadlines.pop(run.key, None)

    def _remove_if_done(self, lease_id: str) -> None:
        """The folder goes when the process is dead and everything is delivered."""
        lease = self._book.leases.get(lease_id)
        if lease is None or lease.removed or lease.alive or lease_id not in self._gone:
            return
        if lease.participant and not self._delivery.complete(lease):
            return
        if any(lane.kept for lane in self._delivery.lanes_of(lease)):
            return
        self._gone.discard(lease_id)
        self._context.emit(RemoveLease(lease_id=lease_id, folder=lease.folder))
        self._book.put_lease(msgspec.structs.replace(lease, removed=True))
        self._delivery.lease_removed(lease)
        self._folding.lease_removed(lease_id)
        self._views.lease_removed(lease_id)


def _lives(run: Run, assessment: Assessment) -> bool:
    """Whether a heartbeat is the truth: a coordinator never keeps the Run of a dead job alive (G7)."""
    if run.relay:
        return run.status == "RUNNING" and assessment.phase in ("running", "restarting")
    return not run.ended and assessment.phase != "opening"
