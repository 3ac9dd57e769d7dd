"""Claims: which role a process gets in which Run (R4, R5, R12).

`decide_claim` is complete: from the claim and the facts about the Run it returns `Create`, `Grant`, `Wait`,
`Verify` or `Refuse`, each with its reason. It refuses because of a living owner only after `Verify`: the
coordinator checks that process at once and decides again, so that no claim is refused for a dead one.

Of a job on several nodes, node 0 owns the Run, unless a claim on another node asks for the owner's role. All
other nodes are relays: they deliver what their processes write and send heartbeats, but make no verdict and
send no status. Which claims lead to a relay, and which rank there goes first, is decided here too.

What follows for a claim from the process that started its process is its kinship. A process is related to a
lease's process in one of two ways:

* as part of its program: started by `multiprocessing`, or forked. If its `init()` asks for nothing that the
  parent's did not ask for, it joins the parent's Run as a worker;
* as a program that a rank started: it has inherited the rank's variables without being that rank. On the same
  terms it joins as a side.

A child that asks for more gets a Run of its own, and has no part in its parent's job.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from pluto_dist.core.rules.verdict import Phase
from pluto_dist.core.values.backend import Status, Want
from pluto_dist.core.values.ids import DEFAULT_PROJECT, Identity, Job, Role, RunRef, Scheduled
from pluto_dist.core.values.lifecycle import Claim
from pluto_dist.core.values.records import Lease, Run


class Create(msgspec.Struct, frozen=True):
    """Ask the backend: there is no such Run here."""

    want: Want


class Grant(msgspec.Struct, frozen=True):
    """A role in an existing Run; an owner of one that has ended takes it up again.

    Attributes:
        elsewhere: the owner is on another node, and this process is no rank of its job.
        relay: the Run's owner is on another node, so this node is a relay for it.
        anew: the job starts once more in the same Run: evidence of the former start no longer counts.
    """

    role: Role
    reason: str
    relay: bool = False
    elsewhere: bool = False
    anew: bool = False


class Wait(msgspec.Struct, frozen=True):
    """Decide later, at `until` at the latest."""

    reason: str
    until: float | None = None


class Verify(msgspec.Struct, frozen=True):
    """Check whether the owner's process lives, then decide again."""

    lease_id: str


class Refuse(msgspec.Struct, frozen=True):
    """Refuse the claim for good; `error` names a class of `pluto_dist.errors`."""

    error: str
    message: str


