"""Notices: all that a user sees on stderr and in warnings.

One line at init and one at the end, which are the owner's alone. While the Run goes on, trouble is reported
once, as a warning. The wait at a process's end is shown while it lasts.

A Run that is cancelled on the server goes on here: only the training knows what it still has to save. It gets
a warning and `run.cancelled`; with `on_cancel="interrupt"` owner and workers get a KeyboardInterrupt in their
main thread as well, also one that waits in a system call.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal, Self

from pluto_dist.client.terminal import is_terminal, put, tell
from pluto_dist.core.rules.verdict import server_differs
from pluto_dist.core.values.messages import RunView, View

if TYPE_CHECKING:
    from pluto_dist.client.arguments import Wish
    from pluto_dist.host.settings import Settings

_log = logging.getLogger("pluto_dist")
TOLD_AFTER_S = 5.0
_SAID = {
    "finish": "pluto.finish()",
    "Run.finish": "run.finish()",
    "Run.close": "run.close()",
    "Run.__exit__": "the end of its `with` block",
    "Hooks._at_exit": "the exit of the interpreter",
    "Hooks._at_end_of_child": "the end of this child process",
    "Hooks._sigterm": "SIGTERM",
    "Hooks._give_up": "SIGTERM",
    "_end_former_cell": "the next init() in this notebook",
    "Tasks.end_failed": "the next init(), because its task had failed",
    "RayTasks.end_former": "the end of its task in Ray",
}
_NOBODYS_LINE = ("Hooks.", "RayTasks.")  # what has called these is no line of the user


class WarnOnce:
    """Gives each warning once, by its key."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, key: str, message: str) -> None:
        if key not in self._said:
            self._said.add(key)
            _log.warning("%s", message)


_warn_once = WarnOnce()


class Notices:
    """Notices that follow from views; called in the link's thread.

    Args:
        on_cancel: what to do about a cancel beside the warning.
    """

    def __init__(self, on_cancel: Literal["warn", "interrupt"]) -> None:
        self._on_cancel = on_cancel
        self._told: set[str] = set()

    def take(self, view: View) -> None:
        """Warns of what is new in a view."""
        run = view.run
        if run is None:
            return
        named = run.display_id or run.external_id
        if view.refused and self._is_new(f"refused: {view.refused}"):  # also in the view of the end
            _log.warning("a change of Run %s is left out: %s", named, view.refused)
        if view.state != "active":
            return
        if view.key_problem and self._is_new("key") and view.role == "owner":
            _log.warning(
                "the server refuses the API key of Run %s: %s. Everything is kept on disk and delivered when "
                "the key is good again; `pluto-dist sync` uploads it with another one",
                named,
                view.key_problem,
            )
        if view.stuck and self._is_new(view.stuck) and view.role == "owner":
            _log.warning(
                "Run %s: %s. Nothing was ended because of it; `pluto-dist ps` shows how far each rank is",
                named,
                view.stuck,
            )
        if view.namesake and self._is_new("namesake") and view.role == "owner":
            _log.warning(
                "Run %s and Run %s are of two launches that were both given --rdzv-id %s, and they share no "
                "Run: on one node torchrun replaces that id by a random one unless --rdzv-endpoint or "
                "--master-port is given. Set PLUTO_RUN_ID alike for both if they belong together",
                named,
                view.namesake,
                view.given_id,
            )
        if view.left_over and self._is_new("left over"):
            _log.warning(
                "process %d (%s) is left over: Run %s is %s, and %s, which had started it, is gone. "
                "Nothing ends it; a helper that looks at run.status ends with the Run",
                os.getpid(),
                view.label,
                named,
                run.status,
                view.left_over,
            )
        if run.cancelled and self._is_new("cancel"):
            if view.role == "owner":
                again = (
                    ". The server repeats a cancel for ever, so a Run that was cancelled once cannot go on; "
                    "init(fork_run_id=…, fork_step=…) continues it as another one"
                )
                _log.warning(
                    "Run %s was cancelled on the server; run.cancelled is True from now on%s",
                    named,
                    again if run.resumed else "",
                )
            if view.role != "side" and self._on_cancel == "interrupt":
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _is_new(self, what: str) -> bool:
        new = what not in self._told
        self._told.add(what)
        return new


