"""A logger for PyTorch Lightning and Fabric. It replaces the official client's `MLOPLogger`:

    from pluto_dist.integrations.lightning import PlutoLogger

    trainer = Trainer(logger=PlutoLogger(project="digits", config={"lr": 0.1}))

Install it with `pip install 'pluto-dist[lightning]'`; it works with `lightning` and with `pytorch_lightning`.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pluto_dist.errors import PlutoDistError
from pluto_dist.integrations.source import Checkpoints, RunSource, Wanted, framework, merge_config

if TYPE_CHECKING:
    from pluto_dist.client.opening import AnyRun

__all__ = ["MLOPLogger", "PlutoLogger"]

_PACKAGES = ["lightning.pytorch", "pytorch_lightning"]
if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
    _PACKAGES.reverse()  # the one that the script uses
_pytorch = framework(*_PACKAGES, extra="lightning")
_Logger: Any = _pytorch.loggers.Logger


class PlutoLogger(_Logger):  # type: ignore[misc] # the framework is loaded at run time
    """Logs a Trainer's metrics and hyperparameters into one Run, the same on every rank.

    Every rank has a handle of its own in `experiment`, no dummy: a rank's exception or death is named as the
    cause, and `experiment.log()` works everywhere. What Lightning logs itself comes from rank 0.

    `finalize`, which Lightning calls after each fit and test, ends nothing: the Run ends with the
    interpreter, or with `logger.experiment.finish()`. An exception that leaves a fit is evidence, also if
    the script catches it; `experiment.finish(code=0)` overrules it.

    Args:
        op: the Run to use. Left out, the Run that the script has opened with `init()`, else a new one.
        prefix: put before the names of metrics, with a slash.
        checkpoints: "hand-over": what a `ModelCheckpoint` saves is handed over, so that an eval gets it from
            `run.checkpoints()`; its `info` has `monitor`, `score`, and `best`: whether it is the best so far.
            "upload": it is logged as the artifact `checkpoint`, by the coordinator.
        arguments: of `pluto_dist.init()`, if there is a Run to open; with the same defaults, so that what an
            `init()` has started can be joined (the official class has a project "lightning" of its own).
    """

    def __init__(
        self,
        op: AnyRun | None = None,
        *,
        prefix: str = "",
        checkpoints: Wanted | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        self._checkpoints = Checkpoints(checkpoints)
        self._source = RunSource(op, arguments)
        self._prefix = f"{prefix}/" if prefix else ""

    @property
    def experiment(self) -> AnyRun:
        """This rank's handle of the Run; the first access opens it."""
        return self._source.run()

    @property
    def name(self) -> str:
        """The Run's project, as with other trackers' loggers: the folder that versions are in."""
        return self._known("project")

    @property
    def version(self) -> str:
        """Id of the Run. With a `run_id` of your own, checkpoints keep their folder over restarts."""
        return self._known("run_id")

    @property
    def save_dir(self) -> str:
        """The folder with the store; Lightning puts checkpoints into `<save_dir>/<name>/<version>`."""
        return self._source.folder

    @property
    def root_dir(self) -> str:
        """As `save_dir`."""
        return self.save_dir

    @property
    def log_dir(self) -> str:
        """As `save_dir`."""
        return self.save_dir

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs Lightning's metrics at its step; on other ranks than 0 nothing is done."""
        if _is_rank_zero():
            named = {f"{self._prefix}{name}": value for name, value in metrics.items()}
            self.experiment.log(named, step)

    def log_hyperparams(self, params: Mapping[str, Any] | Namespace) -> None:
        """Merges hyperparameters into the config; on other ranks than 0 nothing is done.

        Those of a side (an eval beside a live training) come under its label.
        """
        if _is_rank_zero():
            merge_config(self.experiment, vars(params) if isinstance(params, Namespace) else params)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """A `ModelCheckpoint` has saved; Lightning says so on rank 0, when all ranks have written."""
        saved, step = checkpoint_callback, checkpoint_callback._last_global_step_saved
        path = saved._last_checkpoint_saved
        score = None if saved.current_score is None else float(saved.current_score)
        monitored = {"monitor": saved.monitor, "score": score} if saved.monitor else {}
        is_last, is_best = path == saved.last_model_path, path == saved.best_model_path
        self._checkpoints.saved(self._source, path, step, copy=is_last, best=is_best, **monitored)

    def finalize(self, status: str) -> None:
        """Takes the end of a fit or test. The Run goes on; with "failed" the current exception is evidence.

        `save()` has nothing to do: what was logged is on disk.
        """
        if status == "failed":
            self._source.take_evidence(sys.exception())

    def _known(self, what: str) -> str:
        """A property that Lightning uses in folder names; the lease id if no coordinator can tell it."""
        run = self.experiment
        try:
            return str(getattr(run, what))
        except PlutoDistError:
            return run.lease_id


MLOPLogger = PlutoLogger  # the official client's name


def _is_rank_zero() -> bool:
    """Whether this is rank 0 for Lightning, which keeps that in one place for all its packages."""
    return bool(_pytorch.utilities.rank_zero.rank_zero_only.rank == 0)