Decision = Create | Grant | Wait | Verify | Refuse


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts on which a decision rests.

    Attributes:
        run: the Run that the claim means, None if this coordinator knows none.
        phase: its phase now.
        owner: its owner's lease, if it has one that is alive.
        parent: lease of the process that started the claim's process, if the claim joins that one's Run.
        predecessor: lease of another process that has had the claim's rank in this start of the job.
        former: lease of the process from which the claim's process was forked as a daemon.
        members: live owner and workers.
        ended: owner and workers of this start that have ended.
        waiting_ranks: ranks of the same job and attempt that wait for a role, the claim's own included.
        choices: Runs that a claim which joins would have to choose from, as people name them.
        verified: the owner was checked for this claim and lives.
        owner_elsewhere: which other node has a live owner, as the cluster store says; "" if none is known.
        reporting: the final status is on its way to the backend.
        asked_at: when the first of the claims that wait together was made.
        sides: how many sides are attached, the claim's own process not counted.
        sides_limit: how many the owner allows; None without one.
    """

    run: Run | None
    phase: Phase = "opening"
    owner: Lease | None = None
    parent: Lease | None = None
    predecessor: Lease | None = None
    former: Lease | None = None
    members: tuple[Lease, ...] = ()
    ended: tuple[Lease, ...] = ()
    waiting_ranks: tuple[int, ...] = ()
    choices: tuple[str, ...] = ()
    verified: bool = False
    reporting: bool = False
    owner_elsewhere: str = ""
    asked_at: float = 0.0
    sides: int = 0
    sides_limit: int | None = None


RANK_ZERO_S = 5.0  # rank 0 may claim ownership this long after the first rank asked
HEIR_S = 5.0  # a process that becomes a daemon has ended by then
OWNER_WAIT_S = 30.0  # a job's rank 0 that resumes a live Run waits this long for its owner to go


def decide_claim(claim: Claim, facts: Facts, now: float) -> Decision:
    """The role of a claim, or why not yet, or why never."""
    if claim.verb == "attach":
        return _attach(claim, facts)
    run = facts.run
    if facts.parent is not None and facts.parent.state == "waiting":
        return Wait("the process that started it has no role yet")
    if facts.former is not None and run is not None:
        return _heir(run, facts, facts.former, now)
    owns = claim.wanted in (None, "owner") and not relays(claim)
    if owns and facts.owner_elsewhere and run is not None and run.owner is None and not run.relay:
        return _owned_elsewhere(claim, facts)
    if run is None or (owns and sought(run)):
        return _absent(claim, facts, now)
    if claim.wanted == "side":
        return _join("side", facts, "asked for")
    newer = claim.job.attempt - run.attempt if same_job(claim, run) else 0
    if newer < 0:
        return Refuse(
            "StaleEpochError", f"attempt {claim.job.attempt} of the job was replaced by attempt {run.attempt}"
        )
    if claim.wanted == "worker" and not relays(claim):
        return Wait("its attempt has no owner yet") if newer else _join("worker", facts, "asked for")
    return _in_run(claim, run, facts, now)


def _in_run(claim: Claim, run: Run, facts: Facts, now: float) -> Decision:
    """Decides in a Run that is known here, for a claim that insists on no role."""
    if facts.parent is not None:
        return _child(run, facts.parent)
    if launched(claim, facts.owner):
        return _launched(claim, run, facts)
    if run.ended and facts.reporting:
        return Wait("the Run is ending")
    if relays(claim):
        return _relayed(claim, facts)
    if run.relay:
        return _taken_over(claim, run, facts, now)
    if same_job(claim, run):
        return _same_job(claim, run, facts, now)
    if facts.phase == "opening":
        return Wait("the Run is being opened")
    return _stranger(claim, run, facts, now)


def _owned_elsewhere(claim: Claim, facts: Facts) -> Decision:
    """As beside an owner on this node (R5), but without `Verify`: liveness cannot be checked from here."""
    told = f"the Run {str(claim.run)!r} has a live owner on {facts.owner_elsewhere}"
    if claim.wanted == "owner":
        return Refuse("OwnerExistsError", f"{told}; attach() to log beside it, or end it first")
    if not claim.run_from_env and not claim.resume:
        return Refuse("RunExistsError", f"{told}; attach() to log beside it, or choose another run_id")
    return Grant("side", f"its owner lives on {facts.owner_elsewhere}", elsewhere=True)


def same_job(claim: Claim, run: Run) -> bool:
    """Whether the claim comes from the launch that owns the Run."""
    return claim.job.key == run.job_key


def resumes(claim: Claim) -> bool:
    """Whether the caller means a Run that exists: by `resume=True`, a number or a display id."""
    return claim.resume or (claim.run is not None and claim.run.external_id is None)


def goes_on(claim: Claim) -> bool:
    """Whether the claim accepts a Run that exists; otherwise an external id is for a new one."""
    return resumes(claim) or claim.run_from_env


def requeued(claim: Claim, run: Run) -> bool:
    """Whether the claim's job was put back into the queue and has left this Run."""
    return goes_on_in_queue(claim.job.scheduled, run.scheduled, run.status)


def _attach(claim: Claim, facts: Facts) -> Decision:
    if claim.wanted == "owner":
        return Refuse("OwnerExistsError", "attach() never owns a Run; use init(run_id=…, resume=True)")
    if facts.run is None:
        return _join_unknown(claim, facts)
    if facts.parent is not None:
        return _child(facts.run, facts.parent)
    decision = _join("worker" if claim.wanted == "worker" else "side", facts, "attached")
    limit = facts.sides_limit if facts.sides_limit is not None else claim.sides_limit
    if isinstance(decision, Grant) and decision.role == "side" and facts.sides >= limit:
        return Refuse(
            "ClaimError",
            f"Run {facts.run.external_id} has {facts.sides} sides, and sides_limit allows {limit}; close "
            "some, or start the training with a higher PLUTO_DIST_SIDES_LIMIT",
        )
    return decision


def _join(role: Role, facts: Facts, reason: str) -> Decision:
    """Joins beside an owner; a worker waits for one, because its evidence counts in that owner's epoch."""
    run = facts.run
    there = run is not None and (run.epoch > 0 or (bool(run.relay) and not run.opening))
    if not there or (role == "worker" and facts.phase == "opening"):
        return Wait("the Run is being opened")
    return Grant(role, reason)