def _counted(number: int, what: str) -> str:
    """A number with its noun: `1 point`, `2 points`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def started(view: View | None, settings: Settings, spool: str) -> None:
    """Prints which Run it is, where it goes and how to watch it.

    Args:
        view: the latest one.
        settings: with `quiet` nothing is printed, except that the store takes nothing.
        spool: folder of this process's records.
    """
    if view is None or view.run is None or view.role != "owner":
        return
    run, store = view.run, _store(settings)
    if run.mode == "local" and run.provisional:
        _log.warning(
            "%s has no place in the store yet: %s. Everything is kept in %s until the store can be written; "
            "init(dir=…) or PLUTO_DIR names another one",
            _named(run),
            view.trouble or f"{store} does not answer",
            spool,
        )
        return
    if run.mode == "pluto" and not run.resumed and not settings.project.isascii():
        _log.warning(
            "the server takes ASCII only in the name of a project: %r is %r there",
            settings.project,
            run.project,
        )
    if not settings.quiet:
        _print_started(run, str(store), view.attempt, view.trouble)


def key_found(settings: Settings) -> None:
    """Says for `login()` that there is no key, and nothing if there is one."""
    if settings.api_key is None and settings.mode != "disabled" and not settings.quiet:
        tell(
            f"no API key found; Runs are kept in {_store(settings)}, `pluto-dist sync` uploads them. "
            "For a key set PLUTO_API_KEY, or run `pluto login` of the official client"
        )


def adds_no_tags(view: View | None, tags: tuple[str, ...]) -> None:
    """Warns of tags of an `init()` that joined, and so does not add them: as a side, or on a relay."""
    if view is None or view.run is None or view.role == "owner":
        return
    missing = [tag for tag in tags if tag not in view.run.tags]
    if missing:
        _log.warning(
            "init(tags=…) does not add %s here: this process is a %s of %s; run.add_tags() does",
            ", ".join(map(repr, missing)),
            view.role,
            _named(view.run),
        )


def waits_for(wish: Wish, timeout_s: float, settings: Settings) -> None:
    """Says that a process waits for a Run of others: it may start later, or the id may be mistyped."""
    if not settings.quiet:
        what = f"Run {wish.run}" if wish.run is not None else "a live Run"
        call = "attach()" if wish.verb == "attach" else f"init(role={wish.role!r})"
        tell(f"{call} waits for {what}, up to {timeout_s:g} s; `pluto-dist ps` shows which there are")


def belongs_to_launcher(view: View | None, name: str | None, project: str, launchers_project: str) -> None:
    """Warns, in one worker below `pluto-dist run`, of names that the script gives and its Run does not have.

    Args:
        view: the latest one.
        name, project: as the script gives them.
        launchers_project: as the launcher has it.
    """
    if view is None or view.run is None or view.role != "worker" or view.rank not in (None, 0):
        return
    run, other = view.run, []
    if project not in (run.project, launchers_project):
        other.append(("project", project, run.project))
    if name not in (None, run.name):
        other.append(("name", name, run.name))
    if other:
        _log.warning(
            "the Run belongs to `pluto-dist run`, so %s not used; give %s to `pluto-dist run`",
            " and ".join(f"{what}={asked!r} (it is {found!r}) is" for what, asked, found in other),
            " and ".join(f"--{what}" for what, _, _ in other),
        )


def named_by_environment(view: View | None, name: str | None, *, again: bool, child: bool) -> None:
    """Warns that PLUTO_RUN_ID puts an `init()` into a Run that others of the same script are in too.

    Args:
        view: the latest one.
        name: as the script gives it.
        again: it is not the first call in this process.
        child: the process was started by `multiprocessing`.
    """
    if view is None or view.run is None or view.joined:
        return
    run = view.run
    another = name not in (None, run.name)
    if another or (again and run.resumed) or (child and view.role == "side"):
        _warn_once(
            "PLUTO_RUN_ID",
            f"PLUTO_RUN_ID puts this init() into {_named(run)}, as every other one with it (here: "
            f"{view.role}){f'; name={name!r} is not used' if another else ''}. Unset it, or pass run_id=, "
            "for a Run of its own",
        )


def _print_started(run: RunView, store: str, attempt: int, trouble: str) -> None:
    verb = "resumed" if run.resumed else "started"
    if attempt:
        verb = f"attempt {attempt} goes on with"
    if run.mode == "local":
        tell(f"{verb} {_named(run)} (local, {store}); watch it: pluto-dist show {_short(run)}")
    elif run.provisional:
        why = f": {trouble}" if trouble else ""
        tell(f"{verb} {_named(run)} (the server does not answer yet{why}; everything is kept on disk)")
    else:
        tell(f"{verb} {_named(run)}; watch it: {run.url}")
    if run.found_running and not attempt:
        tell(
            f"{_short(run)} was RUNNING before: if a process on another machine still works for it, both own "
            "it now, and the first to finish ends it. attach(), or init(role='side'), joins without owning it"
        )


def joined(view: View, settings: Settings) -> None:
    """Says, once for each Run, that a child is in its parent's Run although it did not ask for that."""
    if view.joined and view.run is not None and not settings.quiet:
        tell(
            f"{_named(view.run)} of the parent process {view.joined} is used here too ({view.label}), "
            "because init() asks for nothing else; with a name=, project=, config= or run_id= of its own a "
            "child gets a Run of its own"
        )


