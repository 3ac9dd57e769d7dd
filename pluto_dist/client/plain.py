"""Foreign values as plain Python ones: numbers and texts that every JSON reader takes.

numpy, torch, jax and the like are recognised by what their types offer and never imported.
"""

from __future__ import annotations

import math
from typing import Any

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
    """Start of what an error says; foreign messages can be pages long."""
    return said_by(error).strip().partition("\n")[0][:200]


def said_by(error: BaseException) -> str:
    """What an error says, as text that can be written; some raise where they should say something."""
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
