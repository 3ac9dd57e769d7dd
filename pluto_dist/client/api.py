"""`init`, `attach`, `finish`, `log`: opening a lease, and the module-level shorthands."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pluto_dist.client.disabled import DisabledRun
from pluto_dist.client.runs import RUNS
from pluto_dist.core.ids import Role, RunRef, classify_run_id
from pluto_dist.core.lifecycle import Fork, Opened
from pluto_dist.core.messages import PROTOCOL
from pluto_dist.errors import (
    CoordinatorUnavailableError,
    ForkError,
    MachineError,
    OwnerExistsError,
    RunNotFoundError,
    SettingError,
    WaitTimeoutError,
)

if TYPE_CHECKING:
    from pluto_dist.client.handle import Run
    from pluto_dist.client.job import Surroundings
    from pluto_dist.node.places import Places
    from pluto_dist.node.settings import Settings

    AnyRun = Run | DisabledRun

RANK_GRANT_S = 0.5  # a rank other than 0 goes on training after this time and gets its role meanwhile
RESTART_GRANT_S = 6.0  # after a restart it waits for its first step, a little longer than rank 0 may take
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


def init(
    dir: str | os.PathLike[str] | None = None,  # noqa: A002 # the official client's name
    project: str | None = None,
    name: str | None = None,
    config: object = None,
    settings: Mapping[str, Any] | None = None,
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
    mode: Literal["auto", "local", "pluto", "disabled"] | None = None,
    strict: bool | None = None,
    quiet: bool | None = None,
) -> AnyRun:
    """Opens a Run, or joins the one of this job.

    In a job of several ranks all ranks call it and get handles of one Run: rank 0 owns it, the others are
    workers. A process of another job that names a live Run becomes a side: it logs, and cannot end it.

    Args:
        dir: parent of the store folder `.pluto`; default the working directory.
        project: created on first use; default "pluto".
        name: for people.
        config: dict, dataclass, namespace, OmegaConf, …; a snapshot is taken.
        settings: any setting by its name, see the README.
        tags: one or several.
        run_id: id of an existing Run (number, display id), or an id of your own choice.
        resume: go on with an existing Run.
        fork_run_id, fork_step: continue another Run from a step; both or none.
        inherit_config: whether the parent's config is the base (default yes).
        inherit_tags: whether the parent's tags are taken over (default no).
        role: insist on "owner", "worker" or "side".
        label: what people call this process; a side's series belong to its label.
        mode: "local", "pluto" (the server), "disabled", or "auto".
        strict: misuse raises instead of warning.
        quiet: print nothing.

    Raises:
        RunExistsError: the id exists and `resume` was not given; nothing was changed.
        RunNotFoundError: no Run has this id.
        OwnerExistsError: somebody alive owns the Run and this process insists on owning it.
        ForkError, SettingError, InvalidRecordError: as their texts say.
        MachineError: only with PLUTO_DIST_REQUIRED=1; otherwise one warning and a disabled Run.
    """
    loaded = _settings(settings, dir=dir, project=project, mode=mode, strict=strict, quiet=quiet)
    asked, from_env = (run_id, False) if run_id is not None else (loaded.run_id, True)
    if loaded.mode == "disabled":
        return _disabled(loaded, name, asked, config, tags)
    wish = Wish(
        verb="init",
        role=_role(role),
        label=_label(label),
        name=name,
        config=_config(config),
        tags=_tags(tags),
        run=_ref("run_id", asked),
        run_from_env=from_env and asked is not None,
        resume=resume,
        fork=_fork(fork_run_id, fork_step, inherit_config, inherit_tags),
    )
    return open_lease(wish, loaded)


def attach(
    run_id: int | str | None = None, *, label: str | None = None, timeout_s: float = 30.0, **more: Any
) -> AnyRun:
    """Joins a live or finished Run as a side; its status, config, name and tags stay as they are (G8).

    Args:
        run_id: which Run; left out, PLUTO_RUN_ID, else the only live one of this node.
        label: what people call this process ("eval", "uploader"); default "side".
        timeout_s: how long to wait for a Run that does not exist yet.
        more: `settings`, `dir`, `project`, `mode`, `strict`, `quiet` as for `init`.

    Raises:
        RunNotFoundError: there is no such Run within the time.
        AmbiguousRunError: without an id, several Runs are live; they are listed.
        OwnerExistsError: with role="owner", which attach() never gives.
    """
    if more.pop("role", None) == "owner":
        raise OwnerExistsError("attach() never owns a Run; use init(run_id=…, resume=True)")
    loaded = _settings(more.pop("settings", None), **more)
    asked, from_env = (run_id, False) if run_id is not None else (loaded.run_id, True)
    if loaded.mode == "disabled":
        return _disabled(loaded, None, asked, None, None)
    wish = Wish(
        verb="attach",
        label=_label(label),
        run=_ref("run_id", asked),
        run_from_env=from_env and asked is not None,
        timeout_s=timeout_s,
    )
    return open_lease(wish, loaded)


def finish(code: int | None = None, timeout_s: float | None = None) -> None:
    """Finishes the newest unfinished Run of this process; without one it does nothing."""
    run = RUNS.newest()
    if run is not None:
        run.finish(code, timeout_s)


def log(data: Mapping[str, Any], step: int | None = None, timestamp: float | None = None) -> None:
    """Logs to the newest unfinished Run of this process.

    Raises:
        RunNotFoundError: there is none.
    """
    run = RUNS.newest()
    if run is None:
        if RUNS.disabled:
            return
        raise RunNotFoundError("log() before init(): there is no open Run in this process; call init() first")
    run.log(data, step, timestamp)


def open_lease(wish: Wish, settings: Settings) -> AnyRun:
    """Opens a lease, or gives a disabled Run where this machine does not allow one."""
    from pluto_dist.node.places import find_places

    try:
        places = find_places(settings.home)
        return _open_at(wish, settings, places)
    except MachineError as error:
        if settings.required:
            raise
        _log.warning("%s. Nothing will be logged (PLUTO_DIST_REQUIRED=1 makes this an error)", error)
        return _disabled(settings, wish.name, str(wish.run) if wish.run else None, None, None)


def _open_at(wish: Wish, settings: Settings, places: Places) -> Run:
    from pluto_dist.client import announce
    from pluto_dist.client.console.capture import CAPTURES
    from pluto_dist.client.handle import Run
    from pluto_dist.client.hooks import install_hooks
    from pluto_dist.client.lease import LeaseFiles
    from pluto_dist.client.link import Link

    surroundings = _surroundings()
    _end_former_cell(surroundings)
    wish, launched_by = _below_launcher(wish, settings)
    files = LeaseFiles(
        places.spool,
        segment_bytes=settings.segment_size,
        quota_bytes=settings.spool_quota,
        durable=settings.durability == "machine",
    )
    link = Link(
        places,
        files,
        key=settings.api_key if settings.mode == "pluto" else None,
        heartbeat_s=settings.heartbeat_s,
        idle_exit_s=settings.idle_exit_s,
        env=dict(os.environ),
    )
    run = Run(files, link, settings, attached=wish.verb == "attach", launcher=wish.launcher)
    files.say(_opened(wish, settings, surroundings, launched_by))
    RUNS.add(run)
    install_hooks(os.getpid(), settings.sigterm_wait_s, settings.preempt_wait_s)
    link.start(run.granted)
    _wait(run, wish, surroundings, settings)
    announce.started(link.view, settings, _store(settings))
    if settings.console != "auto" or not (surroundings.notebook or run.is_side):
        CAPTURES.start(files, settings, places, os.environ)
    return run


def _wait(run: Run, wish: Wish, surroundings: Surroundings, settings: Settings) -> None:
    """An owner or side has to know what it got; the other ranks go on and learn it meanwhile (R4).

    Where no coordinator can be had, `init()` goes on all the same: what it wants and what it logs is on disk,
    and the next coordinator does the rest (G12).
    """
    job = surroundings.job
    is_rank = wish.verb == "init" and job.rank not in (None, 0) and wish.role is None
    patience = wish.timeout_s
    if is_rank:
        patience = RESTART_GRANT_S if job.attempt else RANK_GRANT_S
    try:
        granted = run.wait_granted(patience)
    except CoordinatorUnavailableError as error:
        if settings.required or wish.verb == "attach":
            run.abandon()
            raise
        _log.warning(
            "%s\nThe Run is kept on disk until a coordinator can be started here "
            "(PLUTO_DIST_REQUIRED=1 makes this an error)",
            error,
        )
        return
    except BaseException:
        run.abandon()
        raise
    if granted or is_rank:
        return
    run.abandon()
    if wish.verb == "attach":
        what = f"no Run {wish.run}" if wish.run else "no live Run"
        raise RunNotFoundError(
            f"{what} on this node within {patience:g} s; `pluto-dist runs` and `pluto-dist ps` show what "
            "there is, timeout_s= waits longer"
        )
    raise WaitTimeoutError(f"the Run was not granted within {patience:g} s; `pluto-dist doctor` may say why")


def _below_launcher(wish: Wish, settings: Settings) -> tuple[Wish, str]:
    """Below `pluto-dist run` the first `init()` means the launcher's Run, a later one a Run of its own."""
    if settings.launched_by is None:
        return wish, ""
    if wish.verb == "init" and RUNS.inits > 1 and wish.run_from_env:
        return msgspec.structs.replace(wish, run=None, run_from_env=False), ""
    return wish, settings.launched_by if wish.verb == "init" else ""


