"""What the backend has to be told about a Run: names, tags, config, status, signs of life.

Each is a difference between what is wanted and what the backend is known to have, so a lost answer or a
restart of the coordinator only means that the difference is sent again; all of them may be repeated.
A Run has at most one of them in flight, so the server's unlocked merges never race (G9), and the status goes
out last, when everything of owner and workers has been delivered (G6).
"""

from __future__ import annotations

from itertools import islice

import msgspec

from pluto_dist.core.context import Context
from pluto_dist.core.effects import BeatRun, Control
from pluto_dist.core.events import Beaten, Controlled
from pluto_dist.core.lane import backend_run, backoff_s
from pluto_dist.core.outcomes import Delivered, Rejected, Retry, Unknown
from pluto_dist.core.records import Run, Verdict
from pluto_dist.core.requests import StatusReport

BEAT_S = 20.0  # the server forgets a Run 150 s after its last heartbeat and stores at most one each 30 s
MAX_NAMES = 1000

_encoder = msgspec.json.Encoder()


class Errand(msgspec.Struct, frozen=True):
    """The request in flight for one Run."""

    operation: str
    token: int
    body: bytes


class Controls:
    """Errands of all Runs."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._book = context.book
        self._errands: dict[str, Errand] = {}
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._beats: dict[str, float] = {}
        self._token = 0

    def advance(self, run: Run, *, may_report: bool, lives: bool) -> None:
        """Sends the next thing that the backend does not have yet."""
        if run.id is None or run.opening:
            return
        if run.target.mode == "local":
            self._settle_local(run, may_report)
            return
        if run.target.key_id not in self._context.keys:
            return
        now = self._context.now.at
        self._beat(run, lives)
        if run.key in self._errands or now < self._not_before.get(run.key, 0.0):
            return
        errand = self._next(run, may_report)
        if errand is None:
            return
        if errand.operation == "status":
            self._context.reporting.add(run.key)
            run = self._context.change_run(run, telling=True)
        self._errands[run.key] = errand
        self._context.emit(
            Control(run=backend_run(run), operation=errand.operation, token=errand.token, body=errand.body)
        )

    def answered(self, event: Controlled) -> None:
        """Takes the backend's answer to an errand."""
        errand = self._errands.get(event.run)
        run = self._book.runs.get(event.run)
        if errand is None or run is None or errand.token != event.token:
            return
        del self._errands[event.run]
        self._context.reporting.discard(event.run)
        self._context.touch(event.run)
        match event.outcome:
            case Delivered():
                self._done(run, errand)
                if errand.operation == "status":
                    self._context.note(event.run, "reported", status=run.status)
            case Rejected(reason=reason):
                self._context.note(event.run, f"{errand.operation}_refused", why=reason)
                self._done(run, errand)
            case Retry(reason=reason, after_s=after_s):
                self._wait(event.run, after_s or 0.0)
            case Unknown(reason=reason):
                self._wait(event.run, 0.0)

    def beaten(self, event: Beaten) -> None:
        """Somebody may have cancelled the Run on the server; nothing else is read from a sign of life."""
        run = self._book.runs.get(event.run)
        if run is None or event.beat.status != "CANCELLED" or run.cancelled:
            return
        self._context.note(run.key, "cancelled")
        self._context.change_run(
            run,
            cancelled=True,
            status="CANCELLED",
            verdict=Verdict("CANCELLED", "cancelled on the server"),
            ended_ms=self._context.now.wall_ms,
            telling=True,
            reported=True,
        )

    def deadline(self, run: str) -> float | None:
        """When `advance` may have something to do for this Run, if nothing happens before."""
        known = (self._not_before.get(run), self._beats.get(run))
        return min((at for at in known if at is not None), default=None)

    def settled(self, run: Run) -> bool:
        """Whether the backend has everything except perhaps the status."""
        return self._next(run, may_report=False) is None

    def forget(self, run: str) -> None:
        """The Run is forgotten."""
        for known in (self._errands, self._failures, self._not_before, self._beats):
            known.pop(run, None)
        self._context.reporting.discard(run)

    def _beat(self, run: Run, lives: bool) -> None:
        now = self._context.now.at
        if not lives:
            self._beats.pop(run.key, None)
        elif now >= self._beats.get(run.key, 0.0):
            self._beats[run.key] = now + BEAT_S
            self._context.emit(BeatRun(run=backend_run(run)))

    def _next(self, run: Run, may_report: bool) -> Errand | None:
        if run.target.mode == "local":
            return None
        names = dict(islice(self._book.unregistered(run.key).items(), MAX_NAMES))
        if names:
            return self._errand("names", _encoder.encode(names))
        if run.pushed_tags != run.tags:
            return self._errand("tags", _encoder.encode(run.tags))
        if run.config_patch:
            return self._errand("config", run.config_patch)
        if run.verdict is not None and not run.reported and may_report:
            return self._errand("status", _encoder.encode(status_report(run)))
        return None

    def _errand(self, operation: str, body: bytes) -> Errand:
        self._token += 1
        return Errand(operation, self._token, body)

    def _done(self, run: Run, errand: Errand) -> None:
        self._failures.pop(run.key, None)
        self._not_before.pop(run.key, None)
        match errand.operation:
            case "names":
                for name in msgspec.json.decode(errand.body, type=dict[str, str]):
                    series = self._book.series_of(run.key)[name]
                    self._book.put_series(run.key, name, msgspec.structs.replace(series, registered=True))
            case "tags":
                pushed = msgspec.json.decode(errand.body, type=tuple[str, ...])
                self._context.change_run(run, pushed_tags=pushed)
            case "config" if run.config_patch == errand.body:
                self._context.change_run(run, config_patch=b"")
            case "status" if run.ended and errand.body == _encoder.encode(status_report(run)):
                self._context.change_run(run, reported=True)

    def _wait(self, run: str, at_least_s: float) -> None:
        now = self._context.now
        failures = self._failures.get(run, 0)
        self._failures[run] = failures + 1
        self._not_before[run] = now.at + max(at_least_s, backoff_s(failures, now.jitter))

    def _settle_local(self, run: Run, may_report: bool) -> None:
        """The store is told by the document alone."""
        if run.pushed_tags != run.tags or run.config_patch:
            run = self._context.change_run(run, pushed_tags=run.tags, config_patch=b"")
        if run.verdict is not None and not run.reported and may_report:
            self._context.change_run(run, reported=True)


def status_report(run: Run) -> StatusReport:
    """The terminal status with its reason and first failure; replaces whatever metadata there was."""
    assert run.verdict is not None  # noqa: S101 # only Runs with a verdict are reported
    metadata = {
        "reason": run.verdict.reason,
        "first_failure": run.verdict.first_failure,
        "attempts": run.attempts,
    }
    body = _encoder.encode(metadata) if run.verdict.status != "COMPLETED" else None
    return StatusReport(run.verdict.status, body, run.ended_ms or 0)
