"""Body schemas with the issues that zod 3 reports, so that refusals read as the server's do.

A check takes a value (`MISSING` when the key is absent) and the path to it, and returns its issues.
"""

import math
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from .jsontext import Json, JsonObject

Path: TypeAlias = list[str | int]
Issue: TypeAlias = JsonObject
Check: TypeAlias = Callable[[Json, Path], list[Issue]]


class _Missing:
    """The value of an absent key."""


MISSING: Final = _Missing()


def kind_of(value: Json) -> str:
    """The name zod gives a value's type."""
    if value is MISSING:
        return "undefined"
    if value is None:
        return "null"
    kinds = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return kinds[type(value)]


def error_body(issues: list[Issue]) -> JsonObject:
    """The 400 body of a schema violation."""
    return {"success": False, "error": {"issues": issues, "name": "ZodError"}}


def custom(message: str) -> Issue:
    """The issue of a cross-field rule."""
    return {"code": "custom", "message": message, "path": []}


def _wrong_type(expected: str, value: Json, path: Path) -> list[Issue]:
    received = kind_of(value)
    message = "Required" if value is MISSING else f"Expected {expected}, received {received}"
    issue = {
        "code": "invalid_type",
        "expected": expected,
        "received": received,
        "path": path,
        "message": message,
    }
    return [issue]


def _out_of_range(code: str, kind: str, limit: int, message: str, path: Path) -> Issue:
    bound = "minimum" if code == "too_small" else "maximum"
    return {
        "code": code,
        bound: limit,
        "type": kind,
        "inclusive": True,
        "exact": False,
        "message": message,
        "path": path,
    }


def string(at_least: int = 0, at_most: int | None = None) -> Check:
    """A string with a length in characters between the bounds."""

    def check(value: Json, path: Path) -> list[Issue]:
        if not isinstance(value, str):
            return _wrong_type("string", value, path)
        if len(value) < at_least:
            text = f"String must contain at least {at_least} character(s)"
            return [_out_of_range("too_small", "string", at_least, text, path)]
        if at_most is not None and len(value) > at_most:
            text = f"String must contain at most {at_most} character(s)"
            return [_out_of_range("too_big", "string", at_most, text, path)]
        return []

    return check


def number(*, whole: bool = False, at_least: int | None = None, at_most: int | None = None) -> Check:
    """A JSON number, optionally integral and within bounds."""

    def check(value: Json, path: Path) -> list[Issue]:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return _wrong_type("number", value, path)
        if whole and (math.isinf(value) or value != int(value)):
            text = "Expected integer, received float"
            return [
                {
                    "code": "invalid_type",
                    "expected": "integer",
                    "received": "float",
                    "message": text,
                    "path": path,
                }
            ]
        if at_least is not None and value < at_least:
            text = f"Number must be greater than or equal to {at_least}"
            return [_out_of_range("too_small", "number", at_least, text, path)]
        if at_most is not None and value > at_most:
            text = f"Number must be less than or equal to {at_most}"
            return [_out_of_range("too_big", "number", at_most, text, path)]
        return []

    return check


def boolean() -> Check:
    """true or false."""
    return lambda value, path: [] if isinstance(value, bool) else _wrong_type("boolean", value, path)


def enum(*options: str) -> Check:
    """One of the given strings."""
    expected = " | ".join(f"'{option}'" for option in options)

    def check(value: Json, path: Path) -> list[Issue]:
        if not isinstance(value, str):
            return _wrong_type(expected, value, path)
        if value in options:
            return []
        text = f"Invalid enum value. Expected {expected}, received '{value}'"
        code = "invalid_enum_value"
        return [{"received": value, "code": code, "options": list(options), "path": path, "message": text}]

    return check


def array(item: Check | None = None, at_most: int | None = None, message: str = "") -> Check:
    """A list of checked items, of a greatest length with its own message."""

    def check(value: Json, path: Path) -> list[Issue]:
        if not isinstance(value, list):
            return _wrong_type("array", value, path)
        issues = []
        if at_most is not None and len(value) > at_most:
            issues.append(_out_of_range("too_big", "array", at_most, message, path))
        if item is not None:
            issues += _flat(item(entry, [*path, place]) for place, entry in enumerate(value))
        return issues

    return check


def record(item: Check | None = None) -> Check:
    """An object with any keys, all of one kind."""

    def check(value: Json, path: Path) -> list[Issue]:
        if not isinstance(value, dict):
            return _wrong_type("object", value, path)
        return [] if item is None else _flat(item(entry, [*path, key]) for key, entry in value.items())

    return check


def obj(fields: dict[str, Check], rule: Callable[[JsonObject], list[Issue]] | None = None) -> Check:
    """An object with known fields, others ignored; the rule runs only when every field is well typed."""

    def check(value: Json, path: Path) -> list[Issue]:
        if not isinstance(value, dict):
            return _wrong_type("object", value, path)
        issues = _flat(field(value.get(name, MISSING), [*path, name]) for name, field in fields.items())
        return issues if issues or rule is None else rule(value)

    return check


def optional(check: Check) -> Check:
    """May be absent."""
    return lambda value, path: [] if value is MISSING else check(value, path)


def nullish(check: Check) -> Check:
    """May be absent or null."""
    return lambda value, path: [] if value is MISSING or value is None else check(value, path)


def _flat(groups: Iterable[list[Issue]]) -> list[Issue]:
    return [issue for group in groups for issue in group]
