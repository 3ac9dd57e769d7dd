"""Limits that the kernel sets a process: kills by its memory cgroup (R9), and the CPUs that it may use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pluto_dist.host.filesystems import Mount, mounts
from pluto_dist.host.identity import PROC


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


def widen_affinity() -> int | None:
    """Lets the calling thread run on every CPU that its cpuset allows, and returns how many.

    Launchers pin a rank to a few cores and a child inherits that. Threads that exist already keep theirs, so
    this is called before there are others. None where the platform has no affinity; the old one stays if the
    kernel refuses.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    with contextlib.suppress(OSError):  # seccomp; the coordinator also works with few CPUs
        os.sched_setaffinity(0, range(os.sysconf("SC_NPROCESSORS_CONF")))
    return len(os.sched_getaffinity(0))


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
