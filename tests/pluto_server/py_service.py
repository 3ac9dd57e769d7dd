"""The py service: heartbeat with cancel poll, alerts, the monitor. Bodies are checked before keys."""

from collections.abc import Callable
from typing import Any

from .core import Core
from .jsontext import Json, JsonObject, parse
from .monitor import STALE_GRACE_S, cycle
from .runs import Run
from .status import cancel
from .tenants import KEY_PREFIXES, Key
from .wire import RefusalError, Request, Response, json_response

COALESCE_MS = 30_000
_MISSING = object()


def handle(core: Core, request: Request) -> Response:
    """Answer one request."""
    route = _ROUTES.get(request.path)
    if route is None:
        return _detail("Not Found", 404)
    method, answer = route
    if request.method != method:
        return _detail("Method Not Allowed", 405)
    return answer(core, request)


def _healthz(core: Core, request: Request) -> Response:
    return json_response({"status": "ok"})


def _stale_runs(core: Core, request: Request) -> Response:
    failed = cycle(core)
    return json_response({"processed": len(failed), "marked_failed": failed, "grace_seconds": STALE_GRACE_S})


def _trigger(core: Core, request: Request) -> Response:
    core.audit.shared.content_type(request)
    body = _body(request, ("runId",))
    key = _authenticate(core, request)
    with core.state.lock:
        run = _find(core, key, body["runId"])
        before, now_ms = run.status, core.state.now_ms()
        if run.last_seen_ms is None or now_ms - run.last_seen_ms >= COALESCE_MS:
            run.last_seen_ms = now_ms
        if run.cancel_requested:
            cancel(run, now_ms)  # the row is never consumed: every later poll cancels again
        core.audit.status.polled(request, run, before)
        return json_response({"status": run.status, "triggers": None})


def _alert(core: Core, request: Request) -> Response:
    core.audit.shared.content_type(request)
    body = _body(request, ("runId", "alert"))
    key = _authenticate(core, request)
    with core.state.lock:
        _find(core, key, body["runId"])
    url = body["alert"].get("url")
    if url:
        return _detail(f"Failed to send alert: 302: {url}", 500)
    return json_response({"status": "success"})


def _body(request: Request, names: tuple[str, ...]) -> JsonObject:
    # Only a JSON content type, or none at all, makes the framework read the body as JSON.
    body: Json = {}
    if request.sends_json() or "content-type" not in request.headers:
        try:
            body = parse(request.body)
        except ValueError as fault:
            issue = _issue("json_invalid", [], "JSON decode error", {}) | {"ctx": {"error": str(fault)}}
            raise _invalid([issue]) from None
    given = body if isinstance(body, dict) else {}
    checked = {name: _CHECKS[name](given.get(name, _MISSING)) for name in names}
    issues = [issue for issue in checked.values() if issue is not None]
    if issues:
        raise _invalid(issues)
    return {name: int(given[name]) if name == "runId" else given[name] for name in names}


def _check_run_id(value: Any) -> JsonObject | None:
    if value is _MISSING:
        return _issue("missing", ["runId"], "Field required", None)
    if isinstance(value, str):
        text = "Input should be a valid integer, unable to parse string as an integer"
        return None if value.strip().lstrip("-").isdigit() else _issue("int_parsing", ["runId"], text, value)
    if isinstance(value, float):
        text = "Input should be a valid integer, got a number with a fractional part"
        return _issue("int_from_float", ["runId"], text, value)
    if not isinstance(value, int):
        return _issue("int_type", ["runId"], "Input should be a valid integer", value)
    return None


def _check_alert(value: Any) -> JsonObject | None:
    if value is _MISSING:
        return _issue("missing", ["alert"], "Field required", None)
    if not isinstance(value, dict):
        return _issue("dict_type", ["alert"], "Input should be a valid dictionary", value)
    for name, item in value.items():
        if not isinstance(item, str | int | bool | None):
            return _issue("string_type", ["alert", name, "str"], "Input should be a valid string", item)
    return None


_CHECKS: dict[str, Callable[[Any], JsonObject | None]] = {"runId": _check_run_id, "alert": _check_alert}


def _authenticate(core: Core, request: Request) -> Key:
    header = request.headers.get("authorization", "")
    if not header.startswith("Bearer "):
        raise RefusalError(_detail("Authorization header missing or invalid", 401))
    token = header.removeprefix("Bearer ")
    if not token.startswith(KEY_PREFIXES):
        raise RefusalError(_detail("Invalid API key format", 401))
    key = core.state.keys.find(token)
    if key is None or key.expired:  # revocation is not looked at here
        raise RefusalError(_detail("Invalid or expired API key for this run", 401))
    return key


def _find(core: Core, key: Key, run_id: int) -> Run:
    run = core.state.book.run(key.organization.id, run_id)
    if run is None:
        raise RefusalError(_detail("Run not found", 404))
    return run


def _issue(kind: str, where: list[str], message: str, value: Any) -> JsonObject:
    return {"type": kind, "loc": ["body", *where], "msg": message, "input": value}


def _invalid(issues: list[JsonObject]) -> RefusalError:
    return RefusalError(json_response({"detail": issues}, 422))


def _detail(text: str, status: int) -> Response:
    return json_response({"detail": text}, status)


_ROUTES: dict[str, tuple[str, Callable[[Core, Request], Response]]] = {
    "/healthz": ("GET", _healthz),
    "/api/runs/trigger": ("POST", _trigger),
    "/api/runs/alert": ("POST", _alert),
    "/api/stale-runs/trigger": ("POST", _stale_runs),
}
