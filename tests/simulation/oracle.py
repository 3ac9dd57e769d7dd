"""What the final status of a Run may be, from what its processes really did.

Written from the design's text (sections 6 R6, R9, R10), not from the code: it knows no phases and deadlines,
only who did what when. Where the text leaves it to what could be seen in time (a death while nobody watched,
a failure just at the drain deadline), more than one answer is allowed; else there is exactly one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pluto_dist.core.machine.beats import KNOWN_S, LAST_S
from pluto_dist.core.values.book import Book
from pluto_dist.core.values.records import Lease, Run

if TYPE_CHECKING:
    from tests.simulation.processes import Process
    from tests.simulation.world import World

ANY = {"COMPLETED", "FAILED", "TERMINATED"}
DRAIN_S = 10.0
STOP_CODES = {129, 130, 143}  # of an exit; a person's `finish(code=…)` may also say 2 and 15
LOOKS_WITHIN_S = 1.0
CLOSE_BY_S = 1.0  # things closer together than this may be seen in either order


@dataclass(frozen=True)
class Bad:
    """Something that speaks against COMPLETED; `seen` is when it was known at the latest."""

    at: float
    seen: float
    stop: bool
    sure: bool = True


def allowed_statuses(world: World, book: Book, run: Run) -> set[str]:
    """Statuses that the design allows for the end of this Run."""
    if world.powered_off:
        return ANY | {"CANCELLED"}
    cancelled = world.checks.cancels.get(run.id or 0)
    if cancelled is not None and (run.cancelled or _was_to_be_found(world, book, run, cancelled)):
        return {"CANCELLED"}
    return _by_evidence(world, book, run, run.epoch)


def _was_to_be_found(world: World, book: Book, run: Run, cancelled: float) -> bool:
    """Whether the last question before the status was to find a cancel at the server (R10).

    Not if the cancel came after a question that was answered, or if nothing answered in time.
    """
    server, decided = world.server, world.checks.ended_at.get(run.key, world.now)
    # What was asked of an earlier owner's Run says nothing of this one: it was resumed since.
    owners = [each for each in book.leases_of(run.key) if (each.role, each.epoch) == ("owner", run.epoch)]
    ended = max(decided - KNOWN_S, *(each.granted_at or 0.0 for each in owners), 0.0)
    reported = min((at for at in server.reports[run.id or 0] if at >= ended), default=world.now)
    if cancelled >= reported:
        return False
    hung = [(start, end) for start, end in server.hung[run.key] if start <= reported < end]
    killed = [at for at, _ in world.outages]
    unanswered = {start for start, _ in hung} | {
        start for start, end in server.hung[run.key] if any(start <= at < end for at in killed)
    }
    asked = [
        (at, heard and at not in unanswered)
        for at, heard in server.questions[run.id or 0]
        if ended <= at <= reported
    ]
    if any(heard and at >= cancelled for at, heard in asked):
        return True
    if any(start <= max(decided, reported - LAST_S + CLOSE_BY_S) for start, _ in hung):
        return False  # the status waits no longer for an answer
    answered = any(heard for _, heard in asked)
    if asked and reported - asked[0][0] >= LAST_S - CLOSE_BY_S and not answered:
        return False  # nor does it wait for questions that are not answered
    return not (answered or any(at >= cancelled for at, _ in asked))


def _by_evidence(world: World, book: Book, run: Run, epoch: int) -> set[str]:
    leases = [lease for lease in book.leases_of(run.key) if lease.epoch == epoch]
    owner_lease = next((lease for lease in leases if lease.role == "owner"), None)
    if owner_lease is None:
        return ANY
    owner = world.leases[owner_lease.lease_id]
    counting = [lease for lease in leases if _counts(lease)]
    members = [world.leases[lease.lease_id] for lease in counting]
    if any(member.lease is not None and member.lease.unsaid for member in members):
        return ANY  # a full disk did not take its last words
    ended = owner.truth.ended
    if ended is not None and ended[1] == "finished" and ended[2] is not None:
        return {_of_code(ended[2])}
    found = [
        bad for lease in counting for bad in _told(world, lease, _bad_of(world, world.leases[lease.lease_id]))
    ]
    result = _decide(world, found, ended[0] if ended is not None else None)
    if ended is not None and ended[1] == "closed":
        result = {"TERMINATED" if status == "COMPLETED" else status for status in result}
        for before in range(epoch - 1, 0, -1):
            if any(lease.role == "owner" and lease.epoch == before for lease in book.leases_of(run.key)):
                return result | _by_evidence(world, book, run, before)
    if run.launcher_gone_at is not None:
        outlived = [m for m in members if m.truth.died is None or m.truth.died[0] > run.launcher_gone_at + 30]
        if outlived:
            result |= {"FAILED"}
    return result


def _told(world: World, lease: Lease, found: list[Bad]) -> list[Bad]:
    """What counts of a child's end: not what its parent did to it (R9)."""
    truth = world.leases[lease.lease_id].truth
    stopped = truth.stopped
    if stopped is not None and truth.stop_unsaid:
        # Its parent's word may have been kept or not: both what counts with it and what counts without.
        by_parent = [replace(bad, sure=False) for bad in found if bad.at >= stopped]
        before = [bad for bad in found if bad.at < stopped]
        return [*before, *by_parent, *(replace(bad, stop=True) for bad in by_parent)]
    if stopped is not None and not lease.parent:
        return [replace(bad, stop=bad.stop or bad.at >= stopped) for bad in found]
    if stopped is not None:
        found = [bad for bad in found if bad.at < stopped]
    parent = world.leases.get(lease.parent)
    left = parent.truth.ended if parent is not None else None
    if left is None:
        return found
    # What ends it after its parent has left is the end of the job, unless the parent has failed.
    # A death just before it may be noticed just after it: the kernel takes its time with a large process.
    return [replace(bad, sure=bad.sure and bad.at <= left[0] - CLOSE_BY_S) for bad in found]


