"""The processes of a Run as people look at them: each one, those that are alike as one row, all over time.

Pure: what was measured (`Pace`, `Usage`) comes in as values. The median is that of the owner and the workers
that are alive in the newest attempt; a side counts its own steps and has no lag. On the timeline a lane is a
participant, so that a rank that was restarted is one line with several spans. Which process failed first, and
how, is told here in the readers' words; the verdict itself is the core's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from pluto_dist.core.rules.verdict import exception_line
from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.ids import Role
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


# Rows of a table: processes that are alike share one, and the worst come first.
ALIKE = 3  # so many make a group

Key = Literal["worst", "rank", "step", "rate", "lag", "word", "backlog", "cpu", "memory"]


class Group(msgspec.Struct, frozen=True):
    """One process, or several that are alike: same role, host, epoch, attempt and state."""

    processes: tuple[Process, ...]

    @property
    def first(self) -> Process:
        """Stands for all in what they share."""
        return self.processes[0]

    @property
    def who(self) -> str:
        """Its label, or the ranks of a group."""
        if len(self.processes) == 1:
            return self.first.lease.label
        ranks = [process.lease.rank for process in self.processes]
        if None in ranks:
            return f"{self.first.lease.label}, … ({len(self.processes)})"
        return f"ranks {spans(rank for rank in ranks if rank is not None)}"

    @property
    def steps(self) -> str:
        """The last step, or the slowest and the fastest of a group."""
        steps = [step for process in self.processes if (step := process.lease.last_step) is not None]
        if not steps:
            return ""
        return str(steps[0]) if min(steps) == max(steps) else f"{min(steps)}–{max(steps)}"

    @property
    def lag(self) -> int | None:
        """Of the last one."""
        return max((process.lag for process in self.processes if process.lag is not None), default=None)

    @property
    def rate(self) -> float | None:
        """Of the slowest."""
        return min((process.rate for process in self.processes if process.rate is not None), default=None)

    @property
    def word_s(self) -> float | None:
        """The longest silence."""
        return max((process.word_s for process in self.processes if process.word_s is not None), default=None)

    @property
    def written(self) -> int:
        """Records of all."""
        return sum(process.lease.written for process in self.processes)

    @property
    def delivered(self) -> int:
        """Records of all that the backend has accepted."""
        return sum(process.lease.delivered for process in self.processes)

    @property
    def backlog(self) -> int:
        """Records of all that the backend has not accepted."""
        return sum(process.backlog for process in self.processes)

    @property
    def cpu(self) -> float | None:
        """Percent of one core, all together."""
        known = [use.cpu for use in self._usages if use.cpu is not None]
        return sum(known) if known else None

    @property
    def memory(self) -> int | None:
        """Bytes resident, all together; what they share is counted in each."""
        return sum(use.memory for use in self._usages) if self._usages else None

    def oldest(self, instant: Literal["granted_at", "last_seen_at"]) -> int | None:
        """The earliest of the group, in epoch milliseconds."""
        leases = (process.lease for process in self.processes)
        return min((at for lease in leases if (at := getattr(lease, instant)) is not None), default=None)

    @property
    def _usages(self) -> list[Usage]:
        return [process.usage for process in self.processes if process.usage is not None]


def groups_of(
    processes: Iterable[Process], *, whole: bool = False, by: Key = "worst", reverse: bool = False
) -> list[Group]:
    """Processes as rows of a table; those that are alike share one.

    Args:
        processes: of one Run.
        whole: each has a row of its own.
        by: what the rows are sorted by; for `worst` the bad ones, then the owner, then by lag; for numbers
            the largest first, for `rate` the slowest.
        reverse: the other way round.
    """
    rows: dict[tuple[object, ...], list[Process]] = {}
    for process in processes:
        lease = process.lease
        alone = lease.lease_id if whole or process.health == "failed first" or lease.role == "owner" else ""
        key = (alone, lease.role, lease.host, lease.epoch, lease.attempt, process.state)
        rows.setdefault(key, []).append(process)
    groups = [group for row in rows.values() for group in _groups(row)]
    return sorted(groups, key=lambda group: _order(group, by), reverse=reverse)


def spans(numbers: Iterable[int]) -> str:
    """`1-7, 9`."""
    found: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def ranks_among(participants: Iterable[str]) -> list[int]:
    """The ranks among participants, where they are enough to be shown as one; else none."""
    ranks = [int(who[4:]) for who in participants if who.startswith("rank") and who[4:].isdecimal()]
    return sorted(ranks) if len(ranks) >= ALIKE else []


def shared_names(series: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """A line for each other participant, or all other ranks, that log a name.

    Args:
        series: name -> participant -> its final name.
    """
    for name, others in sorted(series.items()):
        ranks = ranks_among(others)
        if ranks:
            yield f"series {name}: ranks {spans(ranks)} log it too, as {name}/rank<n>"
        for participant in sorted(others.keys() - {f"rank{rank}" for rank in ranks}):
            yield f"series {name}: {participant} logs it too, as {others[participant]}"


def _groups(row: Sequence[Process]) -> list[Group]:
    return [Group(tuple(row))] if len(row) >= ALIKE else [Group((process,)) for process in row]


def _order(group: Group, by: Key) -> tuple[float, ...]:
    """For sorting: worst, or largest, first; what is not known comes last."""
    lease = group.first.lease
    rank = lease.rank if lease.rank is not None else float("inf")
    worst = (WORST_FIRST[group.first.health], -lease.attempt, lease.role != "owner", -(group.lag or 0), rank)
    if by == "worst":
        return worst
    steps = [process.lease.last_step for process in group.processes if process.lease.last_step is not None]
    numbers: dict[str, float | None] = {
        "rank": -rank,
        "step": max(steps, default=None),
        "rate": -group.rate if group.rate is not None else None,
        "lag": group.lag,
        "word": group.word_s,
        "backlog": group.backlog,
        "cpu": group.cpu,
        "memory": group.memory,
    }
    number = numbers[by]
    return (float("inf") if number is None else -number, *worst)


# Lanes over time, with restarts and deaths.
MARKED = frozenset(
    {
        *("opened", "reopened", "restarted", "superseded", "taken_over", "launcher_gone", "seat_claimed"),
        *("owned_here", "ranks_stuck", "ranks_go_on", "side_failed", "side_died", "cancelled", "ended"),
    }
)


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One lease on a lane; instants are epoch milliseconds.

    Attributes:
        lease_id, label, host, pid, epoch, attempt: of the lease.
        begin: when it was granted.
        end: when it ended, None while it has not.
        ended: how, as `state_of`; "" while it has not.
        failed_first: it began the end of the Run, or of its last attempt that failed.
    """

    lease_id: str
    label: str
    host: str
    pid: int
    epoch: int
    attempt: int
    begin: int
    end: int | None
    ended: str
    failed_first: bool


