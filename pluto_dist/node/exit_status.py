"""How a process ended, as far as the kernel still knows (R9).

Two sources, and each covers what the other cannot:

* A zombie, dead but not yet collected by its parent: field 52 of /proc/<pid>/stat. The kernel prints 0 there
  when we may not look, so the permission is checked first.
* A process that was collected: `PIDFD_GET_INFO` (Linux 6.15 and later) on a pidfd that was open before.

What it does not promise: without either (older kernel, a parent that is quicker than we are, another uid, a
security module) the answer is None, and nothing is guessed from it. The reason of a SIGKILL is not in it.
"""

from __future__ import annotations

import errno
import fcntl
import signal
import struct

import msgspec

from pluto_dist.node import procfs

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
    """How the process with this pid and start ended.

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
