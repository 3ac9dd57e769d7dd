"""The Run of a framework's logger or callback: which one it is, and when it is opened.

It is the one that was given, else the script's own open Run, else one that is opened at first use, with the
arguments of `init()`. Only at first use, because launchers set the ranks' variables after the object was
made. Nothing here ends a Run that the script has opened.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from pluto_dist.client.api import init
from pluto_dist.client.media.files import Artifact
from pluto_dist.client.runs import RUNS
from pluto_dist.client.values import shown
from pluto_dist.errors import ArgumentError
from pluto_dist.host.places import store_of
from pluto_dist.host.settings import load

if TYPE_CHECKING:
    from pluto_dist.client.opening import AnyRun
    from pluto_dist.client.run import Run

_MERGED = ("config", "tags")  # arguments that mean something for a Run that is open already
_opened: set[str] = set()  # leases of Runs that were opened here, so they are not the script's own

_log = logging.getLogger("pluto_dist")


def framework(*names: str, extra: str) -> Any:
    """The first of these modules that is installed.

    Its types are not looked at: they would say one thing where it is installed and another where it is not.

    Raises:
        ImportError: there is none; the text names the extra.
    """
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != name.partition(".")[0]:
                raise  # it is there, and lacks something itself
    package = names[0].partition(".")[0]
    raise ImportError(f"{package} is not installed here: pip install 'pluto-dist[{extra}]'", name=package)


class RunSource:
    """The source of one logger's or callback's Run; copies of it share the Run.

    A process that got it by a fork or by pickling (launchers that start the ranks from one script) looks for
    the Run anew: it needs a lease of its own, to be a rank whose config and failure count.
    """

    def __init__(self, given: AnyRun | None, arguments: Mapping[str, Any]) -> None:
        self._arguments = dict(arguments)
        self._run = given
        self._whose: Literal["given", "script", "own"] = "given"
        self._renewed = 0
        self._pid = os.getpid()

    def run(self, name: str | None = None) -> AnyRun:
        """The Run; opened, if it has to be, with this name if the arguments have none.

        Raises:
            PlutoDistError: as `init()`.
        """
        self._after_fork()
        if self._run is None or (self._whose == "script" and self._run.ended):
            self._run = self._of_script() or self._run or self._open({"name": name, **self._arguments})
        return self._run

    def take_evidence(self, error: BaseException | None) -> None:
        """Writes the evidence of an exception that leaves the framework; opens no Run for it."""
        self._after_fork()
        lease = RUNS.lease_of(self._run) if self._run is not None else None
        if lease is not None:
            lease.take_evidence(error)

    def renew(self, name: str | None) -> AnyRun:
        """Ends the Run that was opened here and opens the next; any other Run goes on.

        A `run_id` of the arguments gets the number of the Run from the second on.
        """
        self._after_fork()
        if self._run is not None:
            if self._whose != "own":
                return self.run()
            self._run.finish()
            self._renewed += 1
        changed = {**self._arguments, **({"name": name} if name else {})}
        if self._renewed and changed.get("run_id") is not None:
            changed["run_id"] = f"{changed['run_id']}-{self._renewed + 1}"
        self._run = self._of_script() or self._open(changed)
        return self._run

    @property
    def folder(self) -> str:
        """Parent of the store, where frameworks put their own files too."""
        given = {"dir": self._arguments["dir"]} if self._arguments.get("dir") is not None else {}
        settings = load(os.environ, {**(self._arguments.get("settings") or {}), **given})
        return str(Path(store_of(settings.dir)).parent)

    def _of_script(self) -> Run | None:
        from pluto_dist.client.run import Run

        handles = (run for run in RUNS.unfinished() if isinstance(run, Run))
        mine = [run for run in handles if RUNS.lease_of(run) is not None]
        run = next((each for each in mine if each.lease_id not in _opened), None)
        if run is not None:
            self._whose = "script"
            self._give(run)
        return run

    def _give(self, run: Run) -> None:
        if self._arguments.get("config") is not None:
            merge_config(run, self._arguments["config"])
        if self._arguments.get("tags"):
            run.add_tags(self._arguments["tags"])
        unused = sorted(
            name for name, value in self._arguments.items() if name not in _MERGED and value is not None
        )
        if unused:  # names only: settings may hold a key
            _log.warning(
                "a Run is open in this process and is used, so these arguments are ignored: %s. To open "
                "another Run, finish() it first",
                ", ".join(unused),
            )

    def _open(self, arguments: Mapping[str, Any]) -> AnyRun:
        disabled = {"mode": "disabled"} if RUNS.disabled and not RUNS.open() else {}  # as the script's own
        run = init(**{**disabled, **arguments})
        self._whose = "own"
        _opened.add(run.lease_id)
        return run

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            self._pid, self._run = os.getpid(), None

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_run": None}


Wanted = Literal["hand-over", "upload"]  # what may become of a checkpoint


class Checkpoints:
    """What becomes of the checkpoints that a framework saves: handed over (R14), uploaded, or nothing.

    Args:
        wanted: the argument `checkpoints` of a logger or callback.

    Raises:
        ArgumentError: it is none of those.
    """

    def __init__(self, wanted: Wanted | None) -> None:
        if wanted not in (*get_args(Wanted), None):
            raise ArgumentError(
                f'checkpoints={shown(wanted)}: pass "hand-over" (for run.checkpoints()), "upload" or None',
                argument="checkpoints",
            )
        self._wanted = wanted
        self._newest = ("", -1)

    def saved(self, source: RunSource, path: str, step: int, *, copy: bool = False, **info: object) -> None:
        """A checkpoint is complete.

        Args:
            source: of the Run, which is not opened for nothing.
            path, step, info: as of `Run.checkpoint`.
            copy: it may be what was saved just before, under a name that is used again (`last.ckpt`).
        """
        before, its_step = self._newest
        if not self._wanted or not path or (copy and step == its_step and path != before):
            return
        self._newest = (path, step)
        if self._wanted == "hand-over":
            source.run().checkpoint(path, step, **info)
        else:
            source.run().log({"checkpoint": Artifact(path, metadata=info)}, step)


def merge_config(run: AnyRun, values: Mapping[str, Any]) -> None:
    """Merges hyperparameters that a framework passes by itself.

    Those of the job are merged into the Run's config. Those of a side are kept under its label: the batch
    size of an eval is not that of the training.
    """
    lease = RUNS.lease_of(run)
    run.update_config({run.label: values} if lease is not None and lease.is_side else values)
