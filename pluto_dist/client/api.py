"""`init`, `attach`, `finish`, `log`: the public verbs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pluto_dist.client.arguments import (
    Wish,
    config_of,
    fork_of,
    label_of,
    name_of,
    resume_of,
    role_of,
    run_of,
    seconds_of,
    tags_of,
)
from pluto_dist.client.interface import RunLike, leave_out, settings_of, tell_left_out
from pluto_dist.client.interface import Settings as GivenSettings
from pluto_dist.client.opening import disabled_run, generate_run_id, open_lease, start_meanwhile
from pluto_dist.client.runs import RUNS
from pluto_dist.client.values import shown
from pluto_dist.core.values.ids import Role
from pluto_dist.errors import ArgumentError, OwnerExistsError, RunNotFoundError

if TYPE_CHECKING:
    from pluto_dist.client.opening import AnyRun
    from pluto_dist.host.settings import Settings

Mode = Literal["auto", "local", "pluto", "disabled"]

__all__ = ["alert", "attach", "finish", "generate_run_id", "init", "log", "login", "watch"]


def init(
    dir: str | os.PathLike[str] | None = None,  # noqa: A002 # the official client's name
    project: str | None = None,
    name: str | None = None,
    config: object = None,
    settings: GivenSettings | Mapping[str, Any] | None = None,
    tags: str | Iterable[str] | None = None,
    run_id: int | str | None = None,
    resume: bool = False,
    fork_run_id: int | str | None = None,
    fork_step: int | None = None,
    inherit_config: bool | None = None,
    inherit_tags: bool | None = None,
    *,
    role: Role | None = None,
    label: str | None = None,
    mode: Mode | None = None,
    strict: bool | None = None,
    quiet: bool | None = None,
    save_dir: str | os.PathLike[str] | None = None,
    **unknown: object,
) -> AnyRun:
    """Opens a Run, or joins the one of this job.

    In a job of several ranks all ranks call it and get handles of one Run: rank 0 owns it, the others are
    workers. A process of another job that names a live Run becomes a side: it may log, but cannot end the
    Run.

    Args:
        dir: parent of the store folder `.pluto`; default the working directory.
        project: created on first use; default "pluto".
        name: for people.
        config: dict, dataclass, namespace, OmegaConf, …; a snapshot is taken.
        settings: a dict or a `Settings` of any setting by its name, see `docs/settings.md`.
        tags: one or several.
        run_id: number or display id of a Run to go on with; or an id of your own choice.
        resume: go on with the Run that has your own `run_id`; if there is none, a new Run is made.
        fork_run_id, fork_step: continue another Run from a step; both or none.
        inherit_config: whether the parent's config is the base (default yes).
        inherit_tags: whether the parent's tags are taken over (default no).
        role: insist on "owner", "worker" or "side".
        label: what people call this process; a side's series belong to its label.
        mode: "local", "pluto" (the server), "disabled", or "auto".
        strict: misuse raises instead of warning.
        quiet: print nothing.
        save_dir: another name of `dir`, as with the official client; it wins over `dir`.
        unknown: other names are ignored with a warning, because the official client accepts any.

    Raises:
        RunExistsError: a Run has your own `run_id`, and `resume` was not given; nothing was changed.
        RunNotFoundError: no Run has this number or display id, or with `role="side"` or `"worker"` none was
            begun within a minute.
        OwnerExistsError: a live process owns the Run, and this one insists on owning it.
        ArgumentError, ForkError, SettingError, InvalidRecordError: as their texts say; nothing was opened.
        KeyRefusedError, ServerRefusedError: the server answers and refuses; nothing was opened.
        MachineError: only with PLUTO_DIST_REQUIRED=1; otherwise one warning and a disabled Run.
    """
    where = {"dir": dir} if save_dir is None else {"save_dir": save_dir}
    loaded = _settings("init", settings, **where, project=project, mode=mode, strict=strict, quiet=quiet)
    asked, from_env = (run_id, False) if run_id is not None else (loaded.run_id, True)
    if isinstance(run_id, str) and run_id == loaded.run_id:  # run_id=os.environ["PLUTO_RUN_ID"], in scripts
        from_env = True
    if loaded.mode == "disabled":
        return disabled_run(loaded, name, asked, config, tags)
    leave_out(unknown, _ARGUMENTS, strict=loaded.strict)
    tell_left_out(loaded.left_out)
    run = run_of("run_id", asked)
    wish = Wish(
        verb="init",
        role=role_of(role),
        label=label_of(label),
        name=name_of(name),
        config=config_of(config),
        tags=tags_of(tags),
        run=run,
        run_from_env=from_env and run is not None,
        resume=resume_of(resume, run, strict=loaded.strict),
        fork=fork_of(fork_run_id, fork_step, inherit_config, inherit_tags),
    )
    return _opened(wish, loaded)


_ARGUMENTS = init.__code__.co_varnames[: init.__code__.co_argcount + init.__code__.co_kwonlyargcount]


def attach(
    run_id: int | str | None = None,
    *,
    label: str | None = None,
    timeout_s: float = 30.0,
    role: Role | None = None,
    settings: GivenSettings | Mapping[str, Any] | None = None,
    dir: str | os.PathLike[str] | None = None,  # noqa: A002 # as in init()
    project: str | None = None,
    mode: Mode | None = None,
    strict: bool | None = None,
    quiet: bool | None = None,
) -> AnyRun:
    """Joins a live or finished Run as a side; its status, config, name and tags stay as they are (G8).

    Args:
        run_id: which Run; left out, PLUTO_RUN_ID, else the only live one of this node.
        label: what people call this process ("eval", "uploader"); default "side".
        timeout_s: how long to wait for a Run that does not exist yet.
        role: "side" if left out; "worker" for a process whose end says something about the job.
        project: of the Run, where an id is used in several; left out, any.
        settings, dir, mode, strict, quiet: as for `init`.

    Raises:
        RunNotFoundError: there is no such Run within the time.
        AmbiguousRunError: without an id, several Runs are live; or Runs of several projects have it.
        OwnerExistsError: with role="owner", which attach() never gives.
        ArgumentError, SettingError: as their texts say; nothing was opened.
    """
    loaded = _settings("attach", settings, dir=dir, project=project, mode=mode, strict=strict, quiet=quiet)
    asked, from_env = (run_id, False) if run_id is not None else (loaded.run_id, True)
    if loaded.mode == "disabled":
        return disabled_run(loaded, None, asked, None, None)
    if role_of(role) == "owner":
        raise OwnerExistsError("attach() never owns a Run; use init(run_id=…, resume=True)")
    wish = Wish(
        verb="attach",
        role=role_of(role),
        label=label_of(label),
        run=run_of("run_id", asked),
        run_from_env=from_env and asked is not None,
        timeout_s=seconds_of("timeout_s", timeout_s),
    )
    return _opened(wish, loaded)


def finish(op: AnyRun | None = None, *, code: int | None = None, timeout_s: float | None = None) -> None:
    """Finishes a Run, or, as the official client does, all that this process has not ended yet.

    Of trials in threads, or in tasks of asyncio, each finishes its own: a Run that another one has opened and
    still works on stays open, where the caller has one of its own.

    Args:
        op: which Run; left out, all of them. Without any open Run the call does nothing.
        code, timeout_s: as for `Run.finish`; the time bounds the whole call.

    Raises:
        ArgumentError: `op` is no Run, or as `Run.finish`.
    """
    from pluto_dist.client.offline import DisabledRun
    from pluto_dist.client.run import Run
    from pluto_dist.host.identity import boot_clock

    if op is not None and not isinstance(op, Run | DisabledRun):
        raise ArgumentError(
            f"finish({shown(op)}): pass a Run, or nothing for all; a code is given by name: code=…"
        )
    deadline = None if timeout_s is None else boot_clock() + seconds_of("timeout_s", timeout_s)
    for each in RUNS.to_finish() if op is None else [op]:
        each.finish(code, None if deadline is None else max(0.0, deadline - boot_clock()))


def log(
    data: Mapping[str, Any],
    step: int | None = None,
    commit: bool | None = None,
    timestamp: float | None = None,
) -> None:
    """Logs to the newest unfinished Run of this process; the arguments are those of `Run.log`.

    The newest that this thread, or this task of asyncio, has opened goes before those of others; so it does
    for `alert()` and `watch()`.

    When all of them have ended it acts as `Run.log` after the end: dropped, counted, one warning.

    Raises:
        RunNotFoundError: there was none.
    """
    if (run := _newest("log")) is not None:
        run.log(data, step, commit, timestamp)


def watch(module: Any, **how: Any) -> None:
    """`Run.watch` of the newest unfinished Run of this process.

    Raises:
        RunNotFoundError: there is none.
        ArgumentError: as `Run.watch`.
    """
    if (run := _newest("watch")) is not None:
        run.watch(module, **how)


def alert(message: object = None, title: str = "pluto", level: str = "INFO", **more: Any) -> None:
    """`Run.alert` of the newest unfinished Run of this process.

    Raises:
        RunNotFoundError: there is none.
    """
    if (run := _newest("alert")) is not None:
        run.alert(message, title, level, **more)


def _newest(verb: str) -> RunLike | None:
    """The Run that a module-level call means; None where everything is disabled."""
    run = RUNS.newest()
    if run is None and not RUNS.disabled:
        run = RUNS.newest_ended()
        if run is None:
            raise RunNotFoundError(
                f"{verb}() before init(): there is no open Run in this process; call init() first"
            )
    return run


def login(
    settings: GivenSettings | Mapping[str, Any] | None = None,
    retry: bool = False,  # noqa: ARG001 # the official client's signature
) -> None:
    """Looks for an API key where `init()` will look, and says in one line if there is none.

    It neither prompts for a key nor stores one. Use `pluto login` of the official client, or PLUTO_API_KEY.

    Raises:
        SettingError: a setting cannot be used, or a stored key cannot be read.
    """
    from pluto_dist.client import notices

    notices.key_found(_settings("login", settings))


def _opened(wish: Wish, settings: Settings) -> AnyRun:
    """Opens a Run; its modules are imported here: importing the package is light, and works on Windows."""
    if sys.platform == "win32":
        return open_lease(wish, settings)
    if "pluto_dist.client.travel" not in sys.modules:
        start_meanwhile(settings)
    from pluto_dist.client.travel import opened

    return opened(wish, settings)


def _settings(verb: str, settings: GivenSettings | Mapping[str, Any] | None, **arguments: Any) -> Settings:
    from pluto_dist.host.settings import load

    named = {name: value for name, value in arguments.items() if value is not None}
    sources = {name: f"{verb}({name}=…)" for name in named}
    if "save_dir" in named:
        named["dir"] = named.pop("save_dir")
        sources["dir"] = sources["save_dir"]
    return load(
        os.environ,
        {**settings_of(settings), **named},
        source=lambda key: sources.get(key) or f"{verb}(settings={{{key!r}: …}})",
    )
