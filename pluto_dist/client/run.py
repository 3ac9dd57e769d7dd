"""`Run`: the handle that `init()` and `attach()` return, the same on every rank.

`log()` is local: it encodes, and writes into this process's own spool. Every other change of the Run is one
entry in the lifecycle stream; the background thread announces it to the coordinator. Properties show the
coordinator's latest view; `config`, `tags` and `status` ask it again, because other processes change them.

Every argument is checked before anything changes: a call that raises has done nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from pluto_dist.client.arguments import code_of, seconds_of
from pluto_dist.client.hooks import STOPS
from pluto_dist.client.interface import Hints, RunSettings, settings_of_run
from pluto_dist.client.lease import Lease, wait_for_delivery
from pluto_dist.client.values import shown, snapshot
from pluto_dist.core.rules.changes import add_tags, checked_tags
from pluto_dist.core.values.ids import Role
from pluto_dist.core.values.lifecycle import ConfigUpdated, TagsAdded, TagsRemoved
from pluto_dist.core.values.messages import AskConfig, AskRun, RunView, View
from pluto_dist.errors import (
    ArgumentError,
    CoordinatorUnavailableError,
    PlutoDistError,
    RunEndedError,
    WaitTimeoutError,
)

if TYPE_CHECKING:
    from pluto_dist.client.topics import Checkpoint, Item, Subscription

GRANT_S = 30.0  # a property that needs the Run waits this long for it
ASK_S = 2.0  # config, tags and status fall back to what is known after this time


class RunFacts(Hints):
    """The properties of a `Run`. They may wait for the grant, for milliseconds; `log()` never does.

    Where no coordinator can be had they show what this process knows by itself: id, project and name that it
    asked for, its own tags and config, RUNNING. `id` and `display_id` are None then, `url` is "".

    After `finish()` or `close()` there are no more views, so `config`, `tags` and `status` ask by themselves
    as long as a coordinator runs; later `tags` and `status` are those that were known last.
    """

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._link = lease.link

    @property
    def id(self) -> int | None:
        """Numeric id; None while the server has not answered."""
        return self._run_view().id

    @property
    def display_id(self) -> str | None:
        """The id for people, e.g. "MMP-42"."""
        return self._run_view().display_id

    @property
    def run_id(self) -> str:
        """The caller's id of the Run, or the generated one."""
        return self._run_view().external_id

    @property
    def name(self) -> str:
        """The Run's name."""
        return self._run_view().name

    @property
    def project(self) -> str:
        """The Run's project."""
        return self._run_view().project

    @property
    def config(self) -> dict[str, Any]:
        """The merged config as it is now, changes of this process included.

        Raises:
            RunEndedError: this process has ended the Run, and no coordinator runs any more to answer.
            WaitTimeoutError: no coordinator has answered in time, or this is a forked child.
        """
        if self._lease.end and self._lease.alone is None:
            return self._config_afterwards()
        self._view()  # a rank may still wait for its Run
        if (alone := self._lease.alone) is not None:
            return alone.config
        self._link.wait(self._link.settled, ASK_S)
        answer = self._link.ask(lambda n: AskConfig(request=n, lease_id=self.lease_id), ASK_S)
        if answer is None and not self._lease.here:
            raise WaitTimeoutError(
                "the config is not known in a forked child; attach() gives a handle that asks"
            )
        if answer is None:
            raise WaitTimeoutError(
                f"no coordinator answered within {ASK_S:g} s; the config is not known here"
            )
        found: dict[str, Any] = json.loads(answer)
        return found

    @property
    def tags(self) -> list[str]:
        """The Run's tags as they are now, changes of this process included."""
        document = self._afterwards()
        if document is not None:
            return list(document["tags"])
        self._view()
        if self._lease.alone is None:
            self._link.wait(self._link.settled, ASK_S)
        return list(self._fresh().tags)

    @property
    def status(self) -> str:
        """RUNNING, COMPLETED, FAILED, TERMINATED or CANCELLED."""
        document = self._afterwards()
        if document is not None:
            return str(document["status"])
        return self._fresh().status

    @property
    def url(self) -> str:
        """Address of the Run's page, "" for a local Run."""
        return self._run_view().url

    @property
    def settings(self) -> RunSettings:
        """The settings that hold for this process, and the Run's ids by the official client's names.

        A copy without the API key.
        """
        view = self._run_view()
        return settings_of_run(
            self._lease.settings,
            id=view.id,
            display_id=view.display_id,
            run_id=view.external_id,
            name=view.name,
            project=view.project,
            status=view.status,
            url=view.url,
        )

    @property
    def resumed(self) -> bool:
        """Whether the Run existed before."""
        return self._run_view().resumed

    @property
    def fork_run_id(self) -> int | None:
        """Numeric id of the Run that this one continues."""
        return self._run_view().fork_run_id

    @property
    def fork_step(self) -> int | None:
        """The step from which it continues."""
        return self._run_view().fork_step

    @property
    def role(self) -> Role:
        """The role of this process: "owner", "worker" or "side"."""
        return self._view().role

    @property
    def label(self) -> str:
        """The name of this process for people."""
        return self._view().label

    @property
    def lease_id(self) -> str:
        """Id of this process's lease."""
        return self._lease.lease_id

    @property
    def epoch(self) -> int:
        """Fencing number of the ownership under which the lease was granted."""
        return self._view().epoch

    @property
    def ended(self) -> bool:
        """Whether this process has finished or closed the Run."""
        return bool(self._lease.end)

    @property
    def next_step(self) -> int:
        """The automatic step that would come next."""
        return self._lease.next_step

    @property
    def cancelled(self) -> bool:
        """Whether the Run was cancelled on the server."""
        view = self._link.view
        return view is not None and view.run is not None and view.run.cancelled

    @property
    def preempted(self) -> bool:
        """Whether this process was asked to stop (SIGTERM).

        A script that looks at it is not ended by SIGTERM at once: it is expected to save and to leave its
        loop, within `preempt_wait_s`. Ranks see it at different steps: agree on it (an all-reduce) before
        leaving a loop with collectives.
        """
        STOPS.cooperative = True
        return STOPS.asked

    def _view(self) -> View:
        if (alone := self._lease.alone) is not None:
            return alone.view
        try:
            granted = self._lease.wait_granted(GRANT_S)
        except CoordinatorUnavailableError:
            if (alone := self._lease.alone) is None:
                raise
            return alone.view
        if not granted:
            raise WaitTimeoutError(
                f"the Run was not granted within {GRANT_S:g} s; logging works meanwhile. "
                "`pluto-dist doctor` shows whether a coordinator can run here"
            )
        view = self._link.view
        assert view is not None  # noqa: S101 # granted above
        return view

    def _run_view(self) -> RunView:
        run = self._view().run
        assert run is not None  # noqa: S101 # granted leases have one
        return run

    def _fresh(self) -> RunView:
        """The Run in a new view, if the coordinator answers; else in the latest."""
        if self._lease.alone is None:
            self._link.refresh(ASK_S)
        return self._run_view()

    def _afterwards(self) -> dict[str, Any] | None:
        """The Run's document, after this process has ended the Run; None before, or if it cannot be had."""
        view = self._link.view
        if not self._lease.end or view is None or view.run is None:
            return None
        try:
            answer = self._link.ask_alone(AskRun(request=1, run=view.run.key), ASK_S)
        except PlutoDistError:  # the Run is forgotten, or the coordinator is of another version
            return None
        found: dict[str, Any] | None = json.loads(answer) if answer is not None else None
        return found

    def _config_afterwards(self) -> dict[str, Any]:
        document = self._afterwards()
        if document is None:
            view = self._link.view
            named = view.run.external_id if view is not None and view.run is not None else "RUN"
            raise RunEndedError(
                f"the Run was {self._lease.end} by this process, and no coordinator is there any more to say "
                f"its config; `pluto-dist show {named} --json` has it"
            )
        found: dict[str, Any] = document["config"]
        return found


