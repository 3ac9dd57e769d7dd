"""Query parameters, refused as a schema violation when they are missing or out of range."""

from .wire import RefusalError, Request, json_response
from .zod import MISSING, Check, error_body, number, string


def text(request: Request, name: str) -> str:
    """A required string."""
    value = request.query.get(name, MISSING)
    _refuse(string(), value, name)
    return str(value)


def integer(
    request: Request, name: str, default: int | None = None, *, at_least: int = 0, at_most: int | None = None
) -> int:
    """An integer; required when it has no default."""
    given = request.query.get(name)
    if given is None and default is not None:
        return default
    value = int(given) if given is not None and given.lstrip("-").isdigit() else (given or MISSING)
    _refuse(number(whole=True, at_least=at_least, at_most=at_most), value, name)
    return int(str(value))


def _refuse(check: Check, value: object, name: str) -> None:
    issues = check(value, [name])
    if issues:
        raise RefusalError(json_response(error_body(issues), 400))
