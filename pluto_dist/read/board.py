"""The board: several Runs as of now, looked at time and again, for `top` and pages.

    board = Board(Lookup())
    while True:
        for run in board.look():
            print(run.name, run.situation.status, run.step, run.rate, [p.lag for p in run.processes])

A Run that ends while it is watched stays; where nothing goes on, the newest one that ended is shown.

Steps per second, CPU and memory of its processes are measured here, from several looks at them. The load of
its nodes is known by their latest system metrics; no summary has them, because no process logs them.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pluto_dist.backend.local.reading import shown
from pluto_dist.backend.local.store import Store
from pluto_dist.core.rules.participants import NODE
from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.engine import ClusterAddress
from pluto_dist.core.values.records import Point
from pluto_dist.errors import MachineError, PlutoDistError, RunNotFoundError
from pluto_dist.host.identity import identity_of
from pluto_dist.read.columns import decoded
from pluto_dist.read.lookup import RUNNING, Found, Lookup
from pluto_dist.read.nodes import OtherNodes
from pluto_dist.read.processes import OPEN, Process, Usage, in_order, processes_of
from pluto_dist.read.settle import Situation, claim_of, settle, situation
from pluto_dist.read.streams import caught_up, tails

if TYPE_CHECKING:
    import psutil  # type: ignore[import-untyped, unused-ignore]

STORE_EVERY_S = 10.0  # a store of many Runs is not listed with each look
SETTLE_EVERY_S = 5.0


class RunSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One Run as of now.

    Attributes:
        document: of the Run, its leases as far as their spools say.
        store: folder of the store that holds it.
        live: the coordinator of this node has it.
        situation: whether its processes live.
        processes: over all restarts, `in_order`.
        machines: its nodes, by their system metrics.
    """

    document: Document
    store: Path
    live: bool
    situation: Situation
    processes: tuple[Process, ...]
    machines: tuple[MachineUse, ...]

    @property
    def key(self) -> str:
        """Name of its folder in the store; unique everywhere."""
        return self.document.key

    @property
    def name(self) -> str:
        """Its shortest name: `MMP-42`, or the caller's id."""
        return self.document.display_id or self.document.run_id

    @property
    def members(self) -> list[Process]:
        """Owner and workers of the newest attempt, also those that have ended."""
        return [
            process
            for process in self.processes
            if process.lease.role != "side" and process.lease.attempt == self.document.attempt
        ]

    @property
    def step(self) -> int | None:
        """The highest step of its members."""
        steps = (process.lease.last_step for process in self.members)
        return max((step for step in steps if step is not None), default=None)

    @property
    def rate(self) -> float | None:
        """Steps per second of the fastest member."""
        return max((process.rate for process in self.members if process.rate is not None), default=None)

    @property
    def lag(self) -> int | None:
        """The lag of the last member."""
        return max((process.lag for process in self.members if process.lag is not None), default=None)

    @property
    def backlog(self) -> int:
        """Records of all its processes that the backend has not accepted."""
        return sum(process.backlog for process in self.processes)