def _join_unknown(claim: Claim, facts: Facts) -> Decision:
    if len(facts.choices) > 1:
        return Refuse("AmbiguousRunError", _not_one(claim, facts.choices))
    if claim.run is not None:
        return Create("join")  # another node may have it, or it has ended long ago
    return Wait("there is no live Run on this node yet")


def _not_one(claim: Claim, choices: tuple[str, ...]) -> str:
    listed = ", ".join(choices)
    if claim.run is None:
        return f"no run_id was given while {len(choices)} Runs are live: {listed}; name one"
    return f"{str(claim.run)!r} means {len(choices)} Runs: {listed}; pass the project= or the dir= of one"


def _absent(claim: Claim, facts: Facts, now: float) -> Decision:
    if relays(claim):
        return Create("join")
    if claim.wanted in ("side", "worker"):
        return _join_unknown(claim, facts)
    if claim.wanted != "owner" and not leads(claim.job):
        waits = _for_lower_rank(claim, facts, now)
        if waits is not None:
            return waits
    if claim.run is None:
        return Create("create")
    if claim.run.external_id is None:
        return Create("resume")
    return Create("either" if goes_on(claim) else "create")


def _for_lower_rank(claim: Claim, facts: Facts, now: float) -> Wait | None:
    """Rank 0 is preferred as owner for a while, after that the lowest rank that is there (R4)."""
    deadline = facts.asked_at + RANK_ZERO_S
    if now < deadline:
        return Wait("rank 0 may still claim ownership", deadline)
    lowest = min(facts.waiting_ranks, default=claim.job.rank)
    return Wait(f"rank {lowest} owns this attempt") if claim.job.rank != lowest else None


def launched(claim: Claim, owner: Lease | None) -> bool:
    """Whether the claim comes from below the `pluto-dist run` that owns the Run."""
    return owner is not None and claim.launched_by == owner.lease_id


def _launched(claim: Claim, run: Run, facts: Facts) -> Decision:
    """Below `pluto-dist run` the ranks are workers of its Run, or the first process without a rank is."""
    if claim.wanted == "owner" and facts.owner is not None:
        return _owner_lives(facts.owner, facts)
    rank, attempt = claim.job.rank, claim.job.attempt
    if rank is not None:
        if attempt < run.attempt:
            return Refuse("StaleEpochError", f"attempt {attempt} of the job was replaced by {run.attempt}")
        again = facts.predecessor is not None and _works_alone(facts)
        return Grant("worker", f"rank {rank} of the launcher's command", anew=again)
    if any(member.role == "worker" and member.rank is None for member in facts.members):
        return Grant("side", "started by the launcher's command")
    again = bool(_workers(facts.ended)) and _works_alone(facts)
    return Grant("worker", "started by the launcher's command", anew=again)


def _works_alone(facts: Facts) -> bool:
    """Whether all earlier workers of the command have ended, so that this is a new start of them."""
    return not _workers(facts.members)


def _workers(leases: tuple[Lease, ...]) -> tuple[Lease, ...]:
    return tuple(lease for lease in leases if lease.role == "worker")


def _heir(run: Run, facts: Facts, former: Lease, now: float) -> Decision:
    """Gives a daemon the place of the process that it was forked from, unless that one left by a call."""
    if former.alive:
        if not facts.verified:
            return Verify(former.lease_id)
        until = facts.asked_at + HEIR_S
        if now < until:
            return Wait("the process that it was has not ended yet", until)
        return Grant("side", "the process that it was goes on")
    left = former.left_at is not None and not former.by_exit
    if left or former.role == "side" or facts.owner is not None:
        role: Role = "worker" if former.role == "worker" and not left else "side"
        return Grant(role, f"forked by {former.label}")
    if run.ended and facts.reporting:
        return Wait("the Run is ending")
    return Grant("owner", f"{former.label} has become a daemon")


def _child(run: Run, parent: Lease) -> Decision:
    """A child that joins its parent's Run."""
    role = role_below(parent)
    if run.ended or role == "side" or not parent.alive:
        return Grant("side", f"started by {parent.label}")
    return Grant("worker", f"a child of {parent.label}")


