"""A backend in memory that behaves as the server does, and whose answers can be scripted.

`fate` decides, call by call, whether the backend answers something else than it would: a `Step` says what,
and whether the call is carried out all the same. `Script` is a fate with a list of steps for each call;
a simulation passes a function of its own.

    script = Script(deliver=[Step(Unknown("lost"), carried_out=True), None])
    backend = MemoryBackend(fate=script)        # first batch: stored, answer lost; second: as usual
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from pluto_dist.core.rules.changes import MAX_TAGS, merge_tags
from pluto_dist.core.rules.claims import goes_on_in_queue
from pluto_dist.core.rules.nodes import seat_in
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
    Rejected,
    Reopened,
    Retry,
    RunOpened,
    Status,
    StatusReport,
    StreamKind,
    TagsChange,
    Told,
    Unavailable,
    Unknown,
)
from pluto_dist.core.values.ids import Scheduled
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.spool.file_lines import read_line

Call = Literal[
    "open", "deliver", "register", "report", "put_tags", "merge_config", "alert", "beat", "revive", "put_back"
]  # fmt: skip
DELIVERED = Delivered()
SEVERITY: dict[Status, int] = {"COMPLETED": 0, "TERMINATED": 1, "CANCELLED": 2, "FAILED": 3}


@dataclass(frozen=True, slots=True)
class Step:
    """An answer other than the usual one.

    Attributes:
        answer: what the caller gets; for `open` an outcome becomes `Unavailable`.
        carried_out: the call takes effect although the caller is not told.
        lines: how many lines of a batch take effect then, None for all.
    """

    answer: Retry | Rejected | Unknown | OpenResult | Beat
    carried_out: bool = False
    lines: int | None = None


Fate = Callable[[Call], Step | None]


class Script:
    """Steps for each call, used up in order; None and an empty list mean the usual answer."""

    def __init__(self, **steps: Iterable[Step | None]) -> None:
        self._steps = {call: list(listed) for call, listed in steps.items()}

    def __call__(self, call: Call) -> Step | None:
        """The next step of this call."""
        left = self._steps.get(call)
        return left.pop(0) if left else None

    def add(self, call: Call, *steps: Step | None) -> None:
        """Appends steps."""
        self._steps.setdefault(call, []).extend(steps)


@dataclass
class Point:
    """One value as it arrived, and who had written it."""

    step: int
    value: float
    writer: str


@dataclass
class StoredRun:
    """What the backend has of one Run; `lines` are all that were accepted, repeats included.

    Attributes:
        series, console: points and numbers of lines, in a world whose records have no bytes, as they arrived.
        reopened: how often a request has put it back to RUNNING.
        cancelled: somebody has pressed the web page's stop button; the next beat finds the Run CANCELLED.
    """

    id: int
    key: str
    external_id: str | None
    project: str
    name: str
    number: int
    status: Status = "RUNNING"
    reason: bytes | None = None
    reaped: bool = False
    reopened: int = 0
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    names: dict[str, LogType] = field(default_factory=dict)
    lines: dict[StreamKind, list[bytes]] = field(default_factory=dict)
    files: list[tuple[str, str, bytes]] = field(default_factory=list)
    reports: list[StatusReport] = field(default_factory=list)
    beats: int = 0
    alerts: list[Alert] = field(default_factory=list)
    cancelled: bool = False
    fork_run_id: int | None = None
    fork_step: int | None = None
    created_ms: int | None = None
    scheduled: Scheduled | None = None
    series: dict[str, list[Point]] = field(default_factory=lambda: defaultdict(list))
    console: list[int] = field(default_factory=list)

    def values(self, name: str) -> list[float]:
        """Values of one series in the order of arrival."""
        return [point.value for point in self.series.get(name, [])]

    def points(self) -> dict[str, dict[int, float]]:
        """The metrics that readers see: one value per name and step, that of the largest time."""
        best: dict[str, dict[int, tuple[int, float]]] = {}
        for line in self.lines.get("metrics", []):
            record = msgspec.json.decode(line)
            for name, value in record["data"].items():
                of_name = best.setdefault(name, {})
                if record["time"] >= of_name.get(record["step"], (0, 0.0))[0]:
                    of_name[record["step"]] = (record["time"], value)
        return {name: {step: value for step, (_, value) in steps.items()} for name, steps in best.items()}


class MemoryBackend:
    """Implements `pluto_dist.core.values.backend.Backend`.

    Attributes:
        runs: by id.
        calls: every call in order, with the Run's id (0 for `open`).
        poison: a line with these bytes is refused as the server refuses a bad line: those before it stay.
    """

    def __init__(self, fate: Fate | None = None, *, poison: bytes = b"") -> None:
        self.runs: dict[int, StoredRun] = {}
        self.calls: list[tuple[Call, int]] = []
        self.poison = poison
        self.closed = False
        self._fate: Fate = fate or Script()

    # --- what a test may do besides -------------------------------------------------------------------

    def cancel(self, run_id: int) -> None:
        """The web page's stop button: the next beat finds the Run CANCELLED."""
        self.runs[run_id].cancelled = True

    def reap(self, run_id: int) -> None:
        """The liveness monitor marks the Run FAILED."""
        self.runs[run_id].status, self.runs[run_id].reaped = "FAILED", True

    def by_external_id(self, external_id: str, project: str | None = None) -> StoredRun | None:
        """The Run with this external id."""
        for run in self.runs.values():
            if run.external_id == external_id and project in (None, run.project):
                return run
        return None

    # --- Backend --------------------------------------------------------------------------------------

    def open(self, request: OpenRequest) -> OpenResult:
        """See `Backend`."""
        step = self._next("open", 0)
        result = self._open(request) if step is None or step.carried_out else None
        if step is None:
            assert result is not None
            return result
        if isinstance(step.answer, RunOpened | Refused | Unavailable):
            return step.answer
        assert isinstance(step.answer, Retry | Rejected | Unknown), f"{step.answer} answers no `open`"
        return Unavailable(step.answer.reason)

    def deliver(self, run: BackendRun, batch: Batch) -> Outcome:
        """See `Backend`."""
        step = self._next("deliver", run.id)
        if step is None:
            return self._take(run, batch, batch.lines)
        if step.carried_out:
            self._take(run, batch, batch.lines[: step.lines])
        return _outcome(step)

    def register(self, run: BackendRun, names: dict[str, LogType]) -> Outcome:
        """See `Backend`. The first type of a name wins."""
        stored = self.runs[run.id]
        return self._do("register", run, lambda: stored.names.update(names | stored.names))

    def report(self, run: BackendRun, report: StatusReport) -> Outcome:
        """See `Backend`. A lower severity is ignored, as on the server."""
        stored = self.runs[run.id]
        outcome = self._do("report", run, lambda: _apply(stored, report))
        return Told(status=stored.status) if isinstance(outcome, Delivered) else outcome

    def put_tags(self, run: BackendRun, change: TagsChange) -> Outcome:
        """See `Backend`. Tags that only stand in another order stay as they are, and too many are refused."""
        stored = self.runs[run.id]
        merged = merge_tags(stored.tags, change.base or (), change.wanted, change.removed)
        if len(merged) > MAX_TAGS:
            return self._do("put_tags", run, lambda: None, Rejected("A run can have at most 50 tags"))
        merged = stored.tags if set(merged) == set(stored.tags) else merged
        outcome = self._do("put_tags", run, lambda: setattr(stored, "tags", merged))
        return Told(tags=merged) if isinstance(outcome, Delivered) else outcome

    def merge_config(self, run: BackendRun, patch: bytes) -> Outcome:
        """See `Backend`."""
        stored = self.runs[run.id]
        merged = _merge(stored.config, msgspec.json.decode(patch))
        return self._do("merge_config", run, lambda: setattr(stored, "config", merged))

    def alert(self, run: BackendRun, alert: Alert) -> Outcome:
        """See `Backend`."""
        return self._do("alert", run, lambda: self.runs[run.id].alerts.append(alert))

    def beat(self, run: BackendRun) -> Beat:
        """See `Backend`."""
        stored, step = self.runs[run.id], self._next("beat", run.id)
        if step is None or step.carried_out:
            _poll(stored)
        if step is None:
            return Beat(Delivered(), stored.status)
        return step.answer if isinstance(step.answer, Beat) else Beat(_outcome(step))

    def seat_epoch(self, run: BackendRun) -> int | Outcome:
        """See `Backend`."""
        return seat_in(msgspec.json.encode(self.runs[run.id].config))

    def revive(self, run: BackendRun) -> Outcome:
        """See `Backend`."""
        stored = self.runs[run.id]
        outcome = self._do("revive", run, lambda: _revive(stored))
        return Told(status=stored.status) if isinstance(outcome, Delivered) else outcome

    def put_back(self, reopened: Reopened) -> Outcome:
        """See `Backend`."""
        stored = self.runs[reopened.id]
        run = BackendRun("", Target(mode="pluto", store=""), reopened.id, reopened.project)
        return self._do("put_back", run, lambda: setattr(stored, "status", reopened.status))

    def close(self) -> None:
        """See `Backend`."""
        self.closed = True

    # --- how ------------------------------------------------------------------------------------------

    def _next(self, call: Call, run_id: int) -> Step | None:
        assert not self.closed, f"{call} after close"
        self.calls.append((call, run_id))
        return self._fate(call)

    def _do(
        self, call: Call, run: BackendRun, action: Callable[[], None], usual: Outcome = DELIVERED
    ) -> Outcome:
        step = self._next(call, run.id)
        if step is None or step.carried_out:
            action()
        return usual if step is None else _outcome(step)

    def _take(self, run: BackendRun, batch: Batch, lines: tuple[bytes, ...]) -> Outcome:
        if batch.kind == "files":
            return self._take_files(run, lines)
        stored = self.runs[run.id].lines.setdefault(batch.kind, [])
        for number, line in enumerate(lines, start=1):
            if self.poison and self.poison in line:
                return Rejected(f"line {number} is poisoned")
            stored.append(line)
        return Delivered()

    def _take_files(self, run: BackendRun, lines: tuple[bytes, ...]) -> Outcome:
        found: list[tuple[str, str, bytes]] = []
        for index, line in enumerate(lines):
            file = read_line(line)
            if file is None or not file.path or not Path(file.path).is_file():
                return Rejected("there is no such file", good=index)
            found.append((file.log_name, file.file_name, Path(file.path).read_bytes()))
        self.runs[run.id].files.extend(found)
        return Delivered()

    def _open(self, request: OpenRequest) -> OpenResult:
        if request.want in ("resume", "join"):
            found = self._find(request.id, request.display_id, request.external_id, request.project)
            if request.want == "join":
                return _joined(found)
            if found is None:
                return Refused("RunNotFoundError", "no such Run")
            return _reopen(found)
        assert request.external_id, "create without an external id"
        known = self.by_external_id(request.external_id, request.project)
        if known is None:
            return self._create(request)
        ours = known.key == request.key
        if ours and request.want == "create" and request.shared:
            return _opened(known, resumed=True, was=known.status, parent=None)
        lost = request.want == "either" and request.asked_s is not None and not request.shared
        if ours and (request.want == "create" or (lost and known.status == "RUNNING")):
            there = tuple(tag for tag in request.tags if tag in known.tags)
            return msgspec.structs.replace(_reopen(known), resumed=False, tags=there)
        left = goes_on_in_queue(request.scheduled, known.scheduled, known.status)
        if request.want == "create" and not left:
            return Refused("RunExistsError", f"{request.external_id} exists")
        known.scheduled = request.scheduled or known.scheduled
        return _reopen(known)

    def _create(self, request: OpenRequest) -> OpenResult:
        ref = request.parent
        parent = self._find(ref.id, ref.display_id, ref.external_id, request.project) if ref else None
        if ref and (parent is None or request.fork_step is None):
            return Refused("ForkError", f"cannot fork from {ref} at step {request.fork_step}")
        return self.add(request, len(self.runs) + 1, parent)

    def add(
        self,
        request: OpenRequest,
        run_id: int,
        parent: StoredRun | None = None,
        number: int | None = None,
    ) -> RunOpened:
        """A new Run of this id; its number in the project is the next one if none is given."""
        run = self.runs[run_id] = StoredRun(
            id=run_id,
            key=request.key,
            external_id=request.external_id,
            project=request.project,
            name=request.name,
            number=number or 1 + sum(run.project == request.project for run in self.runs.values()),
            tags=request.tags,
            config=msgspec.json.decode(request.config),
            fork_run_id=parent.id if parent else None,
            fork_step=request.fork_step if parent else None,
            created_ms=request.created_ms,
            scheduled=request.scheduled,
        )
        return _opened(run, resumed=False, was=None, parent=parent)

    def _find(
        self, run_id: int | None, display_id: str | None, external_id: str | None, project: str
    ) -> StoredRun | None:
        if run_id is not None:
            return self.runs.get(run_id)
        if display_id is not None:
            return next((run for run in self.runs.values() if _display_id(run) == display_id), None)
        return self.by_external_id(external_id or "", project)


