"""State of `multiprocessing` and the libraries on it in this process; looked up, never imported."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

from pluto_dist.host import identity

# Functions that wait for the next piece of work, by the end of their module's name.
_LOOPS = (
    ("multiprocessing.pool", "worker"),
    ("concurrent.futures.process", "_process_worker"),
    ("loky.process_executor", "_process_worker"),
    ("torch.utils.data._utils.worker", "_worker_loop"),
    ("multiprocessing.process", "_bootstrap"),  # which calls them, and ends the child
)
# Packages whose frames below such a function are no task: what a pool calls to get one, or to answer.
_MACHINERY = sys.stdlib_module_names | {"joblib", "loky"}

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
        elif module.partition(".")[0] not in _MACHINERY and not module.startswith("torch.multiprocessing."):
            at_work = True
        frame = frame.f_back
    return False


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
