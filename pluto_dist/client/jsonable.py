"""Any object as JSON values, for config: complete where that is possible, readable where not.

Foreign types are recognised by what they offer; nothing is imported for them. What has no better form becomes
a text. Reading never fails: an object that raises becomes a text that says so.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import re
import sys
import uuid
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from types import BuiltinFunctionType, FunctionType, SimpleNamespace
from typing import Any

from pluto_dist.client.plain import Scalar, clean_text, first_line, scalar_of, shown

MAX_DEPTH = 64
MAX_VALUES = 200_000  # objects that are shared at many places would multiply without a bound
MAX_ARRAY = 256  # elements; larger arrays are data and not config
MAX_REPR = 1000  # characters

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_LARGEST_INTEGER = 2**64


class Conversion:
    """One walk through an object; `left_out` names the places where a bound was met."""

    __slots__ = ("_above", "_values", "left_out")

    def __init__(self) -> None:
        self.left_out: list[str] = []
        self._above: list[object] = []
        self._values = 0

    def json(self, value: object, path: str) -> Json:
        """The value as JSON; `path` is its name in `left_out`."""
        self._values += 1
        if type(value) is str:
            return clean_text(value)
        if value is None or isinstance(value, bool):
            return value
        if type(value) is int or type(value) is float:
            return _number(value)
        return self._foreign(value, path)

    def _foreign(self, value: object, path: str) -> Json:
        if any(value is outer for outer in self._above):
            return "<contains itself>"
        if len(self._above) >= MAX_DEPTH:
            return self._leave_out(path, f"<left out: nested deeper than {MAX_DEPTH} levels>")
        self._above.append(value)
        try:
            return self._converted(value, path)
        except Exception as error:  # noqa: BLE001  code of others: properties, model_dump(), item()
            return (
                f"<{type(value).__name__} that cannot be read: {type(error).__name__}: {first_line(error)}>"
            )
        finally:
            self._above.pop()

    def _converted(self, value: object, path: str) -> Json:
        parts = parts_of(value)
        if parts is None:
            return _leaf(value)
        if self._values + len(parts) > MAX_VALUES:
            return self._leave_out(path, f"<left out: the config has more than {MAX_VALUES} values>")
        if isinstance(parts, Mapping):
            return self._object(parts, path)
        return [self.json(each, f"{path}/{index}") for index, each in enumerate(parts)]

    def _object(self, items: Mapping[object, object], path: str) -> Json:
        found: dict[str, Json] = {}
        for key, value in tuple(items.items()):
            name = _text(key)
            while name in found:  # 1 and "1"
                name = f"{name} ({type(key).__name__})"
            found[name] = self.json(value, f"{path}/{name}" if path else name)
        return found

    def _leave_out(self, path: str, text: str) -> str:
        self.left_out.append(path)
        return text


def parts_of(value: Any) -> Mapping[Any, Any] | Sequence[Any] | None:
    """What the object consists of, None if it is one thing."""
    if isinstance(value, Enum | type | str | bytes | bytearray | memoryview):
        return None
    if type(value).__module__.partition(".")[0] == "omegaconf":
        return _omegaconf_parts(value)
    if isinstance(value, Mapping):
        return value
    if isinstance(value, AbstractSet):
        return _ordered(value)
    if isinstance(value, Sequence):
        return value._asdict() if hasattr(value, "_asdict") else value
    if isinstance(value, Namespace | SimpleNamespace):
        return vars(value)
    if _is_array(value):
        small = hasattr(type(value), "tolist") and math.prod(value.shape) <= MAX_ARRAY
        return list(value.tolist()) if small else None
    return _fields_of(value)


def _fields_of(value: Any) -> Mapping[Any, Any] | None:
    kind = type(value)
    if dataclasses.is_dataclass(kind):
        return _attributes(value, (field.name for field in dataclasses.fields(kind)))
    if hasattr(kind, "__attrs_attrs__"):
        return _attributes(value, (field.name for field in kind.__attrs_attrs__))
    if hasattr(kind, "__struct_fields__"):  # msgspec
        return _attributes(value, kind.__struct_fields__)
    for method in ("model_dump", "to_dict"):  # pydantic; transformers and many others
        if callable(getattr(kind, method, None)):
            fields = getattr(value, method)()
            return fields if isinstance(fields, Mapping) else None
    return None


def _attributes(value: object, names: Iterable[str]) -> dict[str, object]:
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _omegaconf_parts(value: object) -> Mapping[Any, Any] | Sequence[Any] | None:
    omega = sys.modules["omegaconf"].OmegaConf
    if not omega.is_config(value):
        return None
    try:
        plain = omega.to_container(value, resolve=True, throw_on_missing=False)
    except Exception:  # noqa: BLE001  an interpolation without a value: its text is the best there is
        plain = omega.to_container(value, resolve=False, throw_on_missing=False)
    return plain if isinstance(plain, Mapping | list) else None


def _ordered(values: AbstractSet[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:  # mixed types
        return sorted(values, key=lambda each: (type(each).__name__, repr(each)))


def _is_array(value: Any) -> bool:
    """Arrays, tensors and tables, of at least one dimension."""
    shape = getattr(value, "shape", None)
    return isinstance(shape, tuple) and len(shape) > 0


def _leaf(value: Any) -> Json:
    if isinstance(value, Enum) and not isinstance(value, int | float | str):
        plain = scalar_of(value.value)
        return value.name if plain is None else _scalar(plain)
    if _is_array(value):
        return f"<{type(value).__name__} of shape {tuple(value.shape)}>"
    plain = scalar_of(value)
    return _text(value) if plain is None else _scalar(plain)


def _scalar(plain: Scalar) -> Json:
    if isinstance(plain, str):
        return clean_text(plain)
    return plain if isinstance(plain, bool) else _number(plain)


def _number(number: float) -> int | float | str:
    if isinstance(number, int):
        return (
            number
            if abs(number) < _LARGEST_INTEGER
            else shown(number)
            if number.bit_length() > 256
            else str(number)
        )
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return clean_text(value.value if isinstance(value, Enum) else value)
    if isinstance(value, os.PathLike):
        return clean_text(os.fsdecode(value))
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta | uuid.UUID | bool | int | float | complex | None):
        return str(value)
    if isinstance(value, bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    text = clean_text(_ADDRESS.sub("", repr(value)))  # an address differs from run to run
    return text if len(text) <= MAX_REPR else f"{text[:MAX_REPR]}… ({len(text)} characters)"