def _reopen(run: StoredRun) -> RunOpened:
    was, run.status = run.status, "RUNNING"
    run.reaped = False
    run.reopened += was != "RUNNING"
    return _opened(run, resumed=True, was=was, parent=None)


def _opened(run: StoredRun, *, resumed: bool, was: Status | None, parent: StoredRun | None) -> RunOpened:
    return RunOpened(
        id=run.id,
        display_id=_display_id(run),
        project=run.project,
        url=f"memory://{run.id}",
        resumed=resumed,
        name=run.name,
        was_status=was,
        tags=run.tags,
        config=msgspec.json.encode(run.config),
        created_ms=run.created_ms,
        fork_run_id=run.fork_run_id,
        fork_step=run.fork_step,
        parent_config=msgspec.json.encode(parent.config) if parent else b"{}",
        parent_tags=parent.tags if parent else (),
    )


def _joined(run: StoredRun | None) -> OpenResult:
    if run is None:
        return Unavailable("no such Run yet", absent=True)
    return _opened(run, resumed=True, was=run.status, parent=None)


def _display_id(run: StoredRun) -> str:
    return f"{(run.project[:3] or 'RUN').upper()}-{run.number}"


def _apply(run: StoredRun, report: StatusReport) -> None:
    run.reports.append(report)
    nobody_meant_it = run.reaped and run.status == "FAILED"
    if report.force or nobody_meant_it or SEVERITY.get(report.status, 4) >= SEVERITY.get(run.status, 0):
        run.status, run.reason = report.status, report.metadata


def _revive(run: StoredRun) -> None:
    if run.reaped and run.status == "FAILED":
        run.status, run.reaped = "RUNNING", False


def _poll(run: StoredRun) -> None:
    run.beats += 1
    if run.cancelled:
        run.status = "CANCELLED"


def _outcome(step: Step) -> Outcome:
    assert isinstance(step.answer, Retry | Rejected | Unknown), f"{step.answer} answers another call"
    return step.answer


def _merge(old: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in patch.items():
        before = merged.get(key)
        merged[key] = _merge(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged
