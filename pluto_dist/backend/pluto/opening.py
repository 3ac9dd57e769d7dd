"""Creating a Run, and going on with one (R8).

Create never carries a config: if the external id is taken, the server attaches and would merge it into a Run
that is not ours. The config follows when the Run is known to be new. What tells a Run of our own, whose
answer to create was lost, from somebody else's with the same id is the coordinator's key, which create puts
into the Run's loggerSettings.

An attach also reopens a Run that was ended. If that was not wanted, the old status and its time are put back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec

from pluto_dist.backend.pluto import guard
from pluto_dist.backend.pluto.client import Client, parsed, read_details, read_history
from pluto_dist.backend.pluto.exchange import Failed, Reply, failed
from pluto_dist.backend.pluto.joining import Joining
from pluto_dist.backend.pluto.lookup import Parent, find, find_parent
from pluto_dist.backend.pluto.refusal import already_exists, not_opened, refused
from pluto_dist.backend.pluto.reopened import Reopening, reopening
from pluto_dist.backend.pluto.replies import Details, RunReply, epoch_ms, mark
from pluto_dist.core.requests import Opened, OpenRequest, OpenResult, Refused, Status, Unavailable
from pluto_dist.errors import ServerRefusedError, UsageError

PUT_BACK_PAUSES_S = (0.2, 1.0)

_run_reply = msgspec.json.Decoder(RunReply)


class Opening:
    """Opens Runs.

    It remembers, between attempts at one request, when the first one may have reached the server and what
    the Run's status was then: a repeat would see only what the first attempt has made of it.
    """

    def __init__(
        self,
        client: Client,
        *,
        pauses_s: tuple[float, ...] = PUT_BACK_PAUSES_S,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._pauses_s = pauses_s
        self._clock = clock
        self._wall = wall
        self._pause = pause
        self._sent_at: dict[str, float] = {}
        self._was: dict[str, Status] = {}
        self._joining = Joining(client, self._asked, self._put_back)

    def open(self, request: OpenRequest) -> OpenResult:
        """One attempt; only putting a status back is tried again here, because nobody else would."""
        try:
            result = self._attempt(request)
        except guard.UnfitError as fault:
            result = refused(UsageError, str(fault))
        if not isinstance(result, Unavailable) or result.absent:
            self._sent_at.pop(request.key, None)
            self._was.pop(request.key, None)
        return result

    def _attempt(self, request: OpenRequest) -> OpenResult:
        if request.want == "join":
            return self._joining.join(request)
        if request.want == "resume" and (request.id is not None or request.display_id is not None):
            return self._resume(request)
        return self._attach(request)

    # --- ids that can be looked up first ------------------------------------------------------------

    def _resume(self, request: OpenRequest) -> OpenResult:
        details = find(
            self._client, request.id if request.id is not None else str(request.display_id), request.project
        )
        if isinstance(details, Failed):
            return not_opened(details, request)
        if not guard.goes_in_header(details.project_name):
            return refused(
                ServerRefusedError,
                f"Run {details.id} belongs to project {details.project_name!r}; ingest takes project names "
                "of visible ASCII characters only, so nothing could be logged to it",
            )
        was = self._was.setdefault(request.key, details.status)
        run = parsed(self._client.resume({"runId": details.id}), _run_reply.decode)
        if isinstance(run, Failed):
            return not_opened(run, request)
        return self._sign(request, run) or _opened(run, details, was)

    # --- external ids: an attach is the only way to ask ---------------------------------------------

    def _attach(self, request: OpenRequest) -> OpenResult:
        parent = find_parent(self._client, request) if request.parent is not None else None
        if isinstance(parent, Refused | Unavailable):
            return parent
        fields = _resume_fields(request) if request.want == "resume" else _create_fields(request, parent)
        call = self._client.resume if request.want == "resume" else self._client.create
        reply, called_ms = self._asked(request, call, fields)
        run = parsed(reply, _run_reply.decode)
        if isinstance(run, Failed):
            return not_opened(run, request)
        if not run.resumed:
            return self._fill(request, run) or _created(request, run, parent)
        return self._attached(request, run, parent, called_ms)

    def _attached(
        self, request: OpenRequest, run: RunReply, parent: Parent | None, called_ms: int
    ) -> OpenResult:
        """The Run was there before: made by a lost attempt of this request, or by somebody else."""
        details = read_details(self._client, run.run_id)
        if isinstance(details, Failed):
            return not_opened(details, request)
        history = read_history(self._client, run.run_id)
        if isinstance(history, Failed):
            return not_opened(history, request)
        before = reopening(history.in_order(), called_ms)
        was: Status = before.status if before else "RUNNING"
        ours = details.key == request.key
        if ours and (request.want == "create" or (request.want == "either" and before is None)):
            return self._fill(request, run) or _created(request, run, parent, details, was)
        if request.want == "create":
            aftermath = self._put_back(run.run_id, before) if before else ""
            return already_exists(request, run.url, aftermath)
        return self._sign(request, run) or _opened(run, details, was)

    def _sign(self, request: OpenRequest, run: RunReply) -> Refused | Unavailable | None:
        """The other nodes of a launch can see that it has taken the Run up; None when that is done."""
        if not request.launch:
            return None
        signature = {"loggerSettings": mark(request.key, request.launch)}
        failure = failed(self._client.set_status(run.run_id, "RUNNING", signature))
        return None if failure is None else not_opened(failure, request)

    def _fill(self, request: OpenRequest, run: RunReply) -> Refused | Unavailable | None:
        """What a new Run still lacks; None when that is done. May be repeated."""
        config = guard.fit_object(request.config)
        if config != "{}":
            failure = failed(self._client.merge_config(run.run_id, config))
            if failure:
                return not_opened(failure, request)
        if request.updated_ms is not None:
            # An old `updatedAt` without a sign of life is marked FAILED within a minute.
            failure = failed(self._client.trigger(run.run_id))
            if failure:
                return not_opened(failure, request)
        return None

    def _put_back(self, run_id: int, before: Reopening) -> str:
        """Ends the Run again as it was ended; says so if that could not be done."""
        fields = {} if before.since_ms is None else {"statusUpdated": before.since_ms}
        failure = failed(self._client.set_status(run_id, before.status, fields))
        for pause_s in self._pauses_s:
            if failure is None:
                break
            self._pause(pause_s)
            failure = failed(self._client.set_status(run_id, before.status, fields))
        if failure is None:
            return ""
        return (
            f" Asking has set it from {before.status} to RUNNING, and that could not be put back "
            f"({failure.outcome.reason}); the server will mark it FAILED unless somebody sets its status."
        )

    def _asked(
        self,
        request: OpenRequest,
        call: Callable[[Mapping[str, object]], Reply],
        fields: Mapping[str, object],
    ) -> tuple[Reply, int]:
        """The reply, and the server's time when a call for this request may have reached it first."""
        sent_at = self._sent_at.get(request.key, self._clock())
        reply = call(fields)
        took_s = self._clock() - sent_at
        if reply.maybe_carried_out:
            self._sent_at[request.key] = sent_at
        return reply, self._server_ms(reply) - round(took_s * 1000)

    def _server_ms(self, reply: Reply) -> int:
        stated = reply.answer.server_ms if reply.answer else None
        return round(self._wall() * 1000) if stated is None else stated


