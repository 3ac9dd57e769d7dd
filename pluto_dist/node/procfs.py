"""What /proc says about a process. All of it may be hidden (hidepid) or belong to another pid namespace."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

PROC = Path("/proc")


class Stat(msgspec.Struct, frozen=True):
    """The fields of /proc/<pid>/stat that matter here, read at one instant.

    Attributes:
        state: one letter, `Z` for a zombie. A thread group whose first thread has left shows it too.
        threads: threads that are left (field 20); a zombie with more than one is not dead.
        start: clock ticks since boot, in the time namespace of the reader (field 22).
        wait_status: as wait(2) gives it (field 52); 0 also when the kernel does not want to tell.
    """

    state: str
    threads: int
    start: int
    wait_status: int

    @property
    def is_dead(self) -> bool:
        """The whole process ended and its parent has not collected it yet."""
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

    It asks the same permission as for `ns/user` (a ptrace read), which says no aloud.
    """
    try:
        (PROC / str(pid) / "ns" / "user").readlink()
    except PermissionError:
        return False
    except OSError:
        return True  # permitted, but there is nothing left to show
    return True
