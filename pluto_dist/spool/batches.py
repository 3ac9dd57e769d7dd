"""Batches: what the lines of a cut contain (names, latest points), and the lines under their final names.

Lines are passed on as they are, unless the participant has a series with a suffix (R7) or the stream is a
console, whose line numbers are given here. A line that cannot be read is passed on too: refusing it is the
backend's part.

`next_step` and `step_of` read the steps of lines that are on disk already.

Nearly all metrics lines of a stream hold the same names as the line before. Where some in a row do, a type
with just these names is made, and the lines that follow are decoded by it; the first line with other names
fails to, and is read by itself. Seen: that takes 0.4 of the time in which each line becomes a dict.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, TypeVar

import msgspec

from pluto_dist.core.values.backend import LogType, StreamKind, kind_of
from pluto_dist.core.values.events import PointSummary
from pluto_dist.core.values.ids import UNREADABLE, step_behind
from pluto_dist.spool.file_lines import read_line
from pluto_dist.spool.reader import last_record, list_streams

T = TypeVar("T")

ALIKE: Final = 8  # lines in a row, before they are worth a type
DATA_TYPES: dict[str, LogType] = {"histogram": "HISTOGRAM", "table": "TABLE"}  # others are string series
AT_ONCE: Final = 256  # lines that are held decoded
_WIDEST: Final = 1000  # names of a type
_TYPES: Final = 64  # that are kept


class Contents(msgspec.Struct, frozen=True):
    """The content of a batch's records."""

    names: dict[str, LogType]
    summary: dict[str, PointSummary]
    max_step: int


class MetricsLine(msgspec.Struct):
    """One record of a metrics stream; time in epoch milliseconds."""

    time: int
    step: int
    data: dict[str, float]


class _Tally(msgspec.Struct):
    """Lines with the same names: how many, and the values of the newest with its place in the batch."""

    count: int = 0
    step: int = 0
    number: int = 0
    values: tuple[float, ...] = ()

    def take(self, count: int, step: int, number: int, values: tuple[float, ...]) -> None:
        """Adds lines, the newest of which is told."""
        if step >= self.step or not self.count:
            self.step, self.number, self.values = step, number, values
        self.count += count


def in_a_row(change: Callable[[bytes], T], lines: Sequence[bytes]) -> list[T]:
    """What becomes of lines, up to the first that holds other names than the change is made for."""
    done: list[T] = []
    with suppress(*UNREADABLE):
        done.extend(map(change, lines))  # what came before an error is kept
    return done


_Tallies = dict[tuple[str, ...], _Tally]
_line = msgspec.json.Decoder(MetricsLine)
_to_json = msgspec.json.Encoder().encode


def metrics(lines: Sequence[bytes]) -> Contents:
    """Names, latest points and counts; lines that cannot be read are left to the backend to refuse."""
    tallies: _Tallies = {}
    decode: Callable[[bytes], Any] | None = None
    names: tuple[str, ...] = ()
    position = row = 0
    while position < len(lines):
        if decode is not None:
            wanted = lines[position : position + AT_ONCE]
            taken = _take_alike(tallies[names], decode, wanted, position)
            position += taken
            if taken == len(wanted):
                continue
            if taken < ALIKE:
                decode, row = None, 0
        before = names if decode is None else ()
        found = _take_one(tallies, lines[position], position)
        position += 1
        if decode is None:
            row, names = (row + 1 if found == before else 1), found
            decode = _decoder(names) if row >= ALIKE else None
    return _summed_up(tallies)


def read_record(line: bytes) -> MetricsLine | None:
    """The record of a line, also with values that are not finite; None where there is none."""
    try:
        return _line.decode(line)
    except UNREADABLE:
        try:
            return msgspec.convert(json.loads(line), MetricsLine)
        except UNREADABLE:
            return None


def _take_one(tallies: _Tallies, line: bytes, number: int) -> tuple[str, ...]:
    """Reads any line; returns its names."""
    try:
        record = _line.decode(line)
        step, data = record.step, record.data
    except UNREADABLE:
        step, data = _lenient(line)
    names = tuple(data)
    tallies.setdefault(names, _Tally()).take(1, step, number, tuple(data.values()))
    return names


def _take_alike(tally: _Tally, decode: Callable[[bytes], Any], lines: Sequence[bytes], position: int) -> int:
    """Takes lines with the names of the type, up to the first that has others; returns how many."""
    records = in_a_row(decode, lines)
    if records:
        steps = [record.step for record in records]
        step = max(steps)
        newest = len(steps) - 1 - steps[::-1].index(step)
        values = msgspec.structs.astuple(records[newest].data)
        tally.take(len(records), step, position + newest, values)
    return len(records)


