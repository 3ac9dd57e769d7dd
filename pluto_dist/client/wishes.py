"""What a caller of `init` or `attach` wants: every argument is checked here, before anything is opened."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from operator import index
from typing import Any, Literal

import msgspec

from pluto_dist.client.plain import clean_text, shown
from pluto_dist.core.ids import Role, RunRef, classify_run_id
from pluto_dist.core.lifecycle import Fork
from pluto_dist.errors import ForkError, SettingError

GRANT_S = 60.0  # an owner or side has to know what it got

_log = logging.getLogger("pluto_dist")


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller of `init` or `attach` wants, checked."""

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


def config_of(config: object) -> bytes:
    """The config as JSON.

    Raises:
        InvalidRecordError: it is no collection of named values.
    """
    from pluto_dist.client.snapshot import snapshot

    taken = snapshot(config)
    if taken.cut:
        _log.warning("config values that are too large were cut: %s", ", ".join(taken.cut))
    return taken.json


def tags_of(tags: str | Iterable[str] | None) -> tuple[str, ...]:
    """One or several tags.

    Raises:
        InvalidRecordError: a tag is no text, or there are too many.
    """
    from pluto_dist.core.merge import add_tags

    if tags is None:
        return ()
    return add_tags((), tags)


def run_of(argument: str, value: int | str | None) -> RunRef | None:
    """The Run that an argument names.

    Raises:
        SettingError: it cannot be an id.
    """
    if value is None:
        return None
    try:
        return classify_run_id(_id_of(value))
    except ValueError as error:
        raise SettingError(f"{argument}={shown(value)}: {error}") from error


def _id_of(value: Any) -> int | str:
    if issubclass(type(value), str):
        return str.__str__(value)  # of a subclass only the text
    if value is True or value is False:
        return value
    try:
        return index(value)
    except Exception as error:
        raise ValueError("an id is a whole number or a text") from error


def fork_of(
    parent: int | str | None, step: int | None, inherit_config: bool | None, inherit_tags: bool | None
) -> Fork | None:
    """Which Run is continued, from where.

    Raises:
        ForkError: parent or step is missing or unusable.
    """
    if parent is None and step is None:
        return None
    ref = run_of("fork_run_id", parent)
    if ref is None or step is None:
        missing = "fork_run_id" if ref is None else "fork_step"
        raise ForkError(
            f"fork_run_id={shown(parent)}, fork_step={shown(step)}: {missing} is missing; give both or none"
        )
    try:
        number = -1 if isinstance(step, bool) else index(step)
    except Exception:  # noqa: BLE001 # it is no integer, whatever it is
        number = -1
    if not 0 <= number < 2**63:
        raise ForkError(f"fork_step={shown(step)}: it is an integer from 0 to 2^63 - 1")
    return Fork(ref, number, inherit_config is not False, bool(inherit_tags))


def name_of(name: object) -> str | None:
    """The Run's name, as text that everybody can hold; None for the generated one.

    Raises:
        SettingError: its text cannot be had.
    """
    if name is None:
        return None
    try:
        return clean_text(name if isinstance(name, str) else str(name)).strip() or None
    except Exception as error:
        raise SettingError(f"name={shown(name)}: it cannot be had as text; pass a text") from error


def exit_code_of(code: object) -> int | None:
    """The code of `finish()`.

    Raises:
        SettingError: it is no whole number, or larger than 64 bits.
    """
    if code is None:
        return None
    try:
        found = index(code)  # type: ignore[arg-type] # that is the question
    except Exception as error:
        raise SettingError(f"code={shown(code)}: pass a whole number, as for sys.exit()") from error
    if not -(2**63) <= found < 2**63:
        raise SettingError(f"code={shown(code)}: it has more than 64 bits; pass a code as for sys.exit()")
    return found


def role_of(role: str | None) -> Role | None:
    """A role that is insisted on.

    Raises:
        SettingError: there is no such role.
    """
    if role is not None and (type(role) is not str or role not in ("owner", "worker", "side")):
        raise SettingError(f'role={shown(role)} is unknown; roles are "owner", "worker" and "side"')
    return role  # type: ignore[return-value] # checked above


def label_of(label: str | None) -> str | None:
    """A label becomes part of series names, so it is short and has no slash.

    Raises:
        SettingError: this one is not.
    """
    if label is None:
        return None
    label = str.__str__(label) if issubclass(type(label), str) else ""
    if not 0 < len(label) <= 100 or "/" in label or not label.isprintable():
        raise SettingError(f"label={shown(label)}: a label has 1 to 100 printable characters and no slash")
    return label
