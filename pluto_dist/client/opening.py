"""Opening of a lease: files, link, hooks, and the claim, in the order in which they need each other.

Once the lease folder is there, `log()` works; nothing after that may end the training. So `init()` returns
also where no coordinator can be had: claim and records are on disk, and the next coordinator takes them up
(G12).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pluto_dist.client.arguments import Wish
from pluto_dist.client.notices import WarnOnce
from pluto_dist.client.offline import DisabledRun
from pluto_dist.client.runs import RUNS
from pluto_dist.core.values.ids import DEFAULT_PROJECT, RunRef
from pluto_dist.core.values.lifecycle import Claim
from pluto_dist.core.values.messages import PROTOCOL
from pluto_dist.errors import (
    CoordinatorUnavailableError,
    MachineError,
    PlacesError,
    PlutoDistError,
    RunNotFoundError,
    WaitTimeoutError,
)

if TYPE_CHECKING:
    from pluto_dist.client.console.capture import CommandConsole
    from pluto_dist.client.job.detect import Surroundings
    from pluto_dist.client.lease import Lease
    from pluto_dist.client.lease_files import LeaseFiles
    from pluto_dist.client.run import Run
    from pluto_dist.client.tasks import RayWork
    from pluto_dist.core.values.engine import ClusterAddress
    from pluto_dist.core.values.ids import Job
    from pluto_dist.core.values.lifecycle import Origin
    from pluto_dist.host.places import Places
    from pluto_dist.host.settings import Settings

    AnyRun = Run | DisabledRun
    MakeRun = Callable[[Lease], Run]

RANK_GRANT_S = 0.5  # a rank other than 0 goes on training after this time and gets its role meanwhile
RESTART_GRANT_S = 6.0  # after a restart it waits for its first step, a little longer than rank 0 may take
TELL_AFTER_S = 2.0  # an attach that takes longer says what it waits for

_log = logging.getLogger("pluto_dist")
_warn_once = WarnOnce()


def start_meanwhile(settings: Settings) -> None:
    """Starts a coordinator where there is none, in a thread, while this process loads its other modules.

    Only time is won: a lease's link starts one too if it has to, and says why there can be none.
    """
    from pluto_dist.client.tasks import reimporting
    from pluto_dist.host.launch import someone_listens, start_if_absent

    if reimporting():  # nothing is opened here now
        return
    try:
        places = _places(settings)
    except MachineError:
        return
    if someone_listens(places.socket):
        return

    def start() -> None:
        with contextlib.suppress(PlutoDistError):
            start_if_absent(places, dict(os.environ), idle_exit_s=settings.idle_exit_s, needed=True)

    with contextlib.suppress(RuntimeError):  # no more threads
        threading.Thread(target=start, name="pluto-dist start", daemon=True).start()


def open_lease(wish: Wish, settings: Settings, make: MakeRun | None = None) -> AnyRun:
    """Opens a lease, or gives a disabled Run where this machine does not allow one.

    Args:
        wish, settings: the checked arguments.
        make: makes the handle of the lease; left out, a new `Run`.
    """
    try:
        return _open_at(wish, settings, _places(settings), make)
    except (MachineError, OSError) as error:  # OSError: no descriptors are left
        unfit = (
            error if isinstance(error, MachineError) else PlacesError(f"no Run can be opened here: {error}")
        )
        _unfit(settings, unfit)
        named = str(wish.run) if wish.run else None
        return disabled_run(settings, wish.name, named, msgspec.json.decode(wish.config), wish.tags)


def _places(settings: Settings) -> Places:
    from pluto_dist.client.green import threads_are_green

    if sys.platform == "win32":  # asked for by a mode; `auto` does not come here
        from pluto_dist.host.settings import NO_WINDOWS

        raise MachineError(NO_WINDOWS)
    threads_are_green()  # or it cannot work here
    from pluto_dist.host.places import find_places

    return find_places(settings.home)


def _unfit(settings: Settings, error: MachineError) -> None:
    """Warns once, for all Runs, that nothing can be recorded here (R13), or raises with `required`."""
    if settings.required:
        raise error
    _warn_once(error.message, f"{error}. Nothing will be logged (PLUTO_DIST_REQUIRED=1 makes this an error)")


def _open_at(wish: Wish, settings: Settings, places: Places, make: MakeRun | None) -> Run:
    from pluto_dist.client import notices
    from pluto_dist.client.console.capture import CAPTURES
    from pluto_dist.client.hooks import install_hooks
    from pluto_dist.client.lease import Lease
    from pluto_dist.client.lease_files import LeaseFiles
    from pluto_dist.client.link import Link
    from pluto_dist.client.run import Run
    from pluto_dist.client.tasks import RAY_TASKS, TASKS, ray_work

    surroundings = _surroundings(wish)
    _tell_ignored(surroundings)
    if surroundings.notebook and (wish.verb, wish.via) == ("init", "call"):
        _end_former_cell()
    TASKS.end_failed()
    work = ray_work()
    if work is not None:
        RAY_TASKS.end_former(work.task)
    wish, launched_by = _below_launcher(wish, settings)
    wish = _of_all_nodes(wish, settings, surroundings.job)
    files = LeaseFiles(
        places.spool,
        segment_bytes=settings.segment_size,
        quota_bytes=settings.spool_quota,
        files_quota_bytes=settings.files_quota,
        files_copy_bytes=settings.files_copy,
        sides_share=settings.sides_share if wish.verb == "attach" and wish.role != "worker" else 0,
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
    as_side = wish.verb == "attach" and wish.role != "worker" and not _joins_its_parent(wish, surroundings)
    command = _command_console(files, settings, places) if wish.launcher else None
    lease = Lease(files, link, settings, attached=as_side, command=command)
    run = (make or Run)(lease)
    # The claim is the first entry: without it the records behind it would belong to no Run (G3).
    lease.claim(_claim(wish, settings, surroundings, launched_by, work))
    RUNS.add(run, lease)
    if wish.verb == "init":
        TASKS.opened(lease.lease_id)
    if work is not None and work.kind == "task" and wish.verb == "init":
        RAY_TASKS.opened(lease.lease_id, work.task)
    install_hooks(os.getpid(), settings.sigterm_wait_s, settings.preempt_wait_s)
    link.start(lease.granted)
    _wait(lease, wish, surroundings, settings, places)
    notices.started(link.view, settings, str(files.folder))
    notices.adds_no_tags(link.view, wish.tags)
    if wish.run_from_env and settings.run_id is not None and not launched_by:
        notices.named_by_environment(
            link.view, wish.name, again=RUNS.inits > 1, child=bool(surroundings.parents)
        )
    if launched_by:
        its_project = os.environ.get("PLUTO_PROJECT", settings.project)
        notices.belongs_to_launcher(link.view, wish.name, settings.project, its_project)
    if command is not None:
        command.start()
    elif settings.console != "auto" or not (surroundings.notebook or lease.is_side):
        CAPTURES.start(files, settings, places, os.environ)
    return run


def _command_console(files: LeaseFiles, settings: Settings, places: Places) -> CommandConsole:
    from pluto_dist.client.console.capture import CommandConsole

    return CommandConsole(files, settings, places, os.environ)


def _wait(lease: Lease, wish: Wish, surroundings: Surroundings, settings: Settings, places: Places) -> None:
    """Waits for the grant: owner and side until it is there, other ranks only briefly (R4)."""
    job = surroundings.job
    is_rank = wish.verb == "init" and job.rank not in (None, 0) and wish.role is None
    is_rank = is_rank or _joins_its_parent(wish, surroundings)
    patience = wish.timeout_s
    if is_rank:
        patience = RESTART_GRANT_S if job.attempt else RANK_GRANT_S
    try:
        if not (_wait_told(lease, wish, patience, settings) or is_rank):
            raise ungranted(wish, patience, settings.project)
    except BaseException as error:  # Ctrl-C too
        if isinstance(error, CoordinatorUnavailableError) and not (
            settings.required or wish.verb == "attach"
        ):
            _warn_of_no_coordinator(error, places)
            return
        lease.abandon(None if _joins(wish) else error)
        raise


def ungranted(wish: Wish, patience_s: float, project: str) -> PlutoDistError:
    """The error of a claim that was not granted in time."""
    if not _joins(wish):
        return WaitTimeoutError(
            f"the Run was not granted within {patience_s:g} s; `pluto-dist doctor` may say why"
        )
    what = f"no Run {wish.run}" if wish.run else "no live Run"
    of = f" of project {project!r}" if project != DEFAULT_PROJECT else ""
    longer = ", timeout_s= (of a command: --timeout) waits longer" if wish.verb == "attach" else ""
    return RunNotFoundError(
        f"{what}{of} on this node within {patience_s:g} s; `pluto-dist runs` and `pluto-dist ps` show what "
        f"there is{longer}"
    )


def _joins(wish: Wish) -> bool:
    """Whether it waits for a Run that others begin."""
    return wish.verb == "attach" or wish.role in ("side", "worker")


def _joins_its_parent(wish: Wish, surroundings: Surroundings) -> bool:
    """Whether a child uses its parent's handle, so that it need not wait for its grant."""
    return bool(wish.heir_of) or (wish.via != "call" and bool(surroundings.parents))


