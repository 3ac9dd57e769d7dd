"""Objects whose own code raises, lies or never ends: what users pass by mistake, and worse."""

from __future__ import annotations

import decimal
import enum
import fractions
import types
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.fuzz.values import any_text, integers


class HostileError(Exception):
    """Raised by code of others; its own text cannot be had either."""

    def __str__(self) -> str:
        raise ValueError("no text")


class Item:
    """Like a tensor of one element."""

    def __init__(self, item: Any, shape: Any = ()) -> None:
        self._item, self.shape = item, shape

    def item(self) -> Any:
        if isinstance(self._item, BaseException):
            raise self._item
        return self._item


class Float:
    """Something that says it is a number."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __float__(self) -> float:
        if isinstance(self._value, BaseException):
            raise self._value
        return self._value  # type: ignore[no-any-return]


class EveryAttribute:
    """A mock: it has whatever is asked for."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **more: self


class NoAttribute:
    """Every look at it raises, at its shape and at its class too."""

    @property
    def shape(self) -> Any:
        raise HostileError

    @property
    def __class__(self) -> Any:
        raise HostileError

    def __repr__(self) -> str:
        raise HostileError


class Text(str):
    """A text with methods of its own."""

    __slots__ = ()

    def strip(self, *arguments: Any) -> Any:
        raise HostileError

    def __str__(self) -> str:
        return "other"

    def encode(self, *arguments: Any, **more: Any) -> Any:
        raise HostileError


class Number(int):
    """An integer with methods of its own."""

    def __int__(self) -> int:
        return 7

    def __float__(self) -> float:
        raise HostileError

    def __le__(self, other: object) -> Any:
        raise HostileError


class Dict(dict[str, Any]):
    """A dict whose items cannot be had."""

    def items(self) -> Any:
        raise HostileError

    def copy(self) -> Any:
        raise HostileError


class Endless(Mapping[str, Any]):
    """A mapping that holds another one like itself, for ever."""

    def __getitem__(self, key: str) -> Any:
        return Endless()

    def __iter__(self) -> Iterator[str]:
        return iter("a")

    def __len__(self) -> int:
        return 1


class Colour(enum.Enum):
    """No number."""

    RED = "red"


def cyclic() -> dict[str, Any]:
    """Contains itself."""
    found: dict[str, Any] = {"a": 1.0}
    found["self"] = {"again": found, "list": [found]}
    return found


# Made when they are drawn, by number: hypothesis looks at what it samples from, and some cannot bear it.
MAKERS: tuple[Callable[[], Any], ...] = (
    lambda: 10**5000,
    lambda: np.float32(1.5),
    lambda: np.float64("nan"),
    lambda: np.longdouble(1),
    lambda: np.int8(3),
    lambda: np.uint64(2**64 - 1),
    lambda: np.bool_(True),
    lambda: np.array([1.0]),
    lambda: np.array([1.0, 2.0]),
    lambda: np.array([], dtype=float),
    lambda: np.array("text"),
    lambda: np.array([object()]),
    lambda: np.datetime64("2020-01-01"),
    lambda: np.ma.masked,
    lambda: decimal.Decimal("sNaN"),
    lambda: decimal.Decimal("1e999999"),
    lambda: fractions.Fraction(1, 3),
    lambda: Colour.RED,
    object,
    lambda: types.SimpleNamespace(a=1),
    lambda: len,
    lambda: Number(3),
    lambda: Text("text"),
    NoAttribute,
    EveryAttribute,
    HostileError,
    lambda: int,
    lambda: (number for number in range(3)),
    cyclic,
    Endless,
    lambda: Dict(a=1.0),
    lambda: UserDict(a=1.0, b={"c": 2}),
)
ERRORS: tuple[Callable[[], Any], ...] = (
    HostileError,
    lambda: ValueError("\ud800"),
    RecursionError,
    MemoryError,
    lambda: None,
    lambda: "1",
)
KEYS: tuple[Callable[[], Any], ...] = (
    lambda: "loss",
    lambda: "a/b",
    lambda: "x" * 100_000,
    lambda: Text("key"),
    lambda: Text(" "),
    lambda: 1,
    lambda: None,
    tuple,
    lambda: b"b",
    lambda: 1.5,
)


def one_of(makers: Sequence[Callable[[], Any]]) -> st.SearchStrategy[Any]:
    """Something that one of them makes."""
    return st.integers(0, len(makers) - 1).map(lambda number: makers[number]())


odd = one_of(ERRORS)
scalars = (
    st.none()
    | st.booleans()
    | integers
    | st.integers()
    | st.floats()
    | any_text
    | st.binary(max_size=4)
    | st.complex_numbers()
    | st.decimals()
    | st.fractions()
    | one_of(MAKERS)
)
values = (
    scalars
    | st.builds(Item, scalars | odd, st.sampled_from([(), (1,), (2,), None, [], (-1,), ("x",), (2**70,)]))
    | st.builds(Float, scalars | odd)
    | st.lists(scalars, max_size=2)
)
keys = any_text | one_of(KEYS)
records = st.recursive(
    st.dictionaries(keys, values, max_size=5),
    lambda inner: st.dictionaries(keys, inner | values, max_size=4),
    max_leaves=8,
)
