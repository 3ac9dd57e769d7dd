"""The usual record, numbers under names, as its request line. The hot path of `log()`.

What the checks here do not take goes the long way through `record`, which looks at each value and says what
is wrong with it; so they may refuse anything, and must not take what the long way would write differently.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from pluto_dist.core.values.backend import LogType

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1  # what the server's JSON reader holds as an integer

_PLAIN = frozenset({float, int})
_DEEP = 8  # dicts inside dicts; deeper ones go the long way
_to_json = msgspec.json.Encoder().encode


def line_of(data: Mapping[str, Any], step: int, time_ms: int) -> bytes | None:
    """The line of floats and integers under names that were declared before; a few checks that run in C.

    Returns:
        None if it has to go the long way. The caller has seen to it that nobody changes `data`.
    """
    values = data.values()
    kinds = set(map(type, values))
    if not kinds or not kinds <= _PLAIN:
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


def numbers_in(data: Mapping[Any, Any]) -> dict[str, float] | None:
    """All numbers of a record under their full names: nested dicts, numpy's scalars, tensors of one element.

    Returns:
        None if there is anything else, which the long way has to look at.
    """
    numbers: dict[str, float] = {}
    try:
        return numbers if _gather(data, "", numbers, _DEEP) else None
    except Exception:  # noqa: BLE001 # code of others, e.g. item() of a tensor of several elements
        return None


def declared_first(names: Iterable[str], known: Collection[str]) -> dict[str, LogType] | None:
    """The names that are new; None if one of them has to be looked at, because it may not be written so."""
    new = [name for name in names if name not in known]
    fit = all(name.isascii() and "\0" not in name and name.rpartition("/")[2].strip() for name in new)
    return dict.fromkeys(new, "METRIC") if fit else None


def _gather(data: Mapping[Any, Any], prefix: str, numbers: dict[str, float], deep: int) -> bool:
    for key, value in data.items():
        if type(key) is not str:
            return False
        name, kind = prefix + key if prefix else key, type(value)
        if kind is dict:
            if not deep or not key.strip() or not _gather(value.copy(), name + "/", numbers, deep - 1):
                return False
            continue
        number = value if kind in _PLAIN else _number_of(value, kind)
        if number is None or name in numbers:  # once nested and once not
            return False
        numbers[name] = number
    return True


def _number_of(value: Any, kind: Any) -> float | None:
    """Reads a foreign scalar, once: a tensor may have to come from its device."""
    item = getattr(kind, "item", None)
    number = value if item is None else item(value)
    if type(number) in _PLAIN:
        return number  # type: ignore[no-any-return] # float or int
    return int(number) if type(number) is bool else None
