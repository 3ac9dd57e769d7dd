"""Runs that a task has opened: a call made by a pool or a thread, which catches what the task raises (R9).

Nobody but the pool sees such an exception, and its process or thread goes on with the next task. So the
places where a pool keeps it are hooked, and the frame of the task has a mark: where a traceback has a marked
frame, the exception has left the task that opened the Run. The mark is the frame's trace function, the one
thing that can be hung on a frame and goes with it; a frame that a debugger traces has none.

The Run stays open, because a task may hand its handle on. The next `init()` ends it.

A task of Ray may leave its Run open too: it is ended when the worker waits for the next task. Ray (2.60,
seen) uses the process of a task for other tasks, which may follow in an instant or never, and ends it in the
end by `_exit(1)` or SIGKILL, without the interpreter's exit: so nothing that runs at an exit runs. An actor's
process is its own, and its Run may stay open from one call to the next.

What this process has of `multiprocessing` and the libraries on it is asked here too: which process has
started it, whether a pool's worker waits for work. Everything is looked up among the loaded modules, never
imported.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Literal, NamedTuple

from pluto_dist.client.interface import Member
from pluto_dist.client.runs import RUNS
from pluto_dist.client.values import said_by
from pluto_dist.host import identity

# Functions that call tasks, and the modules whose frames stand between them and the task.
_CALLERS = frozenset(
    {
        ("threading", "_bootstrap_inner"),
        ("concurrent.futures.process", "_process_worker"),
        ("concurrent.futures.thread", "run"),
        ("multiprocessing.pool", "worker"),
        ("joblib.externals.loky.process_executor", "_process_worker"),
        ("loky.process_executor", "_process_worker"),
        ("optuna.study._optimize", "_run_trial"),
    }
)
_MACHINERY = ("concurrent.futures.", "multiprocessing.", "threading", "joblib.", "loky.")

# What is called with the exception of a task: module and name.
_KEEPERS = (
    ("concurrent.futures._base", "Future.set_exception"),
    ("concurrent.futures.process", "_ExceptionWithTraceback.__init__"),
    ("multiprocessing.pool", "ExceptionWithTraceback.__init__"),
    ("multiprocessing.pool", "ApplyResult._set"),  # of a ThreadPool, as the next two
    ("multiprocessing.pool", "MapResult._set"),
    ("multiprocessing.pool", "IMapIterator._set"),
    ("joblib.externals.loky.process_executor", "_ExceptionWithTraceback.__init__"),
    ("loky.process_executor", "_ExceptionWithTraceback.__init__"),
    ("optuna.study._optimize", "_tell_with_warning"),  # of a trial that was pruned, or with `catch=`
)
_HELD_BY_CALLER = "func_err"  # which does not pass it on: its local variable
LOOK_EVERY_S = 1.0


class _Mark:
    """The ids of the leases that a task has opened."""

    def __init__(self) -> None:
        self.leases: list[str] = []

    def __call__(self, *_: object) -> _Mark:
        """Called by a debugger that began to trace the thread after the mark was made."""
        return self


class Tasks:
    """The Runs that were opened in tasks of this process."""

    def __init__(self) -> None:
        self._failed: set[str] = set()

    def opened(self, lease_id: str) -> None:
        """Marks the task that has called `init()`, if it is one."""
        task = _task_above(sys._getframe(1))
        if task is None or not isinstance(task.f_trace, _Mark | None):
            return
        if task.f_trace is None:
            task.f_trace = _Mark()
        task.f_trace.leases.append(lease_id)
        _hook_keepers()

    def raised(self, error: BaseException) -> list[Member]:
        """Takes the exception of a task as evidence against the Runs it opened; returns their leases.

        A worker's parent is told by the pool, and may go on: in its Run it is an event.
        """
        found = [lease for lease in _left_by(error.__traceback__) if lease.lease_id not in self._failed]
        for lease in found:
            self._failed.add(lease.lease_id)
            if lease.owns:
                lease.take_evidence(error)
            else:
                lease.note("task_exception", type=type(error).__qualname__, message=said_by(error)[:500])
        return found

    def end_failed(self) -> None:
        """Ends what failed tasks have left open."""
        for lease in RUNS.open():
            if lease.lease_id in self._failed and lease.owns:
                lease.finish()


TASKS = Tasks()


def _task_above(frame: FrameType | None) -> FrameType | None:
    """The outermost frame of the task that this stack is in; None outside of tasks."""
    task = None
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if (module, frame.f_code.co_name) in _CALLERS:
            return task
        if not module.startswith((*_MACHINERY, "pluto_dist.")):
            task = frame
        frame = frame.f_back
    return None


def _left_by(trace: TracebackType | None) -> Iterator[Member]:
    """Open leases of the tasks that an exception has left."""
    marks = []
    while trace is not None:
        marks += [trace.tb_frame.f_trace] if isinstance(trace.tb_frame.f_trace, _Mark) else []
        trace = trace.tb_next
    ids = {lease_id for mark in marks for lease_id in mark.leases}
    return (lease for lease in RUNS.open() if lease.lease_id in ids)


def _hook_keepers() -> None:
    for module, path in _KEEPERS:
        owner, _, name = path.rpartition(".")
        holder = sys.modules.get(module)
        if owner and holder is not None:
            holder = getattr(holder, owner, None)
        called = getattr(holder, name, None) if holder is not None else None
        if called is not None and not hasattr(called, "pluto_dist_keeps"):
            setattr(holder, name, _keeping(called))


def _keeping(called: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which first tells what exceptions it is called with."""

    @functools.wraps(called)
    def keep(*args: Any, **named: Any) -> Any:
        held = sys._getframe(1).f_locals.get(_HELD_BY_CALLER)
        for each in (*args, *named.values(), held):
            for value in each if isinstance(each, tuple) else (each,):
                if isinstance(value, BaseException):
                    TASKS.raised(value)
        return called(*args, **named)

    keep.pluto_dist_keeps = True  # type: ignore[attr-defined]
    return keep


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