def _wait_told(lease: Lease, wish: Wish, patience: float, settings: Settings) -> bool:
    """Whether the claim was granted in time; a long wait says what it waits for: an id may be mistyped."""
    from pluto_dist.client import notices

    if not _joins(wish) or patience <= TELL_AFTER_S:
        return lease.wait_granted(patience)
    if lease.wait_granted(TELL_AFTER_S):
        return True
    notices.waits_for(wish, patience, settings)
    return lease.wait_granted(patience - TELL_AFTER_S)


def _warn_of_no_coordinator(error: CoordinatorUnavailableError, places: Places) -> None:
    from pluto_dist.host.places import refusal

    full = refusal(places.runtime)
    what_now = "The Run is kept on disk until a coordinator can be started here"
    if refusal(places.spool):
        what_now = "What is logged until there is room is dropped and counted; training goes on"
    cause = f"{full}: free some space, or set PLUTO_DIST_HOME to a folder on another disk. " if full else ""
    _log.warning("%s%s\n%s (PLUTO_DIST_REQUIRED=1 makes this an error)", cause, error, what_now)


def _below_launcher(wish: Wish, settings: Settings) -> tuple[Wish, str]:
    """Makes the first `init()` below `pluto-dist run` mean the launcher's Run; a later one has its own."""
    if settings.launched_by is None:
        return wish, ""
    if wish.verb == "init" and RUNS.inits > 1 and wish.run_from_env:
        return msgspec.structs.replace(wish, run=None, run_from_env=False), ""
    return wish, settings.launched_by if wish.verb == "init" else ""


