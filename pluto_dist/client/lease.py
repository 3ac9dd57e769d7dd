"""The lease that this process holds: its entries, and its end.

`Run` is the face for users; the exit and signal hooks, the launcher and `init()` use the lease itself. Each
change is an entry in the lifecycle stream; one that cannot be an entry is refused before anything changes.

The end of a lease has two parts. The entry makes it certain: it is on disk, and any later coordinator carries
it out. Then the process waits, bounded, until the coordinator has taken the entry, and, as the last one out,
until everything is delivered (G5, R11).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pluto_dist.client import notices
from pluto_dist.client.arguments import code_of, seconds_of
from pluto_dist.client.console.capture import CAPTURES
from pluto_dist.client.hooks import STOPS
from pluto_dist.client.lease_files import LeaseFiles, Wall
from pluto_dist.client.link import Link
from pluto_dist.client.notices import Notices, Waiting, WarnOnce, calling
from pluto_dist.client.offline import Claimed, knows_its_run
from pluto_dist.client.record import PointLog
from pluto_dist.client.values import clean_text
from pluto_dist.core.rules.alerts import TitleLimit
from pluto_dist.core.rules.verdict import advice as advice_on
from pluto_dist.core.values.lifecycle import (
    Alerted,
    ChildStopped,
    Claim,
    Closed,
    Counted,
    Evidence,
    Finished,
    LifecycleEntry,
    Noted,
)
from pluto_dist.core.values.messages import View
from pluto_dist.errors import (
    CoordinatorUnavailableError,
    FinishReservedError,
    KeyRefusedError,
    PlutoDistError,
    RunEndedError,
    WaitTimeoutError,
    from_wire,
)
from pluto_dist.host.credentials import key_refused
from pluto_dist.host.identity import boot_clock
from pluto_dist.host.settings import Settings

if TYPE_CHECKING:
    from pluto_dist.client.console.capture import CommandConsole

UNANSWERED_S = 10.0  # a coordinator that has not answered by then does not work

_log = logging.getLogger("pluto_dist")


class Lease:
    """One per `init()` or `attach()`.

    Args:
        files, link, settings: of the lease.
        attached: opened by `attach()`, which asks to be a side.
        command: console of the command that a launcher starts; None for all others.
        wall: clock of the records.

    Attributes:
        session: of the process, by which a daemon is recognised later.
        end: how this process ended the lease, "" while it has not.
        end_written: set when the last entry, which says so, is on disk.
        by_init: opened by `init()`.
        named: its label was given by the caller.
        ended_by: the call that ended the lease, and its place.
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
        self.files = files
        self.link = link
        self.settings = settings
        self.pid = os.getpid()
        self.session = os.getsid(0)
        self.end: Literal["", "finished", "closed"] = ""
        self.by_init = self.named = False
        self.ended_by = ""
        self.warn_once = WarnOnce()
        self._attached = attached
        self._command = command
        self._wall = wall or Wall()
        self.points = PointLog(files, self._wall, self.warn_once, strict=settings.strict)
        self._late = 0
        self._ender: dict[str, object] = {}
        self._granted_once = False
        self._claimed: Claimed | None = None
        self._no_coordinator = False
        self._notices = Notices(settings.on_cancel)
        self._alerts = TitleLimit()
        self._attempt = 0
        self._advice = ""
        self.end_written = threading.Event()

    # --- facts about it ---------------------------------------------------------------------------

    @property
    def lease_id(self) -> str:
        """Id of the lease."""
        return self.files.lease_id

    @property
    def written(self) -> int:
        """Records that this process has written into its spool."""
        return self.files.records

    @property
    def printed(self) -> int:
        """Those of them that are lines of its console."""
        return self.files.console.written

    @property
    def next_step(self) -> int:
        """The automatic step that would come next."""
        return self.points.highest + 1

    @property
    def is_leaving(self) -> bool:
        """Whether it ends, and the entry that says so is not on disk yet."""
        return bool(self._ender) and not self.end_written.is_set()

    @property
    def here(self) -> bool:
        """Whether this is the process that opened the lease, and no forked child of it."""
        return self.pid == os.getpid()

    @property
    def is_side(self) -> bool:
        """Whether this process is known to be a side; a claim that still waits may become anything."""
        view = self.link.view
        return view is not None and view.state == "active" and view.role == "side"

    @property
    def owns(self) -> bool:
        """Whether this process owns the Run, or asks for it and has no role yet."""
        view = self.link.view
        return self.by_init and (view is None or view.state == "waiting" or view.role == "owner")

    @property
    def ends_as_side(self) -> bool:
        """Whether the lease ends as a side's; without a grant, for which no end waits, by its request."""
        view = self.link.view
        if view is None or view.state == "waiting":
            return self._attached
        return view.role == "side"

    @property
    def alone(self) -> Claimed | None:
        """The Run by this process's own claim, where no coordinator can be had (G4); None otherwise."""
        return self._claimed if self._no_coordinator and self.link.view is None else None

    def claim(self, opened: Claim) -> None:
        """Writes the claim, the first entry of the lease."""
        self.by_init, self.named = opened.verb == "init", opened.label is not None
        self._attempt = opened.job.attempt
        self.points.job = opened.job
        self.files.say(opened)
        if knows_its_run(opened):
            self._claimed = Claimed(self.lease_id, opened)

    def granted(self, view: View) -> None:
        """Takes the first automatic step from the coordinator; called by the link with each view."""
        self._notices.take(view)
        if self._command is not None:
            self._command.relieve(view.relieved)
        if view.state != "active" or self._granted_once:
            return
        self._granted_once = True
        notices.joined(view, self.settings)
        self.points.start_at(view.next_step)
        if view.role == "side":  # its output is not recorded unless a setting asks for it
            CAPTURES.stop(self.lease_id, unless_asked=True)

    def wait_granted(self, timeout_s: float) -> bool:
        """Waits for the grant; False if it did not come in time.

        Raises:
            PlutoDistError: it was refused, or no coordinator can be had.
        """
        try:
            if not self.link.wait(lambda _: True, min(timeout_s, UNANSWERED_S)):
                if timeout_s > UNANSWERED_S:
                    raise self.link.unanswered(UNANSWERED_S)
                return False
        except CoordinatorUnavailableError:
            self._no_coordinator = True
            raise
        if not self.link.wait(lambda view: view.state != "waiting", timeout_s):
            return False
        view = self.link.view
        if view is not None and view.error is not None:
            error = from_wire(*view.error)
            if isinstance(error, KeyRefusedError):
                raise key_refused(error, self.settings.url_api, self.settings.key_source)
            raise error
        return True

    # --- entries ----------------------------------------------------------------------------------

    def stamp(self) -> dict[str, Any]:
        """The times of an entry."""
        return {"at": boot_clock(), "wall_ms": self._wall.ms()}

    def say(self, entry: LifecycleEntry) -> None:
        """Writes an entry, and nudges the coordinator."""
        self.files.say(entry)
        self.link.nudge()

    def change(self, entry: LifecycleEntry) -> None:
        """Writes a change of tags or config, unless the lease has ended.

        Raises:
            RunEndedError: after the end, with `strict`.
        """
        if not self.here:
            self.warn_once(
                "forked",
                "in a forked child only log() is recorded: the process that opened the Run changes tags and "
                "config, and hands things over; use attach()",
            )
        elif self.end:
            message = f"{self._ended()}; nothing was changed"
            if self.settings.strict:
                raise RunEndedError(message)
            self.warn_once("late_change", message)
        else:
            self.say(entry)
            if self._claimed is not None and self.link.view is None:
                self._claimed.take(entry)

    def evidence(self, **what: Any) -> None:
        """Writes one piece of evidence, with the time of now unless another is given."""
        if not (self.end or self._ender) and self.here:
            found = Evidence(**(self.stamp() | what))
            self._advice = self._advice or advice_on(found, self._attempt)
            self.say(found)

    def take_evidence(self, error: BaseException | None) -> None:
        """Writes the evidence of an exception that is about to leave this process."""
        if error is None or self.end:
            return
        from pluto_dist.client.evidence import evidence_of

        STOPS.take()
        found = evidence_of(error)
        if found is not None:
            self.evidence(**found)

    def note(self, text: str, **detail: str) -> None:
        """Writes an event of the Run that is no evidence."""
        if not self.end and self.here:
            clean = {key: clean_text(value) for key, value in detail.items()}
            self.say(Noted(**self.stamp(), text=text, detail=clean))

    def alert(self, title: str, text: str, level: str, *, email: bool, remote: bool) -> None:
        """See `Run.alert`."""
        number = logging.getLevelNamesMapping().get(level, logging.INFO)
        _log.log(number, "%s: %s", title, text)
        if self.end or not self.here:
            return
        more = self._alerts.admit(title, boot_clock())
        if more is None:
            self.warn_once(f"alert:{title}", f"alert({title!r}): more than one a minute is only counted")
            return
        self.say(
            Alerted(
                **self.stamp(),
                title=clean_text(title),
                message=clean_text(text),
                level=logging.getLevelName(number),
                email=email,
                remote=remote,
                more=more,
            )
        )

    def note_stopped(self, pid: int, signal: str) -> None:
        """Writes that this process is about to end a child by a signal."""
        if not self.end and self.here:
            self.say(ChildStopped(**self.stamp(), pid=pid, signal=signal))

    def log_late(self) -> None:
        """Counts a record that came after the end, with a warning for the first.

        Raises:
            RunEndedError: with `strict`.
        """
        self._late += 1
        message = (
            f"log() after the end: {self._ended()}. The record is dropped and counted; attach() to go on "
            "logging"
        )
        if self.settings.strict:
            raise RunEndedError(message)
        self.warn_once("late", message)

    def warn_late(self) -> None:
        """Warns, at the exit, of the number of records that came after the end."""
        if self._late > 1 and self.here:
            _log.warning("%d records came after the end of %s and were dropped", self._late, self._named())
            self._late = 0

    def _named(self) -> str:
        view = self.link.view
        return f"Run {view.run.external_id if view is not None and view.run is not None else self.lease_id}"

    def _ended(self) -> str:
        return f"{self._named()} was {self.end} by this process: {self.ended_by}"

    # --- how it ends ------------------------------------------------------------------------------

    def finish(
        self, code: int | None = None, timeout_s: float | None = None, error: BaseException | None = None
    ) -> None:
        """See `Run.finish`; `error` is the exception in which it is called."""
        code = code_of("code", code)
        timeout_s = None if timeout_s is None else seconds_of("timeout_s", timeout_s)
        if self.end or not self.here:
            return
        if self.ends_as_side:
            self._refuse_to_finish()
        self.take_evidence(error)
        self._leave(Finished(**self.stamp(), code=code), timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """See `Run.close`."""
        timeout_s = None if timeout_s is None else seconds_of("timeout_s", timeout_s)
        if self.end or not self.here:
            return
        self._leave(Closed(**self.stamp()), timeout_s)

    def leave_at_exit(self, last_words: Mapping[str, Any] | None, wait_s: float | None = None) -> None:
        """Ends the lease in the interpreter's exit hook.

        Args:
            last_words: evidence of the exit, empty if there is none; None if the exit code is not known yet.
            wait_s: bound of the wait for delivery.
        """
        if self.end or not self.here:
            return
        STOPS.take()  # what follows a SIGTERM is its consequence, so the signal comes first
        if last_words:
            self.evidence(**last_words)
        if self.ends_as_side:
            self._leave(Closed(**self.stamp()), wait_s)
            return
        self._leave(Finished(**self.stamp(), at_exit=last_words is None, by_exit=True), wait_s)

    def abandon(self, error: BaseException | None) -> None:
        """Closes the lease of a claim that was refused or given up, and waits for nothing.

        Args:
            error: what leaves `init()`. The Run may be made all the same, and ends by it; None for a claim
                that only joins one.
        """
        view = self.link.view
        if view is None or view.state != "refused":
            self.take_evidence(error)
        self.end = "closed"
        self.say(Closed(**self.stamp(), gave_up=error is not None))
        self.files.close()
        self.end_written.set()
        self.link.close()

    def _refuse_to_finish(self) -> None:
        view = self.link.view
        run = view.run if view is not None else None
        named = f"Run {run.display_id or run.external_id}" if run is not None else "the Run"
        owner = (run.owner if run is not None else "") or "nobody owns it now"
        who = f"is {view.label!r}, a side" if view is not None and view.label else "attached as a side"
        message = f"finish() is reserved to the owner of {named} ({owner}); this process {who}"
        if self.settings.strict:
            raise FinishReservedError(f"{message}. Nothing was changed; use close() here")
        self.warn_once("finish_by_side", f"{message}: only its lease is closed. Use close() here")

    def _leave(self, entry: Finished | Closed, timeout_s: float | None) -> None:
        STOPS.take()
        me = object()
        if self._ender.setdefault("", me) is not me:  # one step, which no signal comes between
            return  # another thread came first, or it did and this is a signal handler
        self.end = "finished" if isinstance(entry, Finished) else "closed"
        self.ended_by = calling()
        CAPTURES.stop(self.lease_id)  # while the console stream is open: unfinished lines are recorded
        if self._command is not None:
            timeout_s = self._command.stop(self.settings.exit_wait_s if timeout_s is None else timeout_s)
        self.say(
            Counted(
                **self.stamp(),
                rejected=self.points.rejected,
                first_reject=self.points.first_reject,
                dropped=self.files.dropped + self.points.attachments.dropped,
                next_step=self.next_step,
            )
        )
        self.say(entry)
        self.files.close()
        self.end_written.set()
        exiting = isinstance(entry, Finished) and entry.at_exit
        for_all = self._command is not None
        leave(
            self.link,
            self.files,
            self.settings,
            timeout_s,
            exiting=exiting,
            for_all=for_all,
            advice=self._advice,
        )


SHOW_AFTER_S = 1.0
SHOW_EVERY_S = 0.5


def leave(
    link: Link,
    files: LeaseFiles,
    settings: Settings,
    timeout_s: float | None,
    *,
    exiting: bool,
    for_all: bool = False,
    advice: str = "",
) -> None:
    """Waits for the coordinator to take the end; the last one out waits until everything is safe.

    Never raises: the end is on disk by now, and the next coordinator carries it out if this one does not.

    Args:
        link, files, settings: of the lease.
        timeout_s: bound of the wait, None for the setting.
        exiting: the process itself ends, so its death releases the lease.
        for_all: wait for the whole job's records, as the launcher does, also while others are alive.
        advice: what to do about the failure of this process, for its last line.
    """
    bound = settings.exit_wait_s if timeout_s is None else timeout_s
    began = boot_clock()
    try:
        taken, safe = _await_end(link, files, settings, bound, for_all=for_all)
    except PlutoDistError as error:
        _log.warning(
            "%s; the end of the Run is on disk in %s and will be carried out later", error, files.folder
        )
        link.close()
        return
    finally:
        _tell_dropped(files)
    if not safe and (files.records or link.view is not None):  # else its `init()` was interrupted
        _tell_undelivered(link.view, files, min(bound, boot_clock() - began))
    notices.finished(link.view, settings, files.records, advice)
    link.close()
    if taken and not exiting:
        files.release()


def _await_end(
    link: Link, files: LeaseFiles, settings: Settings, bound: float, *, for_all: bool
) -> tuple[bool, bool]:
    """Waits; returns whether the coordinator has taken the end, and whether all that counts is safe."""
    deadline = boot_clock() + bound
    files.sync()
    taken = link.wait(lambda view: link.settled(view) and _ended(view), bound)
    return taken, taken and _wait_shown(link, _drained if for_all else _safe, deadline, settings)


def _tell_dropped(files: LeaseFiles) -> None:
    if files.dropped:
        _log.warning(
            "%d records were dropped for want of disk space (%s)", files.dropped, files.trouble or "over"
        )


def _tell_undelivered(view: View | None, files: LeaseFiles, waited_s: float) -> None:
    _log.warning(
        "not everything was delivered within %.3g s%s; it is on disk in %s and will be delivered by the "
        "coordinator or by `pluto-dist sync`",
        waited_s,
        f" ({view.trouble})" if view is not None and view.trouble else "",
        files.folder,
    )


def _wait_shown(link: Link, until: Callable[[View], bool], deadline: float, settings: Settings) -> bool:
    """Waits; on a terminal, a wait of some length shows what it waits for."""
    if link.wait(until, max(0.0, min(SHOW_AFTER_S, deadline - boot_clock()))):
        return True
    with Waiting(settings) as waiting:
        while (left := deadline - boot_clock()) > 0:
            waiting.show(link.view, left)
            if link.wait(until, min(SHOW_EVERY_S, left)):
                return True
    return False


def wait_for_delivery(link: Link, files: LeaseFiles, timeout_s: float) -> None:
    """Waits until the coordinator has delivered everything that this process has written.

    Raises:
        RunEndedError: this process gets no more views: it has ended the lease, or is a forked child.
        WaitTimeoutError: the time is over.
    """
    deadline = boot_clock() + timeout_s
    while not _delivered(link, files):
        if not link.speaks:
            raise RunEndedError(
                "flush() cannot know whether all was delivered, because this process has ended the Run; what "
                f"is left is on disk in {files.folder} and will be delivered"
            )
        left = deadline - boot_clock()
        if left <= 0:
            raise WaitTimeoutError(
                f"not everything was delivered within {timeout_s:g} s; it is on disk in {files.folder}"
            )
        link.refresh(min(left, 0.25))


def _delivered(link: Link, files: LeaseFiles) -> bool:
    view = link.view
    return view is not None and link.settled(view) and view.passed >= files.records


def _ended(view: View) -> bool:
    return view.state in ("ended", "refused")


def _drained(view: View) -> bool:
    return view.drained


def _safe(view: View) -> bool:
    """Whether the process may leave: at once while others are alive, the last one once all is safe."""
    return not view.last_out or view.drained