def _opened(wish: Wish, settings: Settings, surroundings: Surroundings, launched_by: str) -> Opened:
    import time

    from pluto_dist.node.identity import boot_clock, own_identity
    from pluto_dist.node.settings import target_of

    return Opened(
        at=boot_clock(),
        wall_ms=time.time_ns() // 1_000_000,
        protocol=PROTOCOL,
        verb=wish.verb,
        identity=own_identity(),
        job=surroundings.job,
        target=target_of(settings, Path(_store(settings))),
        project=settings.project,
        name=wish.name,
        label=wish.label,
        wanted=wish.role,
        run=wish.run,
        run_from_env=wish.run_from_env,
        generated_id=generate_run_id(),
        resume=wish.resume,
        fork=wish.fork,
        tags=wish.tags,
        config=msgspec.Raw(wish.config),
        ancestors=surroundings.ancestors,
        notebook=surroundings.notebook,
        spawned=surroundings.pool_parent is not None,
        wait_s=settings.open_wait_s,
        launcher=wish.launcher,
        launched_by=launched_by,
        rank_metrics=settings.rank_metrics,
        system_metrics_s=settings.system_metrics_s,
    )


def generate_run_id() -> str:
    """A new id that is not affected by seeded random generators: a time stamp and twelve random digits."""
    import time

    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return f"run-{stamp}-{os.urandom(6).hex()}"


