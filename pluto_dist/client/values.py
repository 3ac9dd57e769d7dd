"""Foreign values as plain ones: numbers and texts for `log()`, whole objects as strict JSON for configs.

numpy, torch, jax, pydantic and the like are recognised by the methods of their types, and never imported. A
config is complete where that is possible, and readable where not: an object without a better form becomes a
text, an object that raises becomes a text that says so. Its size is bounded.
"""

from __future__ import annotations

import datetime
import math
import os
import re
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from types import BuiltinFunctionType, FunctionType, SimpleNamespace
from typing import Any

import msgspec

from pluto_dist.errors import InvalidRecordError

Scalar = bool | int | float | str

REPLACEMENT = "\ufffd"


class NotAScalarError(ValueError):
    """The value should be a scalar but cannot be had as one; never leaves the client."""


def clean_text(text: str) -> str:
    """The text as an exact `str` that UTF-8 and Postgres can hold.

    NUL and lone surrogates become U+FFFD; a surrogate pair becomes the character it stands for.
    """
    text = str.__str__(text)
    if "\0" in text:
        text = text.replace("\0", REPLACEMENT)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def scalar_of(value: object) -> Scalar | None:
    """The number, bool or text that the value is, in its exact built-in type.

    Subclasses lose their class (numpy.float64, IntEnum, StrEnum); scalars and arrays or tensors of one
    element are asked by their `item()`, Decimal and Fraction by their `__float__`.

    Returns:
        None if the value is something else.

    Raises:
        NotAScalarError: an array of several elements, or reading it failed; the text says why.
    """
    try:
        plain = _builtin_scalar(value)
        return _foreign_scalar(value) if plain is None else plain
    except NotAScalarError:
        raise
    except Exception as error:  # code of others, e.g. item() of a tensor on a device that has failed
        raise NotAScalarError(f"reading it raised {type(error).__name__}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Start of an error's message; foreign messages can be pages long."""
    return said_by(error).strip().partition("\n")[0][:200]


def said_by(error: BaseException) -> str:
    """An error's message as text that can be written; the `str` of some errors raises."""
    try:
        return clean_text(str(error))
    except Exception as second:  # noqa: BLE001  code of others
        return f"(its text cannot be had: {type(second).__name__})"


def shown(value: Any) -> str:
    """The value for an error message: its repr if that is safe and short, else its type."""
    if issubclass(type(value), int) and int.bit_length(value) > 256:  # repr() refuses above 4300 digits
        return f"an integer of {int.bit_length(value)} bits"
    if type(value) in (bool, int, float, str, type(None)):
        text = repr(value)
        return text if len(text) <= 100 else f"{text[:100]}… ({len(text)} characters)"
    return f"a value of type {type(value).__name__}"


def _builtin_scalar(value: object) -> Scalar | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    return None


def _foreign_scalar(value: Any) -> Scalar | None:
    kind = type(value)  # what the class offers: proxies and mocks answer for every attribute
    if hasattr(kind, "item"):
        shape = getattr(value, "shape", ())
        if isinstance(shape, tuple) and math.prod(shape) != 1:
            raise NotAScalarError(
                f"it has shape {tuple(shape)} and not one element; take one number of it, e.g. its mean"
            )
        item = value.item()
        # numpy.longdouble gives itself back: Python has no float as wide
        return float(item) if type(item) is kind else _builtin_scalar(item)
    if hasattr(kind, "__float__"):
        return float(value)
    return None


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
    """The parts of an object, named or in order; None if it has none."""
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
    from argparse import Namespace

    if isinstance(value, Namespace | SimpleNamespace):
        return vars(value)
    if _is_array(value):
        small = hasattr(type(value), "tolist") and math.prod(value.shape) <= MAX_ARRAY
        return list(value.tolist()) if small else None
    return _fields_of(value)


def _fields_of(value: Any) -> Mapping[Any, Any] | None:
    import dataclasses

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


MAX_BYTES = 4 * 2**20

_to_json = msgspec.json.Encoder().encode


class Snapshot(msgspec.Struct, frozen=True):
    """A config at one instant.

    Attributes:
        json: a JSON object without NUL, NaN or infinities.
        cut: names of values that are replaced by a note, because they or the whole are too large.
    """

    json: bytes
    cut: tuple[str, ...] = ()


class _Leaf(msgspec.Struct, frozen=True):
    """A value that can be replaced by a note: a text, a number, a list as a whole."""

    size: int
    path: str
    parent: dict[str, Json]
    key: str


def snapshot(config: object, *, limit: int = MAX_BYTES) -> Snapshot:
    """Takes a config as JSON.

    Dicts, namespaces, dataclasses, attrs, pydantic and OmegaConf objects become JSON objects; what has no
    JSON form becomes a text. Above the limit the largest values are replaced by notes.

    Raises:
        InvalidRecordError: the config is no collection of named values, or has too many names for the limit.
    """
    conversion = Conversion()
    plain = conversion.json({} if config is None else config, "")
    if not isinstance(plain, dict):
        raise InvalidRecordError(
            f"config is of type {type(config).__name__}; pass named values: a dict, a dataclass, vars(args)"
        )
    cut = _cut_to(plain, limit)
    return Snapshot(_to_json(plain), (*conversion.left_out, *cut))


def _cut_to(plain: dict[str, Json], limit: int) -> list[str]:
    size, cut = len(_to_json(plain)), list[str]()
    if size <= limit:
        return cut
    for leaf in sorted(_leaves(plain, ""), key=lambda leaf: leaf.size, reverse=True):
        note = f"<cut: {leaf.size} bytes>"
        saved = leaf.size - len(_to_json(note))
        if size <= limit or saved <= 0:
            break
        leaf.parent[leaf.key] = note
        size -= saved
        cut.append(leaf.path)
    if size > limit:
        raise InvalidRecordError(
            f"config has {size} bytes of JSON even without its large values; the limit is {limit}: pass less"
        )
    return cut


def _leaves(parent: dict[str, Json], path: str) -> Iterator[_Leaf]:
    for key, value in parent.items():
        name = f"{path}/{key}" if path else key
        if isinstance(value, dict):
            yield from _leaves(value, name)
        else:
            yield _Leaf(len(_to_json(value)), name, parent, key)
