"""Handles that open nothing before their first use: pickled, of a repeated import, or inherited by a fork.

A handle travels to another process by pickle (arguments of a spawned process, submitit, Ray, joblib). The
pickle has the Run's id and where it is kept, never the API key. In the process that opened it, unpickling
gives the handle itself; in any other, a handle that attaches by the id at its first use: as a worker in a
child of a process that works for the Run, else as a side.

A child that `multiprocessing` starts anew imports the main module again, and with it an `init()` or
`attach()` at module level. That call was made already, by the parent: it opens nothing, and what is logged
while the module is imported was logged by the parent too. The handle joins the parent's Run when it is used.

A forked child has its parent's handle; see `InheritedRun`.
"""

from __future__ import annotations

import copyreg
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pluto_dist.client.arguments import Wish, run_of
from pluto_dist.client.job.ancestors import process_group
from pluto_dist.client.lease import Lease
from pluto_dist.client.opening import disabled_run, open_lease
from pluto_dist.client.run import Run
from pluto_dist.client.runs import RUNS
from pluto_dist.client.tasks import reimporting
from pluto_dist.errors import PlutoDistError, RunNotFoundError
from pluto_dist.spool.writer import follow_forks

if TYPE_CHECKING:
    from pluto_dist.client.interface import RunLike
    from pluto_dist.client.opening import AnyRun
    from pluto_dist.host.settings import Settings

AGAIN_S = 30.0  # a handle that could not attach tries again after this time
_OPENED = frozenset({"_lease", "_link", "_points"})
_WHERE = ("project", "mode", "url_api", "url_ingest", "url_py", "url_app", "strict", "quiet", "heartbeat_s")


