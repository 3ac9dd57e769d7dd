"""Batches: what the lines of a cut contain (names, latest points), and the lines under their final names.

Lines are passed on as they are, unless the participant has a series with a suffix (R7) or the stream is a
console, whose line numbers are given here. A line that cannot be read is passed on too: refusing it is the
backend's part.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from pluto_dist.core.values.backend import LogType, StreamKind, kind_of
from pluto_dist.core.values.events import PointSummary
from pluto_dist.core.values.ids import UNREADABLE, step_behind
from pluto_dist.spool.file_lines import read_line
from pluto_dist.spool.reader import last_record, list_streams
from pluto_dist.spool.shapes import ALIKE, AT_ONCE, Contents, in_a_row, metrics, renaming

T = TypeVar("T")


class _Unread(msgspec.Struct, forbid_unknown_fields=True):
    """A metrics line whose values are passed on without being decoded."""

    time: int
    step: int
    data: dict[str, msgspec.Raw]


class _Data(msgspec.Struct):
    time: int
    data: str
    dataType: str  # noqa: N815 # the server's name
    logName: str  # noqa: N815 # the server's name
    step: int


DATA_TYPES: dict[str, LogType] = {"histogram": "HISTOGRAM", "table": "TABLE"}  # others are string series
_TIME, _MESSAGE = b'{"time":', b',"message":"'  # as `client.console.text` writes them

_to_json = msgspec.json.Encoder().encode
_unread_decoder = msgspec.json.Decoder(_Unread)
_data_decoder = msgspec.json.Decoder(_Data)


def contents(kind: str, lines: Sequence[bytes]) -> Contents:
    """Names, latest points and counts; lines that cannot be read are left to the backend to refuse."""
    if kind == "metrics":
        return metrics(lines)
    if kind == "data":
        return _data(lines)
    if kind == "files":
        return _files(lines)
    return Contents({}, {}, -1)


def renamed(kind: StreamKind, lines: Sequence[bytes], known: Mapping[str, str | None]) -> tuple[bytes, ...]:
    """The lines under final names; a series without one is left out, and so is a line without a series."""
    changed = (
        _renamed_metrics(lines, known)
        if kind == "metrics"
        else (_if_readable(_renamed_data, line, known) for line in lines)
    )
    return tuple(line for line in changed if line is not None)


def numbered(lines: Iterable[bytes], first: int, speaker: str = "") -> tuple[bytes, ...]:
    """Console lines with their numbers, and with the speaker in front of the message: `[rank3] …`.

    What the capture writes is cut at a fixed place and not decoded; other lines are read as JSON.
    """
    said = _to_json(f"[{speaker}] ")[1:-1] if speaker else b""
    return tuple(_numbered(line, number, said, speaker) for number, line in enumerate(lines, first))


def _data(lines: Iterable[bytes]) -> Contents:
    names: dict[str, LogType] = {}
    summary: dict[str, PointSummary] = {}
    newest = -1
    for line in lines:
        try:
            record = _data_decoder.decode(line)
        except UNREADABLE:
            continue
        newest = max(newest, record.step)
        names[record.logName] = DATA_TYPES.get(record.dataType, "DATA")
        text = record.dataType if record.dataType in DATA_TYPES else record.data[:200]
        _count(summary, record.logName, text, record.step)
    return Contents(names, summary, newest)


def _files(lines: Iterable[bytes]) -> Contents:
    names: dict[str, LogType] = {}
    summary: dict[str, PointSummary] = {}
    newest = -1
    for line in lines:
        file = read_line(line)
        if file is not None:
            newest = max(newest, file.step)
            names[file.log_name] = file.log_type
            _count(summary, file.log_name, file.file_name, file.step)
    return Contents(names, summary, newest)


def _count(summary: dict[str, PointSummary], name: str, text: str, step: int) -> None:
    before = summary.get(name)
    summary[name] = PointSummary(text, step, 1 + (before.count if before else 0))


def _if_readable(change: Callable[[bytes, T], bytes | None], line: bytes, argument: T) -> bytes | None:
    """The changed line; one that is no JSON of its kind stays as it is."""
    try:
        return change(line, argument)
    except (*UNREADABLE, KeyError, TypeError, AttributeError, OverflowError):
        return line


def _renamed_metrics(lines: Sequence[bytes], known: Mapping[str, str | None]) -> Iterator[bytes | None]:
    """Lines with new names and their values as they were written; those in a row with the same names faster.

    NaN or infinities, which are no JSON, take longer.
    """
    seen: Counter[tuple[str, ...]] = Counter()
    rename: Callable[[bytes], bytes] | None = None
    position = 0
    while position < len(lines):
        if rename is not None:
            wanted = lines[position : position + AT_ONCE]
            done = in_a_row(rename, wanted)
            yield from done
            position += len(done)
            if len(done) == len(wanted):
                continue
        line, position = lines[position], position + 1
        try:
            record = _unread_decoder.decode(line)
        except UNREADABLE:
            yield _if_readable(_renamed_slowly, line, known)
            continue
        yield _renamed(record, known)
        names = tuple(record.data)
        seen[names] += 1
        if seen[names] % ALIKE == 0 and None not in (finals := [known.get(name, name) for name in names]):
            rename = renaming(names, [final for final in finals if final is not None])


def _renamed(record: _Unread, known: Mapping[str, str | None]) -> bytes | None:
    data = {
        final: value for name, value in record.data.items() if (final := known.get(name, name)) is not None
    }
    return _to_json(_Unread(record.time, record.step, data)) + b"\n" if data else None


def _renamed_slowly(line: bytes, known: Mapping[str, str | None]) -> bytes | None:
    record = json.loads(line)
    data = {known.get(name, name): value for name, value in record["data"].items()}
    record["data"] = {name: value for name, value in data.items() if name is not None}
    return json.dumps(record, separators=(",", ":")).encode() + b"\n" if record["data"] else None


def _renamed_data(line: bytes, known: Mapping[str, str | None]) -> bytes | None:
    record = json.loads(line)
    final = known.get(record["logName"], record["logName"])
    record["logName"] = final
    return json.dumps(record, separators=(",", ":")).encode() + b"\n" if final is not None else None


def _numbered(line: bytes, number: int, said: bytes, speaker: str) -> bytes:
    head, mark, tail = line.partition(_MESSAGE)
    if mark and head.startswith(_TIME) and head[len(_TIME) :].isdigit():
        return b'%b,"lineNumber":%d,"message":"%b%b' % (head, number, said, tail)
    return _if_readable(_numbered_slowly, line, (number, speaker)) or line


def _numbered_slowly(line: bytes, how: tuple[int, str]) -> bytes:
    number, speaker = how
    record = json.loads(line)
    record["lineNumber"] = number
    if speaker:
        record["message"] = f"[{speaker}] {record['message']}"
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


LONGEST_STEP = 20  # digits of the largest 64-bit integer


class _Step(msgspec.Struct):
    step: int = -1


def next_step(folder: str) -> int:
    """One more than the step of the last record of any chain, 0 if there is none."""
    steps = [0]
    for stream in list_streams(folder):
        if kind_of(stream) in ("metrics", "data", "files"):
            record = last_record(folder, stream)
            if record is not None:
                steps.append(step_behind(step_of(record)))
    return max(steps)


def step_of(record: bytes) -> int:
    """The step of a record's line, -1 if it has none."""
    try:
        return msgspec.json.decode(record, type=_Step).step
    except UNREADABLE:  # non-finite values are no JSON; the step stands before them
        head, _, rest = record.partition(b'"step":')
        digits = rest.split(b",", 1)[0].strip()
        return int(digits) if head and digits.isdigit() and len(digits) <= LONGEST_STEP else -1
