"""The read routes of the control API that tests need, except those over data."""

from collections.abc import Callable

from . import sqids
from .api_data import DATA_ROUTES
from .api_query import integer, text
from .api_resume import find_display_id
from .clock import iso
from .core import Core
from .jsontext import JsonObject, jsonb
from .runs import Run, StatusEvent, group_of
from .tenants import Key
from .wire import NOT_FOUND, RUN_NOT_FOUND, RefusalError, Request, Response, json_response, text_response

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
        run = find_display_id(core, key, display_id, request.query.get("projectName") or None)
        answer = run_row(run)
    else:
        run = _run(core, key, rest)
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


def _run(core: Core, key: Key, run_id: str) -> Run:
    run = core.state.book.run(key.organization.id, int(run_id)) if run_id.isdigit() else None
    if run is None:
        raise RefusalError(RUN_NOT_FOUND)
    return run


def _history(core: Core, key: Key, request: Request) -> Response:
    run = _run(core, key, str(integer(request, "runId")))
    events = [event_row(event) for event in core.state.book.history(run.id)]
    return json_response({"runId": run.id, "events": events})


def _list(core: Core, key: Key, request: Request) -> Response:
    limit = integer(request, "limit", 50, at_least=1, at_most=200)
    offset = integer(request, "offset", 0, at_most=100_000)
    project = core.state.book.project(key.organization.id, text(request, "projectName"))
    runs = [] if project is None else [r for r in core.state.book.of_project(project) if _matches(r, request)]
    runs.sort(key=lambda run: (run.created_ms, run.id), reverse=True)
    page = runs[offset : offset + limit]
    for run in page:
        core.audit.shared.learned(request.peer, run, run.tags)
    names = ("id", "name", "number", "displayId", "projectName", "status", "tags", "createdAt")
    rows = [{name: row[name] for name in names} for row in map(run_row, page)]
    return json_response({"runs": rows, "total": len(runs)})


def _matches(run: Run, request: Request) -> bool:
    tags = _comma_list(request, "tags")
    statuses = _comma_list(request, "status")
    return (
        request.query.get("search", "").lower() in run.name.lower()
        and (not tags or bool(tags & set(run.tags)))
        and (not statuses or run.status in statuses)
    )


def _comma_list(request: Request, name: str) -> set[str]:
    return {part for part in request.query.get(name, "").split(",") if part}


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
    "list": _list,
    "projects": _projects,
    "auth/validate": _validate,
}