@lru_cache(maxsize=_TYPES)
def _decoder(names: tuple[str, ...], *, unread: bool = False) -> Callable[[bytes], Any] | None:
    """Decodes lines that hold these names and no others, in any order; None where it cannot be made.

    Args:
        unread: numbers stay the bytes that they are, and other fields than ours are refused.
    """
    if not 0 < len(names) <= _WIDEST:
        return None
    fields = {f"f{number}": name for number, name in enumerate(names)}
    kind, whole = (msgspec.Raw, msgspec.Raw) if unread else (float, int)
    try:
        data = msgspec.defstruct(
            "Data", [(field, kind) for field in fields], rename=fields, forbid_unknown_fields=True, gc=False
        )
    except ValueError:  # a name with a quote or a control character
        return None
    head = [("time", whole), ("step", whole)]
    line = msgspec.defstruct("Line", [*head, ("data", data)], forbid_unknown_fields=unread, gc=False)
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(line).decode
    return decode


def renaming(names: tuple[str, ...], finals: Sequence[str]) -> Callable[[bytes], bytes] | None:
    """Puts lines that hold these names under final ones, values as they were written.

    Returns:
        What does it to one line, and raises what a decoder raises for a line that holds other names; None
        where it cannot be made.
    """
    decode = _decoder(names, unread=True)
    if decode is None:
        return None
    pairs = b",".join(_to_json(final).replace(b"%", b"%%") + b":%b" for final in finals)
    form, values = b'{"time":%b,"step":%b,"data":{' + pairs + b"}}\n", msgspec.structs.astuple

    def rename(line: bytes) -> bytes:
        record = decode(line)
        return form % (record.time, record.step, *values(record.data))

    return rename


def _summed_up(tallies: Mapping[tuple[str, ...], _Tally]) -> Contents:
    """Of each name the newest value: that of the highest step, and of two lines of one step the later."""
    counts: Counter[str] = Counter()
    newest: dict[str, float] = {}
    steps: dict[str, int] = {}
    for names, tally in sorted(tallies.items(), key=lambda item: (item[1].step, item[1].number)):
        newest.update(zip(names, tally.values, strict=True))
        steps |= dict.fromkeys(names, tally.step)
        counts.update(dict.fromkeys(names, tally.count))
    types: dict[str, LogType] = dict.fromkeys(newest, "METRIC")
    summary = {name: PointSummary(_shown(value), steps[name], counts[name]) for name, value in newest.items()}
    return Contents(types, summary, max((tally.step for tally in tallies.values()), default=-1))


def _lenient(line: bytes) -> tuple[int, dict[str, float]]:
    """Lines with NaN or infinities, which are no JSON."""
    try:
        record = json.loads(line)
        return int(record["step"]), {str(k): float(v) for k, v in record["data"].items()}
    except (*UNREADABLE, KeyError, TypeError, AttributeError, OverflowError):
        return -1, {}


def _shown(value: float) -> float | str:
    """JSON has no name for what is not finite."""
    if value != value:  # noqa: PLR0124 # only NaN differs from itself
        return "NaN"
    return value if abs(value) != float("inf") else ("Infinity" if value > 0 else "-Infinity")


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


_DATA_BEGINS, _NAME_ENDS = b',"data":{', b'":'
_TIME, _MESSAGE = b'{"time":', b',"message":"'  # as `client.console.text` writes them

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


def renamed(
    kind: StreamKind,
    lines: Sequence[bytes],
    known: Mapping[str, str | None],
    found: Contents | None = None,
) -> tuple[bytes, ...]:
    """The lines under final names; a series without one is left out, and so is a line without a series.

    Args:
        kind: of the stream.
        lines: as they were written.
        known: final names; those that are missing stay as they are.
        found: the contents of just these lines, which saves reading them again.
    """
    if kind == "metrics" and found is not None and (suffixed := _suffixed(lines, known, found)) is not None:
        return suffixed
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


def _suffixed(
    lines: Sequence[bytes], known: Mapping[str, str | None], found: Contents
) -> tuple[bytes, ...] | None:
    """Lines whose names all get one suffix, as those of a rank do; None where that is not so.

    Nothing is decoded: the suffix is put before each quote and colon behind `data`. Lines that somebody wrote
    in another way show by their length.
    """
    suffix = _one_suffix(found.names, known)
    if not suffix:
        return None
    ending = _to_json(suffix)[1:-1] + _NAME_ENDS
    changed = tuple(
        head + begins + data.replace(_NAME_ENDS, ending)
        for head, begins, data in (line.partition(_DATA_BEGINS) for line in lines)
    )
    points = sum(point.count for point in found.summary.values())
    grown = sum(map(len, changed)) - sum(map(len, lines))
    return changed if grown == points * (len(ending) - len(_NAME_ENDS)) else None


def _one_suffix(names: Iterable[str], known: Mapping[str, str | None]) -> str:
    """What stands behind each of these names in its final one; "" if that is not the same for all."""
    suffixes = set[str]()
    for name in names:
        final = known.get(name, name)
        if final is None or not final.startswith(name) or '"' in name:
            return ""
        suffixes.add(final[len(name) :])
        if len(suffixes) > 1:
            return ""
    return suffixes.pop() if suffixes else ""


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
