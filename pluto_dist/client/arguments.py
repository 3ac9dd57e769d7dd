"""Arguments of public calls, checked and made plain before anything is opened or any state changes.

Most functions take the argument's name, for the error, and its value. Scalars of numpy and torch count as the
number that they hold; nothing else is converted, because that would be a guess at what was meant. The checked
arguments of `init` and `attach` are a `Wish`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Literal

import msgspec

from pluto_dist.client.values import NotAScalarError, Scalar, scalar_of, shown, snapshot
from pluto_dist.core.values.ids import MAX_STEP, Role, RunRef, classify_run_id
from pluto_dist.core.values.lifecycle import Fork
from pluto_dist.errors import ArgumentError, ForkError

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
    """Seconds to wait; infinity is cut to the longest wait.

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


GRANT_S = 60.0  # an owner or side has to know what it got
NAME_LIMIT = 255  # characters; the server's limit

_log = logging.getLogger("pluto_dist")


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """The checked arguments of a call of `init` or `attach`.

    Attributes:
        via: how the handle came here: by the call, by a main module that is imported again, or as a handle
            from another process.
        heir_of: lease of the process that has opened the Run and that this one, forked since, goes on for.
    """

    verb: Literal["init", "attach"]
    role: Role | None = None
    label: str | None = None
    name: str | None = None
    config: bytes = b"{}"
    tags: tuple[str, ...] = ()
    run: RunRef | None = None
    run_from_env: bool = False
    resume: bool = False
    fork: Fork | None = None
    timeout_s: float = GRANT_S
    launcher: bool = False
    via: Literal["call", "import", "handle"] = "call"
    heir_of: str = ""


def config_of(config: object) -> bytes:
    """The config as JSON.

    Raises:
        InvalidRecordError: it is no collection of named values.
    """
    taken = snapshot(config)
    if taken.cut:
        _log.warning("config values were cut because they are too large: %s", ", ".join(taken.cut))
    return taken.json


def tags_of(tags: str | Iterable[str] | None) -> tuple[str, ...]:
    """One or several tags.

    Raises:
        InvalidRecordError: a tag is no text, or there are too many.
    """
    from pluto_dist.core.rules.changes import add_tags

    return () if tags is None else add_tags((), tags)


def name_of(name: str | None) -> str | None:
    """The Run's name.

    Raises:
        ArgumentError: it is no text, or the server cannot hold it.
    """
    return None if name is None else text_of("name", name, NAME_LIMIT)


def run_of(argument: str, value: int | str | None) -> RunRef | None:
    """The Run that an argument names.

    Raises:
        ArgumentError: it cannot be an id.
    """
    if value is None:
        return None
    plain = plain_of(argument, value)
    if isinstance(plain, bool | float | None):
        raise ArgumentError(
            f"{argument}={shown(value)}: an id is a whole number or a text", argument=argument
        )
    if isinstance(plain, str):
        plain = text_of(argument, plain, NAME_LIMIT)
    try:
        return classify_run_id(plain)
    except ValueError as error:
        raise ArgumentError(f"{argument}={shown(value)}: {error}", argument=argument) from error


def resume_of(resume: bool | None, run: RunRef | None, *, strict: bool) -> bool:
    """Whether to go on with the Run that is named; where none is, there is none to go on with.

    Raises:
        ArgumentError: it is neither True nor False; with `strict` also if no Run is named.
    """
    wanted = resume is not None and flag_of("resume", resume)
    if wanted and run is None:
        message = "resume=True names no Run to go on with: pass run_id=, or set PLUTO_RUN_ID"
        if strict:
            raise ArgumentError(message, argument="resume")
        _log.warning("%s; this is a new Run", message)
    return wanted and run is not None


def fork_of(
    parent: int | str | None, step: int | None, inherit_config: bool | None, inherit_tags: bool | None
) -> Fork | None:
    """Which Run is continued, from where.

    Raises:
        ForkError: parent or step is missing or unusable, or there is nothing to inherit from.
        ArgumentError: the parent cannot be an id, a flag is none.
    """
    config = inherit_config is None or flag_of("inherit_config", inherit_config)
    tags = inherit_tags is not None and flag_of("inherit_tags", inherit_tags)
    if parent is None and step is None:
        if inherit_config is not None or inherit_tags is not None:
            raise ForkError(
                "inherit_config and inherit_tags belong to a fork: pass fork_run_id= and fork_step= with them"
            )
        return None
    ref = run_of("fork_run_id", parent)
    if ref is None or step is None:
        missing = "fork_run_id" if ref is None else "fork_step"
        raise ForkError(
            f"fork_run_id={shown(parent)}, fork_step={shown(step)}: {missing} is missing; give both or none"
        )
    try:
        return Fork(ref, whole_of("fork_step", step, 0, MAX_STEP), config, tags)
    except ArgumentError as error:
        raise ForkError(error.message, argument="fork_step") from error


def role_of(role: str | None) -> Role | None:
    """A role that is insisted on.

    Raises:
        ArgumentError: there is no such role.
    """
    plain = None if role is None else plain_of("role", role)
    if role is not None and plain not in ("owner", "worker", "side"):
        raise ArgumentError(
            f'role={shown(role)} is unknown; roles are "owner", "worker" and "side"', argument="role"
        )
    return plain  # type: ignore[return-value] # checked above


def label_of(label: str | None) -> str | None:
    """A label becomes part of series names, so it is short and has no slash.

    Raises:
        ArgumentError: this one is not.
    """
    if label is None:
        return None
    plain = plain_of("label", label)
    if not isinstance(plain, str) or not 0 < len(plain) <= 100 or "/" in plain or not plain.isprintable():
        raise ArgumentError(
            f"label={shown(label)}: a label has 1 to 100 printable characters and no slash", argument="label"
        )
    return plain
