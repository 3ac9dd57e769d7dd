"""The server's rules for lines whose repeat would be seen, checked before they are sent.

Ingest accepts every line before the first bad one and then refuses the request. A caller that looks for the
bad line by sending halves would deliver those lines again and again. Refused here, nothing was sent.
Metrics need no such check: the server de-duplicates them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from pluto_dist.core.foreign import UNREADABLE

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
