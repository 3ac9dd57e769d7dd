"""The Runs of this process: the one that the module's `log()` means, and those that must end at exit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pluto_dist.client.handle import Run


class OpenRuns:
    """Handles in the order in which they were opened; a forked child sees its parent's, and opens its own."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, Run]] = []
        self._inits: dict[int, int] = {}
        self.disabled = False

    def add(self, run: Run) -> None:
        """A Run was opened in this process."""
        for former in self.mine():
            former.tell_late()
        self._runs = [(pid, kept) for pid, kept in self._runs if not kept.ended]
        self._runs.append((os.getpid(), run))

    def mine(self) -> list[Run]:
        """Runs that this process opened, newest first; of the ended ones at least the newest."""
        return [run for pid, run in reversed(self._runs) if pid == os.getpid()]

    def open(self) -> list[Run]:
        """Runs that this process opened and has not ended, newest first."""
        return [run for run in self.mine() if not run.ended]

    def newest(self) -> Run | None:
        """The newest unfinished Run, a forked child's inherited one included."""
        return next((run for _, run in reversed(self._runs) if not run.ended), None)

    @property
    def inits(self) -> int:
        """How many times `init()` has been called in this process."""
        return self._inits.get(os.getpid(), 0)

    def count_init(self) -> int:
        """How many times `init()` was called in this process, this time included."""
        pid = os.getpid()
        self._inits[pid] = self._inits.get(pid, 0) + 1
        return self._inits[pid]


RUNS = OpenRuns()