def _of_all_nodes(wish: Wish, settings: Settings, job: Job) -> Wish:
    """Gives the Run of a job of several nodes an id that all of them know (R12)."""
    if wish.verb != "init" or job.nodes == 1:
        return wish
    from pluto_dist.host.settings import cluster_of

    shares = settings.mode == "pluto" or cluster_of(settings) is not None
    if shares and wish.run is None and job.shared_id:
        return msgspec.structs.replace(wish, run=RunRef(external_id=job.shared_id), run_from_env=True)
    named = wish.run is not None and (settings.mode == "pluto" or wish.run.external_id is not None)
    if job.local_rank in (None, 0) and not (shares and named):
        why = (
            "in local mode there is no server that they could share one on; a cluster store is enough, see "
            "PLUTO_DIST_CLUSTER"
        )
        if shares:
            why = "nothing that all know names one; set PLUTO_RUN_ID, or torchrun's --rdzv-id, alike on all"
        _log.warning("this job spans %d nodes, and each gets a Run of its own: %s", job.nodes, why)
    return wish


def _claim(
    wish: Wish, settings: Settings, surroundings: Surroundings, launched_by: str, work: RayWork | None
) -> Claim:
    from pluto_dist.host.identity import boot_clock, own_identity
    from pluto_dist.host.settings import target_of

    return Claim(
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
        parents=surroundings.parents,
        again=wish.verb == "init" and RUNS.again(),
        via=wish.via,
        heir_of=wish.heir_of,
        notebook=surroundings.notebook,
        lent_by_ray=work.kind if work is not None else "",
        wait_s=settings.open_wait_s,
        retention_segments=settings.retention_segments,
        heartbeat_s=settings.heartbeat_s,
        stuck_after_s=settings.stuck_after_s,
        launcher=wish.launcher,
        launched_by=launched_by,
        project_lent=settings.launched_by is not None and settings.project == os.environ.get("PLUTO_PROJECT"),
        rank_metrics=settings.rank_metrics,
        reduce=settings.reduce,
        console=settings.console,
        system_metrics_s=settings.system_metrics_s,
        upload_rate=settings.upload_rate,
        sides_limit=settings.sides_limit,
        patience_s=wish.timeout_s if wish.verb == "attach" and wish.via == "call" else 0.0,
        cluster=_cluster(wish, settings, surroundings.job),
        topics_at=_topics_at(wish, settings, surroundings.job),
        origin=_origin(wish, settings, surroundings.job),
    )