def _same_job(claim: Claim, run: Run, facts: Facts, now: float) -> Decision:
    rank = claim.job.rank
    if claim.job.attempt == run.attempt:
        if facts.predecessor is not None and facts.phase != "restarting":
            return _next_start(claim, run, facts, facts.predecessor, now)
        if facts.owner is not None:
            return _beside_owner(claim, facts.owner, facts)
        if run.ended:
            return Grant("side", "the Run has ended in this attempt of the job")
        if run.owner is not None and not leads(claim.job):
            return Grant("worker", "this attempt has had its owner")
    if leads(claim.job) or claim.wanted == "owner":
        return Grant("owner", f"rank {rank} of the job" if rank is not None else "its job's process")
    reason = f"rank 0 has not claimed within {RANK_ZERO_S:g} s"
    return _for_lower_rank(claim, facts, now) or Grant("owner", reason)


def _next_start(claim: Claim, run: Run, facts: Facts, before: Lease, now: float) -> Decision:
    """The same rank in another process: the job was started again, and names its Run."""
    given = goes_on(claim)
    if before.alive:
        if not facts.verified:
            return Verify(before.lease_id)
        return Grant("side", "its rank is taken") if given else Refuse("RunExistsError", _exists(claim, run))
    if not given and run.status not in UNDONE:
        return Refuse("RunExistsError", _exists(claim, run))
    if facts.members or facts.phase == "finishing":
        return Wait("the job's former start goes on")
    free_at = max((member.ended_at or 0.0 for member in facts.ended), default=0.0)
    facts = msgspec.structs.replace(facts, asked_at=max(facts.asked_at, free_at))
    first = leads(claim.job) or claim.wanted == "owner"
    waits = None if first else _for_lower_rank(claim, facts, now)
    return waits or Grant("owner", "the job was started again", anew=True)


def _beside_owner(claim: Claim, owner: Lease, facts: Facts) -> Decision:
    rank = claim.job.rank
    if claim.wanted == "owner" or rank is None or owner.identity.same_process(claim.identity):
        return _owner_lives(owner, facts)
    return Grant("worker", f"rank {rank} of the owner's job")


def _relayed(claim: Claim, facts: Facts) -> Decision:
    """A rank of a node without the owner; two launchers of one job may share a machine, though."""
    owner = facts.owner
    if owner is None:
        return Grant("worker", f"rank {claim.job.rank}; the owner is on another node", relay=True)
    if claim.job.launch and owner.opened.job.launch == claim.job.launch:
        return Grant("worker", f"rank {claim.job.rank} of the owner's launch")
    return Grant("side", "its owner is alive") if facts.verified else Verify(owner.lease_id)


def _taken_over(claim: Claim, run: Run, facts: Facts, now: float) -> Decision:
    """Decides a claim that may own a Run for which this node has only been a relay until now."""
    if any(member.alive for member in facts.members):
        return Grant("side", "the Run's owner is on another node")
    if not (goes_on(claim) or run.opening or requeued(claim, run)):
        return Refuse("RunExistsError", _exists(claim, run))
    first = leads(claim.job) or claim.wanted == "owner"
    waits = None if first else _for_lower_rank(claim, facts, now)
    return waits or Grant("owner", "its job runs on this node now")


def _stranger(claim: Claim, run: Run, facts: Facts, now: float) -> Decision:
    """A process of another launch."""
    if not goes_on(claim):
        if not requeued(claim, run):
            return Refuse("RunExistsError", _exists(claim, run))
        left = _left_of_former_start(claim, run, facts)
        if left is not None:
            return left
    if facts.phase == "restarting":
        return Grant("side", "the Run waits for its own job to restart")
    if facts.owner is not None:
        return _owned(claim, facts.owner, facts, now)
    if facts.phase == "finishing":
        return Wait("the Run is ending")
    first = leads(claim.job) or claim.wanted == "owner"
    waits = None if first else _for_lower_rank(claim, facts, now)
    return waits or Grant("owner", f"the Run was {facts.phase}")


def _left_of_former_start(claim: Claim, run: Run, facts: Facts) -> Decision | None:
    """For a job that was put back into the queue; None if nothing of its start before is left."""
    if facts.phase == "restarting":
        return Wait("the job's former start goes on")
    if facts.owner is None:
        return None
    return Refuse("RunExistsError", _exists(claim, run)) if facts.verified else Verify(facts.owner.lease_id)


def _owned(claim: Claim, owner: Lease, facts: Facts, now: float) -> Decision:
    if claim.wanted == "owner":
        return _owner_lives(owner, facts)
    if claim.job.rank == 0 and resumes(claim):
        deadline = facts.asked_at + OWNER_WAIT_S
        if now < deadline:
            return Wait("its owner is alive; rank 0 of another job waits for it", deadline)
        return _owner_lives(owner, facts)
    return Grant("side", "its owner is alive") if facts.verified else Verify(owner.lease_id)