def _counts(lease: Lease) -> bool:
    return lease.role in ("owner", "worker") and lease.end_reason != "superseded"


def _of_code(code: int) -> str:
    if code == 0:
        return "COMPLETED"
    return "TERMINATED" if code in STOP_CODES | {2, 15} else "FAILED"


def _bad_of(world: World, process: Process) -> list[Bad]:
    truth = process.truth
    found = []
    for at, kind, code in truth.evidence:
        if kind == "exit" and code in (0, None):
            continue
        stop = kind == "signal" or (kind == "exit" and code in STOP_CODES)
        found.append(Bad(at, at, stop))
    watched = not world.outages_touch(truth.died[0] if truth.died else world.now)
    at_exit = truth.ended is not None and truth.ended[3]
    if truth.execed is not None:
        found.append(Bad(truth.execed, truth.execed, stop=False, sure=False))
    if truth.died is not None and not found and (truth.ended is None or at_exit):
        at, code, signal = truth.died
        seen = _seen(world, truth.noticed or at)
        if at_exit:
            if code or signal:
                # It ends when it is heard, which is late if its claim had to wait; its code may count or not.
                sure = watched and truth.ended is not None and at < truth.ended[0] + DRAIN_S - CLOSE_BY_S
                found.append(Bad(at, seen, stop=code in STOP_CODES and not signal, sure=sure))
                found += [] if watched else [Bad(at, seen, stop=False, sure=False)]
        else:
            stop = signal == "SIGTERM" and watched
            found.append(Bad(at, seen, stop=stop))
    return found


def _seen(world: World, at: float) -> float:
    """When a coordinator had looked at the latest; one that dies as soon as it starts looks at nothing."""
    for start, end in sorted(world.outages):
        if start <= at + LOOKS_WITHIN_S and end > at:
            at = end
    return at


def _decide(world: World, found: list[Bad], finished_at: float | None) -> set[str]:
    if finished_at is not None:
        slack = sum(end - start for start, end in world.outages if end > finished_at) + 3.0
        late = [bad for bad in found if bad.seen > finished_at + DRAIN_S - CLOSE_BY_S]
        found = [bad for bad in found if bad.at <= finished_at + DRAIN_S + slack or not bad.sure]
        unsure = [bad for bad in late if bad in found]
    else:
        unsure = []
    sure = [bad for bad in found if bad.sure and bad not in unsure]
    result = _of(sure)
    if len(sure) < len(found):
        result |= _of(found)
        for bad in found:
            result |= _of([*sure, bad])
    return result


def _of(found: list[Bad]) -> set[str]:
    if not found:
        return {"COMPLETED"}
    stops = [bad for bad in found if bad.stop]
    failures = [bad for bad in found if not bad.stop]
    if not stops:
        return {"FAILED"}
    if not failures:
        return {"TERMINATED"}
    first_stop = min(bad.at for bad in stops)
    if all(bad.at > first_stop + CLOSE_BY_S for bad in failures):
        return {"TERMINATED"}
    if any(bad.seen < first_stop - 0.01 for bad in failures):
        return {"FAILED"}
    return {"FAILED", "TERMINATED"}
