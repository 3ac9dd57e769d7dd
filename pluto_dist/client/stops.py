"""Requests to stop: SIGTERM becomes evidence, whatever the main thread is doing (R9).

Python runs signal handlers in the main thread and between two bytecodes, so a rank that is inside a
collective never gets to its handler before the launcher's SIGKILL. The kernel's part of the handler does run:
it writes the signal's number into a pipe (`signal.set_wakeup_fd`), and a thread that reads it writes the
evidence. It works with any handler that Python code has installed, also with one that replaced ours.

Callbacks and everything else that touches the training stay in the main thread.

What it does not promise: where another library owns the wakeup descriptor (a running asyncio loop with signal
handlers of its own), or where the script has set SIGTERM to `SIG_IGN` after `init()`, nothing is noticed.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
from collections.abc import Callable

from pluto_dist.client.pools import between_tasks
from pluto_dist.client.runs import RUNS
from pluto_dist.client.values import said_by

_log = logging.getLogger("pluto_dist")


class Stops:
    """The requests to stop this process.

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

    def watch(self) -> None:
        """Begins to listen; to be called in the main thread, once."""
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

    def take(self) -> None:
        """Writes the evidence of a SIGTERM that has come, so that it precedes the end of a lease."""
        with self._lock:
            if self._pipe is not None and signal.SIGTERM in _drained(self._pipe[0]):
                self.tell()

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

    def _listen(self, read: int) -> None:
        poll = select.poll()
        poll.register(read, select.POLLIN)
        while True:
            poll.poll()
            self.take()

    def _after_fork_in_child(self) -> None:
        """Gives the pipe up, which is the parent's: a signal to the child is none to the parent."""
        if self._pipe is not None:
            current = signal.set_wakeup_fd(-1)
            if current not in (self._pipe[1], -1):  # another library has taken it since
                signal.set_wakeup_fd(current)
            self._pipe = None
        self._lock = threading.RLock()
        self.asked = False


def _drained(read: int) -> bytes:
    try:
        return os.read(read, 4096)
    except BlockingIOError:
        return b""


STOPS = Stops()
