"""The processes that the driver has started: alone, or as ranks of a job below a real launcher.

Signals go through a pidfd, so that none ever reaches a stranger who got the number of a dead process.
"""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import replace
from itertools import count

from tests.chaos.cast import WRITERS_EACH, Part
from tests.chaos.schedule import Who
from tests.process.harness import Child, Launcher, Script
from tests.process.served import Served

STOP_PATIENCE_S = 4.0  # as torchrun: SIGTERM, and SIGKILL for those who do not go


class Actor:
    """One process, and what was done to it.

    Attributes:
        sent: signals with their time.
        thawed_at: until when it was stopped last, 0.0 if never.
        died_at: when the driver saw its end, None as long as it lives.
    """

    def __init__(self, part: Part, script: Script) -> None:
        self.part = part
        self.script = script
        self.began_at = time.time()
        self.sent: list[tuple[float, signal.Signals]] = []
        self.frozen: list[tuple[float, float]] = []
        self.thaw_at: float | None = None
        self.died_at: float | None = None
        self._fd: int | None = None
        try:
            self._fd = os.pidfd_open(script.pid)
        except ProcessLookupError:  # its launcher has collected it already
            self.died_at = self.began_at

    @property
    def alive(self) -> bool:
        """Looks."""
        if self.died_at is None and self._fd is not None:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            if poll.poll(0):
                self.died_at = time.time()
                os.close(self._fd)
                self._fd = None
        return self.died_at is None

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, if it lives."""
        if self.alive and self._fd is not None:
            self.sent.append((time.time(), number))
            signal.pidfd_send_signal(self._fd, number)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP; `thaw_if_due` ends it."""
        self.send(signal.SIGSTOP)
        self.thaw_at = time.time() + seconds
        self.frozen.append((time.time(), self.thaw_at))

    def thaw_if_due(self, now: float) -> None:
        """SIGCONT when the time has come."""
        if self.thaw_at is not None and now >= self.thaw_at:
            self.thaw_at = None
            self.send(signal.SIGCONT)

    def close(self) -> None:
        """Gives the descriptor back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Numbers:
    """Writers of processes; in between there is room for their children."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def next(self) -> int:
        return next(self._numbers) * WRITERS_EACH


def part_of(who: Who, writer: int, verb: str, run: str, label: str) -> Part:
    """The part of somebody who comes."""
    return Part(
        writer=writer,
        verb=verb,  # type: ignore[arg-type] # callers pass the three
        run=run,
        label=label,
        end=who.end,
        seconds=who.seconds,
        pause_s=who.pause_s,
        code=who.code,
        children=who.children,
    )


class Job:
    """A launcher and its ranks; the driver is the agent in it that starts, stops and restarts them."""

    def __init__(
        self, served: Served, numbers: Numbers, run: str, who: tuple[Who, ...], restarts: int
    ) -> None:
        self.run = run
        self.over = False
        self.launcher: Launcher = served.launcher(len(who), run_id=run, max_restarts=restarts)
        self.launcher_died_at: float | None = None
        self.restarted = 0
        self.actors: list[Actor] = []
        self._numbers = numbers
        self._who = who
        self._restarts = restarts
        self._stopping_since: float | None = None
        self._ranks: list[Actor] = []
        self._begin(0)

    def _begin(self, attempt: int) -> None:
        self._stopping_since = None
        self._ranks = []
        for rank, who in enumerate(self._who):
            verb = "init"
            part = part_of(who, self._numbers.next(), verb, self.run, f"rank{rank}")
            if attempt:  # a restarted job goes better
                part = replace(part, end="finish", seconds=min(part.seconds, 2.0))
            script = self.launcher.rank(rank, part.program(), attempt=attempt, name=f"w{part.writer}")
            self._ranks.append(Actor(part, script))
        self.actors += self._ranks

    def kill_launcher(self) -> None:
        """The launcher dies alone; its ranks go on."""
        if self.launcher_died_at is None:
            self.launcher.kill()
            self.launcher_died_at = time.time()

    def step(self) -> None:
        """What a launcher does: stops all when one has failed, starts all again while restarts are left."""
        alive = [rank for rank in self._ranks if rank.alive]
        if self.over:
            return
        if self.launcher_died_at is not None:
            self.over = not alive
            return
        codes = [self._code(rank) for rank in self._ranks]
        if any(codes) and self._stopping_since is None:
            self._stopping_since = time.time()
            for rank in alive:
                rank.send(signal.SIGTERM)
        if self._stopping_since is not None and time.time() > self._stopping_since + STOP_PATIENCE_S:
            for rank in alive:
                rank.send(signal.SIGKILL)
        if None in codes:
            return
        if any(codes) and self.restarted < self._restarts:
            self.restarted += 1
            self._begin(self.restarted)
        else:
            self.launcher.kill()
            self.over = True

    def _code(self, rank: Actor) -> int | None:
        assert isinstance(rank.script, Child)
        return self.launcher.codes.get(rank.script.pid)
