"""Is that process alive? The coordinator's side of R2.

`watch()` picks the best way there is:

==========  ============================================  ==========================================
way         when                                          what its answer means
==========  ============================================  ==========================================
`pidfd`     same boot, same pid namespace                 exact; the descriptor polls readable at death
`lock`      other pid namespace, or pidfd is refused      exact while the lease file is on local disk;
                                                          to be asked every `PROBE_INTERVAL_S`
`none`      nothing to look at                            always `unknown`
==========  ============================================  ==========================================

`alive` does not mean healthy: a stopped process, one that hangs in a driver and one that is being torn down
are alive. `dead` is final. `unknown` must never be treated as dead: another boot id is another machine, or a
sandbox with a kernel of its own, or a machine that was rebooted, and from here they look the same.
"""

from __future__ import annotations

import errno
import os
import select
import sys
from pathlib import Path
from typing import Literal, Protocol

from pluto_dist.core.ids import Identity
from pluto_dist.node import procfs
from pluto_dist.node.exit_status import ExitStatus, exit_status_of
from pluto_dist.node.identity import boot_id, pid_namespace
from pluto_dist.node.lease_lock import LeaseProbe

PROBE_INTERVAL_S = 0.05  # half of the 100 ms in which a death is to be noticed (G7)

Presence = Literal["alive", "dead", "unknown"]
Way = Literal["pidfd", "lock", "none"]

_GONE = frozenset({errno.ESRCH, errno.ENOENT, errno.EINVAL})  # the last two: the number is a thread's now


class Watch(Protocol):
    """One process under observation."""

    @property
    def way(self) -> Way:
        """How it is watched."""
        ...

    def fileno(self) -> int | None:
        """A descriptor that polls readable when the process is dead; None if `check` has to be called."""
        ...

    def check(self) -> Presence:
        """Whether it lives now; never blocks."""
        ...

    def exit_status(self) -> ExitStatus | None:
        """How it ended; best asked at once, before its parent collects it."""
        ...

    def close(self) -> None:
        """Gives descriptors back; idempotent."""
        ...


def watch(identity: Identity, lease_file: Path | None = None) -> Watch:
    """Starts to watch a process that was alive when it told its identity.

    Args:
        identity: as the process itself gave it.
        lease_file: what it holds its `LeaseLock` on, None if it has none (a launcher).

    Raises:
        OSError: the lease file is there but cannot be opened safely.
    """
    if _can_be_seen(identity):
        try:
            found = _by_pidfd(identity)
        except OSError as error:
            if error.errno in _GONE:
                return GoneWatch()
        else:
            if found is not None:
                return found
    return LockWatch(identity, lease_file)


class PidfdWatch:
    """Exact: a pidfd stands for one process, whatever becomes of its number.

    It becomes readable when the last thread has ended, so a first thread that leaves early, a debugger's stop
    and an `exec` (by any thread) are no death. An `exec` is therefore not noticed here; a new nonce tells it.
    """

    way: Way = "pidfd"

    def __init__(self, identity: Identity, pidfd: int) -> None:
        self._identity = identity
        self._pidfd: int | None = pidfd
        self._poll = select.poll()
        self._poll.register(pidfd, select.POLLIN)

    def fileno(self) -> int | None:
        """The pidfd."""
        return self._pidfd

    def check(self) -> Presence:
        """Polls the pidfd without waiting."""
        if self._pidfd is None:
            return "unknown"
        return "dead" if self._poll.poll(0) else "alive"

    def exit_status(self) -> ExitStatus | None:
        """From the zombie, or from the kernel's note if it was collected already."""
        return exit_status_of(self._identity.pid, self._identity.start, self._pidfd)

    def close(self) -> None:
        """Closes the pidfd."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


class LockWatch:
    """For processes that no pidfd can reach; see `lease_lock` for what a free lock means.

    A free lock on a file of another boot is `unknown`: that kernel's locks need not be visible here.
    """

    def __init__(self, identity: Identity, lease_file: Path | None) -> None:
        self._same_boot = identity.boot_id == boot_id()
        self._probe = LeaseProbe(lease_file) if lease_file is not None else None
        self.way: Way = "none" if self._probe is None else "lock"

    def fileno(self) -> int | None:
        """None: a lock cannot be polled."""
        return None

    def check(self) -> Presence:
        """Asks the kernel who holds the lock."""
        state = "missing" if self._probe is None else self._probe.state()
        if state == "held":
            return "alive"
        return "dead" if state == "free" and self._same_boot else "unknown"

    def exit_status(self) -> ExitStatus | None:
        """None: the process is out of sight."""
        return None

    def close(self) -> None:
        """Closes the lease file; this never drops the other's lock."""
        if self._probe is not None:
            self._probe.close()


class GoneWatch:
    """It was dead before it could be watched: no such process, or a later one has its number."""

    way: Way = "none"

    def fileno(self) -> int | None:
        """None: there is nothing to wait for."""
        return None

    def check(self) -> Presence:
        """Always `dead`."""
        return "dead"

    def exit_status(self) -> ExitStatus | None:
        """None: its parent has collected it."""
        return None

    def close(self) -> None:
        """Nothing to give back."""


def pidfd_trouble() -> str | None:
    """Why pidfds cannot be used on this machine, None if they can."""
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} has none"
    if not procfs.shows_own_namespace():
        return "/proc belongs to another pid namespace"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return f"pidfd_open: {error.strerror}"
    return None


def _can_be_seen(identity: Identity) -> bool:
    return (
        sys.platform.startswith("linux")
        and identity.boot_id == boot_id()
        and identity.pid_ns == pid_namespace() != 0
        and procfs.shows_own_namespace()
    )


def _by_pidfd(identity: Identity) -> Watch | None:
    """The descriptor first, the start after it: so what was verified is what is held.

    Returns:
        None if the process is there but /proc hides it, so that its start cannot be verified.
    """
    pidfd = os.pidfd_open(identity.pid)
    stat = procfs.read_stat(identity.pid)
    found = PidfdWatch(identity, pidfd)
    if stat is not None and stat.start == identity.start:
        return found
    hidden = stat is None and found.check() == "alive"
    found.close()
    return None if hidden else GoneWatch()
