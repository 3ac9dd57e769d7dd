"""The verdict: whether a Run has ended, with which status, why, and what failed first (R6, R9, R10).

Only members count: the owner and the workers of the current epoch, with their ends and their evidence.

`assess` decides *when* a Run has ended. It returns the phase, the reason for people, the next instant at
which the answer may change, and, once it is certain, the verdict. It is the only place that knows: the
coordinator acts on its answer, the status page prints it, the tests call it.

`decide` says *what* the end is: the status that follows from the evidence, with `first_failure`. A worker
that crashed fails the Run there. Evidence within two seconds of the first ranks by kind, because the first to
arrive is often a victim: after the SIGKILL of one rank its peers raise communication errors within 23 ms,
before the launcher's SIGTERM reaches any of them (seen). What follows the first SIGTERM is its consequence.

A script that ends has done its work. A notebook's kernel is restarted or shut down with the same exit code
whatever its cells have done, so only `finish()` completes a Run there.

With it: a verdict in words (`describe`, `who_failed`, `advice`), and as the server gets it (`status_report`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from pluto_dist.core.values.backend import Status, StatusReport
from pluto_dist.core.values.cluster import Piece, failure_of
from pluto_dist.core.values.lifecycle import Evidence
from pluto_dist.core.values.records import Failure, Fault, Lease, Run, Verdict

DRAIN_S = 10.0  # workers may end, and fail, this long after the owner's end
RANKING_WINDOW_S = 2.0  # evidence this close together is ranked by kind, then by time
LONGEST_LINE = 300  # characters of an exception in a reason

LEFT_TO_RAY = (
    "its Ray {work} left the Run open, and a worker's end says nothing of the work: "
    "call run.finish() at the end, or use `with pluto.init(…) as run:`"
)
STOP_SIGNALS = frozenset({"SIGTERM", "SIGINT", "SIGHUP"})
STOP_EXCEPTIONS = frozenset({"KeyboardInterrupt", "TrialPruned"})  # the latter is optuna's
STOP_CODES = frozenset({128 + 1, 128 + 2, 128 + 15})  # what shells make of those signals
# The store that torchrun shares with its ranks outlives the attempt, and the addresses in it (torch 2.13).
RESTARTED_GLOO = (
    "after a restart gloo may look for its peers at the addresses of the attempt before: start torchrun with "
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, see docs/howto/torchrun.md"
)


def decide(run: Run, members: tuple[Lease, ...]) -> Verdict:
    """The final status that the evidence of all members makes, with its reason and first failure."""
    owner = next((member for member in members if member.lease_id == run.owner), None)
    first = first_failure(run, members)
    if owner is not None and owner.finish_code is not None:
        status = status_of_code(owner.finish_code)
        return Verdict(status, f"the owner called finish(code={owner.finish_code})", first and first[1])
    if first is None and owner is not None and owner.by_exit and owner.opened.notebook:
        return Verdict("TERMINATED", "the notebook's kernel ended before finish() was called")
    if first is None and owner is not None and _was_left_to_ray(owner):
        return Verdict("TERMINATED", LEFT_TO_RAY.format(work=owner.opened.lent_by_ray))
    if first is None:
        return Verdict("COMPLETED", "the owner ended and nobody failed")
    stop, failure = first
    who = who_failed(failure)
    if stop:
        by = failure.signal or failure.type or f"exit code {failure.exit_code}"
        return Verdict("TERMINATED", f"{who} was asked to stop by {by}", failure)
    remark = _remark(run, members, failure)
    return Verdict("FAILED", f"{who} failed first: {describe(failure)}{remark}", failure)


def _remark(run: Run, members: tuple[Lease, ...], failure: Failure) -> str:
    """What else a person should know of this end; "" if nothing."""
    found = (
        said
        for member in members
        for evidence in member.evidence
        if (said := advice(evidence, member.attempt))
    )
    known = next(found, "")
    if not known and run.launcher_gone_at is not None and failure.attempt < run.max_restarts:
        known = "no rank called init() after that, although the launcher had restarts left"
    return f"; {known}" if known else ""


def first_failure(run: Run, members: tuple[Lease, ...]) -> tuple[bool, Failure] | None:
    """The cause among all evidence: (whether that is a request to stop, the failure); None without one."""
    limit = _evidence_limit(run, members)
    causes = likeliest(piece for piece in pieces_of(members) if piece.until <= limit)
    return (causes[0].stop, failure_of(causes[0])) if causes else None


def pieces_of(members: tuple[Lease, ...], node: str = "") -> list[Piece]:
    """All evidence of a node's members that counts, with the time in which it happened by its clock."""
    return [
        Piece(
            role=member.role,
            label="command" if evidence.command_pid else member.label,
            rank=member.rank,
            host=member.identity.host,
            node=node,
            pid=evidence.command_pid or member.identity.pid,
            attempt=member.attempt,
            evidence=evidence,
            stop=_stops(evidence, member),
            since=_since(evidence),
            until=evidence.at,
            lease_id=member.lease_id,
            number=member.evidence.index(evidence),
        )
        for member in members
        for evidence in _counting(member, _parent(member, members))
    ]


