"""Runs that a task of Ray leaves open: ended when its worker waits for the next task.

Ray (2.60, seen) uses the process of a task for other tasks, which may follow in an instant or never, and ends
it in the end by `_exit(1)` or SIGKILL, without the interpreter's exit: so nothing that runs at an exit runs.
An actor's process is its own, and its Run may stay open from one call to the next.

Ray is looked up among the loaded modules, never imported.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from types import FrameType
from typing import Literal

from pluto_dist.client.runs import RUNS

LOOK_EVERY_S = 1.0

_log = logging.getLogger("pluto_dist")


def lent_by_ray() -> Literal["", "task", "actor"]:
    """What of Ray this thread works for."""
    ray = sys.modules.get("ray")
    if ray is None or not getattr(ray, "is_initialized", bool)():
        return ""
    context = ray.get_runtime_context()
    if context.get_actor_id() is not None:
        return "actor"
    return "task" if context.get_task_id() is not None else ""


def waits_for_a_task() -> bool:
    """Whether the main thread is a worker of Ray in which no task runs."""
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module == "ray._private.worker" and frame.f_code.co_name == "main_loop":
            return True
        if not module.startswith(("threading", "pluto_dist.")):
            return False
        frame = frame.f_back
    return False


class OpenTasks:
    """The Runs that were opened in tasks, and a thread that looks whether their task is over."""

    def __init__(self) -> None:
        self._leases: list[str] = []
        self._watched: set[int] = set()

    def opened(self, lease_id: str) -> None:
        """A task has opened a Run."""
        self._leases.append(lease_id)
        if os.getpid() not in self._watched:
            self._watched.add(os.getpid())
            threading.Thread(target=self._watch, name="pluto-dist-ray", daemon=True).start()

    def end_former(self) -> None:
        """Ends what earlier tasks have left open; the present one begins with its first `init()`."""
        former, self._leases = self._leases, []
        for lease in RUNS.open():
            if lease.lease_id in former:
                _log.warning(
                    "a task of Ray has left its Run open (lease %s): it ends TERMINATED. Call run.finish() at "
                    "the end of the task, or use `with pluto.init(…) as run:`",
                    lease.lease_id,
                )
                lease.leave_at_exit({})

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_EVERY_S)
            if self._leases and waits_for_a_task():
                self.end_former()


OPEN_TASKS = OpenTasks()
