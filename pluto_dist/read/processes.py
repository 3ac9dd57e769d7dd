"""The processes of a Run as people look at them: how each one is, how far behind, and which failed first.

Pure: what was measured (`Pace`, `Usage`) comes in as values. The median is that of the owner and the workers
that are alive in the newest attempt; a side counts its own steps and has no lag.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from pluto_dist.core.rules.verdict import exception_line
from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.records import Failure, RunEvent

SUSPECT_HEARTBEATS = 3
BEHIND_S = 5.0  # what a rank lacks takes the others longer
BEHIND_STEPS = 2  # one step apart is in step
OPEN = frozenset({"waiting", "active"})
LEFT = frozenset({"finished", "closed", "exited"})  # its process said so itself

Health = Literal[
    "failed first", "died", "crashed", "stuck", "suspect", "behind", "lost", "waiting", "well", "ended"
]
WORST_FIRST: dict[Health, int] = {
    "failed first": 0,  # began the end of the Run
    "died": 1,  # ended without a word
    "crashed": 2,  # a side that ended by an exception or an exit code; the Run goes on
    "stuck": 3,  # others go on, or wait for it (the coordinator says so)
    "suspect": 4,  # silent for three heartbeats: stopped, or busy without letting other threads run
    "behind": 5,  # what it lacks takes the others more than `BEHIND_S`
    "lost": 6,  # its Run has no live coordinator, and it cannot be said to live
    "waiting": 7,  # has no role yet
    "well": 8,
    "ended": 9,  # by its own will, or with its job
}


class Usage(msgspec.Struct, frozen=True):
    """What a process uses: percent of one core since the look before, None at the first; bytes resident."""

    cpu: float | None
    memory: int


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a Run.

    Attributes:
        lease: what is known of it.
        health: how it is, as a word of `WORST_FIRST`.
        lag: steps behind the median, negative for one that is ahead; None where there is nothing to compare.
        rate: steps per second, None if not known.
        word_s: seconds since it last spoke or logged, None if it never did.
        usage: of this process alone, None if it is not of this machine or has ended.
    """

    lease: LeaseShown
    health: Health
    lag: int | None = None
    rate: float | None = None
    word_s: float | None = None
    usage: Usage | None = None

    @property
    def state(self) -> str:
        """`active`, or why it ended; or what is wrong with it."""
        if self.health in ("crashed", "stuck", "suspect", "behind", "lost"):
            return self.health
        return state_of(self.lease)

    @property
    def backlog(self) -> int:
        """Records that it has written and the backend has not accepted."""
        return max(0, self.lease.written - self.lease.delivered)


def processes_of(
    document: Document,
    now_ms: int,
    *,
    known: bool = True,
    rates: Mapping[str, float | None] | None = None,
    usages: Mapping[str, Usage] | None = None,
) -> list[Process]:
    """The processes of a Run, in the order in which they were granted.

    Args:
        document: of the Run, its leases as far as their spools say.
        now_ms: epoch milliseconds.
        known: a live coordinator has the Run; else an open lease may have no live process.
        rates: steps per second by lease.
        usages: by lease.
    """
    rates, usages = rates or {}, usages or {}
    compare = Comparison(document, now_ms, rates, known=known)
    return [
        Process(
            lease=lease,
            health=compare.health(lease),
            lag=compare.lag(lease),
            rate=rates.get(lease.lease_id) if lease.state == "active" else None,
            word_s=silence_s(lease, now_ms),
            usage=usages.get(lease.lease_id) if lease.state in OPEN else None,
        )
        for lease in document.leases
        if lease.pid  # the node's own metrics have a lease and no process
    ]


def in_order(processes: Iterable[Process]) -> tuple[Process, ...]:
    """By attempt, ranks before sides; the same at each look, and for each run of the same job.

    Ranks are granted in the order in which they happen to come, which differs from job to job.
    """
    return tuple(sorted(processes, key=lambda each: _place(each.lease)))


def _place(lease: LeaseShown) -> tuple[object, ...]:
    rank = lease.rank if lease.rank is not None else -1
    return lease.attempt, lease.role == "side", rank, lease.granted_at or 0, lease.label, lease.lease_id


