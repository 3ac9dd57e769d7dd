"""Control requests: names, tags, config and the status of a Run, until the backend has them.

Each request is the difference between what is wanted and what the backend is known to have, so a lost answer
or a restart of the coordinator only means that the difference is sent again; all of them may be repeated. A
Run has at most one of them in flight, so the server's unlocked merges never race (G9), and the status goes
out last, when everything of owner and workers has been delivered (G6).

A request that fails does not hold up the others. The status waits for them, but not for ever: a server that
answers 500 to a tag still has to get the final status.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import assert_never

import msgspec

from pluto_dist.core.machine.alerts import Alerts
from pluto_dist.core.machine.beats import Beats
from pluto_dist.core.machine.cluster import Clusters
from pluto_dist.core.machine.context import Context
from pluto_dist.core.machine.lane import backend_run
from pluto_dist.core.rules.changes import merge_tags, too_large, untold
from pluto_dist.core.rules.verdict import status_report
from pluto_dist.core.values.backend import (
    Alert,
    ConfigPatch,
    Delivered,
    Names,
    Operation,
    Rejected,
    Retry,
    Revive,
    SeatNote,
    Status,
    StatusReport,
    TagsChange,
    Told,
    Unknown,
    Wanted,
    backoff_s,
    operation_of,
)
from pluto_dist.core.values.effects import Control
from pluto_dist.core.values.events import Beaten, Controlled
from pluto_dist.core.values.records import Run, Verdict

MAX_NAMES = 1000
TRIES = 3  # the status does not wait longer for a request that fails, a few seconds
FENCED = frozenset({"seat", "revive", "status"})  # of several nodes only the seat may say it
GIVE_UP_S = 86_400.0  # an outage of a day is an outage; longer, the server means this very request


class InFlight(msgspec.Struct, frozen=True):
    """The request in flight for one Run."""

    request: Wanted
    token: int

    @property
    def operation(self) -> Operation:
        """The short name of the request."""
        return operation_of(self.request)


class Attempts(msgspec.Struct, frozen=True):
    """Failures of one operation of a Run so far."""

    failures: int
    since: float
    not_before: float


class Controls:
    """Requests of all Runs."""

    def __init__(self, context: Context, clusters: Clusters, alerts: Alerts) -> None:
        self._context = context
        self._book = context.book
        self._alerts = alerts
        self._clusters = clusters
        self._requests: dict[str, InFlight] = {}
        self._attempts: dict[str, dict[str, Attempts]] = {}
        self._beats = Beats(context)
        self._reaped: set[str] = set()
        self._tried_last: set[str] = set()
        self._seated: dict[str, int] = {}
        self._token = 0

    def advance(self, run: Run, *, may_report: bool, beat_s: float | None, ends: bool = False) -> None:
        """Sends the next request for what the backend does not have yet, if none is in flight.

        Args:
            run: the Run.
            may_report: nothing holds the terminal status up.
            beat_s: seconds between heartbeats, None if the Run does not live.
            ends: the verdict waits only for an exit code, whoever may report it then.
        """
        if run.id is None or run.opening:
            return
        if run.target.mode == "local":
            self._settle_local(run, may_report)
            return
        if not self._context.may_talk(run):
            return
        self._beats.beat(run, beat_s)
        if run.key in self._requests or self._beats.doubts(run):
            return
        request = self._next(run, may_report)
        if request is None:
            if ends and next(self._wanted(run), None) is None:
                self._beats.asked_last(run)
            return
        if request.operation == "status":
            self._context.reporting.add(run.key)
            self._beats.status_leaves(run)
            # On disk before the request leaves: a later coordinator must know that it may have arrived.
            run = self._context.change_run(run, telling=True)
        elif request.operation != "revive":  # that follows from the answer
            self._beats.end(run)  # else it would come between the last question and the status
        if request.operation == "alert":
            self._alerts.leaves(run.key)
        self._requests[run.key] = request
        self._context.emit(
            Control(
                run=backend_run(run),
                request=request.request,
                token=request.token,
                fence=self._clusters.fence(run) if request.operation in FENCED else None,
            )
        )

    def answered(self, event: Controlled) -> bool:
        """Takes the backend's answer to a request; True if new names are registered now."""
        request = self._requests.get(event.run)
        run = self._book.runs.get(event.run)
        # Another token is that of an earlier request, whose answer says nothing about this one.
        if request is None or run is None or request.token != event.token:
            return False
        del self._requests[event.run]
        self._context.reporting.discard(event.run)
        self._context.touch(event.run)
        self._context.learn_key(run, event.outcome)
        match event.outcome:
            case Delivered():
                self._done(run, request, event.outcome)
                if request.operation == "status":
                    self._context.note(event.run, "reported", status=run.status)
            case Rejected(reason=reason):
                self._refused(run, request, reason)
            case Retry(reason=reason, after_s=after_s):
                self._failed(run, request, reason, after_s or 0.0)
                if request.operation == "status":
                    self._beats.status_failed(run)
            case Unknown(reason=reason) if request.operation == "alert":
                self._context.note(event.run, "alert_unsure", why=reason)
                self._done(run, request, Delivered())
            case Unknown(reason=reason):
                self._failed(run, request, reason, 0.0)
                if request.operation == "status":
                    self._beats.status_failed(run, unsure=True)
            case _:
                assert_never(event.outcome)
        return request.operation == "names" and not self._book.unregistered(event.run)

    def beaten(self, event: Beaten) -> None:
        """Takes the answer to a heartbeat: the Run may be cancelled, or failed by the server's monitor."""
        run = self._book.runs.get(event.run)
        if run is None:
            return
        last, sure = self._beats.is_last(run), self._beats.answered(run, event)
        if run.ended or last or self._beats.overdue(run):
            self._context.touch(run.key)  # its status, who leaves, or the next sign of life may have waited
        self._context.learn_key(run, event.beat.outcome)
        if run.relay and not run.ended and event.beat.status is not None:
            self._context.change_run(
                run, status=event.beat.status, cancelled=event.beat.status == "CANCELLED"
            )
            return
        if isinstance(event.beat.outcome, Rejected):
            self._refusal(run, "heartbeat", event.beat.outcome.reason)
            return
        match event.beat.status:
            case "CANCELLED" if sure and not run.cancelled:
                self._cancelled(run)
            case "COMPLETED" | "TERMINATED" as status if last and run.telling and status == run.status:
                self._reported(run, status)  # by a report whose answer was lost
            case "FAILED" if (last or not run.ended) and run.server_status != "FAILED":
                self._reaped.add(run.key)
                self._context.touch(run.key)
            case None:
                pass
            case status:
                if not run.ended:
                    self._server_says(run, status)

    def deadline(self, run: str) -> float | None:
        """When `advance` may have something to do for this Run, if nothing happens before."""
        waits = [attempts.not_before for attempts in self._attempts.get(run, {}).values()]
        beat_at = self._beats.deadline(run)
        if beat_at is not None:
            waits.append(beat_at)
        return min((at for at in waits if at > self._context.now.at), default=None)

    def settled(self, run: Run) -> bool:
        """Whether the backend has everything except perhaps the status."""
        return run.target.mode == "local" or (
            next(self._wanted(run), None) is None and not self._beats.waits(run)
        )

    def asked(self, run: Run) -> bool:
        """Whether a process that exits need not wait for the last question before the status."""
        if run.target.mode == "local" or run.relay or run.id is None or run.opening:
            return True
        return not self._context.may_talk(run) or self._beats.knows(run)

    def forget(self, run: str) -> None:
        self._requests.pop(run, None)
        self._attempts.pop(run, None)
        self._beats.forget(run)
        self._seated.pop(run, None)
        self._reaped.discard(run)
        self._tried_last.discard(run)

    def _next(self, run: Run, may_report: bool) -> InFlight | None:
        wanted = list(self._wanted(run))
        reports = run.verdict is not None and not run.reported and may_report
        if reports:
            self._try_once_more(run)
        # The status is the last word on the server: it waits for the others, as long as they may succeed.
        waits = any(self._attempts_of(run, operation_of(each)).failures < TRIES for each in wanted)
        due = reports and not waits and self._context.now.at >= self._attempts_of(run, "status").not_before
        if due and self._beats.asked_last(run):
            wanted.append(status_report(run))
        for request in wanted:
            if self._context.now.at >= self._attempts_of(run, operation_of(request)).not_before:
                self._token += 1
                return InFlight(request, self._token)
        return None

    def _wanted(self, run: Run) -> Iterator[Wanted]:
        """What the backend lacks, in the order of sending; without the status."""
        seat = self._clusters.fence(run) if run.cluster is not None else None
        if run.key in self._reaped and (run.cluster is None or seat is not None):
            yield Revive()
        if seat is not None and seat.epoch > self._seated.get(run.key, 0):
            yield SeatNote(seat.epoch)
        names = dict(islice(self._book.unregistered(run.key).items(), MAX_NAMES))
        if names:
            yield Names(names)
        tells = run.cluster is None or self._clusters.tells_changes(run)
        if tells and (run.pushed_tags != run.tags or run.untagged):
            yield TagsChange(run.tags, run.pushed_tags, run.untagged)
        patch = run.config_patch if tells else too_large(run.config_patch)
        if patch:
            yield ConfigPatch(patch)
        if (alert := self._alerts.next(run.key)) is not None:
            yield alert

    def _try_once_more(self, run: Run) -> None:
        """Gives requests that failed in an outage one more try before the status goes out without them."""
        if run.key in self._tried_last:
            return
        self._tried_last.add(run.key)
        for operation, attempts in self._attempts.get(run.key, {}).items():
            failures = min(attempts.failures, TRIES - 1)
            self._attempts[run.key][operation] = Attempts(failures, attempts.since, 0.0)

    def _attempts_of(self, run: Run, operation: str) -> Attempts:
        return self._attempts.get(run.key, {}).get(operation, Attempts(0, self._context.now.at, 0.0))

    def _done(self, run: Run, request: InFlight, outcome: Delivered) -> None:
        self._attempts.get(run.key, {}).pop(request.operation, None)
        run = self._no_refusal(run, request.operation)
        told = outcome if isinstance(outcome, Told) else Told()
        match request.request:
            case Names(kinds=kinds):
                for name in kinds:
                    series = self._book.series_of(run.key)[name]
                    self._book.put_series(run.key, name, msgspec.structs.replace(series, registered=True))
            case TagsChange() as change:
                self._tagged(run, change, told)
            case ConfigPatch(patch=patch):
                self._context.change_run(run, config_patch=untold(run.config_patch, patch))
            case Alert():
                self._alerts.over(run.key)
            case SeatNote(epoch=epoch):
                self._seated[run.key] = epoch
            case Revive():
                self._reaped.discard(run.key)
                self._server_says(run, told.status)
            case StatusReport() as report:
                if run.ended and report == status_report(run):  # else it was told another one since
                    self._reported(run, told.status)
            case other:
                assert_never(other)

    def _reported(self, run: Run, status: Status | None) -> None:
        """Notes that the server has accepted the final status, and which status it has now."""
        self._tried_last.discard(run.key)
        self._beats.end(run)
        self._server_says(self._context.change_run(run, reported=True), status)

    def _tagged(self, run: Run, change: TagsChange, told: Told) -> None:
        """Takes over the server's tags; changes made here since the request was sent stay wanted."""
        if run.cluster is not None and not self._clusters.tells_changes(run):
            return  # another seat tells them now
        there = told.tags if told.tags is not None else change.wanted
        merged = merge_tags(there, change.wanted, run.tags)
        self._context.change_run(
            run,
            tags=there if set(merged) == set(there) else merged,  # another order is no difference to be told
            pushed_tags=there,
            untagged=tuple(tag for tag in run.untagged if tag not in change.removed),
        )

    def _server_says(self, run: Run, status: Status | None) -> None:
        """Keeps the server's status where it differs from ours, so that people see it (G7)."""
        other = status if status not in (None, run.status) else None
        if other != run.server_status:
            if other is not None:
                self._context.note(run.key, "server_says", status=other)
            self._context.change_run(run, server_status=other)

    def _refused(self, run: Run, request: InFlight, reason: str) -> None:
        """A refused request counts as done; its reason is kept for people."""
        self._context.note(run.key, f"{request.operation}_refused", why=reason)
        if request.operation == "tags":
            known = run.pushed_tags or ()  # tags that the server refused must not show as the Run's
            self._context.change_run(run, tags=known, pushed_tags=known, untagged=())
        else:
            self._done(run, request, Delivered())
        self._attempts.get(run.key, {}).pop(request.operation, None)
        self._refusal(self._book.runs[run.key], request.operation, reason)

    def _refusal(self, run: Run, what: str, reason: str) -> None:
        if run.refusals.get(what) != reason:
            self._context.change_run(run, refusals={**run.refusals, what: reason})

    def _no_refusal(self, run: Run, what: str) -> Run:
        if what not in run.refusals:
            return run
        left = {name: reason for name, reason in run.refusals.items() if name != what}
        return self._context.change_run(run, refusals=left)

    def _failed(self, run: Run, request: InFlight, reason: str, at_least_s: float) -> None:
        now, attempts = self._context.now, self._attempts_of(run, request.operation)
        if request.operation != "status" and now.at > attempts.since + GIVE_UP_S:
            self._refused(run, request, f"given up after a day: {reason}")
            return
        if request.operation == "alert":
            self._alerts.back(run.key)
        wait_s = max(at_least_s, backoff_s(attempts.failures, now.jitter))
        tried = self._attempts.setdefault(run.key, {})
        tried[request.operation] = Attempts(attempts.failures + 1, attempts.since, now.at + wait_s)

    def _cancelled(self, run: Run) -> None:
        """Cancels the Run, the only change of a frozen verdict; the former one stays in the history."""
        before, reason, failure = run.verdict, "cancelled on the server", None
        if before is not None and before.status != "COMPLETED":
            reason, failure = f"{reason}; it ended {before.status}: {before.reason}", before.first_failure
        self._context.note(run.key, "cancelled")
        self._beats.end(run)
        self._context.change_run(
            run,
            cancelled=True,
            status="CANCELLED",
            verdict=Verdict("CANCELLED", reason, failure),
            ended_ms=self._context.now.wall_ms,
            found_ms=0,
            telling=True,
            reported=True,
        )

    def _settle_local(self, run: Run, may_report: bool) -> None:
        """A local Run needs no requests: its document says everything."""
        changed = run.pushed_tags != run.tags or run.untagged or run.config_patch
        if changed and self._clusters.shares_changes(run):
            run = self._context.change_run(run, pushed_tags=run.tags, untagged=(), config_patch=b"")
        if run.verdict is not None and not run.reported and may_report:
            self._context.change_run(run, reported=True)