def finished(view: View | None, settings: Settings, records: int, advice: str = "") -> None:
    """Prints status, number of points and how to look; for a failure also what failed first.

    Args:
        view: the latest one.
        settings: with `quiet` nothing is printed.
        records: how many this process has logged.
        advice: what to do about the failure of this process; the verdict has it too, once there is one.
    """
    if settings.quiet or view is None or view.run is None or view.role != "owner":
        return
    run = view.run
    status = run.expected or run.status
    state = status if status != "RUNNING" else f"is {run.phase}"
    why = f" ({run.reason})" if status not in ("RUNNING", "COMPLETED") else ""
    left = (
        f", {_counted(records - view.passed, 'record')} not delivered yet"
        if _is_behind(view, records)
        else ""
    )
    left += f", {_counted(run.rejected, 'value')} rejected" if run.rejected else ""
    left += f", {_counted(run.damaged, 'damaged place')} in the spool passed over" if run.damaged else ""
    # A process that leaves while others go on has no view of how much has arrived.
    points = f", {_counted(run.points, 'point')}" if run.points or not records or status != "RUNNING" else ""
    differs = server_differs(run.server_status, run.refusals)
    no = f"; but {differs}" if differs else ""
    also = f"; {advice}" if advice and advice not in why else ""
    tell(f"{_named(run)} {state}{why}{points}{left}{no}{also}; {_look(run, settings)}")


def _is_behind(view: View, records: int) -> bool:
    """Whether records of this process are behind; only the last one out, or a provisional Run, tells that."""
    lasting = view.run is not None and view.run.provisional
    return records > view.passed and (lasting or (view.last_out and not view.drained))


def _look(run: RunView, settings: Settings) -> str:
    """Where to see the Run, or what to do so that it can be seen."""
    if run.mode == "local":
        return f"look: pluto-dist show {_short(run)}"
    if run.provisional:
        return f"kept in {_store(settings)}; upload: pluto-dist sync"
    gone = "status" in run.refusals  # there is no such page
    return f"look: pluto-dist show {_short(run)}" if gone or not run.url else run.url


def _named(run: RunView) -> str:
    shown = run.display_id or run.external_id
    return f"Run {shown} ({run.name}, project {run.project})" if run.name != shown else f"Run {shown}"


def _short(run: RunView) -> str:
    return run.display_id or run.external_id


def _store(settings: Settings) -> Path:
    from pluto_dist.host.places import store_of  # needs a Unix; `opening` says so itself on Windows

    return store_of(settings.dir)


class Waiting:
    """The wait at the end: a line that is overwritten on a terminal, else one line if it takes long."""

    def __init__(self, settings: Settings) -> None:
        self._shown = not settings.quiet and is_terminal(sys.stderr)
        self._untold = not (settings.quiet or self._shown)
        self._most_s = 0.0

    def __enter__(self) -> Self:
        return self

    def show(self, view: View | None, left_s: float) -> None:
        """Shows how much is left, and how long the wait is at most."""
        if view is None:
            return
        what = f"delivering, {view.pending / 1e6:.1f} MB left" if view.pending else "waiting for the server"
        trouble = f" ({view.trouble[:60]})" if view.trouble else ""
        line = f"{what}{trouble}, at most {left_s:.0f} s"
        if self._shown:
            put(f"\r\x1b[Kpluto_dist: {line}")
        self._most_s = max(self._most_s, left_s)
        if self._untold and self._most_s - left_s > TOLD_AFTER_S:
            self._untold = False
            tell(line)

    def __exit__(self, *_: object) -> None:
        if self._shown:
            put("\r\x1b[K")


def calling() -> str:
    """The outermost call of this package on the stack, and the line of the user's code that makes it."""
    frame: FrameType | None = sys._getframe(1)
    names: list[str] = []
    while frame is not None and frame.f_globals.get("__name__", "").startswith("pluto_dist."):
        names.append(frame.f_code.co_qualname)
        frame = frame.f_back
    known = next((name for name in reversed(names) if name in _SAID), "")
    said = _SAID[known] if known else f"{names[-1]}()" if names else ""
    if frame is None or known.startswith(_NOBODYS_LINE):
        return said
    return f"{said} at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
