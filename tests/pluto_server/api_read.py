"""The read routes of the control API that tests need, except those over data."""

from collections.abc import Callable

from . import sqids
from .api_common import find_run
from .api_data import DATA_ROUTES
from .api_list import list_runs
from .api_query import integer
from .api_resume import DISPLAY_ID
from .clock import iso
from .core import Core
from .jsontext import JsonObject, jsonb
from .runs import Run, StatusEvent, group_of
from .tenants import Key
from .wire import (
    NOT_FOUND,
    RUN_NOT_FOUND,
    RefusalError,
    Request,
    Response,
    error,
    json_response,
    text_response,
)
from .zod import error_body

_MOST_LOG_NAMES = 1000
_ROOT = "/api/runs/"


def read(core: Core, request: Request, authenticate: Callable[[], Key]) -> Response:
    """Answer a GET. Health and sqid routes ask for no key."""
    if request.path == "/api/health":
        return text_response("OK")
    if request.path == "/api/health/ready":
        return json_response({"status": "ready"})
    if not request.path.startswith(_ROOT):
        return NOT_FOUND
    rest = request.path.removeprefix(_ROOT)
    route = _ROUTES.get(rest) or DATA_ROUTES.get(rest)
    if route is not None:
        key = authenticate()
        with core.state.lock:
            return route(core, key, request)
    if rest.startswith("details/"):
        key = authenticate()
        with core.state.lock:
            return _details(core, key, request, rest.removeprefix("details/"))
    # Registered last: any one word that is no route of its own is taken for a sqid.
    run_id = sqids.decode(rest)
    return NOT_FOUND if run_id is None else json_response({"runId": run_id})


def _details(core: Core, key: Key, request: Request, rest: str) -> Response:
    if rest.startswith("by-display-id/"):
        display_id = rest.removeprefix("by-display-id/")
        run = _by_display_id(core, key, display_id, request.query.get("projectName") or None)
        answer = run_row(run)
    else:
        run = find_run(core, key, _coerced(rest))
        answer = run_row(run) | {"forkedFromRunId": run.forked_from, "forkStep": run.fork_step}
    names = list(run.log_names.items())[:_MOST_LOG_NAMES]
    answer["logNames"] = [{"logName": n, "logType": t, "logGroup": group_of(n)} for n, t in names]
    core.audit.shared.learned(request.peer, run, run.tags)
    return json_response(answer)


def run_row(run: Run) -> JsonObject:
    """A run as `details` prints it, without log names and fork fields."""
    return {
        "id": run.id,
        "name": run.name,
        "number": run.number,
        "displayId": run.display_id,
        "status": run.status,
        "tags": run.tags,
        "config": jsonb(run.config),
        "systemMetadata": jsonb(run.system_metadata),
        "loggerSettings": jsonb(run.logger_settings),
        "statusMetadata": jsonb(run.status_metadata),
        "createdAt": iso(run.created_ms),
        "updatedAt": iso(run.updated_ms),
        "statusUpdated": iso(run.status_updated_ms),
        "projectName": run.project.name,
        "externalId": run.external_id,
    }


def event_row(event: StatusEvent) -> JsonObject:
    """A status event as `status/history` prints it."""
    return {
        "id": str(event.id),
        "runId": event.run_id,
        "fromStatus": event.from_status,
        "toStatus": event.to_status,
        "source": event.source,
        "metadata": jsonb(event.metadata),
        "actorId": event.actor_id,
        "apiKeyId": event.key_id,
        "createdAt": iso(event.created_ms),
    }


def _coerced(text: str) -> float | int:
    """A path segment as the number that the schema makes of it; what is none is a schema violation."""
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        issue = {"code": "invalid_type", "expected": "number", "received": "nan", "path": ["runId"]}
        body = error_body([issue | {"message": "Expected number, received nan"}])
        raise RefusalError(json_response(body, 400)) from None


def _by_display_id(core: Core, key: Key, display_id: str, project_name: str | None) -> Run:
    """As resume finds it; the texts of the refusals are others."""
    if not DISPLAY_ID.fullmatch(display_id):
        raise RefusalError(error(400, "Invalid display ID format. Expected PREFIX-NUMBER (e.g., 'MMP-1')"))
    found = core.state.book.by_display_id(key.organization.id, display_id, project_name)
    if not found:
        raise RefusalError(RUN_NOT_FOUND)
    if len(found) > 1:
        names = ", ".join(run.project.name for run in found)
        text = (
            f"Display ID '{display_id}' is ambiguous across multiple projects (e.g. {names}). "
            "Specify projectName to disambiguate."
        )
        raise RefusalError(error(409, text))
    return found[0]


def _history(core: Core, key: Key, request: Request) -> Response:
    run = find_run(core, key, integer(request, "runId"))
    events = [event_row(event) for event in core.state.book.history(run.id)]
    return json_response({"runId": run.id, "events": events})


def _projects(core: Core, key: Key, request: Request) -> Response:
    book = core.state.book
    rows = [
        {
            "id": project.id,
            "name": project.name,
            "createdAt": iso(project.created_ms),
            "updatedAt": iso(project.updated_ms),
            "runCount": sum(1 for _ in book.of_project(project)),
        }
        for project in reversed(book.projects)
        if project.organization_id == key.organization.id
    ]
    return json_response({"projects": rows})


def _validate(core: Core, key: Key, request: Request) -> Response:
    organization = {"id": key.organization.id, "slug": key.organization.slug}
    return json_response({"valid": True, "organization": organization, "user": {"id": key.user_id}})


_ROUTES: dict[str, Callable[[Core, Key, Request], Response]] = {
    "status/history": _history,
    "list": list_runs,
    "projects": _projects,
    "auth/validate": _validate,
}
