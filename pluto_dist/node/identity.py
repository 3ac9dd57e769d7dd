"""Which process this is, for all time (R2), and the clock that identities and deadlines share."""

from __future__ import annotations

import functools
import os
import socket
import sys
import time
from pathlib import Path

import msgspec

from pluto_dist.core.ids import Identity
from pluto_dist.node import procfs

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
    if not procfs.shows_own_namespace():
        return None
    stat = procfs.read_stat(pid)
    if stat is None or stat.is_dead:
        return None
    return Identity(boot_id(), pid_namespace(), pid, stat.start, host=socket.gethostname())


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
        return (procfs.PROC / "self" / "ns" / "pid").stat().st_ino
    except OSError:
        return 0


def _own_bare() -> Identity:
    if not sys.platform.startswith("linux"):
        found = _identity_by_psutil(os.getpid())
        if found is None:
            raise ProcessLookupError(f"the system does not show process {os.getpid()}, which is this one")
        return found
    stat = procfs.read_stat("self")
    if stat is None:
        raise FileNotFoundError("/proc/self/stat cannot be read; /proc must be mounted")
    return Identity(boot_id(), pid_namespace(), os.getpid(), stat.start, host=socket.gethostname())


def _identity_by_psutil(pid: int) -> Identity | None:
    import psutil  # type: ignore[import-untyped, unused-ignore]  # slow, so only where there is no /proc

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        start = int(process.create_time() * 100)
    except psutil.Error:
        return None
    return Identity(boot_id(), 0, pid, start, host=socket.gethostname())


def _boot_id_by_sysctl() -> str:
    """macOS: a UUID of the boot session; the boot *time* moves whenever the clock is set."""
    import ctypes

    size = ctypes.c_size_t(64)
    value = ctypes.create_string_buffer(size.value)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.sysctlbyname(b"kern.bootsessionuuid", value, ctypes.byref(size), None, 0) != 0:
        raise OSError(ctypes.get_errno(), "kern.bootsessionuuid cannot be read")
    return value.value.decode("ascii")
