"""Admission: from a claim to a role. Finds the Run that is meant, has `rules/claims` decide, grants (R4, R5).

A claim names a target: the store of its folder, its server and key. A new Run goes there. A process that
joins a Run need not have the same target: an eval may be started in another folder, or without the key, and a
script may change its folder before `init()`. So Runs of the same target come first, then all others of this
node.

Claims that cannot be decided yet wait, and are decided again after every event that changes something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import assert_never

import msgspec

from pluto_dist.core.machine.cluster import Clusters
from pluto_dist.core.machine.context import Context, Shared
from pluto_dist.core.machine.opening import Opening
from pluto_dist.core.machine.ownership import Succession
from pluto_dist.core.rules.claims import (
    Create,
    Decision,
    Facts,
    Grant,
    Refuse,
    Verify,
    Wait,
    decide_claim,
    launched,
    same_job,
    sought,
)
from pluto_dist.core.rules.kinship import (
    apart,
    asks_for_another,
    heir,
    inherits_rank,
    is_trial,
    nearest,
    parent_of,
    predecessor,
    refers_to,
    unlaunched,
    without_rank,
)
from pluto_dist.core.rules.participants import label_of, participant_of
from pluto_dist.core.rules.verdict import Phase, restarts_left
from pluto_dist.core.values.book import Book, Config
from pluto_dist.core.values.effects import CheckLiveness, LookAtStreams
from pluto_dist.core.values.ids import DEFAULT_PROJECT, RunRef
from pluto_dist.core.values.lifecycle import Claim, Target
from pluto_dist.core.values.records import Lease, Run


class Finder:
    """Finds the Run that a claim means, in the book; has no state."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def find(self, claim: Claim, parent: Lease | None = None, waited_s: float = float("inf")) -> Run | None:
        """The Run that a claim means, None if it means none that is known here, or several.

        Args:
            parent: lease of the process in whose Run the claim joins, if it does.
            waited_s: how long the claim has waited.
        """
        nearest_kin = parent or self._book.leases.get(claim.heir_of)
        if nearest_kin is not None:
            return self._book.runs.get(nearest_kin.run or "")
        launchers = self._launchers_run(claim)
        if launchers is not None:
            return launchers
        if claim.run is not None:
            return self._named(claim, claim.run, waited_s)
        if claim.verb == "attach" or (claim.wanted == "side" and claim.job.rank is None):
            live = self._live(claim)
            return live[0] if len(live) == 1 else None
        mine = self._book.runs.of_job(claim.job.key)
        return mine[-1] if mine and not self._starts_again(claim, mine[-1]) else None

    def predecessor(self, claim: Claim, run: Run) -> Lease | None:
        """Lease of another process that has had the claim's rank in the present start of the job."""
        present = (lease for lease in self._book.leases_of(run.key) if lease.epoch >= run.start_epoch)
        return predecessor(claim, present)

    def _starts_again(self, claim: Claim, run: Run) -> bool:
        """Whether this is a new start of the claim's job, and so has no part in the Run of the first start.

        A launcher that has restarts left counts them itself, by the attempt.
        """
        restarting = restarts_left(run) and not run.ended
        return not restarting and self.predecessor(claim, run) is not None

    def choices(self, claim: Claim, waited_s: float = float("inf")) -> tuple[str, ...]:
        """Runs among which a claim that joins would have to choose: live ones, or those with its id."""
        if claim.run is None:
            runs = self._live(claim)
        else:
            runs = self._nearest(self._joined(claim, claim.run, waited_s), claim)
        return tuple(f"{run.display_id or run.external_id} (project {run.project})" for run in runs)

    def _named(self, claim: Claim, ref: RunRef, waited_s: float) -> Run | None:
        def meant(run: Run) -> bool:
            own = run.target == claim.target and refers_to(ref, run, claim.project)
            return own or (same_job(claim, run) and refers_to(ref, run, run.project))

        def there(run: Run) -> bool:
            return meant(run) and not sought(run)

        # A Run still looked for on the server comes last: by now it may have been made, in its own project.
        return (
            self._choose(there, claim)
            or _only(self._nearest(self._joined(claim, ref, waited_s), claim))
            or self._choose(meant, claim)
        )

    def _joined(self, claim: Claim, ref: RunRef, waited_s: float) -> list[Run]:
        """Runs of others that a claim may join by this id: living ones, else those that have ended.

        One that has ended in another store is meant only if no other comes for half of the time for which the
        caller waits: a sidecar may be started before its training.
        """
        found = (run for run in self._book.runs if refers_to(ref, run, run.project))
        fits = [run for run in found if _joins(claim) and _may_join(claim, run)]
        living = [run for run in fits if not run.ended]
        if not living and waited_s < patience_s(claim):
            return [run for run in fits if _same_server(claim.target, run.target)]
        return living or fits

    def _choose(self, fits: Callable[[Run], bool], claim: Claim) -> Run | None:
        """The only Run that fits; of several the one with the claim's target."""
        return _only(self._nearest(filter(fits, self._book.runs), claim))

    def _nearest(self, runs: Iterable[Run], claim: Claim) -> list[Run]:
        """Those with the claim's target; if there are none, all."""
        found = list(runs)
        return [run for run in found if run.target == claim.target] or found

    def _live(self, claim: Claim) -> list[Run]:
        live = (run for run in self._book.runs.live if not sought(run))
        return self._nearest((run for run in live if _in_project(claim, run)), claim)

    def _launchers_run(self, claim: Claim) -> Run | None:
        """The Run of the `pluto-dist run` above, unless the process names another one."""
        launcher = self._book.leases.get(claim.launched_by)
        run = self._book.runs.get(launcher.run or "") if launcher is not None else None
        if run is None or claim.run is None or claim.run_from_env:
            return run
        return run if refers_to(claim.run, run, run.project) else None


