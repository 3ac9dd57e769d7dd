"""What a test may ask of the emulator and change in it; the same in its process and over the control port."""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

from .api_read import event_row, run_row
from .core import Core
from .defects import Defect, Waiver
from .faults import Fault, FaultPlan
from .metrics import RunKey
from .monitor import cycle
from .runs import Run
from .status import Report, apply

Rows = list[dict[str, Any]]
Points = dict[str, list[tuple[int, int, float]]]  # name: (step, time, value)


class Operator:
    """The hand on the emulator. Run ids are the server's; results can be written as JSON."""

    def __init__(self, core: Core, faults: FaultPlan, crashes: list[BaseException]) -> None:
        self._core = core
        self._state = core.state
        self._faults = faults
        self._crashes = crashes

    # ---- faults and settings

    def add_fault(self, **fields: Any) -> int:
        """Arm a fault (the fields of `faults.Fault`); its id."""
        return self._faults.add(Fault(**fields))

    def remove_fault(self, fault_id: int | None = None) -> None:
        """Disarm one fault, or all."""
        self._faults.remove(fault_id)

    def faults(self) -> Rows:
        """The armed faults and their hits."""
        return self._faults.hits()

    def seed_faults(self, seed: int) -> None:
        """Start the dice of probable faults anew."""
        self._faults.reseed(seed)

    def configure(self, **settings: float) -> None:
        """Change `state.Settings`."""
        for name, value in settings.items():
            if not hasattr(self._state.settings, name):
                known = ", ".join(field.name for field in fields(self._state.settings))
                raise ValueError(f"no setting {name!r}; there are {known}")
            setattr(self._state.settings, name, value)

    def set_at_limit(self, at_limit: bool) -> None:
        """Whether the organization may create no more runs."""
        self._state.keys.home.at_limit = at_limit

    # ---- time, the monitor and what the web page does

    def now_ms(self) -> int:
        """The server's time."""
        return self._state.now_ms()

    def advance(self, seconds: float) -> int:
        """Move the server's time; the new one."""
        return self._state.clock.advance(seconds)

    def monitor_cycle(self) -> list[int]:
        """Run the stale-run monitor once; the runs it marked FAILED."""
        return cycle(self._core)

    def cancel(self, run_id: int) -> None:
        """Press the stop button of a run: the next poll cancels it."""
        self._run(run_id).cancel_requested = True

    def delete(self, run_id: int) -> None:
        """Delete a run on the web page: row, history and data are gone, and every route answers 404."""
        with self._state.lock:
            key = self._key(run_id)
            self._state.book.delete(run_id)
            for store in (self._state.metrics, self._state.data, self._state.logs, self._state.files):
                store.forget(key)

    def set_status(self, run_id: int, status: str) -> None:
        """Another client of the organization reports a status."""
        with self._state.lock:
            run = self._run(run_id)
            apply(self._state.book, run, Report(status), self._state.keys.other_of_home, self._state.now_ms())

    def set_tags(self, run_id: int, tags: list[str]) -> None:
        """Somebody sets the tags on the web page."""
        with self._state.lock:
            self._run(run_id).tags = list(tags)

    def add_points(self, run_id: int, name: str, points: list[tuple[int, int, float]]) -> None:
        """Put points (step, time, value) into the store, past the ingest service."""
        lines = [(time, step, {name: value}) for step, time, value in points]
        with self._state.lock:
            self._state.metrics.add(self._key(run_id), lines, None)

    def expire_urls(self) -> None:
        """All presigned URLs are out of date."""
        with self._state.lock:
            self._state.objects.expire_all()

    # ---- what the server has

    def runs(self) -> Rows:
        """All runs, oldest first, as `details` prints them, with heartbeat and fork fields."""
        with self._state.lock:
            return [_row(run) for run in self._state.book.runs.values()]

    def run(self, run_id: int) -> dict[str, Any]:
        """One run, as in `runs`."""
        with self._state.lock:
            return _row(self._run(run_id))

    def history(self, run_id: int) -> Rows:
        """Status events by time."""
        with self._state.lock:
            return [event_row(event) for event in self._state.book.history(run_id)]

    def metrics(self, run_id: int) -> Points:
        """The points that readers see, by name and step."""
        with self._state.lock:
            series = self._state.metrics.series(self._key(run_id))
            now_ms = self._state.now_ms()
            return {n: [(p.step, p.time, p.value) for p in s.points(now_ms)] for n, s in series.items()}

    def raw_metrics(self, run_id: int) -> Points:
        """Every accepted point in order of arrival, read lag or not."""
        with self._state.lock:
            series = self._state.metrics.series(self._key(run_id))
            return {n: [(p.step, p.time, p.value) for p in s.raw()] for n, s in series.items()}

    def metric_counts(self, run_id: int) -> dict[str, int]:
        """Accepted points by name; cheap enough to poll."""
        with self._state.lock:
            series = self._state.metrics.series(self._key(run_id))
            return {name: len(writes.steps) for name, writes in series.items()}

    def data(self, run_id: int) -> Rows:
        """Every accepted data row."""
        with self._state.lock:
            return [asdict(row) for row in self._state.data.all(self._key(run_id))]

    def logs(self, run_id: int) -> Rows:
        """Every accepted console row, in order of arrival."""
        with self._state.lock:
            return [asdict(row) for row in self._state.logs.all(self._key(run_id))]

    def files(self, run_id: int) -> Rows:
        """Every file row, uploaded or not."""
        with self._state.lock:
            return [asdict(row) for row in self._state.files.all(self._key(run_id))]

    def objects(self) -> dict[str, dict[str, Any]]:
        """The stored objects by key: size and SHA-256."""
        with self._state.lock:
            stored = dict(self._state.objects.objects)
        return {k: {"size": len(b), "sha256": hashlib.sha256(b).hexdigest()} for k, b in stored.items()}

    def object_base64(self, key: str) -> str:
        """The bytes of an object."""
        return base64.b64encode(self._state.objects.objects[key]).decode()

    def addresses(self) -> list[RunKey]:
        """Every (tenant, project, run id) that data was sent to, right or wrong."""
        with self._state.lock:
            stores = (self._state.metrics, self._state.data, self._state.logs, self._state.files)
            return sorted({key for store in stores for key in store.keys()})  # noqa: SIM118 - no mappings

    def requests(self, since_id: int = 0) -> Rows:
        """The journal: every request after the given id, in order of arrival."""
        return [asdict(entry) for entry in self._state.journal.entries() if entry.id > since_id]

    # ---- client defects

    def check(self) -> list[Defect]:
        """Also look for what only shows when the client is done; all findings."""
        with self._state.lock:
            self._core.audit.check()
        return self.defects()

    def defects(self, kinds: list[str] | None = None) -> list[Defect]:
        """The findings so far that nothing waives."""
        return self._state.defects.found(kinds)

    def waived(self) -> list[Defect]:
        """The findings that a waiver covers."""
        return self._state.defects.waived()

    def waive(
        self,
        kind: str,
        name: str = "*",
        run_id: int | None = None,
        text: str = "*",
        predicate: Callable[[Defect], bool] | None = None,
    ) -> None:
        """Expect findings of a kind, of names and texts like patterns, for one run, or by a predicate."""
        self._state.defects.waive(Waiver(kind, name, run_id, text, predicate))

    def clear_defects(self) -> None:
        """Forget the findings; waivers stay."""
        self._state.defects.clear()

    def crashes(self) -> list[str]:
        """Faults of the emulator itself."""
        return [repr(crash) for crash in self._crashes]

    def _run(self, run_id: int) -> Run:
        run = self._state.book.runs.get(run_id)
        if run is None:
            raise ValueError(f"no run {run_id}; there are {sorted(self._state.book.runs)}")
        return run

    def _key(self, run_id: int) -> RunKey:
        run = self._run(run_id)
        return run.organization_id, run.project.name, run.id


def _row(run: Run) -> dict[str, Any]:
    return run_row(run) | {
        "logNames": dict(run.log_names),
        "notes": run.notes,
        "forkedFromRunId": run.forked_from,
        "forkStep": run.fork_step,
        "lastSeenMs": run.last_seen_ms,
        "graphs": len(run.graphs),
    }
