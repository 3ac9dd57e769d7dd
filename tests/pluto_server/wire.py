"""Requests and responses as values; what a service sees of HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from .jsontext import Json, dumps

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain; charset=utf-8"


class Peer(Protocol):
    """The other end of a connection."""

    def sender(self) -> str:
        """Who is on the other end; the same for all connections of one process."""
        ...

    def forebears(self) -> frozenset[str]:
        """Senders this one was started by, and so shares its knowledge with."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """One request, its body read. Header names are lower case."""

    id: int
    service: str
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    arrived_ms: int
    peer: Peer

    def sends_json(self) -> bool:
        """Whether the content type says JSON."""
        kind = self.headers.get("content-type", "").split(";")[0].strip().lower()
        return kind == JSON_TYPE or (kind.startswith("application/") and kind.endswith("+json"))


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back."""

    status: int
    body: bytes = b""
    content_type: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


class RefusalError(Exception):
    """A handler ends with this response."""

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response


class DroppedError(Exception):
    """The server's handler died: the connection closes without a response."""


def json_response(value: Json, status: int = 200) -> Response:
    """A compact JSON body."""
    return Response(status, dumps(value).encode(), JSON_TYPE)


def text_response(text: str, status: int = 200, content_type: str = TEXT_TYPE) -> Response:
    """A plain-text body."""
    return Response(status, text.encode(), content_type)


def error(status: int, text: str) -> Response:
    """A refusal by a handler of the control API: `error` is a string."""
    return json_response({"error": text}, status)


NOT_FOUND = text_response("404 Not Found", 404, "text/plain; charset=UTF-8")
INTERNAL = error(500, "Internal Server Error")
RUN_NOT_FOUND = error(404, "Run not found")
