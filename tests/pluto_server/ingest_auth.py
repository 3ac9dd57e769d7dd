"""Who sends to the ingest service and for which run: the headers all its routes share."""

import re
from dataclasses import dataclass

from .core import Core
from .wire import Request

_TOKEN = re.compile(r"[A-Za-z0-9._-]+")
_VISIBLE = re.compile(r"[\t\x20-\x7e]*")


@dataclass(eq=False)
class IngestError(Exception):
    """Why a request is refused. The 422 text has `kind`, number and family, other answers have `code`."""

    kind: str
    number: int
    family: str
    reason: str
    status: int = 400

    @property
    def code(self) -> str:
        """The kind in SCREAMING_SNAKE."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", self.kind).upper()


DATABASE = IngestError("DatabaseError", 4001, "Database", "Failed to validate API key", 503)


def tenant_of(core: Core, request: Request) -> str:
    """The organization of the key, or the fault of the authorization header."""
    header = request.headers.get("authorization")
    if not header:
        raise IngestError("MissingToken", 1001, "Authentication", "Missing authorization token", 401)
    if not header.startswith("Bearer "):
        raise IngestError("InvalidBearerFormat", 1002, "Authentication", "Invalid bearer token format", 401)
    token = header.removeprefix("Bearer ").strip()
    if not _TOKEN.fullmatch(token):
        raise IngestError("InvalidTokenFormat", 1003, "Authentication", "Invalid token format", 401)
    key = core.state.keys.find(token)
    if key is None or not key.usable:
        raise IngestError("InvalidToken", 1004, "Authentication", "Invalid API key", 401)
    return key.organization.id


def required_header(request: Request, name: str) -> str:
    """A header's text; a value with other than visible ASCII, space and tab counts as missing."""
    value = request.headers.get(name.lower())
    if value is None or not _VISIBLE.fullmatch(value):
        raise IngestError("InvalidHeaderFormat", 2001, "Validation", f"Missing required header: {name}")
    return value


def as_u64(text: str) -> int | None:
    """The decimal number in a header, None when it is none."""
    return int(text) if text.isascii() and text.isdigit() and int(text) < 2**64 else None
