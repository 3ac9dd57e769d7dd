"""Spawns a program as no process's child, a coordinator with its lock; run as a script by `launch`.

    python -S -P spawn.py LOCK KEEP PROGRAM [ARGUMENT…]

The program gets a session of its own, cwd `/`, umask 077, clean signals, and of all descriptors only the
first three and those that KEEP lists (numbers with commas, perhaps none). All of that is done here and not
in the process that starts this script, so that starting it is one `posix_spawn`: with more to do,
`subprocess` forks and then waits for a pipe to close, which a child that another thread of the trainer forks
in that instant keeps open.

With "" as LOCK there is no lock. Otherwise it is taken here, before there is a coordinator, and handed on as
`--lock-fd=N`. So a coordinator has it from its first instruction to its last, however slowly it starts, and
another start finds it taken and ends with code `BUSY`. Only the standard library is imported, without site:
8 ms.

The lock is a `flock` on what was opened here. It is free when the last process that inherited it is gone:
this script ends at once, and a coordinator hands it to no child. A trainer must not have it for an instant,
because a child that it forks in that instant would keep it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys

BUSY = 75  # EX_TEMPFAIL: another one has the lock
LOCK_OPTION = "--lock-fd="


def try_lock(descriptor: int) -> bool:
    """Takes the `flock` without waiting; False if another process has it.

    Raises:
        OSError: the filesystem has no flock.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main() -> int:
    """Spawns the program; returns the exit code."""
    lock, keep, *arguments = sys.argv[1:]
    kept = {0, 1, 2, *map(int, filter(None, keep.split(",")))}
    close_all_but(kept)
    if lock:
        held = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        if not try_lock(held):
            return BUSY
        os.set_inheritable(held, True)
        arguments.append(f"{LOCK_OPTION}{held}")
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    # A trainer may have blocked or ignored signals; exec hands that on.
    free = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    os.posix_spawn(arguments[0], arguments, os.environ, setsigmask=(), setsigdef=free)
    return 0


def close_all_but(kept: set[int]) -> None:
    """Closes what the trainer's other libraries have left inheritable."""
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    for descriptor in {int(name) for name in os.listdir(folder)} - kept:  # noqa: PTH208 # pathlib: 10 ms more
        os.closerange(descriptor, descriptor + 1)  # which does not mind that the listing's own is gone


if __name__ == "__main__":
    sys.exit(main())
