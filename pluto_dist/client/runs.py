"""The Runs of this process: the one that the module's `log()` means, and the leases that must end at exit."""

from __future__ import annotations

import os
import sys
import threading
from contextvars import ContextVar
from typing import Any

from pluto_dist.client.interface import Member, RunLike


class Opener:
    """The thread, and the task of asyncio, that has opened a Run."""

    def __init__(self) -> None:
        self._thread = threading.current_thread()
        self._task = _current_task()

    @property
    def works_beside_us(self) -> bool:
        """Whether it goes on at the same time as the caller."""
        if self._thread is not threading.current_thread():
            return self._thread.is_alive()
        return self._task is not None and self._task is not _current_task() and not self._task.done()


def _current_task() -> Any:
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio.current_task() if asyncio is not None else None
    except RuntimeError:  # no loop runs in this thread
        return None


class OpenRuns:
    """Handles in the order in which they were opened; a forked child sees its parent's, and opens its own.

    Attributes:
        travelled: handles that have come from other processes, by the lease that opened them there.
        disabled: a disabled Run was opened.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[RunLike, Member]] = []
        self._openers: dict[str, Opener] = {}
        # Of this thread, or of this task of asyncio and those that have started it.
        self._opened_here: ContextVar[tuple[str, ...]] = ContextVar("pluto_dist_opened_here", default=())
        self._inits: dict[int, int] = {}
        self._finished: set[int] = set()
        self._deferred: list[RunLike] = []
        self.travelled: dict[str, RunLike] = {}
        self.disabled = False

    def add(self, run: RunLike, lease: Member) -> None:
        """Adds a Run that was opened in this process."""
        for former in self.mine():
            former.warn_late()
        if self.again():
            self._finished.add(os.getpid())
        self._runs = [(kept, lease) for kept, lease in self._runs if not (lease.end or kept is run)]
        self._runs.append((run, lease))
        kept_ids = {lease.lease_id for _, lease in self._runs}
        self._openers = {
            lease_id: opener for lease_id, opener in self._openers.items() if lease_id in kept_ids
        }
        self._openers[lease.lease_id] = Opener()
        opened_here = (lease_id for lease_id in self._opened_here.get() if lease_id in kept_ids)
        self._opened_here.set((*opened_here, lease.lease_id))

    def mine(self) -> list[Member]:
        """Leases that this process opened, newest first; of the ended ones at least the newest."""
        return [lease for _, lease in reversed(self._runs) if lease.here]

    def open(self) -> list[Member]:
        """Leases that this process opened and has not ended, newest first."""
        return [lease for lease in self.mine() if not lease.end]

    def unfinished(self) -> list[RunLike]:
        """Runs that are not ended, newest first; a forked child's inherited ones included."""
        return [run for run, lease in reversed(self._runs) if not lease.end]

    def to_finish(self) -> list[RunLike]:
        """The unfinished Runs, newest first, without those on which another thread or task works.

        A caller that has opened none of them means all: it cleans up.
        """
        mine = self._opened_here.get()
        unfinished = [(run, lease) for run, lease in reversed(self._runs) if not lease.end]
        if not any(lease.lease_id in mine for _, lease in unfinished):
            return self.unfinished()
        return [
            run
            for run, lease in unfinished
            if lease.lease_id in mine or not self._openers[lease.lease_id].works_beside_us
        ]

    def left_open(self) -> list[RunLike]:
        """Runs of this process's `init()` calls that nobody works on beside the caller, newest first."""
        return [
            run
            for run, lease in reversed(self._runs)
            if lease.here
            and lease.by_init
            and not (lease.end or self._openers[lease.lease_id].works_beside_us)
        ]

    def lease_of(self, run: RunLike) -> Member | None:
        """The lease of a handle that this process opened; None for a disabled Run."""
        return next((lease for known, lease in self._runs if known is run and lease.here), None)

    def newest(self) -> RunLike | None:
        """The Run that a call means which names none.

        It is the newest unfinished one that the caller's thread or task has opened: trials in threads each
        have their own. Else the newest of the process, else one that its main module has not opened again.
        """
        mine = self._opened_here.get()
        here = [run for run, lease in reversed(self._runs) if lease.lease_id in mine and not lease.end]
        return next(iter([*here, *self.unfinished(), *reversed(self._deferred)]), None)

    def known(self, lease_id: str) -> RunLike | None:
        """The handle of a lease that was opened here, or came here before and has not ended."""
        opened = next((run for run, lease in self._runs if lease.lease_id == lease_id), None)
        if opened is not None:
            return opened
        came = self.travelled.get(lease_id)
        lease = vars(came).get("_lease") if came is not None else None
        return None if lease is not None and lease.end else came

    def defer(self, run: RunLike) -> None:
        """Keeps a handle of a main module that is imported again: its lease is opened when it is used."""
        self._deferred.append(run)

    def arrived(self, run: RunLike) -> None:
        """Drops such a handle, whose lease is open now."""
        self._deferred = [other for other in self._deferred if other is not run]

    def newest_ended(self) -> RunLike | None:
        """The newest of those that were ended, if none was opened since."""
        return self._runs[-1][0] if self._runs and self._runs[-1][1].end else None

    @property
    def inits(self) -> int:
        """The number of calls of `init()` in this process."""
        return self._inits.get(os.getpid(), 0)

    def count_init(self) -> int:
        """Counts a call of `init()`; returns their number, this one included."""
        pid = os.getpid()
        self._inits[pid] = self._inits.get(pid, 0) + 1
        return self._inits[pid]

    def again(self) -> bool:
        """Whether this process has finished a Run that an `init()` of its own opened."""
        finished = any(lease.here and lease.by_init and lease.end == "finished" for _, lease in self._runs)
        return finished or os.getpid() in self._finished

    def inherited(self) -> list[tuple[RunLike, Member]]:
        """Handles that a forked child has inherited and its parent has not ended, oldest first."""
        return [(run, lease) for run, lease in self._runs if not (lease.here or lease.end)]

    def inherited_from(self) -> int | None:
        """Pid of the process from which this one, by a fork, has the newest Run that is not ended."""
        return next((lease.pid for _, lease in reversed(self.inherited())), None)


RUNS = OpenRuns()
