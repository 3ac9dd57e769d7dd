"""A callback for the Hugging Face `Trainer`. It replaces the official client's `MLOPCallback`:

    from pluto_dist.integrations.transformers import PlutoCallback

    trainer = Trainer(model, args, callbacks=[PlutoCallback(project="digits")])

Install it with `pip install 'pluto-dist[transformers]'`. `report_to` knows the library's own integrations
only; with `report_to="none"` this callback is the only one that reports.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pluto_dist.integrations.source import Checkpoints, RunSource, Wanted, framework, merge_config

if TYPE_CHECKING:
    from pluto_dist.client.opening import AnyRun

__all__ = ["MLOPCallback", "PlutoCallback"]

_TrainerCallback: Any = framework("transformers.trainer_callback", extra="transformers").TrainerCallback
_utils: Any = framework("transformers.trainer_utils", extra="transformers")
_reporting = framework("transformers.integrations.integration_utils", extra="transformers")


class PlutoCallback(_TrainerCallback):  # type: ignore[misc] # the framework is loaded at run time
    """Logs a Trainer's metrics and configuration into one Run, the same on every rank.

    Every rank takes part, so that a rank's exception or death is named as the cause; metrics come from the
    world's process zero, at `coordinator.global_step`, under the names that other trackers get: "train/loss",
    "eval/loss", "test/…". The training arguments and the model's configuration become the Run's config,
    `run_name` the name of a Run that is opened here.

    The Run ends with the interpreter, or with `run.finish()`; a second `train()` goes on in it. In a
    hyperparameter search each trial, and the training after it, is a Run of its own, with the trial's name,
    unless the Run was given or is the script's own. Under torchrun that is so for process zero only: the
    Trainer does not tell the other ranks of a trial, and they stay with the first.

    Args:
        op: the Run to use. Left out, the Run that the script has opened with `init()`, else a new one.
        checkpoints: "hand-over": the folders that the Trainer saves are handed over, so that an eval gets
            them from `run.checkpoints()`; `info` has `epoch`, and `best`: whether it is the best so far.
            "upload": they are logged as the artifact `checkpoint`, by the coordinator.
        arguments: of `pluto_dist.init()`, if there is a Run to open; with the same defaults, so that what an
            `init()` has started can be joined (the official class has a project "transformers" of its own).
    """

    def __init__(
        self,
        op: AnyRun | None = None,
        *,
        checkpoints: Wanted | None = None,
        **arguments: Any,
    ) -> None:
        self._checkpoints = Checkpoints(checkpoints)
        self._source = RunSource(op, arguments)
        self._trial = False  # whether the last training was one of a search

    @property
    def run(self) -> AnyRun:
        """This rank's handle of the Run; the first access opens it."""
        return self._source.run()

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Opens the Run, or the next trial's, and merges the configuration."""
        former, self._trial = self._trial, state.is_hyper_param_search
        name = state.trial_name if self._trial else args.run_name
        run = self._source.renew(name) if self._trial or former else self._source.run(name)
        if state.is_world_process_zero:
            merge_config(run, _config(args, state, model))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Logs what the Trainer has logged: losses, learning rate, the metrics of an evaluation."""
        if logs and state.is_world_process_zero:
            self._source.run(args.run_name).log(_reporting.rewrite_logs(logs), state.global_step)

    def on_predict(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any], **kwargs: Any
    ) -> None:
        """Logs the metrics of a prediction, which the Trainer does not log itself."""
        if metrics and state.is_world_process_zero:
            self._source.run(args.run_name).log(_reporting.rewrite_logs(metrics), state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hands over, or uploads, what the Trainer has saved."""
        if state.is_world_process_zero:
            path = _saved_in(args.output_dir, state)
            info = {"epoch": state.epoch, "best": path == state.best_model_checkpoint}
            self._checkpoints.saved(self._source, path, state.global_step, **info)


MLOPCallback = PlutoCallback  # the official client's name


def _saved_in(folder: str, state: Any) -> str:
    """The folder of the newest checkpoint; a trial's is below one of its own, whose name nobody tells."""
    name = f"{_utils.PREFIX_CHECKPOINT_DIR}-{state.global_step}"
    trials = Path(folder).glob(f"*/{name}") if state.is_hyper_param_search else ()
    newest = max(trials, key=lambda path: path.stat().st_mtime, default=None)
    return str(newest) if newest is not None else os.path.join(folder, name)  # noqa: PTH118 # as the Trainer does


def _config(args: Any, state: Any, model: Any) -> dict[str, Any]:
    """The configuration as a flat dict, as with other trackers; the training arguments win."""
    found: dict[str, Any] = {}
    if hasattr(model, "config"):
        found |= model.config if isinstance(model.config, dict) else model.config.to_dict()
    if getattr(model, "peft_config", None) is not None:
        found["peft_config"] = model.peft_config
    return {**found, **args.to_sanitized_dict(), **(state.trial_params or {})}
