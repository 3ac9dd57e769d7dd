"""Whether somebody has a file open for writing, as the kernel knows it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


def is_written(path: str) -> bool | None:
    """Whether a process of this machine has the file open for writing; None where that cannot be known.

    A lease for reading is asked for and given back: Linux grants it only while nobody has the file open for
    writing. A writer that comes in this instant waits for some microseconds. Network filesystems have no
    leases, nor has a file of another user.

    Raises:
        OSError: the file cannot be opened.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return None
    _ignore_breaks()
    fd = os.open(path, _READ)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    finally:
        os.close(fd)
    return False


def _ignore_breaks() -> None:
    """A writer that comes is told by a signal that ends a process by default."""
    if signal.getsignal(signal.SIGIO) is signal.SIG_DFL and _is_main_thread():
        signal.signal(signal.SIGIO, signal.SIG_IGN)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