def _joins(claim: Claim) -> bool:
    """Whether the claim prefers an existing Run of others to a new one."""
    return claim.verb == "attach" or claim.run_from_env or claim.wanted == "side"


def patience_s(claim: Claim) -> float:
    """Seconds for which a claim waits for another Run than one that has ended in another store.

    None by a number or display id: nobody knows those before there is the Run.
    """
    named = claim.run is not None and claim.run.external_id is not None
    return claim.patience_s / 2 if named else 0.0


def _same_server(one: Target, other: Target) -> bool:
    """Whether an id means the same Run in both; each store counts for itself."""
    return one == other or (one.mode == other.mode == "pluto" and one.url_api == other.url_api)


def _may_join(claim: Claim, run: Run) -> bool:
    """Whether a claim fits a Run: of the project that is named, and not ended unless by `attach()`."""
    if sought(run) or (run.ended and claim.verb != "attach"):
        return False
    numbered = claim.verb == "attach" and claim.run is not None and claim.run.external_id is None
    return numbered or _in_project(claim, run)


def _in_project(claim: Claim, run: Run) -> bool:
    """Whether the Run is of the claim's project, or the claim names none."""
    return claim.project_lent or claim.project in (run.project, DEFAULT_PROJECT)


def _only(runs: Iterable[Run]) -> Run | None:
    found = tuple(runs)
    return found[0] if len(found) == 1 else None