class _PendingRun(Run):
    """A `Run` that at its first use gets a lease, or its parent's, and becomes an ordinary handle."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Opens the lease at the first use of an attribute that needs it."""
            if name not in _OPENED:
                return super().__getattr__(name)
            with FORKS.arriving:
                if name not in vars(self):  # else another thread was faster
                    self._arrive()
            return getattr(self, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return restore, (passport_of(self),)

    def _become(self, lease: Lease) -> Run:
        """Takes a lease and becomes a plain `Run`."""
        vars(self).clear()
        self.__class__ = Run  # type: ignore[assignment] # see above
        Run.__init__(self, lease)
        return self

    def _arrive(self) -> None:
        raise NotImplementedError


class DeferredRun(_PendingRun):
    """A handle that was unpickled here, or whose call the parent has made: its first use opens a lease."""

    def __init__(
        self, wish: Wish, settings: Settings, what: str, passport: dict[str, Any] | None = None
    ) -> None:
        self._wish = wish
        self._settings = settings
        self._what = what
        self._passport = passport
        self._refused: tuple[PlutoDistError, float] | None = None

    def log(self, *args: Any, **kwargs: Any) -> None:
        """As `Run.log`."""
        if not self._is_repeated:
            super().log(*args, **kwargs)

    def add_tags(self, *args: Any, **kwargs: Any) -> None:
        """As `Run.add_tags`."""
        if not self._is_repeated:
            super().add_tags(*args, **kwargs)

    def remove_tags(self, *args: Any, **kwargs: Any) -> None:
        """As `Run.remove_tags`."""
        if not self._is_repeated:
            super().remove_tags(*args, **kwargs)

    def update_config(self, *args: Any, **kwargs: Any) -> None:
        """As `Run.update_config`."""
        if not self._is_repeated:
            super().update_config(*args, **kwargs)

    def checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """As `Run.checkpoint`."""
        if not self._is_repeated:
            super().checkpoint(*args, **kwargs)

    def checkpoints(self, **kwargs: Any) -> Any:
        """As `Run.checkpoints`; none while the module is imported, its loop runs in the parent."""
        return iter(()) if self._is_repeated else super().checkpoints(**kwargs)

    def publish(self, *args: Any, **kwargs: Any) -> None:
        """As `Run.publish`."""
        if not self._is_repeated:
            super().publish(*args, **kwargs)

    def subscribe(self, topic: str, **kwargs: Any) -> Any:
        """As `Run.subscribe`; see `checkpoints`."""
        return iter(()) if self._is_repeated else super().subscribe(topic, **kwargs)

    def finish(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: no lease was opened here."""

    def close(self, *args: Any, **kwargs: Any) -> None:
        """As `finish`."""

    def flush(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: nothing was logged here."""

    def __exit__(self, *_: object) -> None:
        """As `finish`."""

    def __repr__(self) -> str:
        return f"<pluto_dist.Run {self._what}, not used here yet>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (restore, (self._passport,)) if self._passport is not None else super().__reduce__()

    @property
    def _is_repeated(self) -> bool:
        """Whether the main module is being imported again: what it logs now its parent has logged."""
        return self._wish.via == "import" and reimporting()

    def _arrive(self) -> None:
        """Opens the lease.

        Raises:
            RunNotFoundError: it cannot be had here.
        """
        if self._refused is not None and time.monotonic() < self._refused[1]:
            raise self._refused[0]
        before = dict(vars(self))
        try:
            found = open_lease(self._wish, self._settings, self._become)
        except PlutoDistError as error:
            self.__class__, self.__dict__ = DeferredRun, before
            refused = RunNotFoundError(
                f"{self._what} cannot be used in process {os.getpid()}: {error}. Where the Run can be "
                "reached, pluto_dist.attach(run_id) gives a handle of its own"
            )
            self._refused = refused, time.monotonic() + AGAIN_S
            raise refused from error
        RUNS.arrived(self)
        if found is not self:  # this machine does not allow one
            self.__class__, self.__dict__ = type(found), vars(found)  # type: ignore[assignment]


class InheritedRun(_PendingRun):
    """A handle in a forked child.

    Usually it uses its parent's lease: it logs into a chain of its own, and ends nothing. Two kinds of
    children need leases of their own: a rank, which has become one since the fork, and a daemon, which goes
    on in place of the process that opened the Run, and is recognised by its new session.
    """

    def __init__(self, before: Lease, *, grouped: bool) -> None:
        self._before = before
        self._grouped = grouped

    def _arrive(self) -> None:
        before, settings = self._before, self._before.settings
        wish = self._wish()
        if wish is None:
            self._become(before)
            return
        try:
            open_lease(wish, settings, self._become)
        except PlutoDistError as error:  # its records arrive all the same, as its parent's
            before.warn_once("inherited", f"a forked child has no lease of its own: {error}")
            self._become(before)
            return
        self._points.start_at(before.next_step)
        before.files.close()  # the coordinator waits for children that may still write there
        before.files.release()

    def _wish(self) -> Wish | None:
        """The claim of a child that needs a lease of its own, None for others."""
        run_id = _id_of(self._before)
        run = run_of("run_id", run_id)
        if os.getsid(0) != self._before.session:
            lease_id = self._before.lease_id
            return Wish(verb="init", run=run, resume=run is not None, heir_of=lease_id)
        is_rank = run_id is not None and not self._grouped and process_group() is not None
        return _wish_of(run_id) if is_rank else None


class _Forks:
    """The fork hook of all handles."""

    def __init__(self) -> None:
        self.arriving = threading.RLock()
        follow_forks(self)

    def after_fork(self) -> None:
        """In the child: makes every handle decide anew, at its first use, what it is here."""
        self.arriving = threading.RLock()
        grouped = process_group() is not None
        for run, lease in RUNS.inherited():
            if type(run) is Run and isinstance(lease, Lease):
                run.__class__ = InheritedRun
                vars(run).clear()
                InheritedRun.__init__(run, lease, grouped=grouped)  # type: ignore[arg-type] # its class by now


FORKS = _Forks()


def opened(wish: Wish, settings: Settings) -> AnyRun:
    """Opens a lease for a caller of `init()` or `attach()`.

    A main module that is imported again in a child has done so in its parent.
    """
    return repeated(wish, settings) if reimporting() else open_lease(wish, settings)


def repeated(wish: Wish, settings: Settings) -> Run:
    """A deferred handle for a call that the parent has made."""
    wish = msgspec.structs.replace(wish, via="import")
    what = f"the Run of the {wish.verb}() that the parent process made"
    run = DeferredRun(wish, settings, what)
    RUNS.defer(run)
    return run


def passport_of(run: Run) -> dict[str, Any]:
    """The part of a handle that is pickled: the Run, where it is kept, how to log; never the key (G11)."""
    from pluto_dist.host.places import store_of

    settings = run._lease.settings
    where = {name: getattr(settings, name) for name in _WHERE}
    return {
        **where,
        "project": run.project,
        "run_id": run.run_id,
        "lease_id": run.lease_id,
        "dir": str(Path(store_of(settings.dir)).parent),
        "home": str(settings.home) if settings.home is not None else None,
    }


def restore(passport: dict[str, Any]) -> RunLike:
    """The handle in the process that unpickles it; several copies are one there."""
    known = RUNS.known(passport["lease_id"])
    if known is not None:
        return known
    settings, run_id = _settings(passport), passport["run_id"]
    if settings.mode == "disabled":
        return disabled_run(settings, None, run_id, None, None)
    run = DeferredRun(
        _wish_of(run_id), settings, f"Run {run_id!r} of project {passport['project']!r}", passport
    )
    RUNS.travelled[passport["lease_id"]] = run
    return run


def _settings(passport: dict[str, Any]) -> Settings:
    """Settings of the process that opened the handle, with this process's key; disabled if it is here."""
    from pluto_dist.host.settings import load

    own = load(os.environ)
    if own.mode == "disabled":
        return own
    there = own.home is None and passport["home"] is not None and Path(passport["home"]).is_dir()
    home = passport["home"] if there else None
    where = {name: passport[name] for name in _WHERE}
    return load(os.environ, {**where, "dir": passport["dir"], "home": home})


def _wish_of(run_id: str | None) -> Wish:
    return Wish(verb="attach", run=run_of("run_id", run_id), via="handle", timeout_s=AGAIN_S)


def _id_of(lease: Lease) -> str | None:
    """The Run's id as far as it is known in a child, which gets no views."""
    view = lease.link.view
    return view.run.external_id if view is not None and view.run is not None else None


def _travels(run: Run) -> tuple[Any, ...]:
    return restore, (passport_of(run),)


copyreg.pickle(Run, _travels)  # here, because the way back needs what opens Runs, which needs `Run`
