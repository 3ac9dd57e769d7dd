"""Hooks on exit, exceptions and signals of this process, which take evidence at its cause (R9).

Every hook that was installed before keeps working and is called as if ours were not there. In a forked child
every hook is a pass-through.

`os.kill`, `os.killpg` and `signal.pidfd_send_signal` are hooked to know which children this process ends
itself (`Process.terminate()`, a pool that is left, `multiprocessing` at the interpreter's exit): such an end
says nothing against the Run.
Signals that C code or another program (`kill`) sends are not noticed.

SIGTERM: the evidence is written, the preemption callbacks are called, then an earlier
handler of the script, if it had one, else the process leaves and dies by the signal. A script that looks at
`run.preempted` is trusted to end by itself: it goes on, until `preempt_wait_s` is over or a second SIGTERM
comes. So is one whose own handler took the place of ours and calls it (Lightning's, during a fit): without us
it would have had nothing to call. A process that ignored SIGTERM before `init()` goes on ignoring it, as a
task of submitit does, whose handler only says that it came; it is recorded.

It becomes evidence whatever the main thread is doing. Python runs signal handlers in the main thread and
between two bytecodes, so a rank that is inside a collective never gets to its handler before the launcher's
SIGKILL. The kernel's part of the handler does run: it writes the signal's number into a pipe
(`signal.set_wakeup_fd`), and a thread that reads it writes the evidence. It works with any handler that
Python code has installed, also with one that replaced ours. Callbacks and everything else that touches the
training stay in the main thread. Where another library owns the wakeup descriptor (a running asyncio loop
with signal handlers of its own), or the script has set SIGTERM to `SIG_IGN` after `init()`, nothing is
noticed.

The exit code: `sys.exit` is hooked, so its code is known at exit, and the exception in whose handler it was
called; unless the process logged after it, which shows that the exit was caught. After any other end (the
script's last line, `raise SystemExit(n)`) only the kernel knows the code, when the process is gone. After an
uncaught exception the code says nothing new.

A child of `multiprocessing` never gets to the exception hook, and a forked one not to the exit hook either.
Their evidence is taken when their finalizers run, before the parent can know and stop the siblings; their
leases end there too, as at the exit of any script.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import math
import os
import posix
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn

from pluto_dist.client.evidence import evidence_of_exit, prints_text
from pluto_dist.client.interface import Member
from pluto_dist.client.runs import RUNS
from pluto_dist.client.tasks import (
    ENDING,
    TASKS,
    between_tasks,
    ends_by,
    in_group,
    is_running,
    parent_pid,
    pid_of,
)
from pluto_dist.client.terminal import flush
from pluto_dist.client.values import said_by
from pluto_dist.host.identity import boot_clock

_log = logging.getLogger("pluto_dist")
Handler = Callable[[int, FrameType | None], object] | int | None


REMIND_S = 1.0
REMIND_AT_MOST_S = 8.0


class Stops:
    """The requests to stop this process: SIGTERM.

    Attributes:
        asked: SIGTERM has come.
        cooperative: the script looks at `run.preempted`, so it will end by itself.
        ignored: SIGTERM was set to be ignored before our handler was installed.
    """

    def __init__(self) -> None:
        self.asked = False
        self.cooperative = False
        self.ignored = False
        self._callbacks: list[Callable[[], object]] = []
        self._pipe: tuple[int, int] | None = None
        self._lock = threading.RLock()  # a handler may interrupt the main thread inside of it
        self._handler: Callable[[int, FrameType | None], object] | None = None
        self._handled_at = -math.inf
        self._reminded = False

    def watch(self, handler: Callable[[int, FrameType | None], object]) -> None:
        """Begins to listen; to be called in the main thread, once.

        Args:
            handler: which the main thread runs, and which says so by `handled`.
        """
        self._handler = handler
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        previous = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        if previous != -1:
            signal.set_wakeup_fd(previous, warn_on_full_buffer=False)
            os.close(read)
            os.close(write)
            return
        self._pipe = (read, write)
        os.register_at_fork(after_in_child=self._after_fork_in_child)
        threading.Thread(target=self._listen, args=(read,), name="pluto-dist-stops", daemon=True).start()

    def when_asked(self, callback: Callable[[], object]) -> None:
        """Adds a callback for `call_back`."""
        self._callbacks.append(callback)

    def tell(self) -> None:
        """Writes the evidence of SIGTERM, once; for the open Runs of this process."""
        with self._lock:
            if self.asked:
                return
            self.asked = True
            if between_tasks():
                return  # the way in which pools end their workers, and no work ends with it
            for run in RUNS.open():
                run.evidence(kind="signal", signal="SIGTERM", ignored=self.ignored)

    def take(self) -> bool:
        """Writes the evidence of a SIGTERM that has come, so that it precedes the end of a lease.

        Returns:
            Whether one has.
        """
        with self._lock:
            came = self._pipe is not None and signal.SIGTERM in _drained(self._pipe[0])
            if came:
                self.tell()
            return came

    def call_back(self) -> None:
        """Calls the callbacks in order; one that fails is reported and keeps none from being called."""
        for callback in self._callbacks:
            try:
                callback()
            except Exception as error:  # noqa: BLE001 # the user's code; the end must go on
                _log.warning(
                    "the preemption callback %r raised %s: %s", callback, type(error).__name__, error
                )
                for run in RUNS.open():
                    run.note(
                        "preempt_callback_failed", type=type(error).__qualname__, message=said_by(error)[:500]
                    )

    def handled(self) -> bool:
        """Notes that the handler runs; whether it has run already, and was reminded in the same moment."""
        twice = self._reminded and boot_clock() - self._handled_at < REMIND_S
        self._handled_at, self._reminded = boot_clock(), False
        return twice

    def _listen(self, read: int) -> None:
        poll = select.poll()
        poll.register(read, select.POLLIN)
        while True:
            poll.poll()
            came_at = boot_clock()
            if self.take():
                self._remind(came_at)

    def _remind(self, came_at: float) -> None:
        """Sends the signal to the main thread once more, if that does not run its handler.

        A signal that comes when the interpreter has looked for signals, and has not entered a call that waits
        yet (the lock of a pool's queue), does not interrupt that call: without the handler of ours it would
        have ended the process.
        """
        wait_s = REMIND_S
        while wait_s < REMIND_AT_MOST_S:
            time.sleep(wait_s)
            ours = signal.getsignal(signal.SIGTERM) == self._handler
            if not ours or self._handled_at > came_at - REMIND_S:
                return
            self._reminded = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            wait_s *= 2

    def _after_fork_in_child(self) -> None:
        """Gives the pipe up, which is the parent's: a signal to the child is none to the parent."""
        if self._pipe is not None:
            current = signal.set_wakeup_fd(-1)
            if current not in (self._pipe[1], -1):  # another library has taken it since
                signal.set_wakeup_fd(current)
            self._pipe = None
        self._lock = threading.RLock()
        self.asked = self._reminded = False


def _drained(read: int) -> bytes:
    try:
        return posix.read(read, 4096)  # that of `os` may be eventlet's, which waits
    except BlockingIOError:
        return b""


STOPS = Stops()


class Hooks:
    """Installed once per process, at the first `init()` or `attach()`."""

    def __init__(self, sigterm_wait_s: float, preempt_wait_s: float) -> None:
        self._pid = os.getpid()
        self._sigterm_wait_s = sigterm_wait_s
        self._preempt_wait_s = preempt_wait_s
        self._terminating = False
        self._last_words: dict[str, Any] | None = None
        self._prints = False
        self._written_then: tuple[int, ...] = ()
        self._previous_exit = sys.exit
        self._previous_excepthook = sys.excepthook
        self._previous_thread_hook = threading.excepthook
        self._previous_sigterm: Handler = None
        self._previous_kill = os.kill
        self._previous_killpg = getattr(os, "killpg", None)
        self._previous_by_pidfd = getattr(signal, "pidfd_send_signal", None)  # Linux
        self._masks = threading.local()

    def install(self) -> None:
        """Takes the places of exit, exception hooks, `os.kill` and, if this is the main thread, SIGTERM."""
        sys.exit = self._exit
        sys.excepthook = self._excepthook
        threading.excepthook = self._thread_hook
        os.kill = self._kill
        if self._previous_killpg is not None:
            os.killpg = self._kill_group
        if self._previous_by_pidfd is not None:
            signal.pidfd_send_signal = self._kill_by_pidfd
        atexit.register(self._at_exit)
        if parent_pid() is not None:
            from multiprocessing.util import Finalize

            Finalize(None, self._at_end_of_child, exitpriority=0)
        if threading.current_thread() is threading.main_thread():
            self._previous_sigterm = signal.getsignal(signal.SIGTERM)
            if self._previous_sigterm is not None:  # None: C code has installed it
                signal.signal(signal.SIGTERM, self._sigterm)
            STOPS.ignored = _lets_it_pass(self._previous_sigterm)
            if self._previous_sigterm is signal.SIG_IGN:
                signal.siginterrupt(signal.SIGTERM, False)  # as if it were not handled
            with contextlib.suppress(OSError, RuntimeError):  # no descriptor, no thread: the handler is left
                STOPS.watch(self._sigterm)
            os.register_at_fork(
                before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._in_child
            )

    @property
    def _here(self) -> bool:
        return self._pid == os.getpid()

    def _exit(self, code: object = None, /) -> NoReturn:
        main = threading.current_thread() is threading.main_thread()
        if self._here and main and not _is_prompt():
            STOPS.take()  # an exit in a handler of SIGTERM is its consequence, so the signal comes first
            words = evidence_of_exit(code, sys.exception())
            last = {"at": boot_clock(), **words} if words["exit_code"] else {}
            self._remember(last, prints=prints_text(code))
        self._previous_exit(code)  # type: ignore[arg-type] # as the interpreter, we take anything

    def _excepthook(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if self._here and not _is_prompt():
            for run in RUNS.open():
                run.take_evidence(error)
            self._remember({})
        self._previous_excepthook(kind, error, trace)

    def _thread_hook(self, args: threading.ExceptHookArgs) -> None:
        if self._here and args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            name = args.thread.name if args.thread is not None else "?"
            failed = TASKS.raised(args.exc_value)  # Runs that the thread has opened
            for run in (run for run in RUNS.open() if run not in failed):
                run.note(
                    "thread_exception",
                    thread=name,
                    type=type(args.exc_value).__qualname__,
                    message=said_by(args.exc_value)[:500],
                )
        self._previous_thread_hook(args)

    def _remember(self, last_words: dict[str, Any], *, prints: bool = False) -> None:
        """Keeps evidence for the exit hook, in case this is the exit.

        Args:
            last_words: the evidence, empty if there is none.
            prints: the interpreter prints a text if it is, which shows nothing.
        """
        self._last_words, self._prints, self._written_then = last_words, prints, _written(logged_only=prints)

    def _at_exit(self) -> None:
        if self._here:
            goes_on = self._written_then != _written(logged_only=self._prints)
            words = None if goes_on else self._last_words
            for run in RUNS.mine():
                run.leave_at_exit(words)
                run.warn_late()

    def _at_end_of_child(self) -> None:
        """Takes the end of a child of `multiprocessing`, whose exit code follows from its cause."""
        if self._here:
            for run in RUNS.mine():
                run.take_evidence(sys.exception())
                run.leave_at_exit({})
                run.warn_late()

    def _kill(self, pid: int, number: int, /) -> None:
        """`os.kill`: a child that this process ends by a signal has not failed; noted before it is sent."""
        if self._here and number in ENDING and pid > 0 and pid != self._pid and is_running(pid):
            for run in RUNS.open()[:1]:
                run.note_stopped(pid, signal.Signals(number).name)
        self._previous_kill(pid, number)

    def _kill_by_pidfd(self, pidfd: int, number: int, *more: Any) -> None:
        """As `_kill`, for a child that is known by a descriptor."""
        if self._here and number in ENDING:
            pid = pid_of(pidfd)
            for run in RUNS.open()[:1] if pid not in (None, self._pid) else ():
                run.note_stopped(pid or 0, signal.Signals(number).name)
        assert self._previous_by_pidfd is not None  # noqa: S101 # or this were not installed
        self._previous_by_pidfd(pidfd, number, *more)

    def _kill_group(self, group: int, number: int, /) -> None:
        """As `_kill`, for the children that are in a process group of their own (`start_new_session`)."""
        if self._here and number in ENDING and group > 0 and group != os.getpgrp():
            for run in RUNS.open()[:1]:
                for pid in in_group(group):
                    run.note_stopped(pid, signal.Signals(number).name)
        assert self._previous_killpg is not None  # noqa: S101 # or this were not installed
        self._previous_killpg(group, number)

    def _sigterm(self, number: int, frame: FrameType | None) -> None:
        """Records the signal, then does what would have happened without us."""
        if not self._here:
            self._pass_on(number, frame)
            return
        if STOPS.handled():
            return
        if unsaid := [lease for lease in RUNS.mine() if lease.is_leaving]:
            threading.Thread(target=self._again, args=(unsaid, number), daemon=True).start()
            return  # it has interrupted what leaves, which the thread waits for
        for run in RUNS.open() if (ended_by := ends_by()) is not None else ():
            run.take_evidence(ended_by)
        STOPS.tell()
        again, self._terminating = self._terminating, True
        if not again:
            STOPS.call_back()
        if callable(self._previous_sigterm) or self._previous_sigterm is signal.SIG_IGN:
            self._pass_on(number, frame)
        elif (STOPS.cooperative or signal.getsignal(number) != self._sigterm) and not again:
            patience = threading.Timer(self._preempt_wait_s, self._give_up, (number,))
            patience.daemon = True
            patience.start()
        else:
            self._leave()
            self._die(number)

    def _again(self, unsaid: list[Member], number: int) -> None:
        """Sends the signal once more when the last entries are on disk."""
        for lease in unsaid:
            lease.end_written.wait(self._sigterm_wait_s)
            lease.end_written.set()
        self._previous_kill(os.getpid(), number)

    def _before_fork(self) -> None:
        """Blocks signals over a fork: the interpreter forgets those that reach a child before it runs."""
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def _after_fork(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def _in_child(self) -> None:
        """Gives SIGTERM in a child the effect that it would have without us."""
        if signal.getsignal(signal.SIGTERM) == self._sigterm:
            signal.signal(signal.SIGTERM, self._previous_sigterm)
        self._after_fork()

    def _give_up(self, number: int) -> None:
        """Ends a script that did not end when asked; in a thread, for the main one may be in a C call."""
        self._leave()
        self._previous_kill(os.getpid(), number)

    def _leave(self) -> None:
        for run in RUNS.open():
            run.leave_at_exit({}, self._sigterm_wait_s)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if callable(self._previous_sigterm):
            self._previous_sigterm(number, frame)
        elif self._previous_sigterm is not signal.SIG_IGN:
            self._die(number)

    def _die(self, number: int) -> None:
        """Dies by the signal itself, so that the parent sees the truth; pid 1 can only exit."""
        if os.getpid() == 1:
            flush(sys.stdout)
            flush(sys.stderr)
            os._exit(128 + number)
        signal.signal(number, signal.SIG_DFL)
        self._previous_kill(os.getpid(), number)


def _written(*, logged_only: bool) -> tuple[int, ...]:
    """How much the Runs of this process were given, with or without what it has printed."""
    return tuple(run.written - (run.printed if logged_only else 0) for run in RUNS.open())


def _lets_it_pass(handler: Handler) -> bool:
    """Whether the process does not follow SIGTERM: it ignores it, or submitit only writes a line about it."""
    of_submitit = str(getattr(handler, "__module__", "")).startswith("submitit.")
    return handler is signal.SIG_IGN or (of_submitit and getattr(handler, "__name__", "") == "bypass")


def _is_prompt() -> bool:
    """Whether this is a prompt or a notebook, where an error or `sys.exit` ends a line of input only."""
    return hasattr(sys, "ps1")


@functools.cache
def install_hooks(pid: int, sigterm_wait_s: float, preempt_wait_s: float) -> Hooks:  # noqa: ARG001 # once each
    """Installs the hooks of this process, once."""
    hooks = Hooks(sigterm_wait_s, preempt_wait_s)
    hooks.install()
    return hooks
