"""Kinship: what follows for a claim from the process that started its process (R4, R5).

A process is related to a lease's process in one of two ways:

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

from pluto_dist.core.values.backend import Status
from pluto_dist.core.values.ids import DEFAULT_PROJECT, Identity, Job, Role, RunRef, Scheduled
from pluto_dist.core.values.lifecycle import Claim
from pluto_dist.core.values.records import Lease, Run

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