def _owner_lives(owner: Lease, facts: Facts) -> Decision:
    return Refuse("OwnerExistsError", owner_lives(owner)) if facts.verified else Verify(owner.lease_id)


def owner_lives(owner: Lease) -> str:
    """The living owner for an error message: role, pid, host, since when (epoch milliseconds)."""
    return (
        f"the Run has a live owner: {owner.role} {owner.label!r}, pid {owner.identity.pid} on "
        f"{owner.identity.host}, since {owner.granted_ms}; attach() to log beside it, or end it first"
    )


def _exists(claim: Claim, run: Run) -> str:
    return (
        f"a Run with run_id {str(claim.run)!r} exists in project {run.project!r} "
        f"({run.display_id or run.key}, {run.status}); nothing was changed. "
        "Pass resume=True to go on with it, attach() to log beside it, or choose another run_id"
    )


def relays(claim: Claim) -> bool:
    """Whether the owner of the claim's Run is on another node (R12): on node 0, unless the claim insists."""
    run = claim.run
    named = run is not None and (claim.target.mode == "pluto" or shares_parts(claim))
    fits = claim.wanted in (None, "worker") or claim.launcher  # each node may have a launcher of ours
    return claim.verb == "init" and named and claim.job.node_rank > 0 and fits


def shares_parts(claim: Claim) -> bool:
    """Whether the nodes of the claim's job have one Run although there is no server, each with its part."""
    named = claim.run is not None and claim.run.external_id is not None
    return claim.target.mode == "local" and claim.cluster is not None and named


def sought(run: Run) -> bool:
    """Whether this node still looks for a Run of another node, in vain so far."""
    return run.want == "join" and run.opening and run.epoch == 0


def leads(job: Job) -> bool:
    """Whether the other ranks let this one claim first: rank 0, or the first rank of a node without it."""
    return job.rank in (None, 0) or (job.node_rank > 0 and job.local_rank == 0)


UNDONE: Final[frozenset[Status]] = frozenset({"RUNNING", "FAILED", "TERMINATED"})


def parent_of(claim: Claim, leases: Iterable[Lease]) -> Lease | None:
    """The lease of the process that started the claim's process, as a part of itself or with its rank.

    Of several leases of one process it is the newest, which is also the one that `pluto_dist.log()` means. A
    side counts as no parent: what it starts does not belong to the job.

    The moment of the claim counts, not the one at which it is read: a pool's worker may be ended in its
    `init()`, and its claim is found when its parent has finished.
    """
    opened = [lease for lease in leases if lease.opened.verb == "init" and _was_open(lease, claim.at)]
    members = [lease for lease in opened if lease.role != "side" or lease.state == "waiting"]
    parent = nearest(claim, members)
    if parent is not None or claim.job.rank is None:
        return parent
    ranks = [lease for lease in members if _place(lease.opened.job) == _place(claim.job)]
    of_rank = (lease for lease in ranks if any(map(lease.identity.same_process, claim.ancestors)))
    return next(of_rank, None)


def _was_open(lease: Lease, at: float) -> bool:
    """Whether a lease that was not refused was open at a time of the node's clock."""
    if lease.alive:
        return True
    left = lease.left_at if lease.left_at is not None else lease.ended_at
    return lease.state != "refused" and left is not None and lease.opened.at < at <= left


def nearest(claim: Claim, leases: Sequence[Lease]) -> Lease | None:
    """The lease of the nearest of the claim's parents that has any of these leases; of several the newest."""
    for parent in claim.parents:
        own = [lease for lease in leases if lease.identity.same_process(parent)]
        if own:
            return max(own, key=lambda lease: lease.opened.at)
    return None


def is_child_of(claim: Claim, process: Identity) -> bool:
    """Whether a process is a part of another one's program."""
    return any(map(process.same_process, claim.parents))


def asks_for_another(claim: Claim, parent: Lease, run: Run) -> bool:
    """Whether a child wants another Run than its parent's; arguments that it leaves out differ in nothing.

    An id in the environment is inherited, so it says no more than that the child is one.
    """
    if claim.run is not None and not _named_by_launch(claim):
        is_parents = refers_to(claim.run, run, run.project if claim.run_from_env else claim.project)
        if not (is_parents and claim.run_from_env):
            return not is_parents
    asked = parent.opened
    another_name = claim.name not in (None, run.name, asked.name)
    another_project = claim.project not in (DEFAULT_PROJECT, run.project, asked.project)
    if another_name or another_project or claim.fork is not None or claim.again or claim.wanted == "owner":
        return True
    # Trials differ in their configs. Ranks of one job may, and the config of a side is kept apart.
    trial = claim.job.rank is None and role_below(parent) == "worker"
    return trial and bytes(claim.config) not in (b"{}", bytes(asked.config))


