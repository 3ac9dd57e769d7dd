"""The object store behind presigned URLs. No key: the signature in the query is the permission."""

from urllib.parse import unquote

from .core import Core
from .objects import BUCKET, SIGNATURE, Grant
from .wire import Request, Response, text_response


def refused(code: str, status: int = 403) -> Response:
    """An error in the store's XML."""
    text = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return text_response(f'<?xml version="1.0" encoding="UTF-8"?>\n{text}', status, "application/xml")


def handle(core: Core, request: Request) -> Response:
    """Answer one request."""
    if "transfer-encoding" in request.headers:
        return refused("MissingContentLength", 411)
    with core.state.lock:
        grant = core.state.objects.grants.get(request.query.get(SIGNATURE, ""))
        if grant is None or not _signed_for(grant, request):
            return refused("SignatureDoesNotMatch")
        if core.state.now_ms() >= grant.expires_ms:
            return refused("AccessDenied")
        if grant.method == "GET":
            return _get(core, grant)
        core.state.objects.objects[grant.key] = request.body
        grant.uploads += 1
        core.audit.delivery.uploaded(request, grant, len(request.body))
        return Response(200)


def refuse_expired(core: Core, request: Request) -> Response:
    """The answer to a URL that is out of date; its client may ask for another."""
    with core.state.lock:
        grant = core.state.objects.grants.get(request.query.get(SIGNATURE, ""))
        if grant is not None:
            grant.refused += 1
    return refused("AccessDenied")


def _signed_for(grant: Grant, request: Request) -> bool:
    return grant.method == request.method and unquote(request.path) == f"/{BUCKET}/{grant.key}"


def _get(core: Core, grant: Grant) -> Response:
    body = core.state.objects.objects.get(grant.key)
    if body is None:
        return refused("NoSuchKey", 404)
    return Response(200, body, "application/octet-stream")
