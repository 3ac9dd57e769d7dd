"""The control API (`/api/...`): who asks, what they sent, and which handler answers."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace

from . import api_create, api_resume, api_update
from .api_read import read
from .core import Core
from .jsontext import Json, JsonObject, parse
from .tenants import KEY_PREFIXES, Key
from .wire import (
    INTERNAL,
    NOT_FOUND,
    RUN_NOT_FOUND,
    RefusalError,
    Request,
    Response,
    error,
    json_response,
)
from .zod import Check, error_body

_LEAST_GZIP = 1024


@dataclass(frozen=True, slots=True)
class Route:
    """A POST route: its schema, its handler, and what it answers to a body it did not parse."""

    schema: Check
    handle: Callable[[Core, Key, Request, JsonObject], Response]
    unparsed: Response = INTERNAL


ROUTES = {
    "/api/runs/create": Route(api_create.SCHEMA, api_create.create),
    "/api/runs/resume": Route(api_resume.SCHEMA, api_resume.resume, RUN_NOT_FOUND),
    "/api/runs/status/update": Route(api_update.STATUS, api_update.status),
    "/api/runs/logName/add": Route(api_update.LOG_NAME, api_update.log_name),
    "/api/runs/tags/update": Route(api_update.TAGS, api_update.tags),
    "/api/runs/config/update": Route(api_update.CONFIG, api_update.config),
    "/api/runs/notes/update": Route(api_update.NOTES, api_update.notes, json_response({"success": True})),
    "/api/runs/modelGraph/create": Route(api_update.MODEL_GRAPH, api_update.model_graph),
}


def authenticate(core: Core, request: Request) -> Key:
    """The caller's key. The scheme word is not looked at: the token is the second word."""
    words = request.headers.get("authorization", "").split(" ")
    token = words[1] if len(words) > 1 else ""
    if not token:
        raise RefusalError(json_response({"error": "Unauthorized"}, 401))
    if not token.startswith(KEY_PREFIXES):
        raise _unauthorized("Invalid API key")
    key = core.state.keys.find(token)
    if key is None:
        raise _unauthorized("Key not found")
    if key.expired:
        raise _unauthorized("API key has expired")
    if key.revoked:
        raise _unauthorized("API key has been revoked")
    return key


def handle(core: Core, request: Request) -> Response:
    """Answer one request."""
    response = _answer(core, request)
    accepts_gzip = "gzip" in request.headers.get("accept-encoding", "")
    if not accepts_gzip or len(response.body) < _LEAST_GZIP:
        return response
    headers = (*response.headers, ("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding"))
    return replace(response, body=gzip.compress(response.body), headers=headers)


def _answer(core: Core, request: Request) -> Response:
    if request.method == "GET":
        return read(core, request, lambda: authenticate(core, request))
    if request.method != "POST":
        return NOT_FOUND
    if request.path == "/api/slug":
        return json_response({"organization": {"slug": authenticate(core, request).organization.slug}})
    route = ROUTES.get(request.path)
    return NOT_FOUND if route is None else _control(core, request, route)


def _control(core: Core, request: Request, route: Route) -> Response:
    key = authenticate(core, request)
    core.audit.shared.content_type(request)
    if not request.sends_json():
        if route.handle is api_update.notes:
            # An undefined id is no filter to the ORM: the notes of the whole organization go.
            api_update.clear_all_notes(core, key)
        return route.unparsed
    return route.handle(core, key, request, _body(request, route.schema))


def _body(request: Request, schema: Check) -> JsonObject:
    try:
        body: Json = parse(request.body)
    except ValueError:
        raise RefusalError(error(400, "Malformed JSON in request body")) from None
    issues = schema(body, [])
    if issues:
        raise RefusalError(json_response(error_body(issues), 400))
    valid: JsonObject = body
    return valid


def _unauthorized(message: str) -> RefusalError:
    return RefusalError(json_response({"error": "Unauthorized", "message": message}, 401))
