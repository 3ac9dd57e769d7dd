"""When the end of a Run has come (R6, R10).

`assess` is the one place that knows. It gets facts and the time, and returns the phase of the Run, the reason
for people, the next instant at which the answer may change, and, once it is certain, the verdict. The
coordinator acts on it, the status page prints it, the tests call it.

Facts are members (owner and workers of the current epoch) with their ends and evidence.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from pluto_dist.core.records import Lease, Run, Verdict
from pluto_dist.core.verdict import DRAIN_S, decide

Phase = Literal["opening", "running", "orphaned", "restarting", "detached", "finishing", "ended"]

ORPHAN_S = 2.0  # a dead owner's place is kept this long for a successor
RESTART_WINDOW_S = 120.0  # a launcher with restarts left gets this long to restart
EXIT_S = 30.0  # an interpreter that has begun to exit is gone by then, or its exit code does not count
LAUNCHER_GONE_S = 35.0  # torchrun itself waits 30 s between SIGTERM and SIGKILL
DETACHED_S = 3600.0  # grace after the last owner or worker closed


class Assessment(msgspec.Struct, frozen=True):
    """What the facts mean now.

    Attributes:
        phase: inner phase of the Run, never sent to the server.
        reason: for people.
        deadline: when to ask again although nothing happened, None if only an event can change it.
        verdict: set once the end is certain.
        expected: what the verdict will be, unless an exit code that is awaited says otherwise.
    """

    phase: Phase
    reason: str
    deadline: float | None = None
    verdict: Verdict | None = None
    expected: Verdict | None = None


def assess(run: Run, members: tuple[Lease, ...], now: float) -> Assessment:
    """Phase and, if it is certain, the verdict of a Run; `members` as given by `members_of`."""
    if run.verdict is not None:
        return Assessment("ended", run.verdict.reason, None, run.verdict)
    if run.relay:
        return _relayed(run, members, now)
    owner = next((lease for lease in members if lease.lease_id == run.owner), None)
    if owner is None:
        return Assessment("opening", "no owner yet")
    if owner.alive:
        return _with_owner(run, members, now)
    if owner.end_reason == "closed":
        return _detached(run, members, now)
    return _without_owner(run, owner, members, now)


def outlook(run: Run, members: tuple[Lease, ...]) -> Verdict | None:
    """The end, if nothing else became known of a Run whose members have all ended, None otherwise.

    It stands in the Run's document in case this node does not come back: the evidence is here only. It is no
    verdict: an exit code, a restart or a new owner may still change it.
    """
    owner = next((lease for lease in members if lease.lease_id == run.owner), None)
    if run.ended or run.relay or owner is None or owner.end_reason == "closed":
        return None
    if any(member.alive for member in members):
        return None
    return decide(run, members)


def members_of(run: Run, leases: tuple[Lease, ...]) -> tuple[Lease, ...]:
    """Owner and workers whose evidence counts: those of the current epoch."""
    return tuple(
        lease
        for lease in leases
        if lease.epoch == run.epoch
        and lease.role in ("owner", "worker")
        and lease.run == run.key
        and lease.state in ("active", "ended")
        and lease.end_reason != "superseded"
    )


def _relayed(run: Run, members: tuple[Lease, ...], now: float) -> Assessment:
    """The owner is on another node (R12): a verdict is never made here, only whether the job goes on here."""
    if any(member.alive for member in members):
        return Assessment("running", "its owner is on another node")
    if members and restarts_left(run):
        deadline = _last_end(members) + RESTART_WINDOW_S
        if now < deadline:
            return Assessment("restarting", "all members ended, the launcher has restarts left", deadline)
    return Assessment("detached", "nobody of its job is on this node; its owner is on another one")


def _with_owner(run: Run, members: tuple[Lease, ...], now: float) -> Assessment:
    if run.launcher_gone_at is None:
        return Assessment("running", "its owner is alive")
    deadline = run.launcher_gone_at + LAUNCHER_GONE_S
    if now < deadline:
        return Assessment("running", "the launcher is gone, its ranks are still alive", deadline)
    verdict = decide(run, members)
    if verdict.status == "COMPLETED":
        verdict = Verdict("FAILED", "launcher gone: its ranks outlived it")
    return Assessment("finishing", verdict.reason, None, verdict)


def _detached(run: Run, members: tuple[Lease, ...], now: float) -> Assessment:
    if any(member.alive for member in members):
        return Assessment("detached", "the owner closed the Run, workers go on")
    if run.prior is not None:
        return Assessment("finishing", "closed again without an end of its own", None, run.prior.verdict)
    deadline = _last_end(members) + DETACHED_S
    if now < deadline:
        return Assessment("detached", "the owner closed the Run; it may be taken up again", deadline)
    verdict = decide(run, members)
    if verdict.status == "COMPLETED":
        verdict = Verdict("TERMINATED", "detached: nobody took the Run up again")
    return Assessment("finishing", verdict.reason, None, verdict)


def _without_owner(run: Run, owner: Lease, members: tuple[Lease, ...], now: float) -> Assessment:
    awaited = [member for member in members if _exit_code_is_coming(member, now)]
    everybody_ended = not any(member.alive for member in members)
    verdict = decide(run, members)
    if awaited:
        expected = verdict if everybody_ended else None
        return Assessment(
            "finishing", "exit codes are awaited", _last_end(awaited) + EXIT_S, expected=expected
        )
    if restarts_left(run) and not (everybody_ended and verdict.status == "COMPLETED"):
        return _restarting(members, now, verdict)
    silent = owner.end_reason == "died"
    if everybody_ended and not silent:
        return Assessment("finishing", verdict.reason, None, verdict)
    deadline = _last_end((owner,)) + (ORPHAN_S if silent else DRAIN_S)
    if now >= deadline:
        return Assessment("finishing", verdict.reason, None, verdict)
    if silent:
        return Assessment("orphaned", "the owner died without a word", deadline)
    return Assessment("finishing", "the owner has ended, workers are still alive", deadline)


def _exit_code_is_coming(member: Lease, now: float) -> bool:
    return member.code_awaited and member.ended_at is not None and now < member.ended_at + EXIT_S


def _restarting(members: tuple[Lease, ...], now: float, verdict: Verdict) -> Assessment:
    if verdict.status == "COMPLETED":
        return Assessment("finishing", "the owner has ended, workers are still alive")
    if any(member.alive for member in members):
        return Assessment("restarting", "a member failed, the launcher has restarts left")
    deadline = _last_end(members) + RESTART_WINDOW_S
    if now < deadline:
        return Assessment("restarting", "all members ended, the launcher has restarts left", deadline)
    return Assessment("finishing", verdict.reason, None, verdict)


def restarts_left(run: Run) -> bool:
    """Whether the launcher lives and may start the ranks once more."""
    return run.launcher is not None and run.launcher_gone_at is None and run.attempt < run.max_restarts


def _last_end(members: Iterable[Lease]) -> float:
    return max(member.ended_at for member in members if member.ended_at is not None)
