"""What the user passes to `log()`, as the request lines that the server wants.

Numbers become one metrics line; strings, histograms and tables one data line each; files are passed on to
`attachments`. Nested dicts are flattened with `/`. A fault in the call itself (key, step, timestamp) raises
at once. A value that cannot be logged is left out and returned as a rejection: its neighbours are logged,
training goes on.

The usual record, a flat dict of floats and ints under names seen before, is recognised by a few checks
that run in C and then encoded in one go; everything else goes through `collect`, which looks at each value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from pluto_dist.client.collect import (
    MAX_INTEGER,
    MIN_INTEGER,
    Attached,
    Collector,
    Number,
    Rejection,
    is_mapping,
)
from pluto_dist.client.plain import NotAScalarError, Scalar, scalar_of, shown
from pluto_dist.core.foreign import MAX_STEP
from pluto_dist.core.requests import LogType
from pluto_dist.errors import InvalidRecordError

STRING = "string-series"
MILLISECONDS_FROM = 1e11  # as seconds this is the year 5138, as milliseconds March 1973

_PLAIN_NUMBERS = frozenset({float, int})
_to_json = msgspec.json.Encoder().encode


class Encoded(msgspec.Struct, frozen=True):
    """Request lines of one `log()` call, each with its newline.

    Attributes:
        metrics: the metrics line, None if there are no numbers.
        data: one line per string, histogram and table.
        files: what has to be kept before its line can be written.
        new: names that are not in `known`; declare them before these lines are written.
        rejections: what was left out, with advice.
    """

    metrics: bytes | None = None
    data: tuple[bytes, ...] = ()
    files: tuple[Attached, ...] = ()
    new: dict[str, LogType] = {}
    rejections: tuple[Rejection, ...] = ()


def encode(
    data: Mapping[str, object], step: int, time_ms: int, known: set[str], *, strict: bool = False
) -> Encoded:
    """Turns one record into request lines.

    Args:
        data: names and values; dicts inside are flattened with `/`.
        step: a non-negative integer; numpy's and torch's are taken, and floats without a fraction.
        time_ms: epoch milliseconds, from the clock or from `epoch_ms`.
        known: names that were declared already; not changed here, since a declaration counts only when it
            is written.
        strict: raise where a value would be left out.

    Raises:
        InvalidRecordError: data is no dict, a key is no text, the step is none; with `strict` also a value
            that cannot be logged, or one under a blank name.
    """
    if type(step) is not int or not 0 <= step <= MAX_STEP:
        step = _checked_step(step)
    if type(data) is dict:
        snapshot = data.copy()  # another thread may change the dict between check and encoding
        if known.issuperset(snapshot) and (line := _encode_plain(snapshot, step, time_ms)) is not None:
            return Encoded(line)
    return _encode_any(data, step, time_ms, known, strict=strict)


def declaration(names: Mapping[str, LogType]) -> bytes:
    """The line that declares names before their first use (R7)."""
    return _to_json({"declare": names}) + b"\n"


def epoch_ms(timestamp: object) -> int:
    """Epoch milliseconds of a timestamp in epoch seconds, as `time.time()` gives them.

    Raises:
        InvalidRecordError: not a number, negative, not finite, or obviously milliseconds.
    """
    seconds = _scalar_argument("timestamp", timestamp)
    if isinstance(seconds, bool | str) or not (seconds >= 0 and seconds < math.inf):
        raise InvalidRecordError(
            f"timestamp is {shown(timestamp)}; pass seconds since 1970 as time.time() gives them "
            "(datetime: its .timestamp()), or leave it out for now"
        )
    if seconds >= MILLISECONDS_FROM:
        raise InvalidRecordError(
            f"timestamp is {shown(timestamp)}, which looks like milliseconds or finer; it is given in "
            f"seconds and must be below {MILLISECONDS_FROM:.0f}; pass timestamp / 1000"
        )
    return round(seconds * 1000)


def _encode_plain(data: dict[str, float], step: int, time_ms: int) -> bytes | None:
    values = data.values()
    kinds = set(map(type, values))
    if not kinds or not kinds <= _PLAIN_NUMBERS:
        return None
    try:
        # msgspec writes null for NaN and infinities; a sum shows them. A sum that overflows by itself only
        # costs the long way.
        if not math.isfinite(sum(values)):
            return None
        if int in kinds and not (min(values) >= MIN_INTEGER and max(values) <= MAX_INTEGER):
            return None
        return b'{"time":%d,"step":%d,"data":%b}\n' % (time_ms, step, _to_json(data))
    except (OverflowError, TypeError):  # an integer beyond a float; a key that only equals a text
        return None


def _encode_any(
    data: Mapping[str, object], step: int, time_ms: int, known: set[str], *, strict: bool
) -> Encoded:
    if not is_mapping(data):
        raise InvalidRecordError(
            f"log() was given {shown(data)}; pass a dict of names and values, e.g. {{'loss': 0.1}}"
        )
    collector = Collector()
    try:
        collector.take_all(data)
    except NotAScalarError as error:
        raise InvalidRecordError(f"log() was given {shown(data)}: {error}; pass a plain dict") from error
    if strict and collector.rejections:
        raise InvalidRecordError("; ".join(map(str, collector.rejections)))
    return Encoded(
        metrics=_metrics_line(collector.numbers, step, time_ms),
        data=(
            *(_data_line(name, text, STRING, step, time_ms) for name, text in collector.texts.items()),
            *(
                _data_line(name, value.payload, value.data_type, step, time_ms)
                for name, value in collector.values.items()
            ),
        ),
        files=tuple(collector.files),
        new={name: kind for name, kind in collector.kinds().items() if name not in known},
        rejections=tuple(collector.rejections),
    )


def _metrics_line(numbers: dict[str, Number], step: int, time_ms: int) -> bytes | None:
    if not numbers:
        return None
    return _to_json({"time": time_ms, "step": step, "data": numbers}) + b"\n"


def _data_line(name: str, text: str, data_type: str, step: int, time_ms: int) -> bytes:
    line = {"time": time_ms, "data": text, "dataType": data_type, "logName": name, "step": step}
    return _to_json(line) + b"\n"


def _checked_step(step: object) -> int:
    number = _scalar_argument("step", step)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int):
        raise InvalidRecordError(f"step is {shown(step)}; pass a whole number from 0 on")
    if not 0 <= number <= MAX_STEP:
        raise InvalidRecordError(f"step is {shown(number)}; steps go from 0 to {MAX_STEP}")
    return number


def _scalar_argument(argument: str, value: object) -> Scalar:
    try:
        plain = scalar_of(value)
    except NotAScalarError as error:
        raise InvalidRecordError(f"{argument} is {shown(value)}: {error}") from error
    if plain is None:
        raise InvalidRecordError(f"{argument} is {shown(value)}; pass a number")
    return plain
