"""Claims become roles: finds the Run that is meant, asks the decision table, carries it out (R4, R5)."""

from __future__ import annotations

from typing import assert_never

import msgspec

from pluto_dist.core.book import Config
from pluto_dist.core.claims import (
    Create,
    Decision,
    Facts,
    Grant,
    Refuse,
    Verify,
    Wait,
    decide_claim,
    same_job,
)
from pluto_dist.core.context import Context
from pluto_dist.core.effects import CheckLiveness, WatchLauncher
from pluto_dist.core.ids import RunRef, participant_of
from pluto_dist.core.lifecycle import Opened
from pluto_dist.core.opening import Opening
from pluto_dist.core.phase import Phase, assess, members_of
from pluto_dist.core.records import AttemptEnd, Lease, Run
from pluto_dist.core.verdict import decide


class Admission:
    """Waiting claims and what becomes of them."""

    def __init__(self, context: Context, opening: Opening) -> None:
        self._context = context
        self._book = context.book
        self._opening = opening
        self._verified: set[str] = set()
        self._deadlines: dict[str, float | None] = {}

    def claim(self, lease: Lease) -> None:
        """Decides a claim, or leaves it waiting."""
        run = self._find(lease)
        facts = self._facts(lease, run)
        decision = decide_claim(lease.opened, facts, self._context.now.at)
        self._deadlines.pop(lease.lease_id, None)
        self._carry_out(lease, run, decision)

    def retry(self) -> None:
        """Something has changed: asks again for every claim that waits."""
        for lease_id in tuple(self._deadlines):
            lease = self._book.leases.get(lease_id)
            if lease is None or lease.state != "waiting":
                self._deadlines.pop(lease_id, None)
            else:
                self.claim(lease)

    def verified(self, claim: str) -> None:
        """The owner was found alive for this claim."""
        self._verified.add(claim)
        lease = self._book.leases.get(claim)
        if lease is not None and lease.state == "waiting":
            self.claim(lease)
        self._verified.discard(claim)

    def deadline(self) -> float | None:
        """When a waiting claim may be decided without an event."""
        return min((at for at in self._deadlines.values() if at is not None), default=None)

    @property
    def waiting(self) -> bool:
        """Whether any claim is undecided."""
        return bool(self._deadlines)

    def _carry_out(self, lease: Lease, run: Run | None, decision: Decision) -> None:
        match decision:
            case Wait(until=until):
                self._deadlines[lease.lease_id] = until
                self._remember_first_rank(lease, run)
            case Verify(lease_id=owner):
                self._deadlines[lease.lease_id] = None
                self._context.emit(CheckLiveness(claim=lease.lease_id, lease_id=owner))
            case Refuse(error=error, message=message):
                self.refuse(lease, error, message)
            case Create(want=want):
                self._deadlines[lease.lease_id] = None
                self._opening.create(lease, want)
            case Grant():
                assert run is not None  # noqa: S101 # the table grants roles in Runs only
                self._grant(lease, run, decision)
            case _:
                assert_never(decision)

    def _grant(self, lease: Lease, run: Run, grant: Grant) -> None:
        if lease.opened.job.attempt > run.attempt and same_job(lease.opened, run):
            run = self._new_attempt(run, lease.opened)
        if grant.role == "owner" and run.stage == "ended":
            run = self._opening.reopen(run, lease)
        if run.stage == "opening" and not run.provisional:
            self._deadlines[lease.lease_id] = None  # asked again when the backend has answered
            return
        if grant.role == "owner":
            run = self._own(lease, run)
        label = self._label(lease, run, grant)
        now = self._context.now
        granted = self._context.change_lease(
            lease,
            run=run.key,
            state="active",
            role=grant.role,
            label=label,
            participant=participant_of(grant.role, lease.opened.job.rank, label),
            epoch=run.epoch,
            attempt=run.attempt,
            granted_at=now.at,
            granted_ms=now.wall_ms,
        )
        self._keep_config(granted, run)
        self._context.note(
            run.key, "lease_granted", lease=lease.lease_id, role=grant.role, label=label, reason=grant.reason
        )

    def _own(self, lease: Lease, run: Run) -> Run:
        """Makes the claim the owner, with a new epoch."""
        first_of_attempt = run.owner is None and run.since_epoch == run.epoch + 1
        job = lease.opened.job
        if job.launcher is not None:
            self._context.emit(WatchLauncher(run=run.key, identity=job.launcher))
        return self._context.change_run(
            run,
            owner=lease.lease_id,
            epoch=run.epoch + 1,
            since_epoch=run.since_epoch if first_of_attempt else run.epoch + 1,
            job_key=job.key,
            attempt=job.attempt,
            max_restarts=job.max_restarts,
            launcher=job.launcher,
            launcher_gone_at=None,
            boot_id=self._context.boot_id,
        )

    def _new_attempt(self, run: Run, claim: Opened) -> Run:
        """The launcher restarted the job: the old ranks have no say any more (R10)."""
        members = members_of(run, self._book.leases_of(run.key))
        verdict = run.verdict or decide(run, members)
        for member in members:
            if member.alive:
                self._context.note(run.key, "superseded", lease=member.lease_id)
                self._context.supersede(member)
        ended = AttemptEnd(run.attempt, verdict.status, verdict.reason, verdict.first_failure)
        self._context.note(run.key, "restarted", attempt=str(claim.job.attempt), because=verdict.reason)
        return self._context.change_run(
            run,
            attempt=claim.job.attempt,
            attempts=(*run.attempts, ended),
            owner=None,
            since_epoch=run.epoch + 1,
            first_rank_at=self._context.now.at,
        )

    def refuse(self, lease: Lease, error: str, message: str) -> None:
        """Ends a claim with its reason; nothing else changes."""
        now = self._context.now
        self._context.change_lease(
            lease,
            state="refused",
            error=(error, message),
            ended_at=now.at,
            ended_ms=now.wall_ms,
            end_reason="refused",
        )

    def refuse_opener(self, run: Run, error: str, message: str) -> None:
        """The backend will not open the Run: the claim that asked for it gets the reason, others go on."""
        lease = self._book.leases.get(run.opener)
        if lease is not None and lease.state == "waiting":
            self.refuse(lease, error, message)
            self._deadlines.pop(lease.lease_id, None)

    def _keep_config(self, lease: Lease, run: Run) -> None:
        """The owner's config is the Run's; a side's is kept under its label; a worker's other one is told."""
        own = bytes(lease.opened.config)
        config = self._book.configs.get(run.key) or Config()
        if lease.role == "side" and own != b"{}":
            sides = {**config.sides, lease.label: own}
            self._book.configs.put(run.key, msgspec.structs.replace(config, sides=sides))
        elif lease.role == "worker" and own not in (b"{}", config.body, config.given):
            self._context.note(run.key, "config_differs", rank=str(lease.rank), lease=lease.lease_id)

    def _label(self, lease: Lease, run: Run, grant: Grant) -> str:
        """What people call it; two live sides never share a label, because series belong to labels."""
        rank = lease.opened.job.rank
        if grant.role != "side":
            return lease.opened.label or (f"rank{rank}" if rank is not None else grant.role)
        wanted = lease.opened.label or "side"
        taken = {other.label for other in self._book.leases_of(run.key) if other.alive and other is not lease}
        label, number = wanted, 2
        while label in taken:
            label, number = f"{wanted}-{number}", number + 1
        return label

    def _remember_first_rank(self, lease: Lease, run: Run | None) -> None:
        if run is not None and run.first_rank_at is None and same_job(lease.opened, run):
            self._context.change_run(run, first_rank_at=lease.asked_at)

    # --- what the decision rests on ----------------------------------------------------------------

    def _facts(self, lease: Lease, run: Run | None) -> Facts:
        asked_at = self._first_asked(lease)
        if run is None:
            return Facts(
                run=None,
                waiting_ranks=self._waiting_ranks(lease.opened),
                live_runs=self._live_names(lease.opened),
                asked_at=asked_at,
            )
        leases = self._book.leases_of(run.key)
        members = tuple(member for member in members_of(run, leases) if member.alive)
        owner = next((member for member in members if member.lease_id == run.owner), None)
        return Facts(
            run=run,
            phase=self.phase(run),
            owner=owner,
            members=members,
            waiting_ranks=self._waiting_ranks(lease.opened),
            verified=lease.lease_id in self._verified,
            asked_at=asked_at,
        )

    def phase(self, run: Run) -> Phase:
        """The Run's phase now."""
        return assess(run, members_of(run, self._book.leases_of(run.key)), self._context.now.at).phase

    def _same_claimants(self, claim: Opened) -> list[Lease]:
        return [
            lease
            for lease in (self._book.leases.get(lease_id) for lease_id in self._deadlines)
            if lease is not None
            and lease.opened.job.key == claim.job.key
            and lease.opened.job.attempt == claim.job.attempt
        ]

    def _first_asked(self, lease: Lease) -> float:
        """When the first rank of this attempt asked."""
        return min((other.asked_at for other in self._same_claimants(lease.opened)), default=lease.asked_at)

    def _waiting_ranks(self, claim: Opened) -> tuple[int, ...]:
        ranks = [other.opened.job.rank for other in self._same_claimants(claim)]
        return tuple(rank for rank in (*ranks, claim.job.rank) if rank is not None)

    def _live_names(self, claim: Opened) -> tuple[str, ...]:
        return tuple(
            run.display_id or run.external_id
            for run in self._book.runs
            if run.stage in ("opening", "open") and run.target == claim.target
        )

    def _find(self, lease: Lease) -> Run | None:
        """The Run that a claim means, among those that this coordinator knows."""
        claim = lease.opened
        runs = [run for run in self._book.runs if run.target == claim.target and run.stage != "refused"]
        if claim.run is not None:
            meant = [run for run in runs if refers_to(claim.run, run, claim.project)]
            if not meant and claim.verb == "attach":  # who only joins need not know the project
                meant = [run for run in runs if refers_to(claim.run, run, run.project)]
            return meant[0] if len(meant) == 1 else None
        if claim.verb == "attach" or (claim.wanted == "side" and claim.job.rank is None):
            live = [run for run in runs if run.stage in ("opening", "open")]
            return live[0] if len(live) == 1 else None
        parent = self._relative(claim)
        if parent is not None:
            return parent
        mine = [run for run in runs if same_job(claim, run)]
        return mine[-1] if mine else None

    def _relative(self, claim: Opened) -> Run | None:
        """The Run of the rank that started this process, if a pool or a rank's child asks."""
        if not claim.spawned and claim.job.rank is None:
            return None
        for lease in self._book.leases:
            if lease.state == "active" and any(a.same_process(lease.identity) for a in claim.ancestors):
                return self._book.runs.get(lease.run or "")
        return None


def refers_to(ref: RunRef, run: Run, project: str) -> bool:
    """Whether the caller's id means this Run; external ids are unique per project."""
    if ref.id is not None:
        return run.id == ref.id
    if ref.display_id is not None:
        return run.display_id == ref.display_id
    return run.external_id == ref.external_id and run.project == project
