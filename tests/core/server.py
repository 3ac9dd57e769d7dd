"""A Pluto server in memory, as the core sees it: Runs with a status, and answers that a test may choose.

Without instructions it does what the real one does: creates, attaches, reopens what had ended, refuses what
it must. `next_answers` puts other answers in front; `down` answers everything with "no".
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field

import msgspec

from pluto_dist.core.rules.changes import MAX_TAGS, merge_json, merge_tags
from pluto_dist.core.values.backend import (
    Alert,
    Beat,
    ConfigPatch,
    Delivered,
    Names,
    OpenRequest,
    OpenResult,
    Outcome,
    Refused,
    Rejected,
    Reopened,
    Retry,
    Revive,
    RunOpened,
    SeatNote,
    Status,
    StatusReport,
    TagsChange,
    Told,
    Unavailable,
    Unknown,
)
from pluto_dist.core.values.effects import Control, OpenRun, Ship
from tests.core.spool import Record

SEVERITY = {"COMPLETED": 0, "TERMINATED": 1, "CANCELLED": 2, "FAILED": 3}


@dataclass
class Point:
    """One value as it arrived, and who had written it."""

    step: int
    value: float
    writer: str


@dataclass
class ServerRun:
    """A Run on the server; `reports` are the terminal statuses that were accepted, in order."""

    id: int
    project: str
    external_id: str
    key: str
    status: Status = "RUNNING"
    tags: tuple[str, ...] = ()
    config: bytes = b"{}"
    names: dict[str, str] = field(default_factory=dict)
    series: dict[str, list[Point]] = field(default_factory=lambda: defaultdict(list))
    console: list[int] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    reports: list[StatusReport] = field(default_factory=list)
    reopened: int = 0
    beats: int = 0
    cancelled: bool = False
    reaped: bool = False

    def values(self, name: str) -> list[float]:
        """Values of one series in the order of arrival."""
        return [point.value for point in self.series.get(name, [])]


@dataclass
class Server:
    """All Runs; ids count from 1."""

    runs: dict[int, ServerRun] = field(default_factory=dict)
    down: bool = False
    gone: set[int] = field(default_factory=set)
    next_answers: dict[str, deque[object]] = field(default_factory=lambda: defaultdict(deque))
    accepted: set[tuple[str, str, int, int]] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    beats: int = 0
    asked_s: list[float | None] = field(default_factory=list)
    created_ms: list[int | None] = field(default_factory=list)

    def answer(self, call: str, *answers: object) -> None:
        """The next calls of this kind (open, ship, names, tags, config, status, beat) get these answers."""
        self.next_answers[call].extend(answers)

    def only(self) -> ServerRun:
        """The only Run."""
        (run,) = self.runs.values()
        return run

    def called(self, external_id: str) -> ServerRun:
        """The Run with this external id."""
        return next(run for run in self.runs.values() if run.external_id == external_id)

    # --- what the backend's worker calls ----------------------------------------------------------

    def open(self, effect: OpenRun) -> OpenResult:
        request = effect.request
        self.calls.append(f"open {request.want} {_named(request)}")
        self.asked_s.append(request.asked_s)
        self.created_ms.append(request.created_ms)
        chosen = self._chosen("open")
        if isinstance(chosen, RunOpened | Refused | Unavailable):
            return chosen
        if self.down:
            return Unavailable("connection refused")
        found = self._find(request)
        if request.want == "join":
            return self._joined(found)
        if found is None:
            if request.want == "resume":
                return Refused("RunNotFoundError", f"no Run {_named(request)}")
            return self._create(request)
        if request.want == "create" and found.key != request.key:
            return Refused("RunExistsError", f"a Run {_named(request)} exists")
        return self._attach(found, request)

    def ship(self, effect: Ship, records: tuple[Record, ...]) -> Outcome:
        chosen = self._chosen("ship")
        if isinstance(chosen, Outcome):
            if isinstance(chosen, Delivered):
                self._take(effect, records)
            return chosen
        if self.down:
            return Retry("connection refused")
        bad = next((number for number, record in enumerate(records) if record.poison), None)
        if bad is not None:
            self._take(effect, records[:bad])  # the server commits what stands before the bad line
            return Rejected("a value is no number")
        self._take(effect, records)
        return Delivered()

    def control(self, effect: Control) -> Outcome:
        self.calls.append(effect.operation)
        chosen = self._chosen(effect.operation)
        if isinstance(chosen, Outcome) and not isinstance(chosen, Delivered):
            return chosen
        if self.down:
            return Retry("connection refused")
        run = self.runs[effect.run.id]
        match effect.request:
            case Names(kinds=kinds):
                run.names.update(kinds)
            case TagsChange() as change:
                tags = merge_tags(run.tags, change.base or (), change.wanted, change.removed)
                if len(tags) > MAX_TAGS:
                    return Rejected("A run can have at most 50 tags")
                run.tags = run.tags if set(tags) == set(run.tags) else tags  # as the backend: no other order
                return Told(tags=run.tags)
            case SeatNote(epoch=epoch):
                note = {"pluto_dist": {"seat": {"epoch": epoch}}}
                run.config = merge_json(run.config, msgspec.json.encode(note))
            case ConfigPatch(patch=patch):
                run.config = merge_json(run.config, patch)
            case Revive():
                run.status = "RUNNING" if run.reaped else run.status
                run.reaped = False
                return Told(status=run.status)
            case Alert() as alert:
                run.alerts.append(alert)
            case Reopened(status=status):
                run.status = status
            case StatusReport() as report:
                run.reports.append(report)
                lower = SEVERITY.get(report.status, 4) < SEVERITY.get(run.status, 0)
                if not lower or report.force or run.reaped:
                    run.status = report.status
                return Told(status=run.status)
        return Delivered()

    def beat(self, run_id: int) -> Beat:
        self.beats += 1
        run, chosen = self.runs[run_id], self._chosen("beat")
        if isinstance(chosen, Beat):
            return chosen
        if isinstance(chosen, Retry | Unknown):
            return Beat(chosen)
        if self.down:
            return Beat(Retry("connection refused"))
        if run_id in self.gone:
            return Beat(Rejected("Run not found"))
        run.beats += 1
        if run.cancelled:
            run.status = "CANCELLED"
        return Beat(Delivered(), run.status)

    # ----------------------------------------------------------------------------------------------

    def said(self, *calls: str) -> list[str]:
        """The calls of these kinds, in order."""
        return [call for call in self.calls if call in calls]

    def _chosen(self, call: str) -> object:
        answers = self.next_answers[call]
        return answers.popleft() if answers else None

    def _find(self, request: OpenRequest) -> ServerRun | None:
        if request.id is not None:
            return self.runs.get(request.id)
        if request.display_id is not None:
            return self.runs.get(int(request.display_id.rpartition("-")[2]))
        return next(
            (
                run
                for run in self.runs.values()
                if (run.project, run.external_id) == (request.project, request.external_id)
            ),
            None,
        )

    def _create(self, request: OpenRequest) -> RunOpened:
        number = len(self.runs) + 1
        external = request.external_id or ""
        run = ServerRun(number, request.project, external, request.key, tags=request.tags)
        run.config = request.config
        self.runs[number] = run
        return self._opened(run, resumed=False)

    def _attach(self, run: ServerRun, request: OpenRequest) -> RunOpened:
        was = run.status
        if run.key == request.key and request.want == "create":  # our own lost attempt
            return self._opened(run, resumed=False)
        if was != "RUNNING":
            run.status = "RUNNING"
            run.reopened += 1
        return msgspec.structs.replace(self._opened(run, resumed=True), was_status=was)

    def _joined(self, run: ServerRun | None) -> OpenResult:
        if run is None:
            return Unavailable("no such Run yet", 2.0, absent=True)
        return msgspec.structs.replace(self._opened(run, resumed=True), was_status=run.status)

    def _opened(self, run: ServerRun, *, resumed: bool) -> RunOpened:
        return RunOpened(
            id=run.id,
            display_id=f"DEM-{run.id}",
            project=run.project,
            url=f"http://app.invalid/{run.id}",
            resumed=resumed,
            tags=run.tags,
            config=run.config,
        )

    def _take(self, effect: Ship, records: tuple[Record, ...]) -> None:
        run = self.runs[effect.run.id]
        for number, record in enumerate(records):
            if effect.kind == "console":
                run.console.append(effect.first_line + number)
            for name, value in record.values.items():
                final = effect.known[name]
                if final is not None:
                    run.series[final].append(Point(record.step, value, record.writer))
            self.accepted.add((effect.lease_id, effect.stream, effect.segment, record.start))


class StoreServer(Server):
    """A store folder instead of a server: it gives numbers, and takes those of parts as they are."""

    def open(self, effect: OpenRun) -> OpenResult:
        request = effect.request
        if not request.part_of:
            opened = super().open(effect)
            made = request.shared and isinstance(opened, RunOpened)
            return msgspec.structs.replace(opened, part_of=request.key) if made else opened
        self.calls.append(f"open part of {request.part_of}")
        run = ServerRun(request.id or 0, request.project, request.external_id or "", request.key)
        self.runs[run.id] = run
        opened = self._opened(run, resumed=True)
        return msgspec.structs.replace(opened, tags=None, config=None, part_of=request.part_of)


def _named(request: OpenRequest) -> str:
    return str(request.id or request.display_id or request.external_id)
