"""Identity of processes, unique for all time (R2), with the clock that identities and deadlines share.

It comes from /proc, which may hide other processes (hidepid) or belong to another pid namespace.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from pathlib import Path

import msgspec

from pluto_dist.core.values.ids import Identity

_nonces: dict[Identity, str] = {}


def own_identity() -> Identity:
    """The calling process, with a nonce that is new for every program start.

    A fork gets a nonce of its own (its pid differs), `exec` gets a new one (this module is loaded anew). It
    is computed at each call: nothing that a fork could inherit is kept.

    Raises:
        OSError: /proc is not mounted.
    """
    bare = _own_bare()
    nonce = _nonces.setdefault(bare, os.urandom(8).hex())
    return msgspec.structs.replace(bare, nonce=nonce)


def identity_of(pid: int) -> Identity | None:
    """Another process of this pid namespace, without nonce; None if it is gone, dead, or cannot be seen."""
    if not sys.platform.startswith("linux"):
        return _identity_by_psutil(pid)
    if not shows_own_namespace():
        return None
    stat = read_stat(pid)
    if stat is None or stat.is_dead:
        return None
    return Identity(boot_id(), pid_namespace(), pid, stat.start, host=os.uname().nodename)


def boot_clock() -> float:
    """Seconds that go on during suspend and compare between the processes of one boot.

    CLOCK_BOOTTIME where there is one, else the monotonic clock. Containers with a time namespace of their own
    have another zero point.
    """
    if sys.platform.startswith("linux"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


@functools.cache
def boot_id() -> str:
    """The kernel's random id of this boot; it does not change while a process lives, nor in its forks.

    Raises:
        OSError: /proc is not mounted.
    """
    if sys.platform.startswith("linux"):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return _boot_id_by_sysctl()


def pid_namespace() -> int:
    """Inode of the pid namespace; 0 where the platform has none or the kernel does not show it."""
    try:
        return (PROC / "self" / "ns" / "pid").stat().st_ino
    except OSError:
        return 0


def _own_bare() -> Identity:
    if not sys.platform.startswith("linux"):
        found = _identity_by_psutil(os.getpid())
        if found is None:
            raise ProcessLookupError(f"the system does not show process {os.getpid()}, which is this one")
        return found
    stat = read_stat("self")
    if stat is None:
        raise FileNotFoundError("/proc/self/stat cannot be read; /proc must be mounted")
    return Identity(boot_id(), pid_namespace(), os.getpid(), stat.start, host=os.uname().nodename)


def _identity_by_psutil(pid: int) -> Identity | None:
    import psutil  # type: ignore[import-untyped, unused-ignore]  # slow, so only where there is no /proc

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        start = int(process.create_time() * 100)
    except psutil.Error:
        return None
    return Identity(boot_id(), 0, pid, start, host=os.uname().nodename)


def _boot_id_by_sysctl() -> str:
    """macOS: a UUID of the boot session; the boot *time* moves whenever the clock is set."""
    import ctypes

    size = ctypes.c_size_t(64)
    value = ctypes.create_string_buffer(size.value)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.sysctlbyname(b"kern.bootsessionuuid", value, ctypes.byref(size), None, 0) != 0:
        raise OSError(ctypes.get_errno(), "kern.bootsessionuuid cannot be read")
    return value.value.decode("ascii")


PROC = Path("/proc")


class Stat(msgspec.Struct, frozen=True):
    """The fields of /proc/<pid>/stat that matter here, read at one instant.

    Attributes:
        state: one letter, `Z` for a zombie. A thread group whose first thread has left shows it too.
        threads: threads that are left (field 20); a zombie with more than one is not dead.
        start: clock ticks since boot, in the time namespace of the reader (field 22).
        wait_status: as wait(2) gives it (field 52); 0 also where the kernel hides it.
    """

    state: str
    threads: int
    start: int
    wait_status: int

    @property
    def is_dead(self) -> bool:
        """Whether the whole process has ended, and its parent has not collected it yet."""
        return self.state in {"Z", "X"} and self.threads <= 1


def parse_stat(raw: bytes) -> Stat:
    """Reads one line of stat; the name in it may hold spaces, parentheses and newlines.

    Raises:
        ValueError: it has another format.
    """
    fields = raw.rpartition(b")")[2].split()
    if len(fields) < 50:
        raise ValueError(f"/proc/<pid>/stat has {len(fields) + 2} fields, 52 were expected")
    return Stat(fields[0].decode(), int(fields[17]), int(fields[19]), int(fields[49]))


def read(pid: int | str, name: str) -> bytes:
    """A whole file of a process.

    Raises:
        OSError: the process is gone or hides it.
    """
    with open(f"{PROC}/{pid}/{name}", "rb", buffering=0) as file:  # noqa: PTH123 # a dozen for each attach
        return file.readall()


def read_stat(pid: int | str) -> Stat | None:
    """The stat of a process, None if it is gone or hidden."""
    try:
        return parse_stat(read(pid, "stat"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def shows_own_namespace() -> bool:
    """Whether pids in /proc are the pids that this process uses.

    False in a new pid namespace that still has the old /proc (`unshare --pid` without `--mount-proc`).
    """
    try:
        return int((PROC / "self").readlink().name) == os.getpid()
    except OSError:
        return False


def may_read_exit(pid: int) -> bool:
    """Whether the kernel shows us the real exit code of a zombie and not a constant 0.

    It needs the same permission as `ns/user` (a ptrace read), where a refusal is an error.
    """
    try:
        (PROC / str(pid) / "ns" / "user").readlink()
    except PermissionError:
        return False
    except OSError:
        return True  # permitted, but there is nothing left to show
    return True
