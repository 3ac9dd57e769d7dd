"""`Run`: what `init()` and `attach()` give back, the same on every rank.

`log()` is local: it encodes, and writes into this process's own spool. Everything else that changes the Run
is one entry in the lifecycle stream; the background thread tells the coordinator. Properties show what the
coordinator said last; `config`, `tags` and `status` ask it, because other processes change them.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from pluto_dist.client import record
from pluto_dist.client.collect import Kind, Rejection
from pluto_dist.client.console.capture import CAPTURES
from pluto_dist.client.lease import LeaseFiles, Wall
from pluto_dist.client.link import Link
from pluto_dist.client.stops import STOPS
from pluto_dist.client.tidings import Tidings
from pluto_dist.core.ids import Role
from pluto_dist.core.lifecycle import (
    Closed,
    ConfigUpdated,
    Counted,
    Evidence,
    Finished,
    LifecycleEntry,
    Noted,
    TagsAdded,
    TagsRemoved,
)
from pluto_dist.core.merge import add_tags as checked_tags
from pluto_dist.core.messages import AskConfig, RunView, View
from pluto_dist.errors import FinishReservedError, RunEndedError, WaitTimeoutError, from_wire
from pluto_dist.node.identity import boot_clock
from pluto_dist.node.settings import Settings
from pluto_dist.spool import forks
from pluto_dist.spool.frames import DECLARE

GRANT_S = 30.0  # a property that needs the Run waits this long for it
UNANSWERED_S = 10.0  # a coordinator that has said nothing by then does not work
ASK_S = 2.0  # config, tags and status fall back to what is known after this time

_log = logging.getLogger("pluto_dist")


class Run:
    """A process's handle of a Run. Made by `init()` and `attach()`, never directly.

    All methods may be called from any thread and again after the end. In a forked child `log()` works and
    writes into a chain of its own; `finish()` and `close()` do nothing there: the Run is the parent's.
    """

    def __init__(
        self, files: LeaseFiles, link: Link, settings: Settings, *, attached: bool, launcher: bool = False
    ) -> None:
        self._files = files
        self._link = link
        self._settings = settings
        self._attached = attached
        self._launcher = launcher
        self._wall = Wall()
        self._pid = os.getpid()
        self._known: set[str] = set()
        self._steps = itertools.count(0)
        self._highest = -1
        self._rejected = 0
        self._late = 0
        self._warned: set[str] = set()
        self._ends = itertools.count()
        self._end: Literal["", "finished", "closed"] = ""
        self._granted_once = False
        self._tidings = Tidings(settings.on_cancel)
        forks.watch(self)

    # --- logging ----------------------------------------------------------------------------------

    def log(self, data: Mapping[str, Any], step: int | None = None, timestamp: float | None = None) -> None:
        """Records numbers and strings under names, at a step.

        It returns when the record is in the kernel; it waits for no network, process or lock (G3, G4). A
        value that cannot be logged is left out with one warning. It does not promise room on the disk: what
        could not be written is counted and told.

        Args:
            data: names and values: numbers (numpy and torch scalars too, bool as 0/1), strings, dicts.
            step: non-negative integer; left out, it is one more than this participant's last one.
            timestamp: epoch seconds; left out, now.

        Raises:
            InvalidRecordError: data is no dict, a key is no text, the step is negative or fractional.
            RunEndedError: after the end, with `strict`.
        """
        if self._end:
            self._log_late()
            return
        automatic = step is None
        if step is None:
            step = next(self._steps)
        time_ms = self._wall.ms() if timestamp is None else record.epoch_ms(timestamp)
        encoded = record.encode(data, step, time_ms, self._known, strict=self._settings.strict)
        if step > self._highest:
            self._follow(step, automatic=automatic)
        if encoded.new:
            self._declare(encoded.new)
        if encoded.metrics is not None:
            self._files.metrics.append(encoded.metrics)
        for line in encoded.data:
            self._files.data.append(line)
        if encoded.rejections:
            self._reject(encoded.rejections)

    def _follow(self, step: int, *, automatic: bool) -> None:
        """Automatic steps go on behind the highest step so far."""
        if not automatic:
            self._steps = itertools.count(int(step) + 1)
        self._highest = step

    def _declare(self, names: Mapping[str, Kind]) -> None:
        by_kind: dict[Kind, dict[str, Kind]] = {}
        for name, kind in names.items():
            by_kind.setdefault(kind, {})[name] = kind
        for kind, found in by_kind.items():
            writer = self._files.metrics if kind == "METRIC" else self._files.data
            if writer.append(record.declaration(found), DECLARE):
                self._files.declared += 1
                self._known.update(found)

    def _reject(self, rejections: Iterable[Rejection]) -> None:
        for rejection in rejections:
            self._rejected += 1
            self._warn_once(f"rejected:{rejection.name}:{rejection.type_name}", str(rejection))

    def _log_late(self) -> None:
        self._late += 1
        message = (
            f"log() after {'finish' if self._end == 'finished' else 'close'}(): the record is dropped and "
            "counted; attach() to go on logging"
        )
        if self._settings.strict:
            raise RunEndedError(message)
        self._warn_once("late", message)

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            _log.warning("%s", message)

    # --- shared state -----------------------------------------------------------------------------

    def add_tags(self, tags: str | Iterable[str]) -> None:
        """Adds tags to those that the Run has; the changes of all processes are serialised (G9).

        Raises:
            InvalidRecordError: a tag is no text, or there would be too many.
        """
        self._change(
            TagsAdded(**self._stamp(), tags=checked_tags((), [tags] if isinstance(tags, str) else tags))
        )

    def remove_tags(self, tags: str | Iterable[str]) -> None:
        """Takes tags away; those that the Run does not have are no error."""
        self._change(TagsRemoved(**self._stamp(), tags=tuple([tags] if isinstance(tags, str) else tags)))

    def update_config(self, config: Mapping[str, Any]) -> None:
        """Merges a dict deeply into the Run's config.

        Raises:
            InvalidRecordError: it is no collection of named values.
        """
        from pluto_dist.client.snapshot import snapshot

        taken = snapshot(config)
        for path in taken.cut:
            self._warn_once(f"cut:{path}", f"config value {path} is too large and was cut")
        self._change(ConfigUpdated(**self._stamp(), patch=msgspec.Raw(taken.json)))

    def _change(self, entry: LifecycleEntry) -> None:
        if self._foreign_process(
            "tags and config are changed by the process that opened the Run; use attach()"
        ):
            return
        if self._end:
            message = f"the Run was {self._end} by this process; nothing was changed"
            if self._settings.strict:
                raise RunEndedError(message)
            self._warn_once("late_change", message)
            return
        self._say(entry)

    # --- the end ----------------------------------------------------------------------------------

    def finish(self, code: int | None = None, timeout_s: float | None = None) -> None:
        """Ends the Run, if this process owns it; a worker says "this rank is done", a side closes.

        What is not delivered when the time is over is on disk, and is delivered later (G5).

        Args:
            code: explicit verdict of the owner: 0 completed, 2 or 15 terminated, anything else failed. Left
                out, the evidence of all participants decides.
            timeout_s: bound of the whole call.

        Raises:
            FinishReservedError: a side called it with `strict`; the lease stays usable.
        """
        if self._end or self._foreign_process(""):
            return
        if self._is_side:
            self._refuse_to_finish()
        self.take_evidence(sys.exc_info()[1])
        self._leave(Finished(**self._stamp(), code=code), timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Ends this process's lease and leaves the Run's status alone."""
        if self._end or self._foreign_process(""):
            return
        self._leave(Closed(**self._stamp()), timeout_s)

    def leave_at_exit(self, exit_code: int | None, wait_s: float | None = None) -> None:
        """What the interpreter's exit hook does; None means that the exit code is not known yet."""
        if self._end or self._foreign_process(""):
            return
        STOPS.take()  # what follows a SIGTERM is its consequence, so it is told first
        if exit_code:
            self.evidence(kind="exit", exit_code=exit_code)
        if self._is_side:
            self._leave(Closed(**self._stamp()), wait_s)
            return
        self._leave(Finished(**self._stamp(), at_exit=exit_code is None), wait_s)

    def abandon(self) -> None:
        """The claim came to nothing: the lease ends without another word."""
        self._end = "closed"
        self._say(Closed(**self._stamp()))
        self._files.close()
        self._link.close()

    def _refuse_to_finish(self) -> None:
        run = self._run_view()
        message = (
            f"finish() is reserved to the owner of Run {run.display_id or run.external_id} "
            f"({run.owner or 'nobody owns it now'}); this process is {self.label!r}, a side"
        )
        if self._settings.strict:
            raise FinishReservedError(f"{message}. Nothing was changed; use close() here")
        self._warn_once("finish_by_side", f"{message}: only its lease is closed. Use close() here")

    def _leave(self, entry: Finished | Closed, timeout_s: float | None) -> None:
        from pluto_dist.client.leaving import leave

        STOPS.take()
        if next(self._ends):
            return  # another thread came first, or it did and this is a signal handler
        self._end = "finished" if isinstance(entry, Finished) else "closed"
        CAPTURES.stop(self.lease_id)
        self._say(
            Counted(
                **self._stamp(),
                rejected=self._rejected,
                dropped=self._files.dropped,
                next_step=self._highest + 1,
            )
        )
        self._say(entry)
        self._files.close()
        exiting = isinstance(entry, Finished) and entry.at_exit
        leave(self._link, self._files, self._settings, timeout_s, exiting=exiting, for_all=self._launcher)

    def tell_late(self) -> None:
        """Says how many records came after the end; the first was warned of when it came."""
        if self._late > 1 and self._pid == os.getpid():
            _log.warning("%d records came after the end of Run %s and were dropped", self._late, self.run_id)
            self._late = 0

    def on_preempt(self, callback: Callable[[], object]) -> None:
        """Has a function called in the main thread when this process is asked to stop (SIGTERM).

        It is called once, before the process leaves, and may take as long as the launcher's grace allows. It
        is not called while the main thread is inside of one long C call.
        """
        STOPS.when_asked(callback)

    # --- evidence (called by the hooks) -----------------------------------------------------------

    def take_evidence(self, error: BaseException | None) -> None:
        """An exception that is on its way out of this process."""
        if error is None or self._end:
            return
        from pluto_dist.client.evidence import evidence_of

        STOPS.take()
        found = evidence_of(error)
        if found is not None:
            self.evidence(**found)

    def evidence(self, **what: Any) -> None:
        """Writes one piece of evidence."""
        if not self._end and self._pid == os.getpid():
            self._say(Evidence(**self._stamp(), **what))

    def note(self, text: str, **detail: str) -> None:
        """An event of the Run that is no evidence."""
        if not self._end and self._pid == os.getpid():
            self._say(Noted(**self._stamp(), text=text, detail=detail))

    # --- properties -------------------------------------------------------------------------------

    @property
    def id(self) -> int | None:
        """Numeric id; None while the server has not answered."""
        return self._run_view().id

    @property
    def display_id(self) -> str | None:
        """For people, e.g. "MMP-42"."""
        return self._run_view().display_id

    @property
    def run_id(self) -> str:
        """The caller's id of the Run, or the generated one."""
        return self._run_view().external_id

    @property
    def name(self) -> str:
        """Its name."""
        return self._run_view().name

    @property
    def project(self) -> str:
        """The project it is in."""
        return self._run_view().project

    @property
    def config(self) -> dict[str, Any]:
        """The merged config as it is now, changes of this process included."""
        self._view()  # a rank may still wait for its Run
        self._link.wait(self._link.settled, ASK_S)
        answer = self._link.ask(lambda n: AskConfig(request=n, lease_id=self.lease_id), ASK_S)
        if answer is None and self._pid != os.getpid():
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
        self._link.wait(self._link.settled, ASK_S)
        return list(self._fresh().tags)

    @property
    def status(self) -> str:
        """RUNNING, COMPLETED, FAILED, TERMINATED or CANCELLED."""
        return self._fresh().status

    @property
    def url(self) -> str:
        """Address of the Run's page, "" for a local Run."""
        return self._run_view().url

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
        """What this process may do: "owner", "worker" or "side"."""
        return self._view().role

    @property
    def label(self) -> str:
        """What people call this process."""
        return self._view().label

    @property
    def lease_id(self) -> str:
        """Id of this process's lease."""
        return self._files.lease_id

    @property
    def epoch(self) -> int:
        """Fencing number of the ownership under which the lease was granted."""
        return self._view().epoch

    @property
    def cancelled(self) -> bool:
        """Whether somebody cancelled the Run on the server."""
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

    @property
    def ended(self) -> bool:
        """Whether this process has finished or closed the Run."""
        return bool(self._end)

    @property
    def written(self) -> int:
        """Records that this process has written into its spool."""
        return self._files.records

    def flush(self, timeout_s: float = 30.0) -> None:
        """Waits until everything logged so far has been taken by the coordinator's backend.

        Raises:
            WaitTimeoutError: the time is over; what is left is on disk.
        """
        from pluto_dist.client.leaving import wait_for_delivery

        wait_for_delivery(self._link, self._files, timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.take_evidence(error)
        if self._is_side:
            self.close()
        else:
            self.finish()

    def __repr__(self) -> str:
        view = self._link.view
        run = view.run if view is not None else None
        what = (run.display_id or run.external_id) if run is not None else "not granted yet"
        return f"<pluto_dist.Run {what} role={view.role if view is not None else '?'}>"

    # --- inside -----------------------------------------------------------------------------------

    def after_fork(self) -> None:
        """In a forked child: its chain declares names of its own."""
        self._known = set()

    def granted(self, view: View) -> None:
        """Takes the first automatic step from the coordinator; called by the link with each view."""
        self._tidings.take(view)
        if view.state != "active" or self._granted_once:
            return
        self._granted_once = True
        if view.next_step > self._highest + 1:
            self._highest = view.next_step - 1
            self._steps = itertools.count(view.next_step)
        if view.role == "side":  # its output is its own, unless somebody asked for it
            CAPTURES.stop(self.lease_id, unless_asked=True)

    @property
    def is_side(self) -> bool:
        """Whether this process is known to be a side; a claim that still waits may become anything."""
        view = self._link.view
        return view is not None and view.state == "active" and view.role == "side"

    @property
    def next_step(self) -> int:
        """The automatic step that would come next."""
        return self._highest + 1

    def wait_granted(self, timeout_s: float) -> bool:
        """Whether the claim was granted in time.

        Raises:
            PlutoDistError: it was refused, or no coordinator can be had.
        """
        if not self._link.wait(lambda _: True, min(timeout_s, UNANSWERED_S)):
            if timeout_s > UNANSWERED_S:
                raise self._link.unanswered(UNANSWERED_S)
            return False
        if not self._link.wait(lambda view: view.state != "waiting", timeout_s):
            return False
        view = self._link.view
        if view is not None and view.error is not None:
            raise from_wire(*view.error)
        return True

    @property
    def _is_side(self) -> bool:
        """The end of a lease never waits for its grant: who has no role yet is what it asked to be."""
        view = self._link.view
        if view is None or view.state == "waiting":
            return self._attached
        return view.role == "side"

    def _view(self) -> View:
        if not self.wait_granted(GRANT_S):
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
        """The Run as the coordinator sees it now, if it answers; else as it was last seen."""
        self._link.refresh(ASK_S)
        return self._run_view()

    def _say(self, entry: LifecycleEntry) -> None:
        self._files.say(entry)
        self._link.nudge()

    def _stamp(self) -> dict[str, Any]:
        return {"at": boot_clock(), "wall_ms": self._wall.ms()}

    def _foreign_process(self, advice: str) -> bool:
        """Whether this is a forked child, which must leave its parent's Run alone."""
        if self._pid == os.getpid():
            return False
        if advice:
            self._warn_once("forked", f"in a forked child only log() is recorded: {advice}")
        return True