def likeliest(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """The causes among all evidence: one, or several if their order is not known.

    What may have happened within two seconds of the first ranks by kind, then by the earliest time at which
    it can have happened. Between nodes that time is uncertain, because clocks differ: the window is wider by
    as much, and evidence of one kind from several nodes whose times overlap stays together.
    """
    found = sorted(pieces, key=lambda piece: piece.since)
    if any(not piece.evidence.command_pid for piece in found):
        found = [piece for piece in found if not piece.evidence.command_pid]
    stop_at = min((piece.until for piece in found if piece.stop), default=None)
    if stop_at is not None:
        found = [piece for piece in found if piece.stop or piece.since < stop_at]
    if not found:
        return ()
    window_end = found[0].since + found[0].spread + RANKING_WINDOW_S
    window = [piece for piece in found if piece.since <= window_end]
    best = min(window, key=lambda piece: (_severity(piece), piece.since))
    return best, *(piece for piece in window if _may_be_before(piece, best))


def _may_be_before(piece: Piece, best: Piece) -> bool:
    """Whether the order of two is not known; on one node the order in which they were noticed decides."""
    elsewhere = piece.node != best.node and _severity(piece) == _severity(best)
    return elsewhere and piece.since <= best.until


def _evidence_limit(run: Run, members: tuple[Lease, ...]) -> float:
    """Until when failures count: one after the owner's `finish()` and the drain deadline is only an event."""
    for member in members:
        if member.lease_id == run.owner and member.end_reason == "finished" and member.ended_at is not None:
            return member.ended_at + DRAIN_S
    return float("inf")


def is_stop(evidence: Evidence) -> bool:
    """A request to stop, and not a fault: SIGTERM and its like, also as an exit code; a pruned trial."""
    if evidence.kind == "exit":
        return evidence.exit_code in STOP_CODES
    if evidence.kind == "exception":
        return evidence.type in STOP_EXCEPTIONS
    return evidence.signal in STOP_SIGNALS


def is_failure(evidence: Evidence) -> bool:
    """Whether the evidence speaks against COMPLETED; an exit with code 0 does not."""
    return not (evidence.kind == "exit" and evidence.exit_code == 0)


def fault_of(evidence: Evidence) -> Fault:
    """What evidence says of its process, whatever the Run's verdict: it failed, or was asked to stop."""
    if evidence.ignored or not is_failure(evidence):
        return ""
    return "stopped" if is_stop(evidence) else "failed"


def _parent(member: Lease, members: tuple[Lease, ...]) -> Lease | None:
    """The member whose child it is."""
    return next((other for other in members if member.parent and other.lease_id == member.parent), None)


def _counting(member: Lease, parent: Lease | None) -> tuple[Evidence, ...]:
    """The member's failures; an ignored request to stop is one only if the process then ended badly."""
    found = tuple(
        evidence
        for evidence in member.evidence
        if is_failure(evidence)
        and not (_is_parents_will(evidence, member, parent) or _is_rays_will(evidence, member))
    )
    return found if any(not evidence.ignored for evidence in found) else ()


def _is_parents_will(evidence: Evidence, child: Lease, parent: Lease | None) -> bool:
    """Whether a worker that joined its parent's Run was ended by that parent.

    The parent writes a `ChildStopped` before it sends the signal. After a parent has left without a failure,
    what ends its children from outside is the end of the job, and no failure of theirs.
    """
    if child.parent and child.stopped_at is not None and evidence.at >= child.stopped_at:
        return True
    left_at = parent.left_at if parent is not None and not any(map(is_failure, parent.evidence)) else None
    from_outside = is_stop(evidence) or evidence.kind in ("signal", "vanished")
    return left_at is not None and from_outside and _since(evidence) > left_at


def _is_rays_will(evidence: Evidence, member: Lease) -> bool:
    """Whether a worker of Ray ended as Ray ends them when nothing runs in them any more, by exit code 1.

    It says nothing of the work. A rank is none of those: its peers miss it.
    """
    if not member.opened.lent_by_ray or member.opened.job.rank is not None or evidence.oom:
        return False
    found_dead = evidence.alive_until is not None
    by_ray = evidence.kind == "vanished" or evidence.signal == "SIGKILL" or evidence.exit_code == 1
    return found_dead and by_ray


def _was_left_to_ray(owner: Lease) -> bool:
    """Whether the owner's end is that of a worker of Ray, and no `finish()`.

    An actor's process ends with the actor, and then as any script does.
    """
    if not owner.opened.lent_by_ray or owner.opened.job.rank is not None:
        return False
    return owner.end_reason in ("died", "exited") or (owner.by_exit and owner.opened.lent_by_ray == "task")


def _stops(evidence: Evidence, member: Lease) -> bool:
    """Whether it is a request to stop, which the SIGKILL of a child by its parent is as well."""
    return is_stop(evidence) or (member.stopped_at is not None and evidence.at >= member.stopped_at)


def _severity(piece: Piece) -> int:
    if piece.stop:
        return 3
    if piece.evidence.communication:
        return 2
    return 1 if piece.evidence.kind in ("exception", "exit") else 0


def _since(evidence: Evidence) -> float:
    """The earliest time at which it can have happened: a death may be noticed long after it."""
    return evidence.at if evidence.alive_until is None else evidence.alive_until


def status_of_code(code: int) -> Status:
    """Status of an explicit `finish(code=…)`: 0 completed; 2, 15 and 128 + signal terminated; else failed."""
    if code == 0:
        return "COMPLETED"
    return "TERMINATED" if code in (2, 15) or code in STOP_CODES else "FAILED"


def describe(failure: Failure | Evidence) -> str:
    """One line: what happened."""
    if failure.oom:
        return "killed by the kernel for want of memory (OOM)"
    if failure.signal:
        return f"killed by {failure.signal}"
    if failure.kind == "exception":
        return exception_line(failure)
    if failure.kind == "exit":
        return _line(f"exit code {failure.exit_code}", failure.message)
    return failure.message or "its process vanished"


def exception_line(failure: Failure | Evidence) -> str:
    """Type and first line of the message; all of it stands in the traceback.

    A message that holds the traceback of another process (a DataLoader's worker, a pool's) tells the cause in
    its last line.
    """
    return _line(failure.type, failure.message)


def _line(what: str, message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    said = lines[0] if lines else ""
    if any("Traceback (most recent call last)" in line for line in lines):
        said = f"{said} … {lines[-1]}"
    line = f"{what}: {said}" if said else what
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 1]}…"


