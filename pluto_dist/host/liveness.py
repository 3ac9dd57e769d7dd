"""Liveness: how a process shows that it lives, whether it lives, and how it ended (R2, R9).

`LeaseLock` is the process's own side, with `LeaseProbe` opposite; all else is the coordinator's. `watch()`
picks the best way there is:

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

How a process ended is known from two sources, each for one case:

* A zombie, dead but not yet collected by its parent: field 52 of /proc/<pid>/stat. The kernel prints 0 there
  when we may not look, so the permission is checked first.
* A process that was collected: `PIDFD_GET_INFO` (Linux 6.15 and later) on a pidfd that was open before.

Without either (older kernel, a parent that is quicker than we are, another uid, a security module) the answer
is None, and nothing is guessed from it. Why a process got a SIGKILL is in neither; `OomWatch` asks its
cgroup.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

import msgspec

from pluto_dist.core.values.ids import Identity
from pluto_dist.errors import PlacesError
from pluto_dist.host import identity as procfs
from pluto_dist.host.identity import PROC, boot_id, pid_namespace
from pluto_dist.host.places import Mount, mounts, open_private

PROBE_INTERVAL_S = 0.05  # half of the 100 ms in which a death is to be noticed (G7)

Presence = Literal["alive", "dead", "unknown"]
Way = Literal["pidfd", "lock", "none"]

_GONE = frozenset({errno.ESRCH, errno.ENOENT, errno.EINVAL})  # the last two: the number is a thread's now


class Watch(Protocol):
    """One process under observation."""

    @property
    def way(self) -> Way:
        """The kind of watch."""
        ...

    def fileno(self) -> int | None:
        """A descriptor that polls readable when the process is dead; None if `check` has to be called."""
        ...

    def check(self) -> Presence:
        """Whether it lives now; never blocks."""
        ...

    def exit_status(self) -> ExitStatus | None:
        """The exit status; best asked at once, before the parent collects the process."""
        ...

    def close(self) -> None:
        """Gives descriptors back; idempotent."""
        ...


def watch(identity: Identity, lease_file: Path | None = None) -> Watch:
    """Starts to watch a process that was alive when it wrote its identity.

    Args:
        identity: as the process itself gave it.
        lease_file: the file of its `LeaseLock`, None if it has none (a launcher).

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
    and an `exec` (by any thread) are no death. An `exec` is therefore not noticed here, but by its new nonce.
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
        """The status of the zombie, or the kernel's note if it was collected already."""
        return exit_status_of(self._identity.pid, self._identity.start, self._pidfd)

    def close(self) -> None:
        """Closes the pidfd."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


class LockWatch:
    """A watch by the lease lock, for processes that no pidfd can reach; see `LeaseProbe` for its meaning.

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
        """Asks the kernel whether the lock is held."""
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
    """A watch on a process that was dead before it could be watched: its pid is free, or used again."""

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
        """Does nothing: there is nothing to give back."""