class Admission:
    """Claims that wait, and the grants that they get."""

    def __init__(self, context: Context, opening: Opening, shared: Shared, clusters: Clusters) -> None:
        self._context = context
        self._book = context.book
        self._opening = opening
        self._clusters = clusters
        self._shared = shared
        self._succession = Succession(context)
        self._finder = Finder(context.book)
        self._verifying: set[str] = set()
        self._deadlines: dict[str, float | None] = {}
        self._granted = False

    def claim(self, lease: Lease, *, verified: bool = False) -> None:
        """Decides a claim, or leaves it waiting."""
        lease, parent = self._with_parent(lease)
        run = self._finder.find(lease.opened, parent, self._waited_s(lease))
        facts = self._facts(lease, run, parent, verified)
        decision = decide_claim(lease.opened, facts, self._context.now.at)
        self._deadlines.pop(lease.lease_id, None)
        self._carry_out(lease, run, decision)

    def _with_parent(self, lease: Lease) -> tuple[Lease, Lease | None]:
        """The lease with the claim as it counts, and the parent's lease if the claim may join that one's Run.

        A parent that was found once is kept in the lease: at a later try it may be gone.
        """
        claim = lease.opened
        former = self._book.leases.get(claim.heir_of)
        if former is not None and claim.job != former.opened.job:
            lease = self._context.change_lease(lease, opened=heir(claim, former))
        if former is not None or lease.parent or claim.generated_id in self._book.runs:
            return lease, self._book.leases.get(lease.parent)
        parent = self._parent(claim)
        run = self._book.runs.get(parent.run or "") if parent is not None else None
        if parent is None:
            return self._as_trial(lease), None
        if run is None:
            return lease, parent
        if claim.via == "call" and asks_for_another(claim, parent, run):
            return self._context.change_lease(lease, opened=apart(claim, parent, run)), None
        opened = without_rank(claim) if inherits_rank(claim, parent) else claim
        return self._context.change_lease(lease, opened=opened, parent=parent.lease_id), parent

    def _parent(self, claim: Claim) -> Lease | None:
        """The lease of the process that started the claim's process, or that gave it the handle it uses."""
        if claim.via == "handle":
            run = self._finder.find(claim)
            working = self._book.leases_of(run.key) if run is not None else ()
            return nearest(claim, [lease for lease in working if lease.alive and lease.role != "side"])
        if claim.verb != "init":
            return None
        if claim.via == "import":
            parents = self._book.leases_of_pids(parent.pid for parent in claim.parents)
            return nearest(claim, [lease for lease in parents if lease.state != "refused"])
        above = self._book.leases_of_pids(process.pid for process in (*claim.parents, *claim.ancestors))
        return parent_of(claim, above)

    def _as_trial(self, lease: Lease) -> Lease:
        launcher = self._book.leases.get(lease.opened.launched_by)
        if launcher is None or not is_trial(lease.opened, self._book.leases_of(launcher.run or "")):
            return lease
        return self._context.change_lease(lease, opened=unlaunched(lease.opened))

    def look_first(self, lease: Lease, other: Lease) -> None:
        """Puts a claim off until the liveness of another lease's process has been checked."""
        self._deadlines[lease.lease_id] = None
        self._verifying.add(lease.lease_id)
        self._context.emit(CheckLiveness(claim=lease.lease_id, lease_id=other.lease_id))

    def retry(self) -> None:
        """Decides every waiting claim again, except those that wait for a check of liveness.

        The lowest rank comes first, because the others wait for its role. A grant may be what an earlier
        claim of the round waits for, so after a grant all that still wait are decided once more.
        """
        self._granted = True
        while self._granted:
            self._granted = False
            for lease_id in sorted(self._deadlines, key=self._rank):
                lease = self._book.leases.get(lease_id)
                if lease is None or lease.state != "waiting":
                    self._deadlines.pop(lease_id, None)
                elif lease_id not in self._verifying:
                    self.claim(lease)

    def _rank(self, lease_id: str) -> int:
        lease = self._book.leases.get(lease_id)
        return (lease.opened.job.rank or 0) if lease is not None else 0

    def verified(self, claim: str) -> None:
        """Decides a claim after the owner was checked; if that was dead, `ProcessDied` has come before."""
        self._verifying.discard(claim)
        lease = self._book.leases.get(claim)
        if lease is not None and lease.state == "waiting":
            self.claim(lease, verified=True)

    def deadline(self) -> float | None:
        """When a waiting claim may be decided without an event."""
        return min((at for at in self._deadlines.values() if at is not None), default=None)

    def expects_owner(self, run: Run) -> bool:
        """Whether a claim waits that may own this Run."""
        return any(lease.opened.verb == "init" for lease in self._waiting_for(run))

    def awaited(self, run: Run) -> bool:
        """Whether any claim waits for this Run."""
        return any(True for _ in self._waiting_for(run))

    def _waiting_for(self, run: Run) -> Iterator[Lease]:
        waiting = (self._book.leases[lease_id] for lease_id in self._deadlines)
        return (lease for lease in waiting if lease.state == "waiting" and self._find(lease) is run)

    def _find(self, lease: Lease) -> Run | None:
        return self._finder.find(lease.opened, self._book.leases.get(lease.parent), self._waited_s(lease))

    def _waited_s(self, lease: Lease) -> float:
        return self._context.now.at - lease.asked_at

    def _looks_again_at(self, lease: Lease, until: float | None = None) -> float | None:
        """When the claim is decided again, if nothing happens: its patience may change what it means."""
        over = lease.asked_at + patience_s(lease.opened)
        return min(over, until or over) if over > self._context.now.at else until

    def _carry_out(self, lease: Lease, run: Run | None, decision: Decision) -> None:
        match decision:
            case Wait(until=until):
                self._deadlines[lease.lease_id] = self._looks_again_at(lease, until)
            case Verify(lease_id=owner):
                self.look_first(lease, self._book.leases[owner])
            case Refuse(error=error, message=message):
                self.refuse(lease, error, message)
            case Create(want=want):
                self._deadlines[lease.lease_id] = self._looks_again_at(lease)
                if run is not None and sought(run):  # it was looked for as another node's, in vain
                    self._opening.withdraw(run)
                self._opening.create(lease, want)
            case Grant():
                assert run is not None  # noqa: S101 # the table grants roles in Runs only
                self._grant(lease, run, decision)
            case _:
                assert_never(decision)

    def _grant(self, lease: Lease, run: Run, grant: Grant) -> None:
        owns = grant.role == "owner"
        newcomer = not same_job(lease.opened, run)
        if owns and not newcomer and lease.opened.job.attempt > run.attempt:
            run = self._succession.new_attempt(run, lease.opened)
        if owns and grant.anew and run.owner is not None:  # once, also if the backend has to be asked
            run = self._succession.note_start(run)
        if owns and run.relay:
            run = self._opening.take_over(run, lease)
        elif owns and run.ended:
            run = self._opening.reopen(run, lease)
            if newcomer:
                self._shared.add_tags(run.key, lease.opened.tags)
                run = self._book.runs[run.key]
        if grant.elsewhere:
            self._opening.join_instead(run, lease)
            run = self._book.runs[run.key]
        # No role before the backend's answer, which may be a refusal; `retry` decides again with it.
        if run.opening and not run.provisional:
            self._deadlines[lease.lease_id] = None
            return
        if owns:
            run = self._succession.own(lease, run, anew=grant.anew)
        elif grant.relay:
            run = self._succession.relay(lease, run)
        elif grant.role == "worker":
            run = self._succession.attempt_below(run, lease.opened, anew=grant.anew)
        now = self._context.now
        others = self._book.leases_of(run.key)
        label = label_of(lease, grant.role, others, run)
        granted = self._context.change_lease(
            lease,
            opened=_settled(lease, run),
            run=run.key,
            first_child=_is_first_child(lease, others),
            state="active",
            role=grant.role,
            label=label,
            participant=participant_of(lease, grant.role, label, others),
            epoch=run.epoch,
            attempt=run.attempt,
            granted_at=now.at,
            granted_ms=now.wall_ms,
        )
        self._granted = True
        if owns and granted.opened.job.given_id:
            self._find_namesake(granted, run)
        self._contribute(granted, run)
        if owns and newcomer:
            self._shared.add_tags(run.key, lease.opened.tags, by=lease.lease_id)
        self._context.note(
            run.key, "lease_granted", lease=lease.lease_id, role=grant.role, label=label, reason=grant.reason
        )
        self._context.emit(LookAtStreams(lease_id=lease.lease_id, folder=lease.folder))

    def _find_namesake(self, lease: Lease, run: Run) -> None:
        """Another launch that was given the same id; torchrun has kept it from both."""
        for other in self._book.live_leases:
            named_alike = other.opened.job.given_id == lease.opened.job.given_id
            if named_alike and other.role == "owner" and other.run not in (None, run.key):
                theirs = self._book.runs[other.run or ""]
                if lease.opened.run is None and other.opened.run is None:
                    self._context.change_lease(lease, namesake=theirs.display_id or theirs.external_id)
                    self._context.change_lease(other, namesake=run.display_id or run.external_id)

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

    def refuse_all(self, run: Run, error: str, message: str) -> None:
        """The backend will not open the Run: refuses the claims that were to own it, with its reason."""
        for lease_id in tuple(self._deadlines):
            lease = self._book.leases[lease_id]
            opener = lease_id == run.opener
            ranks = lease.opened.verb == "init" and same_job(lease.opened, run)
            if opener or (ranks and self._find(lease) is run):
                self._deadlines.pop(lease_id)
                self.refuse(lease, error, message)

    def _contribute(self, lease: Lease, run: Run) -> None:
        """Adds the claim's config and tags to the Run, as far as its role allows.

        The owner's config is the Run's; a side's is kept apart; a worker's, if it differs, is only noted. A
        worker's tags are added, for ranks that tag the Run with what only they know; not on a relay, because
        all nodes start at once and the server cannot merge tags.
        """
        own = bytes(lease.opened.config)
        config = self._book.configs.get(run.key) or Config()
        another = own not in (b"{}", config.given)
        owner = self._book.leases.get(run.owner or "")
        speaks_first = lease.role == "worker" and config.given == b"{}" and launched(lease.opened, owner)
        if lease.role == "worker" and owner is not None and lease.opened.tags != owner.opened.tags:
            self._shared.add_tags(run.key, lease.opened.tags, by=lease.lease_id)
        if (lease.role == "owner" or speaks_first) and another:
            self._book.configs.put(run.key, msgspec.structs.replace(config, given=own))
            self._shared.update_config(run.key, own)
        elif lease.role == "side" and another:
            sides = {**config.sides, lease.label: own}
            self._book.configs.put(run.key, msgspec.structs.replace(config, sides=sides))
        elif lease.role == "worker" and another and not run.relay:  # the owner's is not known there
            self._context.note(run.key, "config_differs", rank=str(lease.rank), lease=lease.lease_id)

    # --- what the decision rests on ----------------------------------------------------------------

    def _facts(self, lease: Lease, run: Run | None, parent: Lease | None, verified: bool) -> Facts:
        fellows = self._fellows(lease)
        asked_at = min(fellow.asked_at for fellow in fellows)
        ranks = [fellow.opened.job.rank for fellow in fellows if fellow.opened.wanted in (None, "owner")]
        waiting_ranks = tuple(rank for rank in ranks if rank is not None)
        if run is None:
            choices = self._finder.choices(lease.opened, self._waited_s(lease))
            return Facts(
                run=None, parent=parent, waiting_ranks=waiting_ranks, choices=choices, asked_at=asked_at
            )
        everybody = self._context.situation(run).members
        members = tuple(member for member in everybody if member.alive)
        return Facts(
            run=run,
            phase=self.phase(run),
            owner=next((member for member in members if member.lease_id == run.owner), None),
            parent=parent,
            predecessor=self._finder.predecessor(lease.opened, run),
            former=self._book.leases.get(lease.opened.heir_of),
            members=members,
            ended=tuple(member for member in everybody if not member.alive),
            waiting_ranks=waiting_ranks,
            verified=verified,
            reporting=run.key in self._context.reporting,
            owner_elsewhere=self._clusters.owner_elsewhere(run),
            asked_at=asked_at,
            sides=sum(self._is_side(other) for other in self._book.leases_of(run.key)),
            sides_limit=self._sides_limit(run),
        )

    @staticmethod
    def _is_side(lease: Lease) -> bool:
        return lease.alive and lease.role == "side" and lease.state == "active"

    def _sides_limit(self, run: Run) -> int | None:
        owner = self._book.leases.get(run.owner) if run.owner is not None else None
        return owner.opened.sides_limit if owner is not None else None

    def phase(self, run: Run) -> Phase:
        """The Run's phase now."""
        return self._context.situation(run).phase

    def _fellows(self, lease: Lease) -> list[Lease]:
        """This claim, and the other waiting claims of the same attempt of its job."""
        job = lease.opened.job
        waiting = (self._book.leases[lease_id] for lease_id in self._deadlines if lease_id != lease.lease_id)
        return [lease] + [
            other
            for other in waiting
            if (other.opened.job.key, other.opened.job.attempt) == (job.key, job.attempt)
        ]


def _is_first_child(lease: Lease, others: tuple[Lease, ...]) -> bool:
    """Whether this is the first child that called `init()` and got its parent's Run; a person should know."""
    return bool(lease.parent) and lease.opened.via == "call" and not any(map(_came_by_itself, others))


def _came_by_itself(lease: Lease) -> bool:
    return bool(lease.parent) and lease.opened.via == "call"


def _settled(lease: Lease, run: Run) -> Claim:
    """The claim without its `origin`, which is needed only until the Run has been made on the backend."""
    if lease.opened.origin is None or (run.opening and run.opener == lease.lease_id):
        return lease.opened
    return msgspec.structs.replace(lease.opened, origin=None)
