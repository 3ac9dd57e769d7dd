"""Newline-delimited JSON as the ingest service reads it: in order, up to the first line it cannot take.

The common body is decoded in one go. Whatever that refuses, or might take too kindly (non-finite tokens,
repeated keys, integers beyond 64 bits), is decided line by line by the slow, exact reading.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

import msgspec

from .rows import DataRow, LogRow

_U64 = 2**64
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

Natural: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
MetricLine: TypeAlias = tuple[int, int, dict[str, float]]  # time, step, values


class LineError(Exception):
    """A line the server does not take: its error kind and reason."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


class _Metric(msgspec.Struct, forbid_unknown_fields=True):
    time: Natural
    step: Natural
    data: dict[str, float]


_METRICS = msgspec.json.Decoder(_Metric)
_METRIC_KEYS = (b'"time"', b'"step"', b'"data"')

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class Lines(Generic[ItemT]):
    """The taken lines, and the fault that ended the reading."""

    items: list[ItemT]
    fault: LineError | None = None


def read_metrics(body: bytes) -> Lines[MetricLine]:
    """The lines of /ingest/metrics."""
    quick = _decode_all(body)
    if quick is not None and all(map(_plain_metric, quick)):
        return Lines([(line.time, line.step, line.data) for line in quick])
    return _line_by_line(body, _metric_line)


def read_data(body: bytes) -> Lines[DataRow]:
    """The lines of /ingest/data."""
    return _line_by_line(body, _data_line)


def read_logs(body: bytes) -> Lines[LogRow]:
    """The lines of /ingest/logs."""
    return _line_by_line(body, _log_line)


def _decode_all(body: bytes) -> list[_Metric] | None:
    try:
        lines: list[_Metric] = _METRICS.decode_lines(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    # Every line has each key; as many as lines means none is repeated. Escapes could hide a repeat.
    unique = all(body.count(key) == len(lines) for key in _METRIC_KEYS) and b"\\" not in body
    return lines if unique else None


def _plain_metric(line: _Metric) -> bool:
    return (
        line.time < _U64
        and line.step < _U64
        and bool(line.data)
        and max(line.data.values()) < 2**63
        and min(line.data.values()) > -(2**63)
        and all(map(str.strip, line.data))
    )


def _line_by_line(body: bytes, read: Callable[[bytes], ItemT]) -> Lines[ItemT]:
    items: list[ItemT] = []
    for raw in body.split(b"\n"):
        line = raw.strip(b" \t\r")
        if not line:
            continue
        try:
            items.append(read(line))
        except LineError as fault:
            return Lines(items, fault)
    return Lines(items)


class _Object(dict[str, Any]):
    """A decoded object that remembers whether a key was repeated."""

    repeated: str | None = None


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    found = _Object(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        found.repeated = next(name for name in names if names.count(name) > 1)
    return found


def _decode(line: bytes, fields: dict[str, type], constant: Callable[[str], Any]) -> _Object:
    try:
        found = json.loads(line.decode(), object_pairs_hook=_object, parse_constant=constant)
    except (ValueError, RecursionError) as fault:
        raise _undecodable(f"invalid JSON: {fault}") from None
    if not isinstance(found, _Object):
        raise _undecodable("invalid type: expected an object")
    if found.repeated is not None:
        raise _undecodable(f"duplicate field `{found.repeated}`")
    for name in found:
        if name not in fields:
            raise _undecodable(f"unknown field `{name}`, expected one of {', '.join(fields)}")
    for name, kind in fields.items():
        _require(found, name, kind)
    return found


def _require(found: _Object, name: str, kind: type) -> None:
    if name not in found:
        raise _undecodable(f"missing field `{name}`")
    value = found[name]
    if isinstance(value, bool) or not isinstance(value, kind):
        raise _undecodable(f"invalid type for `{name}`: {value!r}")
    if isinstance(value, int) and not 0 <= value < _U64:
        raise _undecodable(f"invalid value for `{name}`: {value}, expected u64")


def _metric_line(line: bytes) -> MetricLine:
    fields = {"time": int, "step": int, "data": dict}
    found = _decode(line, fields, str)
    values: dict[str, float] = {}
    for name, value in found["data"].items():
        if value is not None:
            values[name] = _metric_value(name, value)
    if not values:
        raise LineError("InvalidMetricFormat", "'data' field cannot be empty")
    for name in values:
        if not name.strip():
            raise LineError("InvalidMetricFormat", "metric name cannot be empty")
    return found["time"], found["step"], values


def _metric_value(name: str, value: Any) -> float:
    if isinstance(value, str) and value in _NON_FINITE:
        return _NON_FINITE[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _undecodable(f"invalid value for metric `{name}`: {value!r}")
    in_range = -(2**63) <= value < _U64 if isinstance(value, int) else math.isfinite(value)
    if not in_range:
        raise _undecodable(f"number out of range for metric `{name}`: {value}")
    return float(value)


def _data_line(line: bytes) -> DataRow:
    fields = {"time": int, "data": str, "dataType": str, "logName": str, "step": int}
    found = _decode(line, fields, _refuse_constant)
    for name in ("dataType", "logName"):
        if not found[name].strip():
            raise LineError("InvalidLogFormat", f"'{name}' cannot be empty")
    return DataRow(found["time"], found["step"], found["logName"], found["dataType"], found["data"])


def _log_line(line: bytes) -> LogRow:
    fields = {"time": int, "message": str, "lineNumber": int, "logType": str}
    found = _decode(line, fields, _refuse_constant)
    if not found["logType"].strip():
        raise LineError("InvalidLogFormat", "'logType' cannot be empty")
    return LogRow(found["time"], found["lineNumber"], found["logType"], found["message"])


def _refuse_constant(token: str) -> Any:
    raise ValueError(f"{token} is not JSON")


def _undecodable(reason: str) -> LineError:
    return LineError("StreamDecodingError", reason)
