"""The ingest service: streams of metrics, data and console lines, and the presign route.

A stream is committed line by line: what stands before a bad line is stored, what follows it is never read.
Neither the run's existence nor its status matters.
"""

from collections.abc import Callable

from . import files
from .audit_shared import METRIC_TYPES, data_types
from .core import Core
from .ingest_auth import IngestError, as_u64, required_header, tenant_of
from .ingest_lines import LineError, read_data, read_logs, read_metrics
from .metrics import RunKey
from .wire import Request, Response, json_response, text_response

Take = Callable[[Core, Request, RunKey], tuple[int, LineError | None]]


def handle(core: Core, request: Request) -> Response:
    """Answer one request."""
    if request.path.startswith("/health"):
        return json_response({"status": "ok"}) if request.method == "GET" else Response(405)
    kind = request.path.removeprefix("/ingest/")
    known = kind in _STREAMS or request.path in ("/files", "/step")
    if not known:
        return Response(404)
    if request.method != "POST":
        return Response(405, headers=(("Allow", "POST"),))
    if request.path == "/files":
        return files.presign(core, request)
    if request.path == "/step":
        return _step(core, request)
    return stream(core, request, kind)


def stream(core: Core, request: Request, kind: str) -> Response:
    """Take a stream; every failure is wrapped alike."""
    try:
        tenant = tenant_of(core, request)
        run_id = as_u64(required_header(request, "X-Run-Id")) or 0
        project = required_header(request, "X-Project-Name")
    except IngestError as fault:
        return failed(kind, fault)
    count, line_fault = _STREAMS[kind](core, request, (tenant, project, run_id))
    if line_fault is not None:
        return failed(kind, IngestError(line_fault.kind, 3001, "Processing", line_fault.reason))
    return text_response(f"Stream processed successfully: {count} records")


def failed(kind: str, fault: IngestError) -> Response:
    """The 422 that every failure of a stream ends in."""
    text = f"Failed to process {kind} stream: {fault.kind} ({fault.number} - {fault.family}): {fault.reason}"
    return json_response({"code": "PROCESSING_FAILED", "message": text}, 422)


def _metrics(core: Core, request: Request, key: RunKey) -> tuple[int, LineError | None]:
    lines = read_metrics(request.body)
    with core.state.lock:
        count, conflicts = core.state.metrics.add(key, lines.items, core.state.visible_ms())
        names = set().union(*(values for _, _, values in lines.items))
        core.audit.delivery.accepted(request, key, names, [time for time, _, _ in lines.items])
        core.audit.delivery.conflicts(request, key, conflicts)
        core.audit.shared.used(key[2], names, METRIC_TYPES)
    return count, lines.fault


def _data(core: Core, request: Request, key: RunKey) -> tuple[int, LineError | None]:
    lines = read_data(request.body)
    with core.state.lock:
        core.state.data.add(key, lines.items, core.state.visible_ms())
        names = {row.log_name for row in lines.items}
        core.audit.delivery.accepted(request, key, names, [row.time for row in lines.items])
        core.audit.delivery.rows(request, key, lines.items)
        for row in lines.items:
            core.audit.shared.used(key[2], (row.log_name,), data_types(row.data_type))
    return len(lines.items), lines.fault


def _logs(core: Core, request: Request, key: RunKey) -> tuple[int, LineError | None]:
    lines = read_logs(request.body)
    with core.state.lock:
        core.state.logs.add(key, lines.items, core.state.visible_ms())
        names = {row.log_type for row in lines.items}
        core.audit.delivery.accepted(request, key, names, [row.time for row in lines.items])
        core.audit.delivery.rows(request, key, lines.items)
    return len(lines.items), lines.fault


def _step(core: Core, request: Request) -> Response:
    try:
        tenant = tenant_of(core, request)
        run_id = as_u64(required_header(request, "X-Run-Id")) or 0
        key = (tenant, required_header(request, "X-Project-Name"), run_id)
    except IngestError as fault:
        return json_response({"code": fault.code, "message": fault.reason}, fault.status)
    with core.state.lock:
        return json_response({"step": core.state.metrics.largest_step(key, core.state.now_ms()) or 0})


_STREAMS: dict[str, Take] = {"metrics": _metrics, "data": _data, "logs": _logs}
