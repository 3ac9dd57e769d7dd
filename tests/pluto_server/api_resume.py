"""`POST /api/runs/resume`: find a run by one of three ids; a terminal one becomes RUNNING."""

import re

from .api_common import find_run, run_answer
from .core import Core
from .jsontext import JsonObject
from .runs import Run
from .status import reopen
from .tenants import Key
from .wire import RUN_NOT_FOUND, RefusalError, Request, Response, error, json_response
from .zod import Issue, custom, number, obj, optional, string

_IDS = ("runId", "displayId", "externalId")
DISPLAY_ID = re.compile(r"[A-Za-z0-9]+-\d+", re.ASCII)
_BAD_DISPLAY_ID = error(400, "Invalid displayId format. Expected PREFIX-NUMBER (e.g., 'MMP-1')")


def _exactly_one(body: JsonObject) -> list[Issue]:
    if sum(name in body for name in _IDS) == 1:
        return []
    return [custom("Provide exactly one of: runId, displayId, or externalId")]


SCHEMA = obj(
    {
        "runId": optional(number()),
        "displayId": optional(string()),
        "externalId": optional(string()),
        "projectName": optional(string()),
    },
    _exactly_one,
)


def resume(core: Core, key: Key, request: Request, body: JsonObject) -> Response:
    """Answer a resume."""
    with core.state.lock:
        run = _find(core, key, body)
        was = reopen(core.state.book, run, key, core.state.now_ms())
        if was is not None:
            core.audit.status.reopened(run, was)
        return json_response(run_answer(key, run, resumed=True))


def find_display_id(core: Core, key: Key, display_id: str, project_name: str | None) -> Run:
    """The one run a display id means. Call under the lock."""
    if not DISPLAY_ID.fullmatch(display_id):
        raise RefusalError(_BAD_DISPLAY_ID)
    found = core.state.book.by_display_id(key.organization.id, display_id, project_name)
    if not found:
        raise RefusalError(RUN_NOT_FOUND)
    if len(found) > 1:
        names = ", ".join(run.project.name for run in found)
        text = (
            f"displayId '{display_id}' is ambiguous across multiple projects (e.g. {names}). "
            "Specify projectName to disambiguate."
        )
        raise RefusalError(error(409, text))
    return found[0]


def _find(core: Core, key: Key, body: JsonObject) -> Run:
    if "runId" in body:
        return find_run(core, key, body["runId"])
    project_name = body.get("projectName") or None
    if "displayId" in body:
        return find_display_id(core, key, body["displayId"], project_name)
    if project_name is None:
        raise RefusalError(error(400, "projectName is required when using externalId"))
    project = core.state.book.project(key.organization.id, project_name)
    run = None if project is None else core.state.book.by_external_id(project, body["externalId"])
    if run is None:
        raise RefusalError(RUN_NOT_FOUND)
    return run