def _surroundings() -> Surroundings:
    from pluto_dist.client.ancestors import read_ancestors, read_process
    from pluto_dist.client.job import detect
    from pluto_dist.node.identity import own_identity

    identity = own_identity()
    return detect(os.environ, read_process(identity), read_ancestors(identity), RUNS.count_init())


def _end_former_cell(surroundings: Surroundings) -> None:
    """In a notebook a second init() ends the unfinished Run; in a script it is a new Run of a sweep (R5)."""
    former = RUNS.newest() if surroundings.notebook else None
    if former is not None:
        _log.warning(
            "a new Run starts in this notebook: finishing %s first", former.display_id or former.run_id
        )
        former.finish()


def _settings(given: Mapping[str, Any] | None, **arguments: Any) -> Settings:
    from pluto_dist.node.settings import load

    named = {name: value for name, value in arguments.items() if value is not None}
    return load(os.environ, {**(given or {}), **named})


def _store(settings: Settings) -> str:
    from pluto_dist.node.places import store_of

    return str(store_of(settings.dir))


def _disabled(
    settings: Settings, name: str | None, run_id: int | str | None, config: object, tags: object
) -> DisabledRun:
    RUNS.disabled = True
    shown = dict(config) if isinstance(config, Mapping) else {}
    listed = [tags] if isinstance(tags, str) else list(tags) if isinstance(tags, Iterable) else []
    own_id = str(run_id) if run_id is not None else generate_run_id()
    return DisabledRun(settings.project, name or own_id, own_id, shown, listed)


def _config(config: object) -> bytes:
    from pluto_dist.client.snapshot import snapshot

    taken = snapshot(config)
    if taken.cut:
        _log.warning("config values that are too large were cut: %s", ", ".join(taken.cut))
    return taken.json


def _tags(tags: str | Iterable[str] | None) -> tuple[str, ...]:
    from pluto_dist.core.merge import add_tags

    if tags is None:
        return ()
    return add_tags((), [tags] if isinstance(tags, str) else tags)


def _ref(argument: str, value: int | str | None) -> RunRef | None:
    if value is None:
        return None
    try:
        return classify_run_id(value)
    except ValueError as error:
        raise SettingError(f"{argument}={value!r}: {error}") from error


def _fork(
    parent: int | str | None, step: int | None, inherit_config: bool | None, inherit_tags: bool | None
) -> Fork | None:
    if parent is None and step is None:
        return None
    ref = _ref("fork_run_id", parent)
    if ref is None or step is None:
        missing = "fork_run_id" if ref is None else "fork_step"
        raise ForkError(
            f"fork_run_id={parent!r} and fork_step={step!r}: {missing} is missing; give both or none"
        )
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise ForkError(f"fork_step={step!r}: it is a non-negative integer")
    return Fork(ref, step, inherit_config is not False, bool(inherit_tags))


def _role(role: str | None) -> Role | None:
    if role not in (None, "owner", "worker", "side"):
        raise SettingError(f'role={role!r} is unknown; roles are "owner", "worker" and "side"')
    return role  # type: ignore[return-value] # checked above


def _label(label: str | None) -> str | None:
    """A label becomes part of series names, so it is short and has no slash."""
    if label is None:
        return None
    if not isinstance(label, str) or not 0 < len(label) <= 100 or "/" in label or not label.isprintable():
        raise SettingError(f"label={label!r}: a label has 1 to 100 printable characters and no slash")
    return label