class Comparison:
    """The processes of one Run beside each other."""

    def __init__(
        self, document: Document, now_ms: int, rates: Mapping[str, float | None], *, known: bool
    ) -> None:
        self._now_ms, self._known = now_ms, known
        self._failed = failed_lease(document)
        self._stuck = stuck_labels(document.events)
        active = [lease for lease in document.leases if lease.role != "side" and lease.state == "active"]
        self._attempt = max((lease.attempt for lease in active), default=0)
        members = [lease for lease in active if lease.attempt == self._attempt]
        steps = [lease.last_step for lease in members if lease.last_step is not None]
        moving = [rate for lease in members if (rate := rates.get(lease.lease_id))]
        self._step = _median(steps) if len(steps) > 1 else None
        self._rate = _median(moving)

    def lag(self, lease: LeaseShown) -> int | None:
        """Steps behind the median of its peers."""
        peer = lease.role != "side" and lease.state == "active" and lease.attempt == self._attempt
        if not peer or self._step is None or lease.last_step is None:
            return None
        return round(self._step) - lease.last_step

    def health(self, lease: LeaseShown) -> Health:
        """The first word that fits, in the order of `WORST_FIRST`."""
        if self._failed is not None and lease.lease_id == self._failed.lease_id:
            return "failed first"
        if lease.state not in OPEN:
            return self._end(lease)
        if not self._known:
            return "lost"
        if lease.label in self._stuck:
            return "stuck"
        if is_suspect(lease, self._now_ms):
            return "suspect"
        if self._is_behind(self.lag(lease)):
            return "behind"
        return "waiting" if lease.state == "waiting" else "well"

    def _end(self, lease: LeaseShown) -> Health:
        if lease.end_reason in ("died", "gave_up"):
            return "died"
        return "crashed" if lease.role == "side" and lease.fault == "failed" else "ended"

    def _is_behind(self, lag: int | None) -> bool:
        if lag is None or self._rate is None:
            return False
        return lag >= BEHIND_STEPS and lag / self._rate > BEHIND_S


def silence_s(lease: LeaseShown, now_ms: int) -> float | None:
    """Seconds since the last word or record of a lease."""
    words = [at for at in (lease.last_seen_at, lease.last_logged_at) if at is not None]
    return max(0.0, (now_ms - max(words)) / 1000) if words else None


def is_suspect(lease: LeaseShown, now_ms: int) -> bool:
    """Silent for three of its heartbeats; not dead."""
    if lease.last_seen_at is None:
        return False
    return (now_ms - lease.last_seen_at) / 1000 > SUSPECT_HEARTBEATS * lease.heartbeat_s


def stuck_labels(events: Iterable[RunEvent]) -> frozenset[str]:
    """The processes of which the coordinator says that they are stuck."""
    found: frozenset[str] = frozenset()
    for event in events:
        if event.name == "ranks_stuck":
            found = frozenset(event.detail.get("ranks", "").split(", "))
        elif event.name in ("ranks_go_on", "restarted", "ended"):
            found = frozenset()
    return found


def state_of(lease: LeaseShown) -> str:
    """`active`, or how it ended: by what its process said of itself, before how its lease did."""
    if lease.fault and lease.end_reason in LEFT:
        return lease.fault
    return lease.end_reason or lease.state


def _median(values: list[int] | list[float]) -> float | None:
    """The median; of two in the middle the lower, which is a process's own; None without values."""
    return sorted(values)[(len(values) - 1) // 2] if values else None


def first_failure(document: Document) -> Failure | None:
    """The first failure of a Run that ended, or of the last attempt that failed in one that goes on."""
    ends = (*document.attempts, *((document.verdict,) if document.verdict is not None else ()))
    return ends[-1].first_failure if ends else None


def _lease_of(document: Document, failure: Failure) -> LeaseShown | None:
    """The lease of the process that failed."""
    same = (each for each in document.leases if (each.pid, each.host) == (failure.pid, failure.host))
    return next((each for each in same if each.attempt == failure.attempt), None)


def failed_lease(document: Document) -> LeaseShown | None:
    """The lease of the process that failed first, None if none did or it is not among the Run's."""
    failure = first_failure(document)
    return _lease_of(document, failure) if failure is not None else None


def how_it_ended(failure: Failure) -> str:
    """In what way a process ended, for people."""
    oom = ", out of memory (the kernel's OOM killer)" if failure.oom else ""
    if failure.kind == "exception":
        return exception_line(failure)
    if failure.kind == "exit":
        return f"exited with code {failure.exit_code}{f': {failure.message}' if failure.message else ''}{oom}"
    if failure.kind == "signal":
        return f"killed by {failure.signal}{oom}"
    return f"vanished: nobody saw how it ended{oom}"