def server_differs(status: Status | None, refusals: Mapping[str, str]) -> str:
    """How the Run on the server differs from the one here, for people; "" if no difference is known.

    Args:
        status: the server's, if it is another one.
        refusals: what it will not take, with its reasons.
    """
    said = [f"the server says {status}"] if status is not None else []
    for reason in dict.fromkeys(refusals.values()):
        what = ", ".join(name for name in refusals if refusals[name] == reason)
        said.append(f"the server refuses the {what}: {reason}")
    return "; ".join(said)


def who_failed(failure: Failure) -> str:
    """Rank or label, with pid, host and node; a lost node as a whole has no pid."""
    if not failure.pid:
        return f"{failure.label} (host {failure.host})"
    name = f"rank {failure.rank}" if failure.rank is not None else (failure.label or failure.role)
    node = f", {failure.node}" if failure.node else ""
    return f"{name} (pid {failure.pid} on {failure.host}{node})"


Phase = Literal["opening", "running", "orphaned", "restarting", "detached", "finishing", "ended"]

ORPHAN_S = 2.0  # a dead owner's place is kept this long for a successor
RESTART_WINDOW_S = 120.0  # a launcher with restarts left gets this long to restart
EXIT_S = 30.0  # an interpreter that has begun to exit is gone by then, or its exit code does not count
LAUNCHER_GONE_S = 35.0  # torchrun itself waits 30 s between SIGTERM and SIGKILL
DETACHED_S = 3600.0  # grace after the last owner or worker closed


