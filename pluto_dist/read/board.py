"""The board: several Runs as of now, looked at time and again, for `top` and pages.

    board = Board(Lookup())
    while True:
        for run in board.look():
            print(run.name, run.situation.status, run.step, run.rate, [p.lag for p in run.processes])

A Run that ends while it is watched stays; where nothing goes on, the newest one that ended is shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from pluto_dist.backend.local.store import Store
from pluto_dist.core.values.document import Document
from pluto_dist.core.values.engine import ClusterAddress
from pluto_dist.errors import MachineError, PlutoDistError, RunNotFoundError
from pluto_dist.read.lookup import RUNNING, Found, Lookup
from pluto_dist.read.nodes import OtherNodes
from pluto_dist.read.processes import Process, Usage, in_order, processes_of
from pluto_dist.read.settle import Situation, settle, situation
from pluto_dist.read.streams import caught_up
from pluto_dist.read.usage import MachineUse, Pace, UsageMeter, last_samples, machines_of

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