def _cluster(wish: Wish, settings: Settings, job: Job) -> ClusterAddress | None:
    """The cluster store of the claim: only for a Run that other nodes can name; none for an attach.

    Without a server only a job of several nodes needs one: other Runs of that name are in other stores.
    """
    from pluto_dist.host.settings import cluster_of

    address = cluster_of(settings)
    named = wish.verb == "init" and wish.run is not None
    needed = settings.mode == "pluto" or (
        job.nodes > 1 and wish.run is not None and wish.run.external_id is not None
    )
    return address if named and needed else None


def _topics_at(wish: Wish, settings: Settings, job: Job) -> ClusterAddress | None:
    """The cluster store for hand-over, of an attach too: where other nodes know the same name for the Run."""
    from pluto_dist.host.settings import cluster_of

    address = cluster_of(settings)
    named = wish.run is not None and wish.run.external_id is not None
    return address if named and (settings.mode == "pluto" or job.nodes > 1) else None


def _origin(wish: Wish, settings: Settings, job: Job) -> Origin | None:
    """Facts for the Run's page; none where the machine is not to be measured, as with the official client."""
    if wish.verb != "init" or not settings.system_metrics_s:
        return None
    from pluto_dist.client.origin import origin_of_this_process

    key = settings.api_key.reveal() if settings.api_key is not None else ""
    return origin_of_this_process(os.environ, key, job.nodes)


def generate_run_id() -> str:
    """A new id that is not affected by seeded random generators: a time stamp and twelve random digits."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return f"run-{stamp}-{os.urandom(6).hex()}"


def _tell_ignored(surroundings: Surroundings) -> None:
    """Warns of rank variables that cannot be used: because of them the process is no rank, or another."""
    for text in surroundings.warnings:
        _warn_once(text, text)


def _surroundings(wish: Wish) -> Surroundings:
    from pluto_dist.client.job.ancestors import read_ancestors, read_process, wrapper_above
    from pluto_dist.client.job.detect import detect
    from pluto_dist.host.identity import own_identity

    identity = own_identity()
    process, ancestors = read_process(identity), read_ancestors(identity)
    nth_init = RUNS.count_init() if wish.verb == "init" else 0
    found = detect(os.environ, process, ancestors, nth_init, launcher=wish.launcher)
    if wish.verb == "init" and found.job.local_rank in (None, 0):
        wrapper = wrapper_above(os.environ, identity, ancestors, found.parents)
        if wrapper is not None:
            _warn_once("wrapper", wrapper.advice)
    return found


def _end_former_cell() -> None:
    """Ends, in a notebook, the unfinished Run before; in a script it stays, as one of a sweep (R5).

    So does one of another thread or task of asyncio that still works.
    """
    for former in RUNS.left_open():
        _log.warning(
            "a new Run starts in this notebook: finishing %s first", former.display_id or former.run_id
        )
        former.finish()


def _store(settings: Settings) -> str:
    from pluto_dist.host.places import store_of

    return str(store_of(settings.dir))


def disabled_run(
    settings: Settings, name: str | None, run_id: int | str | None, config: object, tags: object
) -> DisabledRun:
    """A Run that goes nowhere.

    Raises:
        MachineError: the mode was not asked for, and `required` makes it an error.
    """
    if settings.disabled_because:
        _unfit(settings, MachineError(settings.disabled_because))
    RUNS.disabled = True
    own_id = str(run_id) if run_id is not None else generate_run_id()
    run = DisabledRun(settings.project, str(name or own_id), own_id, config, tags)
    run.take_settings(settings)
    return run
