"""The backend of the Pluto server: translates the coordinator's calls into its endpoints and back.

One attempt per call. The caller, which has the cursor, decides when to try again and for how long.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

import httpx
import msgspec

from pluto_dist.backend.pluto import guard
from pluto_dist.backend.pluto.client import (
    BeatReply,
    Client,
    Details,
    FileRow,
    Http,
    KeyProvider,
    StatusEvent,
    parsed,
    read_details,
    read_files,
    read_history,
)
from pluto_dist.backend.pluto.exchange import Failed, NotDelivered, failed
from pluto_dist.backend.pluto.files import Files, as_signed
from pluto_dist.backend.pluto.guard import first_fault
from pluto_dist.backend.pluto.opening import Lookup, Missing, Opening
from pluto_dist.backend.pluto.reporting import Reporting, ended_by_monitor, left_to_do
from pluto_dist.core.rules.changes import merge_tags
from pluto_dist.core.rules.nodes import seat_in
from pluto_dist.core.values.backend import (
    Alert,
    Backend,
    BackendRun,
    Batch,
    Beat,
    Delivered,
    LogType,
    OpenRequest,
    OpenResult,
    Outcome,
    Rejected,
    Reopened,
    Retry,
    StatusReport,
    TagsChange,
    Told,
)
from pluto_dist.core.values.ids import RunRef
from pluto_dist.core.values.lifecycle import Target

_beat_reply = msgspec.json.Decoder(BeatReply)


class PlutoBackend(Backend):
    """The `Backend` of one target.

    Attributes:
        files: the two steps of an upload on their own, and how many addresses had to be renewed.
    """

    def __init__(
        self,
        target: Target,
        key: KeyProvider,
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Opens no connection yet.

        Args:
            target: the server's base URLs.
            key: asked for the API key at each request; None means that there is none.
            transport: replaces the network.
        """
        self._http = Http(transport=transport)
        self._client = Client(target, key, self._http)
        self._opening = Opening(self._client)
        self.files = Files(self._client, self._http)

    def open(self, request: OpenRequest) -> OpenResult:
        return self._opening.open(request)

    def deliver(self, run: BackendRun, batch: Batch) -> Outcome:
        """See `Backend`. The lifecycle stream has no place on the server: it counts as delivered."""
        if not batch.lines:
            return Delivered()
        match batch.kind:
            case "metrics":
                return self._client.ingest(run, "metrics", "/ingest/metrics", b"".join(batch.lines)).outcome
            case "data" | "console":
                return self._rows(run, batch)
            case "files":
                return self.files.deliver(run, batch)
            case "lifecycle":
                return Delivered()
            case _:
                assert_never(batch.kind)

    def register(self, run: BackendRun, names: dict[str, LogType]) -> Outcome:
        by_type: dict[LogType, list[str]] = {}
        for name, log_type in names.items():
            by_type.setdefault(log_type, []).append(guard.clean(name))
        for log_type, of_type in by_type.items():
            outcome = self._client.add_names(run.id, of_type, log_type).outcome
            if not isinstance(outcome, Delivered):
                return outcome
        return Delivered()

    def report(self, run: BackendRun, report: StatusReport) -> Outcome:
        """See `Backend`. With `at_ms` 0 the server's clock counts; an earlier reason is always replaced."""
        try:
            return Reporting(self._client, run.id, report).send()
        except guard.UnfitError as fault:
            return Rejected(str(fault))

    def put_tags(self, run: BackendRun, change: TagsChange) -> Outcome:
        """See `Backend`. The server only replaces all tags, so they are read, merged and written: not atomic.

        Therefore they are read once more: if another node has overwritten them meanwhile, it is tried again.
        """
        found = read_details(self._client, run.id)
        if isinstance(found, Failed):
            return found.outcome
        merged = merge_tags(found.tags, change.base or (), change.wanted, change.removed)
        try:
            tags = guard.fit_tags(merged)
        except guard.UnfitError as fault:
            return Rejected(str(fault))
        before, after = set(found.tags), set(tags)
        if before == after:
            return Told(tags=found.tags)
        failure = failed(self._client.set_tags(run.id, tags))
        if failure is not None:
            return failure.outcome
        now = read_details(self._client, run.id)
        if isinstance(now, Failed):
            return now.outcome
        if not after - before <= set(now.tags) or (before - after) & set(now.tags):
            return Retry("another client has changed the tags in the same moment")
        return Told(tags=now.tags)

    def merge_config(self, run: BackendRun, patch: bytes) -> Outcome:
        """See `Backend`. The server loses keys of concurrent merges, so the caller sends one at a time."""
        try:
            return self._client.merge_config(run.id, guard.fit_object(patch)).outcome
        except guard.UnfitError as fault:
            return Rejected(str(fault))

    def alert(self, run: BackendRun, alert: Alert) -> Outcome:
        """See `Backend`. Without an address to lead to: the server answers one with an error."""
        fields = {
            "timestamp": alert.at_ms,
            "title": guard.clean(alert.title),
            "body": guard.clean(alert.body),
            "level": "ERROR" if alert.level == "CRITICAL" else alert.level,
            "email": alert.email,
        }
        return self._client.alert(run.id, fields).outcome

    def beat(self, run: BackendRun) -> Beat:
        reply = parsed(self._client.trigger(run.id), _beat_reply.decode)
        return Beat(reply.outcome) if isinstance(reply, Failed) else Beat(Delivered(), reply.status)

    def revive(self, run: BackendRun) -> Outcome:
        """See `Backend`. The history tells what ended the Run; a heartbeat follows, or it would end again."""
        found = read_details(self._client, run.id)
        if isinstance(found, Failed):
            return found.outcome
        if found.status != "FAILED":
            return Told(status=found.status)
        history = read_history(self._client, run.id)
        if isinstance(history, Failed):
            return history.outcome
        if not ended_by_monitor(history.in_order()):
            return Told(status=found.status)
        failure = failed(self._client.resume({"runId": run.id})) or failed(self._client.trigger(run.id))
        return failure.outcome if failure is not None else Told(status="RUNNING")

    def seat_epoch(self, run: BackendRun) -> int | Outcome:
        found = read_details(self._client, run.id)
        return found.outcome if isinstance(found, Failed) else seat_in(found.config_object)

    def put_back(self, reopened: Reopened) -> Outcome:
        """See `Backend`. The history tells whether the Run is still as our request has left it."""
        history = read_history(self._client, reopened.id)
        if isinstance(history, Failed):
            return history.outcome
        todo = left_to_do(history.in_order(), reopened.status)
        if todo == "nothing":
            return Delivered()
        if todo == "resume and status":
            resumed = failed(self._client.resume({"runId": reopened.id}))
            if resumed is not None:
                return resumed.outcome
        since = {} if reopened.since_ms is None else {"statusUpdated": reopened.since_ms}
        return self._client.set_status(reopened.id, reopened.status, since).outcome

    def details(self, run: RunRef, project: str | None = None) -> Details | NotDelivered:
        """What the server has of a Run; changes nothing.

        Args:
            run: its number or display id, or the own id that somebody gave to it.
            project: needed for an own id, and where several projects have one display id.
        """
        found: Details | Missing | Failed
        if run.external_id is not None:
            of, own = guard.fit_project(project or ""), guard.fit_name(run.external_id)
            found = Lookup(self._client).by_external_id(of, own, among_others=True)
        else:
            found = read_details(self._client, run.id or str(run.display_id), project)
        if isinstance(found, Missing):
            return Rejected(f"no Run of project {project!r} has this id")
        return found.outcome if isinstance(found, Failed) else found

    def file_rows(self, run_id: int, project: str, name: str = "") -> list[FileRow] | NotDelivered:
        """The rows of a Run's files under one name, or all; changes nothing."""
        rows = read_files(self._client, run_id, project, name)
        return rows.outcome if isinstance(rows, Failed) else rows

    def fetch(self, url: str) -> Iterator[bytes]:
        """What is behind the address of a row.

        Raises:
            OSError: storage does not give it.
        """
        return self._http.fetch(as_signed(url))

    def has(self, run_id: int, key: str) -> bool:
        """Whether this Run can be seen with the API key and is the one with our own key; changes nothing."""
        found = read_details(self._client, run_id)
        return not isinstance(found, Failed) and found.key == key

    def history(self, run_id: int) -> tuple[StatusEvent, ...] | NotDelivered:
        """Changes of a Run's status, in the order of writing."""
        history = read_history(self._client, run_id)
        return history.outcome if isinstance(history, Failed) else history.in_order()

    def close(self) -> None:
        self._http.close()

    def _rows(self, run: BackendRun, batch: Batch) -> Outcome:
        fault = first_fault("data" if batch.kind == "data" else "console", batch.lines)
        if fault is not None:
            index, reason = fault
            return Rejected(reason, good=index)
        path = "/ingest/data" if batch.kind == "data" else "/ingest/logs"
        return self._client.ingest(run, "rows", path, b"".join(batch.lines)).outcome
