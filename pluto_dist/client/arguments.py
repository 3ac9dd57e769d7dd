"""Arguments of public calls, checked and made plain before anything is opened or any state changes.

Each function takes the argument's name for the error, and the value. Scalars of numpy and torch are taken for
the number they hold; nothing else is converted, because what was meant is a guess.
"""

from __future__ import annotations

from pluto_dist.client.plain import NotAScalarError, Scalar, scalar_of, shown
from pluto_dist.errors import ArgumentError

LONGEST_WAIT_S = 1e6  # a longer wait, infinity too, is this one: the platform's clocks end somewhere


def text_of(argument: str, value: object, limit: int) -> str:
    """A text that the server can hold, of at most `limit` characters.

    Raises:
        ArgumentError: it is none.
    """
    text = plain_of(argument, value)
    if not isinstance(text, str):
        raise ArgumentError(f"{argument}={shown(value)}: pass a text, e.g. str(…)", argument=argument)
    if len(text) > limit:
        raise ArgumentError(
            f"{argument}={shown(text)} is too long; the limit is {limit} characters", argument=argument
        )
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ArgumentError(
            f"{argument}={text!r} has a NUL or a lone surrogate; the server cannot hold it", argument=argument
        )
    return text


def flag_of(argument: str, value: object) -> bool:
    """True or False.

    Raises:
        ArgumentError: it is neither; 1 and "yes" are refused too.
    """
    plain = plain_of(argument, value)
    if not isinstance(plain, bool):
        raise ArgumentError(f"{argument}={shown(value)}: pass True or False", argument=argument)
    return plain


def whole_of(argument: str, value: object, lowest: int, highest: int) -> int:
    """A whole number within bounds.

    Raises:
        ArgumentError: it is none: a float, a bool, a text, or out of bounds.
    """
    plain = plain_of(argument, value)
    if isinstance(plain, bool) or not isinstance(plain, int) or not lowest <= plain <= highest:
        raise ArgumentError(
            f"{argument}={shown(value)}: pass a whole number from {lowest} to {highest}", argument=argument
        )
    return plain


def code_of(argument: str, value: object) -> int | None:
    """The code of `finish()`: an exit code, or minus a signal as `subprocess` has it; None for none.

    Raises:
        ArgumentError: no whole number, or no platform has such a code.
    """
    return None if value is None else whole_of(argument, value, -(2**31), 2**31 - 1)


def seconds_of(argument: str, value: object) -> float:
    """How long to wait; infinity is a wait that outlasts everybody.

    Raises:
        ArgumentError: no number, NaN, or negative.
    """
    plain = plain_of(argument, value)
    if isinstance(plain, bool | str | None) or not plain >= 0:  # NaN is not either
        raise ArgumentError(f"{argument}={shown(value)}: pass seconds, from 0 on", argument=argument)
    return float(min(plain, LONGEST_WAIT_S))


def plain_of(argument: str, value: object) -> Scalar | None:
    """The scalar that the value holds, None if it is something else.

    Raises:
        ArgumentError: it is an array of several elements, or cannot be read.
    """
    try:
        return scalar_of(value)
    except NotAScalarError as error:
        raise ArgumentError(f"{argument}={shown(value)}: {error}", argument=argument) from error