class Board:
    """Looks at Runs, time and again.

    Args:
        lookup: of node and store.
        names: of Runs, as `Lookup.find` takes them; empty for those that go on.
        every: also those that have ended, of the node and of the store.
        cluster: the store that the nodes of a job share: with it the processes of all nodes are shown.
        clock: seconds that do not go back.
        wall_ms: epoch milliseconds.
    """

    def __init__(
        self,
        lookup: Lookup,
        names: Sequence[str] = (),
        *,
        every: bool = False,
        cluster: ClusterAddress | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.lookup = lookup
        self.lookup.note = self._noted
        self.remark = self._note = ""
        self._names, self._every = tuple(names), every
        self._clock, self._wall_ms = clock, wall_ms
        self._chosen: dict[str, Path] = {}
        self._stored: list[Found] = []
        self._store_at = self._settle_at = float("-inf")
        self._elsewhere = OtherNodes(cluster)
        self._pace, self._meter = Pace(), UsageMeter(lookup.spool)
        self._watched: set[str] = set()
        self._unsettled, self._unsettled_because = True, ""

    def look(self) -> list[RunSeen]:
        """The Runs as of now, oldest first; `remark` says what a person should know about the looking.

        Raises:
            RunNotFoundError: a Run that was named is not there, at the first look.
            AmbiguousRunError: a name means several.
        """
        now = self._clock()
        self.remark = self._settled(now)
        found = self._found(now)
        self._elsewhere.look(now, self._wall_ms())
        self.remark = self.remark or self._elsewhere.trouble or self._note
        seen = self._seen(found, now)
        kept = seen if self._every or self._names else self._going_on(seen)
        self._watched = {run.key for run in kept}
        self._unsettled = any(run.situation.standing == "gone" and not run.live for run in seen)
        return sorted(kept, key=lambda run: run.document.created_at)

    def _settled(self, now: float) -> str:
        """Settles Runs that have no coordinator (G7), at first and when one is seen; why not, "" if done."""
        self.lookup.silent = False
        if now < self._settle_at or not self._unsettled:
            return self._unsettled_because if self._unsettled else ""
        self._settle_at = now + SETTLE_EVERY_S
        self._unsettled_because = settle(self.lookup)
        return self._unsettled_because

    def _noted(self, text: str) -> None:
        self._note = text

    def _found(self, now: float) -> list[Found]:
        if self._names:
            return self._named()
        live = self._live()
        if now >= self._store_at:
            self._store_at, self._note = now + STORE_EVERY_S, ""
            self._stored = self._of_the_store({each.document.key for each in live})
        known = {each.document.key for each in live}
        return live + [each for each in self._stored if each.document.key not in known]

    def _named(self) -> list[Found]:
        if not self._chosen:
            for name in self._names:
                known = self.lookup.choose(name)
                self._chosen[known.head.key] = known.store
        return self._read(self.lookup.again, self._chosen.items())

    def _live(self) -> list[Found]:
        try:
            documents = self.lookup.documents()
        except PlutoDistError as error:
            self.remark = error.message
            return []
        return [
            self._whole(Found(each, b"", Path(each.restore.run.target.store), live=True))
            for each in documents
        ]

    def _whole(self, found: Found) -> Found:
        """The Run with the parts of other nodes that are in reach."""
        if not found.document.part_of:
            return found
        wholes = self._read(self.lookup.again, [(found.document.key, found.store)])
        return next(iter(wholes), found)

    def _of_the_store(self, live: set[str]) -> list[Found]:
        """Runs that no coordinator of this node has: those that have not ended, or all, or the newest."""
        heads = [each for each in self.lookup.runs() if each.live_key is None and each.head.key not in live]
        going = [each for each in heads if each.head.status == RUNNING]
        wanted = heads if self._every else going or heads[-1:]
        return self._read(self.lookup.stored, ((each.head.key, each.store) for each in wanted))

    def _read(self, read: Callable[[str, Path], Found], runs: Iterable[tuple[str, Path]]) -> list[Found]:
        """Those that can be read; of another there is a remark."""
        found = []
        for key, store in runs:
            try:
                found.append(read(key, store))
            except (MachineError, RunNotFoundError, OSError) as error:
                self._noted(str(error))
        return found

    def _seen(self, found: Iterable[Found], now: float) -> list[RunSeen]:
        current = [
            msgspec.structs.replace(each, document=caught_up(each.document, self.lookup.spool))
            for each in found
        ]
        leases = [lease for each in current for lease in each.document.leases]
        for lease in leases:
            self._pace.see(lease.lease_id, lease.last_step, now)
        self._pace.keep({lease.lease_id for lease in leases})
        rates = {lease.lease_id: self._pace.rate(lease.lease_id, now) for lease in leases}
        usages = self._meter.look(leases)
        return [self._run(each, rates, usages) for each in current]

    def _run(self, found: Found, rates: dict[str, float | None], usages: dict[str, Usage]) -> RunSeen:
        document = found.document
        known = situation(document, live=found.live, spool=self.lookup.spool)
        alive = known.standing in ("running", "detached")
        processes = processes_of(document, self._wall_ms(), known=alive, rates=rates, usages=usages)
        return RunSeen(
            document=document,
            store=found.store,
            live=found.live,
            situation=known,
            processes=in_order((*processes, *self._elsewhere.processes(document, self._wall_ms()))),
            machines=tuple(machines_of(last_samples(document, self._roots(found)))),
        )

    def _roots(self, found: Found) -> list[Path]:
        streams = Store(found.store).streams_of(found.document.part_keys)
        return [*streams, *([self.lookup.spool] if self.lookup.spool is not None else [])]

    def _going_on(self, seen: list[RunSeen]) -> list[RunSeen]:
        going = [run for run in seen if run.situation.standing != "ended" or run.key in self._watched]
        newest = max(seen, key=lambda run: run.document.ended_at or 0, default=None)
        return going or ([newest] if newest is not None else [])


KEPT_S = 60.0
PAUSE = 3.0  # so much longer than its longest pause, and a process has stopped
REST_S = 5.0  # a shorter silence is none

Move = tuple[float, int]


class Pace:
    """Steps per second of each lease. A look is given with its time; nothing here has a clock.

    A rank that logs every hundredth step moves in jumps: its rate is taken between jumps, so that it does not
    flicker, and falls only once the next jump is late.
    """

    def __init__(self) -> None:
        self._moves: dict[str, deque[Move]] = {}

    def see(self, lease_id: str, step: int | None, at: float) -> None:
        """Notes the step of a lease at an instant, in seconds of any clock that does not go back."""
        if step is None:
            return
        moves = self._moves.setdefault(lease_id, deque())
        if moves and moves[-1][1] == step:
            return
        moves.append((at, step))
        while len(moves) > 2 and moves[1][0] <= at - KEPT_S:
            moves.popleft()

    def rate(self, lease_id: str, now: float) -> float | None:
        """Steps per second; None while fewer than two steps were seen."""
        moves = self._moves.get(lease_id)
        if moves is None or len(moves) < 2:
            return None
        (first_at, first), (last_at, last) = moves[0], moves[-1]
        pauses = [after[0] - before[0] for before, after in pairwise(moves)]
        silent = now - last_at
        if silent > max(REST_S, PAUSE * max(pauses)):
            return 0.0
        late = silent > 1.5 * sum(pauses) / len(pauses)
        took = (now if late else last_at) - first_at
        return max(0.0, (last - first) / took) if took > 0 else None

    def keep(self, lease_ids: set[str]) -> None:
        """Forgets all other leases."""
        for lease_id in self._moves.keys() - lease_ids:
            del self._moves[lease_id]


class UsageMeter:
    """CPU and memory, as the kernel counts them without children; a first look has no percentage.

    Args:
        spool: folder of this node's leases, which say who they are; None measures nothing.
    """

    def __init__(self, spool: Path | None) -> None:
        self._spool = spool
        self._processes: dict[str, psutil.Process | None] = {}  # None: it cannot be seen from here

    def look(self, leases: Iterable[LeaseShown]) -> dict[str, Usage]:
        """What the processes of open leases use; those that cannot be seen from here are missing."""
        open_ones = [lease.lease_id for lease in leases if lease.state in OPEN]
        for gone in self._processes.keys() - set(open_ones):
            del self._processes[gone]
        found = {lease_id: self._usage(lease_id) for lease_id in open_ones}
        return {lease_id: usage for lease_id, usage in found.items() if usage is not None}

    def _usage(self, lease_id: str) -> Usage | None:
        import psutil

        first = lease_id not in self._processes
        if first:
            self._processes[lease_id] = _process(self._spool / lease_id) if self._spool is not None else None
        process = self._processes[lease_id]
        if process is None:
            return None
        try:
            with process.oneshot():
                cpu, memory = process.cpu_percent(), process.memory_info().rss
        except psutil.Error:  # ended in this instant, or hidden
            return None
        return Usage(None if first else cpu, memory)


def _process(folder: Path) -> psutil.Process | None:
    """The process of a lease, if it is the one that has its pid here; a number may be given to another."""
    import psutil

    try:
        claim = claim_of(str(folder))
        seen = identity_of(claim.identity.pid) if claim is not None else None
        if claim is None or seen is None or not claim.identity.same_process(seen):
            return None
        return psutil.Process(seen.pid)
    except (psutil.Error, OSError):
        return None


# Nodes: the load by a Run's latest system metrics.
_CORE = re.compile(r"cpu\.(?:percentage|pct)\.\d+", re.ASCII)
_CARD = re.compile(r"gpu\.(?P<index>\d+)\.(?P<model>.*)\.(?P<what>utilization|memory\.used)", re.ASCII)
_MEMORY = ("memory.percentage", "mem.percentage")


class Card(msgspec.Struct, frozen=True):
    """One GPU: percent of time in which it was busy, bytes in use; None where it was not measured."""

    index: int
    model: str
    busy: float | None
    memory: float | None


class MachineUse(msgspec.Struct, frozen=True):
    """One node: mean percent of its cores, percent of its memory that is not available, its GPUs.

    Attributes:
        host: as it is called in the names of its series, "" for the only one.
    """

    host: str
    cpu: float | None
    memory: float | None
    cards: tuple[Card, ...] = ()

    @property
    def busy(self) -> float | None:
        """Mean percent of its GPUs, None without any."""
        return _mean([card.busy for card in self.cards if card.busy is not None])


def machines_of(summary: Mapping[str, Point]) -> list[MachineUse]:
    """The nodes whose system metrics a Run has, by name."""
    hosts: dict[str, dict[str, float]] = {}
    for name, point in summary.items():
        if name.startswith("sys/") and not isinstance(point.last, str):
            host, _, metric = name.removeprefix("sys/").rpartition("/")
            hosts.setdefault(host, {})[metric] = point.last
    found = [_machine(host, values) for host, values in sorted(hosts.items())]
    return [each for each in found if each.cpu is not None or each.memory is not None or each.cards]


def _machine(host: str, values: Mapping[str, float]) -> MachineUse:
    cores = [value for name, value in values.items() if _CORE.fullmatch(name)]
    memory = next((values[name] for name in _MEMORY if name in values), None)
    return MachineUse(host, _mean(cores), memory, _cards(values))


def _cards(values: Mapping[str, float]) -> tuple[Card, ...]:
    found: dict[tuple[int, str], dict[str, float]] = {}
    for name, value in values.items():
        match = _CARD.fullmatch(name)
        if match is not None and not match["model"].endswith(".memory"):
            found.setdefault((int(match["index"]), match["model"]), {})[match["what"]] = value
    return tuple(
        Card(index, model, known.get("utilization"), known.get("memory.used"))
        for (index, model), known in sorted(found.items())
    )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


TAIL_BYTES = 64 << 10  # a sample of 256 cores has 10 KB


def last_samples(document: Document, roots: Sequence[Path]) -> dict[str, Point]:
    """Last value of each system metric by its name; the count is 1 and means nothing.

    Args:
        document: of the Run.
        roots: folders that hold one folder per lease.
    """
    found: dict[str, Point] = {}
    for lease in document.leases:
        if lease.participant == NODE:
            folders = [str(root / lease.lease_id) for root in roots]
            for lines in tails(folders, "metrics", TAIL_BYTES):
                records = decoded(lines)
                if records:
                    last = records[-1]
                    found |= {name: Point(shown(value), last.step, 1) for name, value in last.data.items()}
                    break
    return found