class Assessment(msgspec.Struct, frozen=True):
    """The state of a Run as its members' facts show it now.

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


class Situation(msgspec.Struct, frozen=True):
    """A Run with what its facts mean at one instant.

    Attributes:
        leases: all of the Run.
        members: those whose evidence counts.
        assessment: phase, reason, deadline, verdict.
    """

    run: Run
    leases: tuple[Lease, ...]
    at: float
    members: tuple[Lease, ...]
    assessment: Assessment

    @property
    def phase(self) -> Phase:
        return self.assessment.phase

    def holds(self, run: Run, leases: tuple[Lease, ...], now: float) -> bool:
        """Whether nothing has changed since: records are replaced, never altered, so identity is enough."""
        return self.run is run and self.leases is leases and self.at == now


def situation(run: Run, leases: tuple[Lease, ...], now: float) -> Situation:
    """What all that is known of a Run means now."""
    members = members_of(run, leases)
    return Situation(run, leases, now, members, assess(run, members, now))


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
    if owner.end_reason == "gave_up" and run.prior is not None:
        return Assessment("finishing", "its init() was given up", None, run.prior.verdict)
    return _without_owner(run, owner, members, now)


def outlook(run: Run, members: tuple[Lease, ...]) -> Verdict | None:
    """The end that a Run whose members have all ended would have if nothing more became known; else None.

    It goes into the Run's document in case this node does not come back, because the evidence is only here.
    It is no verdict: an exit code, a restart or a new owner may still change it.
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
    """The owner is on another node (R12): here is no verdict, only whether members live or may come back."""
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


def codes_awaited(members: tuple[Lease, ...], now: float) -> float | None:
    """Until when exit codes of members that ended are awaited, None if none is."""
    awaited = [member for member in members if _exit_code_is_coming(member, now)]
    return _last_end(awaited) + EXIT_S if awaited else None


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


_encoder = msgspec.json.Encoder()


def status_report(run: Run) -> StatusReport:
    """The terminal status with its reason and first failure; replaces whatever metadata there was."""
    assert run.verdict is not None  # noqa: S101 # only Runs with a verdict are reported
    metadata: dict[str, object] = {
        "reason": run.verdict.reason,
        "first_failure": run.verdict.first_failure,
        "attempts": run.attempts,
    }
    if run.found_ms:
        metadata |= {"ended_at": run.ended_ms, "found_at": run.found_ms}
    body = _encoder.encode(metadata) if run.verdict.status != "COMPLETED" else None
    return StatusReport(run.verdict.status, body, run.ended_ms or 0, run.forced)


def advice(evidence: Evidence, attempt: int) -> str:
    """What to do about a failure whose cause is known and lies outside of the training, else "".

    Args:
        evidence: of a failure.
        attempt: in which it happened.
    """
    gloo = evidence.kind == "exception" and "connectfullmesh" in evidence.message.lower()
    return RESTARTED_GLOO if gloo and attempt > 0 else ""