def _create_fields(request: OpenRequest, parent: Parent | None) -> dict[str, object]:
    if not request.external_id:
        raise guard.UnfitError(
            "a Run is created with an external id only: a lost answer would make a second Run"
        )
    fields: dict[str, object] = {
        "runName": guard.fit_name(request.name),
        "projectName": guard.fit_project(request.project),
        "externalId": guard.fit_name(request.external_id),
        "tags": guard.fit_tags(request.tags),
        "loggerSettings": mark(request.key, request.launch),
    }
    guard.fit_object(request.config)  # refused now, not when the Run exists
    if request.created_ms is not None:
        fields["createdAt"] = guard.epoch_ms(request.created_ms)
    if request.updated_ms is not None:
        fields["updatedAt"] = guard.epoch_ms(request.updated_ms)
    if parent is not None:
        if request.fork_step is None:
            raise guard.UnfitError(f"a fork of Run {parent.id} needs the step it continues after")
        fields["forkRunId"] = parent.id
        fields["forkStep"] = guard.fork_step(request.fork_step)
        fields["inheritConfig"] = False  # merged deeply on our side; the server's merge is shallow
    return fields


def _resume_fields(request: OpenRequest) -> dict[str, object]:
    if not request.external_id:
        raise guard.UnfitError("resuming a Run needs its id, display id or external id")
    return {
        "externalId": guard.fit_name(request.external_id),
        "projectName": guard.fit_project(request.project),
    }


def _created(
    request: OpenRequest,
    run: RunReply,
    parent: Parent | None,
    details: Details | None = None,
    was: Status | None = None,
) -> Opened:
    """A new Run; with details if an earlier attempt at this request has made it."""
    lineage = details or run
    return Opened(
        id=run.run_id,
        display_id=run.display_id or "",
        project=run.project_name,
        url=run.url,
        resumed=False,
        name=guard.fit_name(request.name),
        was_status=was,
        tags=details.tags if details else tuple(guard.fit_tags(request.tags)),
        config=details.config_object if details else request.config,
        created_ms=epoch_ms(details.created_at) if details else request.created_ms,
        fork_run_id=lineage.forked_from_run_id,
        fork_step=lineage.fork_step,
        parent_config=parent.config if parent else b"{}",
        parent_tags=parent.tags if parent else (),
    )


def _opened(run: RunReply, details: Details, was: Status) -> Opened:
    return Opened(
        id=run.run_id,
        display_id=run.display_id or "",
        project=run.project_name,
        url=run.url,
        resumed=True,
        name=details.name,
        was_status=was,
        tags=details.tags,
        config=details.config_object,
        created_ms=epoch_ms(details.created_at),
        fork_run_id=details.forked_from_run_id,
        fork_step=details.fork_step,
    )
