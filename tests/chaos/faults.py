"""The coordinator, the server and the disk in trouble; each of them gets well again by itself."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from tests.pluto_server.client import ServerProcess
from tests.process.served import Served

MIB = 1 << 20
DISK = "size=192m"  # the spool takes nothing when less than 64 MiB are free


class Faults:
    """What is wrong now, and what was when.

    Attributes:
        absent: spans of time in which no coordinator was seen, or only a stopped one.
        full: spans of time in which the disk was full.
        small_disk: whether the node is on a disk that can be filled.
    """

    def __init__(self, served: Served, server: ServerProcess) -> None:
        self._served = served
        self._server = server
        self._thaw: dict[int, float] = {}
        self._ballast: Path | None = None
        self._free_at = 0.0
        self._looked_at = time.time()
        self.absent: list[tuple[float, float]] = []
        self.full: list[tuple[float, float]] = []
        self.small_disk = served.mount(DISK)

    @property
    def server_answers(self) -> bool:
        """Whether the emulator is not stopped."""
        return self._server.pid not in self._thaw

    def signal_coordinator(self, number: signal.Signals) -> bool:
        """To all that there are; False if there is none."""
        pids = self._served.started()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return bool(pids)

    def freeze_coordinator(self, seconds: float) -> bool:
        """SIGSTOP for a while."""
        pids = self._served.started()
        for pid in pids:
            self._freeze(pid, seconds)
        return bool(pids)

    def freeze_server(self, seconds: float) -> bool:
        """SIGSTOP for a while: connections are made, and nobody answers."""
        if not self.server_answers:
            return False
        self._freeze(self._server.pid, seconds)
        return True

    def fill_disk(self, seconds: float) -> bool:
        """Takes the last byte of the node's disk for a while."""
        if not self.small_disk or self._ballast is not None:
            return False
        self._ballast, self._free_at = self._served.home / "ballast", time.time() + seconds
        with self._ballast.open("wb", buffering=0) as file:
            for size in (MIB, 4096, 1):
                block = b"\0" * size
                with contextlib.suppress(OSError):
                    while file.write(block) == size:
                        pass
        self.full.append((time.time(), self._free_at))
        return True

    def step(self) -> None:
        """Ends what has lasted long enough, and looks whether there is a coordinator."""
        now = time.time()
        for pid, until in tuple(self._thaw.items()):
            if now >= until:
                self._wake(pid)
        if self._ballast is not None and now >= self._free_at:
            self._free()
        there = [pid for pid in self._served.started() if pid not in self._thaw]
        if not there:
            self.absent.append((self._looked_at, now))
        self._looked_at = now

    def end(self) -> None:
        """Everything is well again."""
        for pid in tuple(self._thaw):
            self._wake(pid)
        self._free()
        self._served.back()

    def _freeze(self, pid: int, seconds: float) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._thaw[pid] = max(time.time() + seconds, self._thaw.get(pid, 0.0))

    def _wake(self, pid: int) -> None:
        del self._thaw[pid]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def _free(self) -> None:
        if self._ballast is not None:
            self._ballast.unlink()
            self._ballast = None
            self.full[-1] = (self.full[-1][0], time.time())
