"""Joining a Run that another node owns, without changing it (R12, G8).

By number and display id it is only looked up. For an external id the server has no question that changes
nothing: `resume` is the one that makes no Run, but reopens one that has ended. Then the end is put back, as
after an unwanted attach (R8); unless our own launch is about to take the Run up again: its owner's node may
have done so already, or will, and an end put back now would hide that the job runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from pluto_dist.backend.pluto import guard
from pluto_dist.backend.pluto.client import Client, parsed, read_details, read_history
from pluto_dist.backend.pluto.exchange import Failed, Reply
from pluto_dist.backend.pluto.lookup import find
from pluto_dist.backend.pluto.refusal import not_opened
from pluto_dist.backend.pluto.reopened import Reopening, reopening
from pluto_dist.backend.pluto.replies import Details, RunReply, StatusEvent, epoch_ms
from pluto_dist.core.requests import Opened, OpenRequest, OpenResult, Unavailable

AGAIN_S = 2.0  # a Run that does not exist yet is made by its owner's node within seconds of the job's start

Call = Callable[[Mapping[str, object]], Reply]
Asked = Callable[[OpenRequest, Call, Mapping[str, object]], tuple[Reply, int]]

_run_reply = msgspec.json.Decoder(RunReply)


class Joining:
    """Finds Runs.

    Args:
        asked: makes a call; gives the reply, and the server's time when the first try may have reached it.
        put_back: ends a Run again as it was ended; says what went wrong, "" if nothing did.
    """

    def __init__(self, client: Client, asked: Asked, put_back: Callable[[int, Reopening], str]) -> None:
        self._client = client
        self._asked = asked
        self._put_back = put_back

    def join(self, request: OpenRequest) -> OpenResult:
        """One attempt; a Run that is not there may come."""
        if request.id is not None or request.display_id is not None:
            wanted = request.id if request.id is not None else str(request.display_id)
            details = find(self._client, wanted, request.project)
            return _missing(details, request) if isinstance(details, Failed) else _joined(details, "")
        return self._by_external_id(request)

    def _by_external_id(self, request: OpenRequest) -> OpenResult:
        fields = {
            "externalId": guard.fit_name(request.external_id or ""),
            "projectName": guard.fit_project(request.project),
        }
        reply, called_ms = self._asked(request, self._client.resume, fields)
        run = parsed(reply, _run_reply.decode)
        if isinstance(run, Failed):
            return _missing(run, request)
        history = read_history(self._client, run.run_id)
        if isinstance(history, Failed):
            return not_opened(history, request)
        details = read_details(self._client, run.run_id)
        if isinstance(details, Failed):
            return not_opened(details, request)
        before = reopening(history.in_order(), called_ms)
        if before is None or _is_taken_up(request, details, history.in_order()[-1]):
            return _joined(details, run.url)
        trouble = self._put_back(run.run_id, before)
        if trouble:
            return Unavailable(trouble.strip())
        return _joined(msgspec.structs.replace(details, status=before.status), run.url)


def _is_taken_up(request: OpenRequest, details: Details, reopened: StatusEvent) -> bool:
    """Whether the owner's node of our launch will say RUNNING itself, or has since the Run was reopened."""
    if not request.launch:
        return False
    said_ms = epoch_ms(details.status_updated) if details.status_updated is not None else 0
    return details.launch != request.launch or said_ms > reopened.at_ms


def _joined(details: Details, url: str) -> Opened:
    return Opened(
        id=details.id,
        display_id=details.display_id or "",
        project=details.project_name,
        url=url,
        resumed=True,
        name=details.name,
        was_status=details.status,
        tags=details.tags,
        config=details.config_object,
        created_ms=epoch_ms(details.created_at),
        fork_run_id=details.forked_from_run_id,
        fork_step=details.fork_step,
    )


def _missing(failure: Failed, request: OpenRequest) -> OpenResult:
    if failure.answer is not None and failure.answer.status == 404:
        named = request.external_id or request.display_id or request.id
        return Unavailable(
            f"the server has no Run {named!r} in project {request.project!r} yet; "
            "its owner, on another node, makes it",
            AGAIN_S,
            absent=True,
        )
    return not_opened(failure, request)
