"""The control routes that change a run: status, log names, tags, config, notes, model graph."""

from .api_common import SUCCESS, decode, find_run, refuse_two_groups
from .api_common import TAGS as TAG_LIST
from .api_create import merge_config
from .core import Core
from .jsontext import Json, JsonObject, is_storable
from .status import LEAVE, STATUSES, Report, apply, is_terminal
from .tenants import Key
from .wire import INTERNAL, RefusalError, Request, Response, error
from .zod import array, enum, nullish, number, obj, optional, record, string

LOG_TYPES = (
    "METRIC",
    "IMAGE",
    "VIDEO",
    "AUDIO",
    "FILE",
    "TEXT",
    "ARTIFACT",
    "HISTOGRAM",
    "TABLE",
    "DATA",
)

STATUS = obj(
    {
        "runId": number(),
        "status": enum(*STATUSES),
        "statusMetadata": nullish(string()),
        "loggerSettings": nullish(string()),
        "statusUpdated": nullish(number(whole=True, at_least=0)),
    }
)
LOG_NAME = obj({"runId": number(), "logName": array(string()), "logType": enum(*LOG_TYPES)})
TAGS = obj({"runId": number(), "tags": TAG_LIST})
CONFIG = obj({"runId": number(), "config": string()})
NOTES = obj(
    {
        "runId": number(),
        "notes": lambda value, path: [] if value is None else string(at_most=1000)(value, path),
    }
)
_NODE = obj(
    {
        "type": string(),
        "depth": number(whole=True),
        "order": optional(number(whole=True)),
        "label": optional(string()),
        "node_id": optional(string()),
        "inst_id": optional(string()),
        "node_type": optional(enum("MODULE", "UNKNOWN", "CONTAINER", "IO")),
        "args": optional(array()),
        "kwargs": optional(record()),
        "params": optional(record(array(number()))),
        "edges": optional(array(array(string()))),
    }
)
MODEL_GRAPH = obj({"runId": number(), "graph": obj({"format": string(), "nodes": record(_NODE)})})


def status(core: Core, key: Key, request: Request, body: JsonObject) -> Response:
    """Answer a status report; success says nothing about whether it was applied."""
    report = Report(
        body["status"],
        _stated(body, "statusMetadata"),
        LEAVE if not (settings := _stated(body, "loggerSettings")) else settings,
        body.get("statusUpdated"),
    )
    with core.state.lock:
        run = find_run(core, key, body["runId"])
        _refuse_what_the_database_refuses([report.metadata, report.logger_settings])
        applied = apply(core.state.book, run, report, key, core.state.now_ms())
        core.audit.status.reported(request, run, report.status, applied=applied)
        if is_terminal(report.status):
            core.audit.shared.check(run.id)
    return SUCCESS


def log_name(core: Core, key: Key, request: Request, body: JsonObject) -> Response:
    """Register names; the first type of a name stays."""
    with core.state.lock:
        run = find_run(core, key, body["runId"])
        _refuse_what_the_database_refuses(body["logName"])
        for name in body["logName"]:
            run.log_names.setdefault(name, body["logType"])
            core.audit.shared.registered(request, run, name, body["logType"])
        run.updated_ms = core.state.now_ms()
    return SUCCESS


def tags(core: Core, key: Key, request: Request, body: JsonObject) -> Response:
    """Overwrite the tags."""
    refuse_two_groups(body["tags"])
    with core.state.lock:
        run = find_run(core, key, body["runId"])
        _refuse_what_the_database_refuses(body["tags"])
        before, run.tags = run.tags, list(body["tags"])
        run.updated_ms = core.state.now_ms()
        core.audit.shared.retagged(request, run, before, run.tags)
    return SUCCESS


def config(core: Core, key: Key, request: Request, body: JsonObject) -> Response:
    """Deep-merge into the config."""
    update = decode(body["config"], error(400, "Invalid config JSON"))
    if update is not None and not isinstance(update, dict):
        raise RefusalError(error(400, "Invalid config JSON: expected an object"))
    with core.state.lock:
        run = find_run(core, key, body["runId"])
    _refuse_what_the_database_refuses(update)
    if update:
        merge_config(core, run, update)
    return SUCCESS


def notes(core: Core, key: Key, request: Request, body: JsonObject) -> Response:
    """Replace the notes."""
    with core.state.lock:
        run = find_run(core, key, body["runId"])
        run.notes = body["notes"] or None
        run.updated_ms = core.state.now_ms()
    return SUCCESS


def clear_all_notes(core: Core, key: Key) -> None:
    """What a notes update without a parsed body does."""
    with core.state.lock:
        for run in core.state.book.runs.values():
            if run.organization_id == key.organization.id:
                run.notes = None


def model_graph(core: Core, key: Key, request: Request, body: JsonObject) -> Response:
    """Append a graph; a repeat is a duplicate."""
    with core.state.lock:
        run = find_run(core, key, body["runId"])
        run.graphs.append(body["graph"])
        run.updated_ms = core.state.now_ms()
    return SUCCESS


def _refuse_what_the_database_refuses(value: Json) -> None:
    if not is_storable(value):
        raise RefusalError(INTERNAL)


def _stated(body: JsonObject, name: str) -> Json:
    if body.get(name, "") == "":
        return LEAVE
    return decode(body[name], error(400, f"Invalid {name} JSON"))
