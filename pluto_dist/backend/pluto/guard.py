"""Checks before anything is sent: values that the server answers with 500, and lines that it takes in part.

A 500 cannot be told from an outage and would be repeated for ever. What can be mended without loss of meaning
is mended (NUL, over-long names, NaN in JSON); what cannot raises `UnfitError`.

Ingest addresses a Run by its project's name in a header, which carries visible ASCII only; another name than
the one at create makes all data invisible. So each other character becomes `-` everywhere, at create too.
That is the official client's rule; both clients therefore write into the same project.

Of data and console lines, ingest accepts every line before the first bad one and then refuses the request. A
caller that looked for the bad line by sending halves would deliver the good ones again and again. So those
lines are checked by the server's rules here. Metrics need no such check: the server de-duplicates them.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from pluto_dist.core.values.ids import UNREADABLE

NAME_LIMIT = 255
TAG_LIMIT = 50
ID_LIMIT = 2**63 - 1
EPOCH_MS_LIMIT = 8_640_000_000_000_000

_NOT_HEADER = re.compile(r"[^\x20-\x7e]")
_SUSPECT_JSON = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")


class UnfitError(ValueError):
    """The value cannot be sent to this server, whatever is done to it."""


def clean(text: str) -> str:
    """Text without NUL, which Postgres does not store, and without halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def fit_name(text: str) -> str:
    """A name of at most 255 characters; a longer one is cut and gets a hash of the whole.

    Two long names that share a beginning stay two names, and one name is always cut to the same.
    """
    text = clean(text)
    if len(text) <= NAME_LIMIT:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{text[: NAME_LIMIT - 1 - len(digest)]}~{digest}"


def fit_project(name: str) -> str:
    """The project name that header and create agree on.

    Raises:
        UnfitError: nothing is left of it.
    """
    fitted = fit_name(_NOT_HEADER.sub("-", clean(name)).strip())
    if not fitted:
        raise UnfitError("the project name is empty; set `project` to at least one visible character")
    return fitted


def goes_in_header(project: str) -> bool:
    """Whether ingest can get this project name exactly."""
    return bool(project) and project == project.strip() and not _NOT_HEADER.search(project)


def run_id(value: int) -> int:
    """A numeric Run id.

    Raises:
        UnfitError: outside of 1 to 2^63 - 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= ID_LIMIT:
        raise UnfitError(f"Run id {value!r} is no integer from 1 to {ID_LIMIT}")
    return value


def fork_step(value: int) -> int:
    """The step a fork starts after.

    Raises:
        UnfitError: no integer from 0 to 2^63 - 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= ID_LIMIT:
        raise UnfitError(f"fork step {value!r} is no integer from 0 to {ID_LIMIT}")
    return value


def epoch_ms(value: int) -> int:
    """An instant in epoch milliseconds.

    Raises:
        UnfitError: outside of what the server takes.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= EPOCH_MS_LIMIT:
        raise UnfitError(f"time {value!r} is no integer of epoch milliseconds from 0 to {EPOCH_MS_LIMIT}")
    return value


def fit_tags(tags: Iterable[str]) -> list[str]:
    """Tags without repeats, in their order.

    Raises:
        UnfitError: more than 50, or more than one that starts with `group:`.
    """
    fitted = list(dict.fromkeys(clean(tag) for tag in tags))
    if len(fitted) > TAG_LIMIT:
        raise UnfitError(f"{len(fitted)} tags; the server takes {TAG_LIMIT}: remove some")
    groups = [tag for tag in fitted if tag.startswith("group:")]
    if len(groups) > 1:
        raise UnfitError(
            f"{len(groups)} group tags ({', '.join(groups[:3])}); the server takes one: remove the others"
        )
    return fitted


def fit_object(raw: bytes) -> str:
    """A JSON object as strict JSON text, without what Postgres cannot store.

    NaN and infinities become the strings "NaN", "Infinity" and "-Infinity": JSON has no numbers for them.

    Raises:
        UnfitError: no JSON object.
    """
    if _is_plain_object(raw):
        return raw.decode()
    try:
        value = json.loads(raw, parse_constant=str, parse_float=_finite_or_text, strict=False)
        if not isinstance(value, dict):
            raise UnfitError(f"a JSON object is needed, not {type(value).__name__}")
        return json.dumps(_clean_json(value), ensure_ascii=False, allow_nan=False)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise UnfitError(f"no JSON object: {type(fault).__name__}: {fault}") from fault


def _is_plain_object(raw: bytes) -> bool:
    """Whether the object can be sent as it is, which is the usual case."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(value, dict) and not _SUSPECT_JSON.search(raw)


def _finite_or_text(literal: str) -> float | str:
    number = float(literal)
    if math.isfinite(number):
        return number
    return "Infinity" if number > 0 else "-Infinity"


def _clean_json(value: object) -> object:
    match value:
        case str():
            return clean(value)
        case dict():
            return {clean(key): _clean_json(item) for key, item in value.items()}
        case list():
            return [_clean_json(item) for item in value]
        case _:
            return value


U64_LIMIT = 2**64  # msgspec's own bounds end at 2^63

Natural = Annotated[int, msgspec.Meta(ge=0)]
NotBlank = Annotated[str, msgspec.Meta(pattern=r"\S")]


class DataLine(msgspec.Struct, forbid_unknown_fields=True):
    """A line of `/ingest/data`."""

    time: Natural
    step: Natural
    data: str
    dataType: NotBlank  # noqa: N815 - the server's name
    logName: NotBlank  # noqa: N815 - the server's name


class ConsoleLine(msgspec.Struct, forbid_unknown_fields=True):
    """A line of `/ingest/logs`."""

    time: Natural
    message: str
    lineNumber: Natural  # noqa: N815 - the server's name
    logType: NotBlank  # noqa: N815 - the server's name


_data = msgspec.json.Decoder(DataLine)
_console = msgspec.json.Decoder(ConsoleLine)


def first_fault(kind: Literal["data", "console"], lines: Iterable[bytes]) -> tuple[int, str] | None:
    """Index of the first line that the server would refuse, and why; None if it takes them all."""
    for index, line in enumerate(lines):
        fault = _data_fault(line) if kind == "data" else _console_fault(line)
        if fault is not None:
            return index, fault
    return None


def _data_fault(line: bytes) -> str | None:
    try:
        parsed = _data.decode(line)
    except UNREADABLE as fault:
        return str(fault)
    return _beyond(time=parsed.time, step=parsed.step)


def _console_fault(line: bytes) -> str | None:
    try:
        parsed = _console.decode(line)
    except UNREADABLE as fault:
        return str(fault)
    return _beyond(time=parsed.time, lineNumber=parsed.lineNumber)


def _beyond(**fields: int) -> str | None:
    for name, value in fields.items():
        if value >= U64_LIMIT:
            return f"`{name}` is {value}; the limit is {U64_LIMIT - 1}"
    return None
