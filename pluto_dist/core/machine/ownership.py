"""Ownership: the succession of owners and attempts in a Run, and the epochs that fence them (R5, R10)."""

from __future__ import annotations

from pluto_dist.core.machine.context import Context
from pluto_dist.core.rules.claims import launched, predecessor
from pluto_dist.core.rules.participants import first_line, node_name
from pluto_dist.core.rules.states import NO_END
from pluto_dist.core.rules.verdict import decide
from pluto_dist.core.values.book import Config
from pluto_dist.core.values.effects import WatchLauncher
from pluto_dist.core.values.ids import Job
from pluto_dist.core.values.lifecycle import Claim
from pluto_dist.core.values.records import AttemptEnd, Lease, Run


class Succession:
    """Changes of owner and restarts of the job: each raises the epoch, and only its members count."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._book = context.book

    def own(self, lease: Lease, run: Run, *, anew: bool = False) -> Run:
        """Makes the claim the owner, with a new epoch.

        Args:
            anew: its job starts once more (R4).
        """
        job = lease.opened.job
        successor = job.key == run.job_key and run.owner is not None
        if job.launcher is not None:
            self._context.emit(WatchLauncher(run=run.key, identity=job.launcher))
        others = [other for other in self._book.leases_of(run.key) if other.alive]
        for other in others:
            if other.role == "owner":  # it lives on although a person has ended its Run
                self._supersede(other)
        goes_on = successor and not anew and (self._hands_over(run, lease) or self._comes_late(run, lease))
        start_epoch = run.start_epoch if goes_on else run.epoch + 1
        run = self._begin(run, job, owner=lease.lease_id, start_epoch=start_epoch)
        for other in others if successor else ():
            if other.role == "worker" and other.epoch == run.epoch - 1:
                self._context.change_lease(other, epoch=run.epoch)  # ranks of this attempt keep their say
        return run

    def _hands_over(self, run: Run, lease: Lease) -> bool:
        """Whether the former owner closed the Run within this start, or was replaced by `exec` (R4)."""
        before = self._book.leases.get(run.owner or "")
        if before is None:
            return False
        return before.end_reason == "closed" or before.identity.same_process(lease.identity)

    def _comes_late(self, run: Run, lease: Lease) -> bool:
        """Whether it is a rank that the present start has not had yet, behind one that has ended (R4)."""
        present = (each for each in self._book.leases_of(run.key) if each.epoch >= run.start_epoch)
        return lease.opened.job.rank is not None and predecessor(lease.opened, present) is None

    def relay(self, lease: Lease, run: Run) -> Run:
        """Makes the claim a worker whose owner is on another node (R12); epochs are this node's own there."""
        job = lease.opened.job
        if run.relay and run.epoch and (run.job_key, run.attempt) == (job.key, job.attempt):
            return run
        if run.relay and run.job_key == job.key and run.epoch:
            run = self.new_attempt(run, lease.opened)
        if job.launcher is not None:
            self._context.emit(WatchLauncher(run=run.key, identity=job.launcher))
        return self._begin(
            run,
            job,
            relay=node_name(lease.opened),
            start_epoch=run.epoch + 1,
            **NO_END,
            prior=None,
            owner=None,
            next_line=max(run.next_line, first_line(lease.opened)),
        )

    def _begin(self, run: Run, job: Job, **changes: object) -> Run:
        """Resets what belongs to one start of a job by its launcher."""
        return self._context.change_run(
            run,
            epoch=run.epoch + 1,
            job_key=job.key,
            attempt=job.attempt,
            max_restarts=job.max_restarts,
            launcher=job.launcher,
            launcher_gone_at=None,
            scheduled=job.scheduled,
            boot_id=self._context.boot_id,
            **changes,
        )

    def alone(self, run: Run) -> Run:
        """Turns a relay's Run into this node's own, because no process on node 0 has called `init()` (R4)."""
        members = self._context.situation(run).members
        owner = min(members, key=lambda member: (member.rank is None, member.rank))
        self._context.note(run.key, "owned_here", rank=str(owner.rank))
        config = bytes(owner.opened.config)
        self._book.configs.put(run.key, Config(body=config, given=config))
        return self._context.change_run(
            run, relay="", want="either", owner=owner.lease_id, tags=owner.opened.tags
        )

    def new_attempt(self, run: Run, claim: Claim) -> Run:
        """Begins the attempt that a claim is the first of: leases of older ones are superseded (R10)."""
        members = self._context.situation(run).members
        run = self.note_start(run, claim.job.attempt)
        for member in members:
            if member.alive:
                self._supersede(member)
        return self._context.change_run(run, attempt=claim.job.attempt, owner=None)

    def note_start(self, run: Run, attempt: int | None = None) -> Run:
        """Keeps how the start that is over ended; the next one may be of the same attempt (R4)."""
        verdict = run.verdict or decide(run, self._context.situation(run).members)
        ended = AttemptEnd(run.attempt, verdict.status, verdict.reason, verdict.first_failure)
        number = run.attempt if attempt is None else attempt
        self._context.note(run.key, "restarted", attempt=str(number), because=verdict.reason)
        return self._context.change_run(run, attempts=(*run.attempts, ended))

    def attempt_below(self, run: Run, claim: Claim, *, anew: bool) -> Run:
        """Begins a new attempt below `pluto-dist run`, whose launcher stays the owner.

        Args:
            anew: the command starts its processes anew, although no launcher counts attempts.
        """
        owner = self._book.leases.get(run.owner or "")
        if owner is None or not launched(claim, owner) or (claim.job.attempt <= run.attempt and not anew):
            return run
        self._context.change_lease(owner, epoch=0)  # no member of the attempt that is over
        run = self.new_attempt(run, claim)
        owner = self._context.change_lease(owner, epoch=run.epoch + 1)
        return self._context.change_run(run, owner=owner.lease_id, epoch=owner.epoch, start_epoch=owner.epoch)

    def _supersede(self, lease: Lease) -> None:
        self._context.note(lease.run or "", "superseded", lease=lease.lease_id)
        self._context.end_lease(lease, "superseded")