def pidfd_trouble() -> str | None:
    """The reason why pidfds cannot be used on this machine, None if they can."""
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
    """Opens the descriptor first and compares the start after that: so what was verified is what is held.

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


# linux/pidfd.h: _IOWR(0xFF, 11, struct pidfd_info); version 0 of the struct has 64 bytes: mask, cgroup id
# (u64), thirteen 32-bit numbers, the last one the exit code as wait(2) gives it.
_PIDFD_GET_INFO = 0xC040_FF0B
_INFO_SIZE = 64
_EXIT_CODE_AT = 60
_PIDFD_INFO_EXIT = 1 << 3
_NO_INFO = frozenset({errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.ESRCH, errno.EPERM, errno.EOPNOTSUPP})


class ExitStatus(msgspec.Struct, frozen=True):
    """Exactly one of the two is set.

    Attributes:
        exit_code: 0 to 255.
        signal: name such as `SIGKILL`; `SIG64` where the number has no name.
        core_dumped: the kernel says that a core was written.
    """

    exit_code: int | None = None
    signal: str = ""
    core_dumped: bool = False


def decode_wait_status(status: int) -> ExitStatus:
    """The value that wait(2) describes."""
    number = status & 0x7F
    if number == 0:
        return ExitStatus(exit_code=status >> 8 & 0xFF)
    return ExitStatus(signal=_signal_name(number), core_dumped=bool(status & 0x80))


def exit_status_of(pid: int, start: int, pidfd: int | None = None) -> ExitStatus | None:
    """The exit status of the process with this pid and start.

    Args:
        pid: in the pid namespace of the caller.
        start: its start ticks; another process that got the pid later is not mistaken for it.
        pidfd: of this process, opened while it lived or was a zombie.

    Returns:
        None if it still lives or the kernel does not say.
    """
    stat = procfs.read_stat(pid)
    if stat is not None and stat.start == start:
        return decode_wait_status(stat.wait_status) if stat.is_dead and procfs.may_read_exit(pid) else None
    return None if pidfd is None else _from_pidfd(pidfd)


def _from_pidfd(pidfd: int) -> ExitStatus | None:
    info = bytearray(_INFO_SIZE)
    struct.pack_into("=Q", info, 0, _PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError as error:
        if error.errno in _NO_INFO:
            return None
        raise
    (filled,) = struct.unpack_from("=Q", info, 0)
    if not filled & _PIDFD_INFO_EXIT:
        return None
    return decode_wait_status(struct.unpack_from("=i", info, _EXIT_CODE_AT)[0])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


# The lock of a lease. A POSIX record lock belongs to the process, not to the descriptor. The kernel drops it
# when the process dies, however it dies; a forked child does not have it; `exec` drops it, because the
# descriptor is closed on exec.
#
# The trap: closing ANY descriptor of the file in the holder drops the lock. So the holder opens the file
# once, in `LeaseLock`, and nothing else in that process may open it, not even to read it. The prober is
# another one.
#
# On the same descriptor there is a `flock`, which is the opposite: forked children share it, so it lasts
# until the last of them has ended or executed another program. It tells whether any process may still write.
# Only on Linux; elsewhere a child that has not written when its parent dies is not waited for.
LOCK_NAME = "lease.lock"

LockState = Literal["held", "free", "missing"]

# Elsewhere the two kinds of lock are one, and the second would meet the first.
_FORKS_SHARE = sys.platform == "linux"

# struct flock with its tail padding: type and whence first on Linux, last on macOS.
_FLOCK = "=qqihh" if sys.platform == "darwin" else "@hhqqi0q"

# (pid, path) → holder. A fork inherits the entries but not the locks, hence the pid. Changed only by single
# dict operations, which are atomic: a lock could be held by another thread at the moment of a fork.
_held: dict[tuple[int, str], object] = {}


class LeaseLock:
    """Holds the lock on one lease file for the life of the process, or until `release()`.

    Losing the object changes nothing: there is no finaliser.
    """

    def __init__(self, path: Path) -> None:
        """Makes the file if it is missing and takes the lock at once.

        Raises:
            RuntimeError: this process holds it already; a second descriptor would endanger the lock.
            PlacesError: another process holds it, or the filesystem has no such locks.
            OSError: the file cannot be opened safely.
        """
        self.path = path
        self._entry = (os.getpid(), os.path.realpath(path))
        if _held.setdefault(self._entry, self) is not self:
            raise RuntimeError(f"{path} is locked by this process already; a lease file is opened once")
        try:
            self._descriptor = _open_locked(path)
            self._file = _file_of(self._descriptor)
        except BaseException:
            del _held[self._entry]
            raise

    def release(self) -> None:
        """Drops the lock after the lease has ended; idempotent.

        A forked child, which never had the lock, only closes its copy of the descriptor. Code that closes all
        descriptors may have done so before, and the number may be a foreign file's.
        """
        if _held.pop(self._entry, None) is self and _file_of(self._descriptor) == self._file:
            os.close(self._descriptor)


class LeaseProbe:
    """Looks, from another process, whether a lease file is locked; never takes the lock itself.

    What it does not promise: "free" is death only if the holder once had the lock (it takes it before it
    announces its lease) and only on a filesystem of this host; and a process that hangs holds it too.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file; `LeaseProbe` keeps to this inode even if the path is replaced."""
        self._descriptor: int | None = None
        try:
            self._descriptor = open_private(path, os.O_RDONLY)
        except FileNotFoundError:
            return

    def state(self) -> LockState:
        """Whether the lock is held at this instant; `missing` if there was no file.

        Raises:
            OSError: the filesystem cannot say.
        """
        if self._descriptor is None:
            return "missing"
        asked = struct.pack(_FLOCK, *_flock_fields(fcntl.F_WRLCK))
        answer = struct.unpack(_FLOCK, fcntl.fcntl(self._descriptor, fcntl.F_GETLK, asked))
        return "free" if answer[_TYPE_AT] == fcntl.F_UNLCK else "held"

    def has_family(self) -> bool:
        """Whether the holder or a child that it forked lives, whatever became of the holder's own lock."""
        if self._descriptor is None or not _FORKS_SHARE:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        return False

    def close(self) -> None:
        """Gives the descriptor back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _file_of(descriptor: int) -> tuple[int, int] | None:
    """Device and inode, None for a descriptor that is not open."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