def role_below(parent: Lease) -> Role:
    """Role of a child that joins: what a rank started is no rank, so its end says nothing about the job."""
    return "worker" if parent.opened.job.rank is None and parent.role != "side" else "side"


def is_trial(claim: Claim, beside: Iterable[Lease]) -> bool:
    """Whether the process is one of several children among which a launcher's command divides work.

    Args:
        claim: of a process below `pluto-dist run`, whose parent has no lease.
        beside: leases of the launcher's Run.
    """
    if not claim.parents or claim.job.rank is not None:
        return False
    workers = (lease for lease in beside if lease.role == "worker")
    return claim.name is not None or any(not lease.identity.same_process(claim.identity) for lease in workers)


def inherits_rank(claim: Claim, parent: Lease) -> bool:
    """Whether the claim's rank was inherited from the parent, so that the process itself has none."""
    return claim.job.rank is not None and claim.job.rank == parent.opened.job.rank


def without_rank(claim: Claim) -> Claim:
    """The claim without the rank, which was inherited."""
    return msgspec.structs.replace(claim, job=Job(key=claim.generated_id))


def apart(claim: Claim, parent: Lease, run: Run) -> Claim:
    """The claim of a child that gets a Run of its own, without its parent's job and inherited id."""
    inherited = claim.run is not None and claim.run_from_env and refers_to(claim.run, run, run.project)
    if inherits_rank(claim, parent):
        claim = without_rank(_unnamed(claim) if _named_by_launch(claim) else claim)
    if inherited:
        claim = _unnamed(claim)
    return msgspec.structs.replace(claim, launched_by="")


def heir(claim: Claim, former: Lease) -> Claim:
    """The claim of a daemon, with the place in the job of the process from which it was forked."""
    return msgspec.structs.replace(claim, job=former.opened.job, launched_by=former.opened.launched_by)


def unlaunched(claim: Claim) -> Claim:
    """The claim of a trial, which gets a Run of its own: without the launcher's Run id in its environment."""
    return msgspec.structs.replace(_unnamed(claim) if claim.run_from_env else claim, launched_by="")


def predecessor(claim: Claim, leases: Iterable[Lease]) -> Lease | None:
    """The other process that has had the claim's rank in this start of the job.

    A start gives each rank to one process. So the same rank in another process is the next start, whatever
    has become of the first: `python train.py || python train.py` in one job step,
    `torch.multiprocessing.spawn` once per fold, two scripts in one pod with its fixed RANK.
    """
    found = [
        lease
        for lease in leases
        if claim.job.rank is not None
        and _place(lease.opened.job) == _place(claim.job)
        and not lease.identity.same_process(claim.identity)
    ]
    return max(found, key=lambda lease: lease.opened.at, default=None)


def goes_on_in_queue(job: Scheduled | None, before: Scheduled | None, status: Status) -> bool:
    """Whether a job that its scheduler has put back into the queue finds the Run that it has left.

    Args:
        job: of the process that asks.
        before: in which the Run was owned last.
        status: of the Run; what was completed or cancelled is not gone on with by itself.
    """
    return job is not None and job.again(before) and status in UNDONE


def refers_to(ref: RunRef, run: Run, project: str) -> bool:
    """Whether the caller's id means this Run; external ids are unique per project."""
    if ref.external_id is not None:
        return run.project == project and (ref in run.asked or run.external_id == ref.external_id)
    if ref in run.asked:
        return True
    return run.id == ref.id if ref.id is not None else run.display_id == ref.display_id


def _named_by_launch(claim: Claim) -> bool:
    """Whether the Run's name was agreed between the nodes of the launch (R12) and not given by a caller."""
    return claim.run_from_env and claim.run == RunRef(external_id=claim.job.shared_id)


def _unnamed(claim: Claim) -> Claim:
    return msgspec.structs.replace(claim, run=None, run_from_env=False)


def _place(job: Job) -> tuple[str, int, int | None]:
    return job.key, job.attempt, job.rank
