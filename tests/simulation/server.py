"""The simulated targets: a server whose answers may go wrong, and a store in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

import msgspec

from pluto_dist.core.values.backend import (
    Alert,
    BackendRun,
    Batch,
    Beat,
    Delivered,
    LogType,
    OpenRequest,
    OpenResult,
    Outcome,
    Refused,
    Reopened,
    Retry,
    RunOpened,
    StatusReport,
    TagsChange,
    Unavailable,
    Unknown,
)
from pluto_dist.spool.frames import scan, segment_name
from tests.adapters.memory_backend import SEVERITY, Call, MemoryBackend, Step, StoredRun
from tests.simulation.files import value_in
from tests.simulation.reduced import statistics_in_line

if TYPE_CHECKING:
    from tests.simulation.world import World

POISON = b"poison"
Place = tuple[str, str, int, int]


class Server(MemoryBackend):
    """The contract's backend in memory, with accidents and a memory of what it has been sent.

    Attributes:
        arrived: how often each value has been stored.
        series: value -> name under which it came.
        down: nothing is answered.
        questions: when each sign of life was asked for, and whether it was answered, by Run.
        hung: for how long an answer to one was on its way, by the Run's key; meanwhile nobody can ask again.
        reports: when each status was taken or perhaps taken, by Run.
    """

    def __init__(self, world: World) -> None:
        super().__init__(self._accident, poison=POISON)
        self.world = world
        self.arrived: dict[int, int] = defaultdict(int)
        self.series: dict[int, str] = {}
        self.down = False
        self.on_report: Callable[[StoredRun, StatusReport], None] = lambda run, report: None
        self.accepted_reports: dict[int, int] = defaultdict(int)
        self.unknown_reports: dict[int, int] = defaultdict(int)
        self.unheard_cancels: dict[int, int] = defaultdict(int)
        self.questions: dict[int, list[tuple[float, bool]]] = defaultdict(list)
        self.hung: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.reports: dict[int, list[float]] = defaultdict(list)
        self.order_broken = ""
        self._newest: dict[tuple[str, str], int] = {}

    def report(self, run: BackendRun, report: StatusReport) -> Outcome:
        stored = self.runs[run.id]
        self.on_report(stored, report)
        outcome = super().report(run, report)
        if not isinstance(outcome, Retry):
            self.reports[run.id].append(self.world.now)
        if isinstance(outcome, Delivered):
            self.accepted_reports[run.id] += 1
        if isinstance(outcome, Unknown):
            self.unknown_reports[run.id] += 1
        return outcome

    def beat(self, run: BackendRun) -> Beat:
        """The last beat of a Run may cancel it, and nobody hears the answer."""
        beat = super().beat(run)
        self.questions[run.id].append((self.world.now, isinstance(beat.outcome, Delivered)))
        if self.runs[run.id].status == "CANCELLED" and isinstance(beat.outcome, Unknown):
            self.unheard_cancels[run.id] += 1
        return beat

    def deliver(self, run: BackendRun, batch: Batch) -> Outcome:
        if batch.kind == "files":  # in its two steps, each with accidents of its own
            return self.world.files.deliver(run, batch)
        return super().deliver(run, batch)

    def _take(self, run: BackendRun, batch: Batch, lines: tuple[bytes, ...]) -> Outcome:
        if batch.parts:
            return self._take_parts(run, batch.parts, lines)
        before = len(self.runs[run.id].lines.get(batch.kind, []))
        outcome = super()._take(run, batch, lines)
        for line in self.runs[run.id].lines.get(batch.kind, [])[before:]:
            if self.world.checks.reduced.told(run.id, line):
                continue
            name, value = value_of(line)
            self._look_at_order((batch.lease_id, batch.stream), value)
            self.arrived[value] += 1
            self.series[value] = f"{run.id}/{name}"
        return outcome

    def _take_parts(self, run: BackendRun, parts: tuple[Batch, ...], lines: tuple[bytes, ...]) -> Outcome:
        """All streams of one request, as far as it got; what is refused of one refuses all."""
        self.world.count("together")
        for part in parts:
            own, lines = lines[: len(part.lines)], lines[len(part.lines) :]
            outcome = self._take(run, part, own)
            if not isinstance(outcome, Delivered):
                return outcome
        return Delivered()

    def _look_at_order(self, chain: tuple[str, str], value: int) -> None:
        """In order per stream, apart from repeats."""
        if self.arrived[value]:
            return
        if value < self._newest.get(chain, 0):
            self.order_broken = f"{value} of {chain} comes after {self._newest[chain]}"
        self._newest[chain] = value

    def _accident(self, call: Call) -> Step | None:
        world = self.world
        rates, random = world.rates, world.random
        if self.down:
            return Step(random.choice((Retry("refused"), Unknown("no answer"))))
        chance = random.random()
        if chance < rates.retry:
            world.count("server_retry")
            return Step(Retry("503", after_s=random.choice((None, 0.2, 3.0))))
        if chance < rates.retry + rates.unknown:
            world.count("server_unknown")
            return Step(Unknown("timeout"), *_carried_out(random))
        return None


def _carried_out(random: Random) -> tuple[bool, int | None]:
    return random.random() < 0.6, random.choice((None, None, 1))


class Store:
    """What local Runs and the documents of all Runs are kept in; a write to one place twice is one write."""

    def __init__(self) -> None:
        self.segments: dict[tuple[str, str, int], bytearray] = {}
        self.documents: dict[str, bytes] = {}
        self.runs: dict[str, int] = {}

    def values(self) -> dict[int, int]:
        """How often each value is there."""
        found: dict[int, int] = defaultdict(int)
        for data in self.segments.values():
            for line in scan(bytes(data), final=True).lines:
                if not statistics_in_line(line):
                    found[value_of(line)[1]] += 1
        return found


class StoreBackend:
    """Local mode: byte copies of segments."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.store = world.store
        self.arrived: dict[int, int] = defaultdict(int)

    def open(self, request: OpenRequest) -> OpenResult:
        if request.want == "join":  # one that has ended long ago is in no history
            return Unavailable("no such Run yet", absent=True)
        external = request.external_id or ""
        known = self.store.runs.get(external)
        if request.want == "resume" and known is None:
            return Refused("RunNotFoundError", "no such Run")
        number = self.store.runs.setdefault(external, len(self.store.runs) + 1)
        return RunOpened(
            id=number, display_id=f"DEM-{number}", project=request.project, url="", resumed=False
        )

    def deliver(self, run: BackendRun, batch: Batch) -> Outcome:
        data = self.store.segments.setdefault((batch.lease_id, batch.stream, batch.segment), bytearray())
        if len(data) < batch.start:
            raise AssertionError(f"a gap in the store before {batch.start} of {batch.lease_id}")
        spooled = self.world.disk.files.get(f"{batch.folder}/{segment_name(batch.stream, batch.segment)}")
        if spooled is None:
            return Retry("a late one of a predecessor: the segment is delivered and gone")
        data[batch.start : batch.end] = spooled.data[batch.start : batch.end]
        for line in batch.lines:
            if self.world.checks.reduced.told(run.id, line):
                continue
            self.arrived[value_of(line)[1]] += 1
        return Delivered()

    def register(self, run: BackendRun, names: dict[str, LogType]) -> Outcome:
        return Delivered()

    def report(self, run: BackendRun, report: StatusReport) -> Outcome:
        return Delivered()

    def put_tags(self, run: BackendRun, change: TagsChange) -> Outcome:
        return Delivered()

    def merge_config(self, run: BackendRun, patch: bytes) -> Outcome:
        return Delivered()

    def alert(self, run: BackendRun, alert: Alert) -> Outcome:
        return Delivered()

    def beat(self, run: BackendRun) -> Beat:
        return Beat(Delivered())

    def seat_epoch(self, run: BackendRun) -> int | Outcome:
        return 0

    def revive(self, run: BackendRun) -> Outcome:
        return Delivered()

    def put_back(self, reopened: Reopened) -> Outcome:
        return Delivered()

    def close(self) -> None:
        pass


def value_of(line: bytes) -> tuple[str, int]:
    """Name and value of a line; every line of the simulation has one value, which nobody else has."""
    record = msgspec.json.decode(line)
    if "message" in record:
        return "", int(record["message"].rsplit(" ", 1)[-1])
    if "fileName" in record:
        return record["logName"], value_in(record["fileName"])
    if "logName" in record:
        return record["logName"], int(record["data"].rsplit(" ", 1)[-1])
    ((name, value),) = record["data"].items()
    return name, int(value)


__all__ = ["SEVERITY", "Server", "Store", "StoreBackend", "value_of"]