_TYPE_AT = 3 if sys.platform == "darwin" else 0


def _flock_fields(lock_type: int) -> tuple[int, ...]:
    """The whole file, asked from its start."""
    whence, start, length, pid = os.SEEK_SET, 0, 0, 0
    if sys.platform == "darwin":
        return (start, length, pid, lock_type, whence)
    return (lock_type, whence, start, length, pid)


def _open_locked(path: Path) -> int:
    descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _FORKS_SHARE:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise PlacesError(_why(path, error), path=str(path)) from error
    return descriptor


def _why(path: Path, error: OSError) -> str:
    if error.errno in {errno.EACCES, errno.EAGAIN}:
        return f"{path} is locked by another process; two processes cannot share a lease's folder"
    return (
        f"the filesystem of {path} has no POSIX locks ({error.strerror}); set PLUTO_DIST_HOME to local disk"
    )


def oom_counter_of(pid: int | str = "self", among: Iterable[Mount] | None = None) -> Path | None:
    """The file that counts OOM kills in the memory cgroup of a living process.

    Only for a living process: a zombie is moved out of its cgroup (version 1).

    Returns:
        None without memory controller, or if the cgroup is outside of what this container sees.
    """
    try:
        lines = (
            (PROC / str(pid) / "cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        )
    except OSError:
        return None
    known = tuple(mounts() if among is None else among)
    for line in sorted(lines, key=lambda text: text.startswith("0::")):  # version 1 first, where both exist
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(",") or controllers == "":
            counter = _counter(known, path, unified=controllers == "")
            if counter is not None:
                return counter
    return None


def oom_kills(counter: Path | None) -> int | None:
    """The number of processes of the cgroup (version 2: and below) that the OOM killer has ended so far.

    A rise says that some process of the cgroup was killed in between, not which. The kernel counts before it
    kills, so after a death the number is up to date.

    Returns:
        None if it cannot be read, for instance because the cgroup was removed with its job.
    """
    if counter is None:
        return None
    try:
        fields = dict(line.split(maxsplit=1) for line in counter.read_text(encoding="ascii").splitlines())
        return int(fields["oom_kill"])
    except (OSError, KeyError, ValueError):
        return None


class OomWatch:
    """Notices kills by the OOM killer in a cgroup from now on.

    Args:
        counter: from `oom_counter_of`; None notices nothing.
    """

    def __init__(self, counter: Path | None) -> None:
        self._counter = counter
        self._before = oom_kills(counter)

    def risen(self) -> bool:
        """Whether a process of the cgroup was killed, not which: meant for one that died by SIGKILL."""
        after = oom_kills(self._counter)
        return after is not None and self._before is not None and after > self._before


def _counter(known: Iterable[Mount], path: str, *, unified: bool) -> Path | None:
    name = "memory.events" if unified else "memory.oom_control"
    for mount in known:
        fits = mount.fs_type == "cgroup2" if unified else _is_memory_v1(mount)
        if fits and (folder := _below(mount, path)) is not None and (folder / name).is_file():
            return folder / name
    return None


def _is_memory_v1(mount: Mount) -> bool:
    return mount.fs_type == "cgroup" and "memory" in mount.options.split(",")


def _below(mount: Mount, path: str) -> Path | None:
    """`path` is seen from the cgroup namespace's root; a container may have mounted only a part of it."""
    cgroup = PurePosixPath(path)
    if ".." in cgroup.parts or not cgroup.is_relative_to(mount.root):
        return None
    return Path(mount.point, cgroup.relative_to(mount.root))
