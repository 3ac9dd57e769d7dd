"""Protocols between the parts of the client, and names that scripts for the official client expect.

`RunLike` and `Member` are all that module-level calls, hooks and signal handlers see of a handle and of the
lease behind it; so those do not import what imports them.

`docs/official-client.md` lists the official client's public surface name by name, with what becomes of it
here; a test holds that table against the installed client.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol

from pluto_dist.client.notices import WarnOnce
from pluto_dist.client.values import shown
from pluto_dist.errors import ArgumentError

if TYPE_CHECKING:
    from pluto_dist.host.settings import Settings as Loaded

_log = logging.getLogger("pluto_dist")
_warn_once = WarnOnce()

NOT_OFFERED = {
    "start": "init() has started it",
    "stop": "end the Run by finish(), or leave it by close()",
}
_STATUS_CODES = {"RUNNING": -1, "COMPLETED": 0, "FAILED": 1, "CANCELLED": 2, "TERMINATED": 15}
_HIDDEN = ("api_key", "launched_by", "notes", "left_out")  # a secret, and what no user sets


class RunLike(Protocol):
    """A handle of a Run: a `Run`, or a `DisabledRun`, which has the same names."""

    @property
    def run_id(self) -> str: ...
    @property
    def display_id(self) -> str | None: ...
    @property
    def ended(self) -> bool: ...
    @property
    def next_step(self) -> int: ...

    def log(
        self,
        data: Mapping[str, Any],
        step: int | None = None,
        commit: bool | None = None,
        timestamp: float | None = None,
    ) -> None: ...
    def watch(self, module: Any, **how: Any) -> None: ...
    def alert(
        self, message: object = None, title: str = "pluto", level: str = "INFO", **more: Any
    ) -> None: ...
    def finish(self, code: int | None = None, timeout_s: float | None = None) -> None: ...


class Member(Protocol):
    """The lease behind a handle: how a process writes evidence and events with it, and how it leaves."""

    pid: int
    end: Literal["", "finished", "closed"]
    by_init: bool
    end_written: threading.Event

    @property
    def lease_id(self) -> str: ...
    @property
    def here(self) -> bool: ...
    @property
    def is_side(self) -> bool: ...
    @property
    def owns(self) -> bool: ...
    @property
    def written(self) -> int: ...
    @property
    def printed(self) -> int: ...
    @property
    def is_leaving(self) -> bool: ...

    def evidence(self, **what: Any) -> None: ...
    def take_evidence(self, error: BaseException | None) -> None: ...
    def note(self, text: str, **detail: str) -> None: ...
    def note_stopped(self, pid: int, signal: str) -> None: ...
    def warn_late(self) -> None: ...
    def finish(self, code: int | None = None, timeout_s: float | None = None) -> None: ...
    def leave_at_exit(self, last_words: Mapping[str, Any] | None, wait_s: float | None = None) -> None: ...


class Hints:
    """Base of handles: the AttributeError for a missing attribute says what to use instead."""

    if not TYPE_CHECKING:  # a type checker knows what is there

        def __getattr__(self, name: str) -> NoReturn:
            """Called for what is not there."""
            why = f": {NOT_OFFERED[name]}" if name in NOT_OFFERED else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{why}")


class Settings:
    """Settings by name, for `init(settings=…)`, as an object instead of a dict.

    The names are the keys of that dict: ours, and the official client's with what they mean here. `init()`
    checks them; a name that was not set is no attribute.
    """

    def __init__(self, **named: object) -> None:
        vars(self).update(named)

    def update(self, settings: Settings | Mapping[str, Any]) -> None:
        """Sets several of them.

        Raises:
            ArgumentError: this is neither a dict nor such an object.
        """
        vars(self).update(settings_of(settings))

    def to_dict(self) -> dict[str, Any]:
        """The settings that were set."""
        return dict(vars(self))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            """Called for what was not set."""
            raise AttributeError(f"the setting {name!r} was not set here; set are: {', '.join(vars(self))}")


class RunSettings(Settings):
    """`run.settings`: the settings that hold for a Run, and its ids by the official client's names.

    A copy: an assignment changes nothing, and gives a warning.
    """

    def __setattr__(self, name: str, value: object) -> None:
        """Called where a script wants to change one."""
        _log.warning(
            "run.settings.%s = %s has no effect: settings are given to init(settings={…})", name, shown(value)
        )


def settings_of(settings: Settings | Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The settings by their names; their values are checked when they are loaded.

    Raises:
        ArgumentError: they are neither a dict nor a `Settings`.
    """
    if settings is None:
        return {}
    if isinstance(settings, Settings):
        return settings.to_dict()
    if not issubclass(type(settings), Mapping):
        raise ArgumentError(
            f"settings={shown(settings)}: pass a dict of settings by their names, or a pluto_dist.Settings",
            argument="settings",
        )
    return settings


def setup(settings: Settings | Mapping[str, Any] | None = None) -> Settings:
    """Settings as an object that `init(settings=…)` takes; the environment is read by `init()`.

    Raises:
        ArgumentError: this is neither a dict nor such an object.
    """
    return settings if isinstance(settings, Settings) else Settings(**settings_of(settings))


def settings_of_run(loaded: Loaded, **of_run: object) -> RunSettings:
    """See `RunSettings`.

    Args:
        loaded: the settings that hold.
        of_run: the Run's `id`, `display_id`, `run_id`, `name`, `project`, `status` and `url`.
    """
    from pluto_dist import __version__

    named = {name: getattr(loaded, name) for name in loaded.__struct_fields__ if name not in _HIDDEN}
    return RunSettings(
        **named
        | {
            "dir": str(loaded.dir) if loaded.dir is not None else os.getcwd(),  # noqa: PTH109 # text
            "project": of_run["project"],
            "tag": "pluto",
            "url_view": of_run["url"] or None,
            "pluto_version": __version__,
            "_op_id": of_run["id"],
            "_op_name": of_run["name"],
            "_op_status": _STATUS_CODES[str(of_run["status"])],
            "_display_id": of_run["display_id"],
            "_external_id": of_run["run_id"],
        }
    )


def tell_left_out(lines: Iterable[str]) -> None:
    """Warns of settings that a script gives and that mean nothing here, each once."""
    for line in lines:
        _warn_once(line, line)


def leave_out(unknown: Mapping[str, object], known: tuple[str, ...], *, strict: bool) -> None:
    """Keywords that `init()` does not have: the official client takes any and ignores them.

    Raises:
        ArgumentError: with `strict`.
    """
    for name in unknown:
        import difflib  # with a mistake only

        near = difflib.get_close_matches(name, known, n=1)
        advice = f"did you mean {near[0]}=?" if near else "settings are given by settings={…}"
        message = f"init() has no argument {name!r}, so {name}=… was left out; {advice}"
        if strict:
            raise ArgumentError(message, argument=name)
        _log.warning("%s", message)
