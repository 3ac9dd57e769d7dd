"""The read routes over ingested data. Rows are found by what their writer's headers said."""

import math
from collections.abc import Callable, Iterable

from .api_query import integer, text
from .core import Core
from .jsontext import JsonObject
from .metrics import Point, RunKey
from .objects import GET_LIFE_S
from .rows import FileRow, LogRow
from .runs import group_of
from .tenants import Key
from .wire import Request, Response, json_response

_MOST_FILES = 1000
_LARGEST_STEP = 2**64 - 1


def finite(value: float) -> tuple[float, str, int]:
    """A value as the two metric routes print it: number, flag, bits."""
    if math.isnan(value):
        return 0, "NaN", 1
    if math.isinf(value):
        return (0, "Inf", 2) if value > 0 else (0, "-Inf", 4)
    return value, "", 0


def _run_key(key: Key, request: Request) -> RunKey:
    return key.organization.id, text(request, "projectName"), integer(request, "runId")


def _wanted(request: Request, log_name: str) -> bool:
    name, group = request.query.get("logName"), request.query.get("logGroup")
    return name in (None, log_name) and group in (None, group_of(log_name))


def _in_steps(request: Request, points: Iterable[Point]) -> list[Point]:
    low, high = integer(request, "stepMin", 0), integer(request, "stepMax", _LARGEST_STEP)
    return [point for point in points if low <= point.step <= high]


def _sampled(points: list[Point], limit: int) -> list[Point]:
    """All, or every n-th and the last: with a limit of 1 the first and the last."""
    if len(points) <= limit:
        return points
    every = math.ceil(len(points) / limit)
    return [point for at, point in enumerate(points, 1) if at % every == 1 or at == len(points)]


def _metrics(core: Core, key: Key, request: Request) -> Response:
    limit = integer(request, "limit", 2000, at_least=1, at_most=10_000)
    rows: list[JsonObject] = []
    for name, series in core.state.metrics.series(_run_key(key, request)).items():
        if not _wanted(request, name):
            continue
        for point in _sampled(_in_steps(request, series.points(core.state.now_ms())), limit):
            value, flag, _ = finite(point.value)
            rows.append(
                {
                    "logName": name,
                    "logGroup": group_of(name),
                    "value": value,
                    "valueFlag": flag,
                    "time": point.time,
                    "step": point.step,
                }
            )
    return json_response({"metrics": rows})


def _raw_metrics(core: Core, key: Key, request: Request) -> Response:
    limit = integer(request, "limit", 50_000, at_least=1, at_most=50_000)
    series = core.state.metrics.series(_run_key(key, request)).get(text(request, "logName"))
    points = [] if series is None else _in_steps(request, series.raw(series.visible(core.state.now_ms())))
    group = group_of(text(request, "logName"))
    rows = [
        {"logGroup": group, "step": p.step, "time": p.time, "value": value, "nonFiniteFlags": bits}
        for p in points[:limit]
        for value, _, bits in [finite(p.value)]
    ]
    return json_response({"rows": rows, "truncated": len(points) > limit})


def _logs(core: Core, key: Key, request: Request) -> Response:
    limit = integer(request, "limit", 1000, at_least=1, at_most=10_000)
    offset = integer(request, "offset", 0)
    wanted = request.query.get("logType")
    rows = core.state.logs.visible(_run_key(key, request), core.state.now_ms())
    kept = sorted((row for row in rows if wanted in (None, row.log_type)), key=lambda row: row.line_number)
    page = [_log_row(row) for row in kept[offset : offset + limit]]
    return json_response({"logs": page, "total": len(kept)})


def _log_row(row: LogRow) -> JsonObject:
    return {
        "time": row.time,
        "logType": row.log_type,
        "lineNumber": row.line_number,
        "message": row.message,
        "step": 0,
    }


def _files(core: Core, key: Key, request: Request) -> Response:
    rows = core.state.files.visible(_run_key(key, request), core.state.now_ms())
    page = [_file_row(core, row) for row in rows if _wanted(request, row.log_name)]
    return json_response({"files": page[:_MOST_FILES]})


def _file_row(core: Core, row: FileRow) -> JsonObject:
    state = core.state
    return {
        "fileName": row.file_name,
        "fileType": row.file_type,
        "fileSize": row.file_size,
        "logName": row.log_name,
        "logGroup": group_of(row.log_name),
        "time": row.time,
        "step": row.step,
        "caption": row.caption,
        "annotations": row.annotations,
        "url": state.objects.sign(state.storage_url, "GET", row.object_key, state.now_ms(), GET_LIFE_S).url,
    }


DATA_ROUTES: dict[str, Callable[[Core, Key, Request], Response]] = {
    "metrics": _metrics,
    "metrics/raw": _raw_metrics,
    "logs": _logs,
    "files": _files,
}
