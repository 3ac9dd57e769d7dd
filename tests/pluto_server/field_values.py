"""The index of what runs were given: `config` and `systemMetadata`, flattened; a text and perhaps a number.

The real server fills it after it has answered, so a run may be there for a moment before it can be found
(`Settings.index_lag_s`). A change of the config rewrites both sources in one transaction.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .jsontext import Json, dumps
from .runs import Run

_LEADING_ZERO = re.compile(r"0\d+")


@dataclass(frozen=True, slots=True)
class FieldValue:
    """One value; `number` is None for what is no number, `text` is None for null."""

    text: str | None
    number: float | None


def field_values(run: Run, source: str, now_ms: int, lag_ms: int) -> dict[str, FieldValue]:
    """What filters see of one source (`config` or `systemMetadata`) of a run, by dotted key."""
    if now_ms < run.inserted_ms + lag_ms:
        return {}
    document = run.config if source == "config" else run.system_metadata
    return {key: FieldValue(_text(value), _number(value)) for key, value in _flat(document, "")}


def numberish(value: Json) -> bool:
    """Whether an equality with this value compares numbers."""
    if isinstance(value, str):
        return _javascript_number(value) is not None
    return isinstance(value, int | float)


def _flat(value: Json, prefix: str) -> Iterator[tuple[str, Json]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else key)
    elif prefix:
        yield prefix, value


def _text(value: Json) -> str | None:
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case list():
            return ",".join("" if item is None else str(_text(item)) for item in value)
        case _:
            return dumps(value)


def _number(value: Json) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, str) or _LEADING_ZERO.fullmatch(value.strip()):
        return None
    number = _javascript_number(value)
    return number if number is not None and math.isfinite(number) else None


def _javascript_number(text: str) -> float | None:
    try:
        return float(text) if text.strip() and "_" not in text else None
    except ValueError:
        return None
