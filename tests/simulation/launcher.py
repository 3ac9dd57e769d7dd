"""A launcher in the manner of torchrun: it starts ranks, stops all when one fails, and starts them again."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from pluto_dist.core.values.ids import Job
from pluto_dist.core.values.lifecycle import Claim
from tests.simulation.plan import Actor, Plan
from tests.simulation.processes import Process

if TYPE_CHECKING:
    from tests.simulation.world import World

GRACE_S = 3.0
FORGETS = 0.3


class Launcher:
    """One launch."""

    def __init__(self, world: World, job: str, plan: Plan) -> None:
        self.world = world
        self.job = job
        self.gone = False
        self.resume_at = 0.0
        self.identity = world.kernel.spawn(world.boot_id, world.ticks())
        self.attempt = 0
        self.restarts = plan.restarts
        self.starts = 2 if plan.again and job == "train" else 1
        self.started = 1
        self.size = sum(actor.job == job for actor in plan.actors)
        # Now and then a rank of the first attempt is forgotten, and goes on beside its successors (R7).
        self._forgets = plan.restarts > 0 and Random(f"launcher {plan.seed}").random() < FORGETS
        self._ranks: list[Process] = []
        world.say(job, f"launcher pid {self.identity.pid} starts")
        world.at(0.2, self._look, self)

    def start(self, actor: Actor) -> None:
        """Starts a rank of the current attempt."""
        world = self.world
        job = Job(
            key=f"{self.job}-{self.identity.pid}-{self.identity.start}",
            rank=actor.rank,
            local_rank=actor.rank,
            world_size=self.size,
            attempt=self.attempt,
            max_restarts=self.restarts,
            launcher=self.identity,
        )
        process = Process(world, actor, world.kernel.spawn(world.boot_id, world.ticks()), job)
        process.ancestors = (self.identity,)
        process.start = self.started
        self._ranks.append(process)
        world.begin(process)

    def _look(self) -> None:
        world = self.world
        self._ranks = [_newest(world, rank) for rank in self._ranks]
        dead = [rank for rank in self._ranks if rank.gone]
        if any(_failed(rank) for rank in dead):
            world.say(self.job, "a rank failed: the launcher stops the others")
            for rank in self._stopped():
                if not rank.gone:
                    world.at(0.001, rank.sigterm, rank)
            world.at(GRACE_S, self._kill_rest, self)
            return
        if len(dead) == self.size:
            self.die()
            return
        world.at(0.2, self._look, self)

    def _kill_rest(self) -> None:
        self._ranks = [_newest(self.world, rank) for rank in self._ranks]
        for rank in self._stopped():
            rank.die((None, "SIGKILL"))
        if self.attempt >= self.restarts:
            self.die()
            return
        self.attempt += 1
        self._begin_again(f"the launcher starts attempt {self.attempt}")

    def _begin_again(self, said: str) -> None:
        actors = [rank.actor for rank in self._ranks]
        self._ranks = []
        self.world.say(self.job, said)
        for actor in actors:
            again = replace(actor, end="finish", duration=2.0, forks=False)
            self.world.at(0.6, lambda again=again: self.start(again), self)  # type: ignore[misc]
        self.world.at(1.0, self._look, self)

    def _stopped(self) -> list[Process]:
        """Those that it stops when one has failed."""
        return self._ranks[:-1] if self._forgets and self.attempt < self.restarts else self._ranks

    def die(self) -> None:
        """It exits; a shell may have something to do before."""
        if self.started < self.starts and not self.gone:
            self.started += 1
            self._begin_again("the shell starts the job again")
        elif not self.gone:
            self.gone = True
            self.world.say(self.job, "the launcher exits")
            self.world.kernel.bury(self.identity, (0, ""))


def _newest(world: World, rank: Process) -> Process:
    """After an `exec` the same kernel process is another one here."""
    same = [other for other in world.processes if other.identity.same_process(rank.identity)]
    return same[-1]


def _failed(rank: Process) -> bool:
    died = rank.truth.died
    return died is not None and (died[1] != 0 or bool(died[2]))


__all__ = ["Claim", "Launcher"]
