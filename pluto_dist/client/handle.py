"""`Run`: what `init()` and `attach()` give back, the same on every rank.

`log()` is local: it encodes, and writes into this process's own spool. Everything else that changes the Run
is one entry in the lifecycle stream; the background thread tells the coordinator. Properties show what the
coordinator said last; `config`, `tags` and `status` ask it, because other processes change them.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec

from pluto_dist.client.console.capture import CAPTURES
from pluto_dist.client.facts import RunFacts
from pluto_dist.client.lease import LeaseFiles, Wall
from pluto_dist.client.link import Link
from pluto_dist.client.once import WarnOnce
from pluto_dist.client.plain import clean_text
from pluto_dist.client.points import PointLog
from pluto_dist.client.stops import STOPS
from pluto_dist.client.tidings import Tidings
from pluto_dist.client.wishes import exit_code_of
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
from pluto_dist.core.merge import checked_texts
from pluto_dist.core.messages import View
from pluto_dist.errors import FinishReservedError, RunEndedError
from pluto_dist.node.identity import boot_clock
from pluto_dist.node.settings import Settings

if TYPE_CHECKING:
    from pluto_dist.client.console.command import CommandConsole

_log = logging.getLogger("pluto_dist")


class Run(RunFacts):
    """A process's handle of a Run. Made by `init()` and `attach()`, never directly.

    All methods may be called from any thread and again after the end. In a forked child `log()` works and
    writes into a chain of its own; `finish()` and `close()` do nothing there: the Run is the parent's.
    """

    def __init__(
        self,
        files: LeaseFiles,
        link: Link,
        settings: Settings,
        *,
        attached: bool,
        command: CommandConsole | None = None,
        wall: Wall | None = None,
    ) -> None:
        super().__init__(files, link)
        self._settings = settings
        self._attached = attached
        self._command = command
        self._wall = wall or Wall()
        self._warn_once = WarnOnce()
        self._points = PointLog(files, self._wall, self._warn_once, strict=settings.strict)
        self._late = 0
        self._ends = itertools.count()
        self._end: Literal["", "finished", "closed"] = ""
        self._granted_once = False
        self._tidings = Tidings(settings.on_cancel)

    # --- logging ----------------------------------------------------------------------------------

    def log(self, data: Mapping[str, Any], step: int | None = None, timestamp: float | None = None) -> None:
        """Records numbers, strings and files under names, at a step.

        It returns when the record is in the kernel; it waits for no network, process or lock (G3, G4). A
        file is copied first, as fast as the local disk is. A value that cannot be logged is left out with one
        warning. It does not promise room on the disk: what could not be written is counted and told.

        Args:
            data: names and values: numbers (numpy and torch scalars too, bool as 0/1), strings, dicts;
                `File`, `Artifact`, `Text`, `Image`, `Audio`, `Video` and lists of them; `Histogram`, `Table`.
            step: non-negative integer; left out, it is one more than this participant's last one.
            timestamp: epoch seconds; left out, now.

        Raises:
            InvalidRecordError: data is no dict, a key is no text, the step is negative or fractional.
            RunEndedError: after the end, with `strict`.
        """
        if self._end:
            self._log_late()
        else:
            self._points.log(data, step, timestamp)

    def _log_late(self) -> None:
        self._late += 1
        message = (
            f"log() after {'finish' if self._end == 'finished' else 'close'}(): the record is dropped and "
            "counted; attach() to go on logging"
        )
        if self._settings.strict:
            raise RunEndedError(message)
        self._warn_once("late", message)

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
        self._change(TagsRemoved(**self._stamp(), tags=checked_texts(tags)))

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
            SettingError: the code is no whole number.
        """
        checked = exit_code_of(code)
        if self._end or self._foreign_process(""):
            return
        if self._is_side:
            self._refuse_to_finish()
        self.take_evidence(sys.exc_info()[1])
        self._leave(Finished(**self._stamp(), code=checked), timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Ends this process's lease and leaves the Run's status alone."""
        if self._end or self._foreign_process(""):
            return
        self._leave(Closed(**self._stamp()), timeout_s)

    def leave_at_exit(self, last_words: Mapping[str, Any] | None, wait_s: float | None = None) -> None:
        """What the interpreter's exit hook does.

        Args:
            last_words: evidence of the exit, empty if there is nothing to say; None means that the exit code
                is not known yet.
            wait_s: bound of the wait for delivery.
        """
        if self._end or self._foreign_process(""):
            return
        STOPS.take()  # what follows a SIGTERM is its consequence, so it is told first
        if last_words:
            self.evidence(**last_words)
        if self._is_side:
            self._leave(Closed(**self._stamp()), wait_s)
            return
        self._leave(Finished(**self._stamp(), at_exit=last_words is None), wait_s)

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
        if self._command is not None:
            timeout_s = self._command.stop(self._settings.exit_wait_s if timeout_s is None else timeout_s)
        self._say(
            Counted(
                **self._stamp(),
                rejected=self._points.rejected,
                dropped=self._files.dropped + self._points.attachments.dropped,
                next_step=self.next_step,
            )
        )
        self._say(entry)
        self._files.close()
        exiting = isinstance(entry, Finished) and entry.at_exit
        for_all = self._command is not None
        leave(self._link, self._files, self._settings, timeout_s, exiting=exiting, for_all=for_all)

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
        """Writes one piece of evidence; of now, unless it says of when."""
        if not self._end and self._pid == os.getpid():
            self._say(Evidence(**(self._stamp() | what)))

    def note(self, text: str, **detail: str) -> None:
        """An event of the Run that is no evidence."""
        if not self._end and self._pid == os.getpid():
            cleaned = {key: clean_text(value) for key, value in detail.items()}
            self._say(Noted(**self._stamp(), text=text, detail=cleaned))

    # --- where it stands --------------------------------------------------------------------------

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

    def granted(self, view: View) -> None:
        """Takes the first automatic step from the coordinator; called by the link with each view."""
        self._tidings.take(view)
        if self._command is not None:
            self._command.relieve(view.relieved)
        if view.state != "active" or self._granted_once:
            return
        self._granted_once = True
        self._points.start_at(view.next_step)
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
        return self._points.highest + 1

    @property
    def _is_side(self) -> bool:
        """The end of a lease never waits for its grant: who has no role yet is what it asked to be."""
        view = self._link.view
        if view is None or view.state == "waiting":
            return self._attached
        return view.role == "side"

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
