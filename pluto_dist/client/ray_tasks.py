"""Runs that a task of Ray leaves open: ended when its worker waits for the next task.

Ray (2.60, seen) uses the process of a task for other tasks, which may follow in an instant or never, and ends
it in the end by `_exit(1)` or SIGKILL, without the interpreter's exit: so nothing that runs at an exit runs.
An actor's process is its own, and its Run may stay open from one call to the next.

Ray is looked up among the loaded modules, never imported.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from types import FrameType
from typing import Literal, NamedTuple

from pluto_dist.client.runs import RUNS

LOOK_EVERY_S = 1.0


class RayWork(NamedTuple):
    """What of Ray a process works for.

    Attributes:
        kind: a task, whose process is used for others too, or an actor.
        task: id of the task, or of the actor's call.
    """

    kind: Literal["task", "actor"]
    task: str


def ray_work() -> RayWork | None:
    """Of this thread; None outside of Ray, and in a script that starts tasks."""
    ray = sys.modules.get("ray")
    if ray is None or not getattr(ray, "is_initialized", bool)():
        return None
    context = ray.get_runtime_context()
    task = context.get_task_id()
    if task is None:
        return None
    return RayWork("actor" if context.get_actor_id() is not None else "task", task)


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
        self._tasks: dict[str, str] = {}
        self._watched: set[int] = set()

    def opened(self, lease_id: str, task: str) -> None:
        """A task has opened a Run."""
        self._tasks[lease_id] = task
        if os.getpid() not in self._watched:
            self._watched.add(os.getpid())
            threading.Thread(target=self._watch, name="pluto-dist-ray", daemon=True).start()

    def end_former(self, task: str | None) -> None:
        """Ends what tasks have left open, but for the one that runs; None: none does."""
        over = {lease_id for lease_id, its_task in self._tasks.items() if its_task != task}
        for lease_id in over:
            self._tasks.pop(lease_id, None)
        for lease in RUNS.open():
            if lease.lease_id in over:
                lease.leave_at_exit({})  # its last line says what should have been called

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_EVERY_S)
            if self._tasks and waits_for_a_task():
                self.end_former(None)


OPEN_TASKS = OpenTasks()
