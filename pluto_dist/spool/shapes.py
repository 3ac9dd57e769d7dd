"""What stands in metrics lines: names, counts, and the newest value of each name.

Nearly all lines of a stream hold the same names as the line before. Where some in a row do, a type with just
these names is made, and the lines that follow are decoded by it; the first line with other names fails to,
and is read by itself. Seen: that takes 0.4 of the time in which each line becomes a dict.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, TypeVar

import msgspec

from pluto_dist.core.values.backend import LogType
from pluto_dist.core.values.events import PointSummary
from pluto_dist.core.values.ids import UNREADABLE

T = TypeVar("T")

ALIKE: Final = 8  # lines in a row, before they are worth a type
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