class Lane(msgspec.Struct, frozen=True):
    """One participant over all restarts, its spans by their beginning."""

    participant: str
    label: str
    role: Role
    rank: int | None
    spans: tuple[Span, ...]


class Timeline(msgspec.Struct, frozen=True):
    """The leases of a Run over time.

    Attributes:
        begin, end: epoch milliseconds between which all of it lies; `end` is now for a Run that goes on.
        lanes: owner, ranks by number, then sides by their beginning.
        marks: events that concern the whole, oldest first.
    """

    begin: int
    end: int
    lanes: tuple[Lane, ...]
    marks: tuple[RunEvent, ...]


def timeline_of(document: Document, now_ms: int) -> Timeline:
    """The Run's timeline; leases that were never granted, and those of no process, are left out."""
    failed = failed_lease(document)
    lanes: dict[str, list[LeaseShown]] = {}
    for lease in document.leases:
        if lease.granted_at is not None and lease.pid:  # the node's own metrics have no process
            lanes.setdefault(lease.participant, []).append(lease)
    made = [_lane(leases, failed.lease_id if failed is not None else "") for leases in lanes.values()]
    end = document.ended_at if document.ended_at is not None else now_ms
    instants = [span.end for lane in made for span in lane.spans if span.end is not None]
    begins = [span.begin for lane in made for span in lane.spans]
    return Timeline(
        begin=min((document.created_at, *begins)),
        end=max((end, *instants)),
        lanes=tuple(sorted(made, key=_lane_order)),
        marks=tuple(event for event in document.events if event.name in MARKED),
    )


def _lane(leases: Iterable[LeaseShown], failed: str) -> Lane:
    found = sorted(leases, key=lambda lease: (lease.granted_at or 0, lease.attempt))
    spans = tuple(
        Span(
            lease_id=lease.lease_id,
            label=lease.label,
            host=lease.host,
            pid=lease.pid,
            epoch=lease.epoch,
            attempt=lease.attempt,
            begin=lease.granted_at or 0,
            end=lease.ended_at,
            ended=state_of(lease) if lease.end_reason else "",
            failed_first=lease.lease_id == failed,
        )
        for lease in found
    )
    last = found[-1]
    return Lane(last.participant, last.label, last.role, last.rank, spans)


def _lane_order(lane: Lane) -> tuple[bool, bool, int, int]:
    rank = lane.rank if lane.rank is not None else -1
    return (lane.role != "owner", lane.role == "side", rank, lane.spans[0].begin)