class Run(RunFacts):
    """A process's handle of a Run. Made by `init()` and `attach()`, never directly.

    All methods may be called from any thread and again after the end. In a forked child `log()` works and
    writes into a chain of its own; `finish()` and `close()` do nothing there: the Run is the parent's.
    """

    def __init__(self, lease: Lease) -> None:
        super().__init__(lease)
        self._points = lease.points

    # --- logging ----------------------------------------------------------------------------------

    def log(
        self,
        data: Mapping[str, Any],
        step: int | None = None,
        commit: bool | None = None,
        timestamp: float | None = None,
    ) -> None:
        """Records numbers, strings and files under names, at a step.

        It returns when the record is in the kernel; it waits for no network, process or lock (G3, G4). A
        small file is copied first; a large one is cloned, linked or referred to, which takes no time. It is
        read later, as what it was or not at all. A value that cannot be logged is left out with one
        warning. It does not promise room on the disk: records that could not be written are counted, with a
        warning.

        Args:
            data: names and values: numbers (numpy and torch scalars too, bool as 0/1), strings, dicts;
                `File`, `Artifact`, `Text`, `Image`, `Audio`, `Video` and lists of them; `Histogram`, `Table`.
            step: non-negative integer; left out, it is one more than this participant's last one.
            commit: of the official client, without effect there and here; False gives one warning.
            timestamp: epoch seconds; left out, now. An unusable one is replaced by now, with one warning.

        Raises:
            InvalidRecordError: data is no dict, a key is no text, the step is negative or fractional; with
                `strict` also a value, a name or a timestamp that cannot be logged.
            RunEndedError: after the end, with `strict`.
        """
        if commit is not None:
            self._points.check_commit(commit)
        if self._lease.end:
            self._lease.log_late()
        else:
            self._points.log(data, step, timestamp)

    def watch(self, module: Any, **how: Any) -> None:
        """Logs histograms of a torch module's gradients (`grad/…`) and parameters (`param/…`).

        They get the step of the newest record. Each costs a pass over the tensor, on its device, and the
        transfer of its counts. A tensor that cannot be watched gives one warning.

        Args:
            module: of torch.
            how: `freq`, at each so many passes (1000); `bins` (64); `disable_grad`, `disable_param`; or
                `log="gradients" | "parameters" | "all"`, `log_freq`. The module's graph is not recorded.

        Raises:
            ArgumentError: `freq` or `bins` is no whole number from 1 on.
        """
        from pluto_dist.client.watching import watch

        watch(self, module, self._lease.warn_once, **how)

    def alert(
        self,
        message: object = None,
        title: str = "pluto",
        level: str = "INFO",
        wait: float = 0,  # noqa: ARG002 # the official client's signature
        url: str | None = None,
        remote: bool = True,
        **more: object,
    ) -> None:
        """Tells people something: an event of the Run, a line of the logger, and an alert at the server.

        The coordinator sends it, at most once, and the server mails it to the members of the organization;
        nothing is waited for. Of one title one a minute goes out, over all processes of the Run; the next one
        says how many there were in between. Without a server `pluto-dist show` has it.

        Args:
            message: what happened; the official client's `text=` is another name of it.
            title: a short line.
            level: "DEBUG", "INFO", "WARNING", "ERROR" or "CRITICAL"; anything else counts as INFO.
            wait: of the official client, without effect.
            url: of a webhook, which is not called: that is told once.
            remote: False together with `url`: the server does not get it either, as with the official client.
            more: `email=False`, so that the server mails nothing; the rest is without effect.
        """
        if url:
            self._lease.warn_once(
                "alert(url)", "alert(url=…): no webhook is called; the server gets the alert"
            )
        text = str(more.get("text", message))
        email = bool(more.get("email", True))
        self._lease.alert(str(title), text, str(level), email=email, remote=bool(remote or not url))

    # --- hand-over --------------------------------------------------------------------------------

    def checkpoint(self, path: str | os.PathLike[str], step: int, **info: Any) -> None:
        """Hands a checkpoint over to the processes that loop over `checkpoints()`, now or later.

        One local write, like `log()`; it survives the death of this process and of the coordinator. Call it
        on one rank, when the checkpoint is complete.

        Args:
            path: a file or a folder, handed on as an absolute path; an address (`s3://…`) goes on as it is,
                unchecked. Nothing is copied or held: keep it until it was looked at.
            step: of the training.
            info: what else a reader may want to know, e.g. `loss=0.3`; JSON values, 64 KiB with the path.

        Raises:
            ArgumentError: this is no path.
            InvalidRecordError: the step is negative or fractional; with `strict` also: there is nothing to
                be read at the path, or the info is no JSON or too large. Without, that is one warning, and
                nothing is handed over.
            RunEndedError: after the end, with `strict`.
        """
        from pluto_dist.client.topics import checkpoint

        checkpoint(self._lease, path, step, info)

    def checkpoints(
        self, *, group: str | None = None, latest: bool = False, timeout_s: float | None = None
    ) -> Subscription[Checkpoint]:
        """The training's checkpoints, one after the other, as they come.

            for checkpoint in run.checkpoints():
                run.log({"eval/accuracy": evaluate(checkpoint.path)}, step=checkpoint.step)

        It begins where this process's label stopped, also if that process was killed; a new label gets all
        that there were. It ends when the Run has ended and every checkpoint is done. Each is given at least
        once, in order.

        Args:
            group: shares the work: each checkpoint goes to one member of the group, and to another one if
                that dies before it asks for the next or calls `checkpoint.done()`.
            latest: skip those that a newer one has superseded.
            timeout_s: how long to wait for the next one, half a second at least; left out, as long as the
                Run goes on.

        Raises:
            ArgumentError: the group is no name, or the time no number from 0 on.
            WaitTimeoutError, RunEndedError: from the loop: nothing came in time; this process has closed the
                Run.
        """
        from pluto_dist.client.topics import Checkpoint, Subscription, bounds_of
        from pluto_dist.core.values.topics import CHECKPOINTS

        bounds = bounds_of(group, latest, timeout_s)
        return Subscription(self._lease, CHECKPOINTS, Checkpoint, bounds)

    def publish(self, topic: str, payload: Any) -> None:
        """Hands any value over to the processes that subscribe to a topic of this Run, now or later.

        As `checkpoint`, which is built on it.

        Args:
            topic: 1 to 64 letters, digits, ".", "_" or "-".
            payload: JSON of at most 64 KiB; NaN and infinities become null.

        Raises:
            ArgumentError: this is no topic.
            InvalidRecordError: with `strict`: the payload is no JSON, or too large. Without, that is one
                warning, and nothing is published.
            RunEndedError: after the end, with `strict`.
        """
        from pluto_dist.client.topics import publish

        publish(self._lease, topic, payload)

    def subscribe(
        self, topic: str, *, group: str | None = None, latest: bool = False, timeout_s: float | None = None
    ) -> Subscription[Item]:
        """The items of a topic, one after the other: `.number`, `.payload`, `.at`, `.by`, `.done()`.

        All else is as for `checkpoints`. A topic without items yet is waited for.

        Raises:
            ArgumentError: this is no topic, or as `checkpoints`.
        """
        from pluto_dist.client.topics import Item, Subscription, bounds_of, checked_topic

        return Subscription(self._lease, checked_topic(topic), Item, bounds_of(group, latest, timeout_s))

    # --- shared state -----------------------------------------------------------------------------

    def add_tags(self, tags: str | Iterable[str]) -> None:
        """Adds tags to those that the Run has; the changes of all processes are serialised (G9).

        A Run has 50 tags at most, and one of them a `group:`; what does not fit is left out with a warning,
        because only the coordinator knows what others have added.

        Raises:
            InvalidRecordError: a tag is no text, or these alone are too many.
            RunEndedError: after the end, with `strict`; the same for the next two.
        """
        self._lease.change(TagsAdded(**self._lease.stamp(), tags=add_tags((), tags)))

    def remove_tags(self, tags: str | Iterable[str]) -> None:
        """Takes tags away; those that the Run does not have are no error.

        Raises:
            InvalidRecordError: a tag is no text or blank.
        """
        self._lease.change(TagsRemoved(**self._lease.stamp(), tags=checked_tags(tags)))

    def update_config(self, config: Mapping[str, Any]) -> None:
        """Merges a dict deeply into the Run's config.

        Raises:
            InvalidRecordError: it is no collection of named values.
        """
        taken = snapshot(config)
        for path in taken.cut:
            self._lease.warn_once(f"cut:{path}", f"update_config(): {path} was cut because it is too large")
        self._lease.change(ConfigUpdated(**self._lease.stamp(), patch=msgspec.Raw(taken.json)))

    # --- the end ----------------------------------------------------------------------------------

    def finish(self, code: int | None = None, timeout_s: float | None = None) -> None:
        """Ends the Run, if this process owns it; of a worker it says "this rank is done"; a side closes.

        What is not delivered when the time is over is on disk, and is delivered later (G5).

        Args:
            code: explicit verdict of the owner: 0 completed, 2 or 15 terminated, anything else failed. Left
                out, the evidence of all participants decides.
            timeout_s: bound of the whole call.

        Raises:
            ArgumentError: the code is no whole number, the time is no number from 0 on.
            FinishReservedError: a side called it with `strict`; the lease stays usable.
        """
        self._lease.finish(code, timeout_s, sys.exc_info()[1])

    def close(self, code: int | None = None, timeout_s: float | None = None) -> None:
        """Ends this process's lease and leaves the Run's status alone.

        Args:
            code: of the official client, without effect: the status is left alone.
            timeout_s: bound of the whole call.

        Raises:
            ArgumentError: the code is no whole number, the time is no number from 0 on.
        """
        code_of("code", code)
        self._lease.close(timeout_s)

    def on_preempt(self, callback: Callable[[], object]) -> None:
        """Has a function called in the main thread when this process is asked to stop (SIGTERM).

        It is called once, before the process leaves, and may take as long as the launcher's grace allows. It
        is not called while the main thread is inside of one long C call.

        Raises:
            ArgumentError: it cannot be called.
        """
        if not callable(callback):
            raise ArgumentError(f"on_preempt({shown(callback)}): pass a function without arguments")
        STOPS.when_asked(callback)

    def flush(self, timeout_s: float = 30.0) -> None:
        """Waits until everything logged so far has been taken by the coordinator's backend.

        Raises:
            ArgumentError: the time is no number from 0 on.
            RunEndedError: this process has ended the Run before all was delivered, or it is a forked child;
                it gets no more views.
            WaitTimeoutError: the time is over; what is left is on disk.
        """
        bound_s = seconds_of("timeout_s", timeout_s)
        if not self._lease.here:
            raise RunEndedError(
                "flush() in a child that was forked after init(): only the process that opened the Run is "
                "told what is delivered; wait there, or attach() here"
            )
        wait_for_delivery(self._link, self._lease.files, bound_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lease.take_evidence(error)
        if self._lease.ends_as_side:
            self.close()
        else:
            self.finish()

    def __copy__(self) -> Self:
        """The handle itself, because there is one lease."""
        return self

    def __deepcopy__(self, memo: object) -> Self:
        """As `__copy__`."""
        return self

    def __repr__(self) -> str:
        view = self._link.view
        run = view.run if view is not None else None
        what = (run.display_id or run.external_id) if run is not None else "not granted yet"
        return f"<pluto_dist.Run {what} role={view.role if view is not None else '?'}>"
