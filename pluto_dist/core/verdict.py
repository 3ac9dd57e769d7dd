"""What the end of a Run is: one status, its reason and the first failure (R9, R10).

Evidence ranks by kind within two seconds of the first, because the first to arrive is often a victim: after
the SIGKILL of one rank its peers raise communication errors within 23 ms, before the launcher's SIGTERM
reaches anybody (seen). What follows the first SIGTERM is its consequence.

A script that ends has done its work. A notebook's kernel is restarted or shut down with the same exit code
whatever its cells have done, so only `finish()` completes a Run there.
"""

from __future__ import annotations

from pluto_dist.core.lifecycle import Evidence
from pluto_dist.core.records import Failure, Lease, Run, Verdict
from pluto_dist.core.requests import Status

DRAIN_S = 10.0  # workers may end, and fail, this long after the owner said its last word
RANKING_WINDOW_S = 2.0  # evidence this close together is ranked by kind, then by time

STOP_SIGNALS = frozenset({"SIGTERM", "SIGINT", "SIGHUP"})
STOP_CODES = frozenset({128 + 1, 128 + 2, 128 + 15})  # what shells make of those signals


def decide(run: Run, members: tuple[Lease, ...]) -> Verdict:
    """The final status that the evidence of all members makes, with its reason and first failure."""
    owner = next((member for member in members if member.lease_id == run.owner), None)
    first = first_failure(run, members)
    if owner is not None and owner.finish_code is not None:
        status = status_of_code(owner.finish_code)
        return Verdict(status, f"the owner called finish(code={owner.finish_code})", first and first[1])
    if first is None and owner is not None and owner.by_exit and owner.opened.notebook:
        return Verdict("TERMINATED", "the notebook's kernel ended before finish() was called")
    if first is None:
        return Verdict("COMPLETED", "the owner ended and nobody failed")
    stop, failure = first
    who = who_failed(failure)
    if stop:
        by = failure.signal or failure.type or f"exit code {failure.exit_code}"
        return Verdict("TERMINATED", f"{who} was asked to stop by {by}", failure)
    return Verdict("FAILED", f"{who} failed first: {describe(failure)}", failure)


def first_failure(run: Run, members: tuple[Lease, ...]) -> tuple[bool, Failure] | None:
    """The cause among all evidence: (whether it is a request to stop, the failure), None if nobody failed."""
    limit = _evidence_limit(run, members)
    found = sorted(
        (
            (evidence, member)
            for member in members
            for evidence in _counting(member, _parent(member, members))
            if evidence.at <= limit
        ),
        key=lambda pair: _since(pair[0]),
    )
    if any(not evidence.command_pid for evidence, _ in found):
        found = [pair for pair in found if not pair[0].command_pid]
    stop_at = min((evidence.at for evidence, member in found if _stops(evidence, member)), default=None)
    if stop_at is not None:
        found = [pair for pair in found if _stops(*pair) or _since(pair[0]) < stop_at]
    if not found:
        return None
    window_end = _since(found[0][0]) + RANKING_WINDOW_S
    window = [pair for pair in found if _since(pair[0]) <= window_end]
    evidence, member = min(window, key=lambda pair: (_severity(*pair), _since(pair[0])))
    return _stops(evidence, member), _failure(evidence, member)


def _evidence_limit(run: Run, members: tuple[Lease, ...]) -> float:
    """After the owner's `finish()` and the drain deadline a worker's failure is only an event."""
    for member in members:
        if member.lease_id == run.owner and member.end_reason == "finished" and member.ended_at is not None:
            return member.ended_at + DRAIN_S
    return float("inf")


def is_stop(evidence: Evidence) -> bool:
    """A request to stop, and not a fault: SIGTERM and its like, or the exit code that shells make of it."""
    if evidence.kind == "exit":
        return evidence.exit_code in STOP_CODES
    if evidence.kind == "exception":
        return evidence.type == "KeyboardInterrupt"
    return evidence.signal in STOP_SIGNALS


def is_failure(evidence: Evidence) -> bool:
    """Whether it speaks against COMPLETED; an exit with code 0 does not."""
    return not (evidence.kind == "exit" and evidence.exit_code == 0)


def _parent(member: Lease, members: tuple[Lease, ...]) -> Lease | None:
    """The member whose child it is."""
    return next((other for other in members if member.parent and other.lease_id == member.parent), None)


def _counting(member: Lease, parent: Lease | None) -> tuple[Evidence, ...]:
    """Failures; a request to stop that was ignored is one only if the process did not end well after it."""
    found = tuple(
        evidence
        for evidence in member.evidence
        if is_failure(evidence) and not _is_parents_will(evidence, member, parent)
    )
    return found if any(not evidence.ignored for evidence in found) else ()


def _is_parents_will(evidence: Evidence, child: Lease, parent: Lease | None) -> bool:
    """Whether a worker that joined its parent's Run was ended by that parent.

    The parent says so beforehand. Once it has left by itself it says nothing more: what then ends its
    children from outside is the end of the job.
    """
    if child.parent and child.stopped_at is not None and evidence.at >= child.stopped_at:
        return True
    left_at = parent.left_at if parent is not None and not any(map(is_failure, parent.evidence)) else None
    from_outside = is_stop(evidence) or evidence.kind in ("signal", "vanished")
    return left_at is not None and from_outside and _since(evidence) > left_at


def _stops(evidence: Evidence, member: Lease) -> bool:
    """A request to stop; a process with a Run of its own that its parent kills was asked by that, too."""
    return is_stop(evidence) or (member.stopped_at is not None and evidence.at >= member.stopped_at)


def _severity(evidence: Evidence, member: Lease) -> int:
    if _stops(evidence, member):
        return 3
    if evidence.communication:
        return 2
    return 1 if evidence.kind in ("exception", "exit") else 0


def _since(evidence: Evidence) -> float:
    """Since when it may have been so: a death may be noticed long after it happened."""
    return evidence.at if evidence.alive_until is None else evidence.alive_until


def _failure(evidence: Evidence, member: Lease) -> Failure:
    return Failure(
        role=member.role,
        label="command" if evidence.command_pid else member.label,
        rank=member.rank,
        host=member.identity.host,
        pid=evidence.command_pid or member.identity.pid,
        attempt=member.attempt,
        kind=evidence.kind,
        type=evidence.type,
        message=evidence.message,
        signal=evidence.signal,
        exit_code=evidence.exit_code,
        traceback=evidence.traceback,
        oom=evidence.oom,
        at=evidence.wall_ms,
    )


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
        return f"{failure.type}: {failure.message}" if failure.message else failure.type
    if failure.kind == "exit":
        return f"exit code {failure.exit_code}"
    return failure.message or "its process vanished"


def who_failed(failure: Failure) -> str:
    """Rank or label, with pid and host."""
    name = f"rank {failure.rank}" if failure.rank is not None else (failure.label or failure.role)
    return f"{name} (pid {failure.pid} on {failure.host})"