class RayTasks:
    """The Runs that were opened in tasks of Ray, and a thread that looks whether their task is over."""

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


RAY_TASKS = RayTasks()


# Functions that wait for the next piece of work, by the end of their module's name.
_LOOPS = (
    ("multiprocessing.pool", "worker"),
    ("concurrent.futures.process", "_process_worker"),
    ("loky.process_executor", "_process_worker"),
    ("torch.utils.data._utils.worker", "_worker_loop"),
    ("multiprocessing.process", "_bootstrap"),  # which calls them, and ends the child
)
# Packages whose frames below such a function are no task: what a pool calls to get one, or to answer.
_POOL_PACKAGES = sys.stdlib_module_names | {"joblib", "loky"}

_ENDING = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGABRT", "SIGKILL", "SIGTERM")
ENDING = frozenset(getattr(signal, name) for name in _ENDING if hasattr(signal, name))  # not all on Windows


def parent_pid() -> int | None:
    """Pid of the process that started this one by `multiprocessing`."""
    process = sys.modules.get(
        "multiprocessing.process"
    )  # if it was never loaded, it has not started this process
    parent = process.parent_process() if process else None
    if parent is None and reimporting():
        return os.getppid()  # the server of the forkserver method
    return parent.pid if parent else None


def reimporting() -> bool:
    """Whether this process is a child that starts anew, and imports the main module of its parent again.

    So is the server of the forkserver method while it preloads that module.
    """
    process = sys.modules.get("multiprocessing.process")
    return process is not None and bool(getattr(process.current_process(), "_inheriting", False))


def between_tasks() -> bool:
    """Whether the main thread is a pool's worker that waits for work, so that a signal interrupts none."""
    main = threading.main_thread().ident
    frame: FrameType | None = sys._current_frames().get(main or 0)
    at_work = False
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if any(module.endswith(end) and frame.f_code.co_name == name for end, name in _LOOPS):
            return not at_work
        if module.startswith("pluto_dist."):
            at_work = False  # what it has called, logging or json, is no task
        elif module.partition(".")[0] not in _POOL_PACKAGES and not module.startswith(
            "torch.multiprocessing."
        ):
            at_work = True
        frame = frame.f_back
    return False


def ends_by() -> BaseException | None:
    """What has left the function of a child of `multiprocessing`, and is being printed; in the main thread.

    The child's finalizers, which would take it as evidence, run after that, and a parent that was interrupted
    too, or has seen a sibling fail, may end the child before.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if (module, frame.f_code.co_name) == ("multiprocessing.process", "_bootstrap"):
            return sys.exception()
        if module.partition(".")[0] not in _POOL_PACKAGES | {"pluto_dist"} or (
            any(module.endswith(end) and frame.f_code.co_name == name for end, name in _LOOPS)
        ):
            return None
        frame = frame.f_back
    return None


def in_group(group: int) -> list[int]:
    """The processes of a process group that can be seen; their parents need not be this process."""
    try:
        pids = [int(path.name) for path in identity.PROC.iterdir() if path.name.isdecimal()]
    except OSError:  # macOS
        return []
    return [pid for pid in pids if _group_of(pid) == group]


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:  # it has ended
        return None


def is_running(pid: int) -> bool:
    """Whether a process is there that has not ended yet."""
    stat = identity.read_stat(pid)
    return stat is not None and not stat.is_dead


def pid_of(pidfd: int) -> int | None:
    """The process of a pidfd; None if it has been collected, or this is none."""
    try:
        lines = (identity.PROC / "self" / "fdinfo" / str(pidfd)).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    found = next((line.removeprefix("Pid:").strip() for line in lines if line.startswith("Pid:")), "")
    return int(found) if found.isdecimal() else None
