"""What one simulated history consists of: who comes, what they do, and what goes wrong.

A plan is data, so that it can be printed, replayed and made smaller. It follows from its seed alone; the
small accidents on the way (latencies, lost messages) come from a second generator with the same seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

End = Literal[
    "finish", "finish_code", "close", "exception", "communication", "exit_code", "at_exit", "sigterm", "kill",
    "exec", "finish_kill", "stopped",
]  # fmt: skip
OWNER_ENDS: tuple[End, ...] = (
    "finish", "finish", "finish", "finish_code", "close", "exception", "communication", "exit_code",
    "at_exit", "at_exit", "sigterm", "kill", "exec", "finish_kill",
)  # fmt: skip
SIDE_ENDS: tuple[End, ...] = ("finish", "close", "exception", "exit_code", "at_exit", "sigterm", "kill")

USURPED = 0.05
CHILDREN = 0.25
AGAIN = 0.4
REDUCED = 0.7
HAND_OVER_SINCE = 1_796_033_000_000  # histories of lower seeds are older than hand-over, and stay as they are
REDUCE_SINCE = 1_796_060_000_100  # … than rank_metrics="reduce"
FILES_SINCE = 1_796_067_000_000  # … than files
QUIET_AFTER_S = 40.0  # no fault begins or lasts longer


@dataclass(frozen=True)
class Actor:
    """One process.

    Attributes:
        job: which launch it belongs to; a job of several ranks has a launcher.
        verb: `init`, `resume` (`init(resume=True)`) or `attach`.
        end: `stopped` is by its parent, with SIGKILL if the code is not 0.
        code: of `finish(code=…)` or of the exit.
        linger_s: how long it lives on after its last word.
        parent: the process that starts it, as `multiprocessing` does; it is not started if that is gone.
        asks: `init(name=…)`.
        label: of an attached one, "" for its name.
        publishes: it hands something over now and then.
        reads: it takes what was handed over, for its label or for the one group.
        latest: only the newest.
        reduces: its job's ranks are reduced to one series.
    """

    name: str
    job: str
    verb: Literal["init", "resume", "attach"]
    start: float
    duration: float
    end: End
    rank: int | None = None
    code: int = 0
    pause_s: float = 0.4
    linger_s: float = 0.2
    forks: bool = False
    run: str | None = "exp"
    streams: tuple[str, ...] = ("metrics",)
    parent: str | None = None
    asks: str | None = None
    label: str = ""
    publishes: bool = False
    reads: Literal["", "label", "group"] = ""
    latest: bool = False
    reduces: bool = False


@dataclass(frozen=True)
class Fault:
    """Something goes wrong.

    Attributes:
        kind: `crash` and `pause` are of the coordinator, `freeze` and `kill` of a process; `teardown` kills
            everything, `power` takes unsynced bytes too; `usurp` starts a second coordinator beside it.
        number: of the process, or of the effect in front of which the coordinator dies.
    """

    at: float
    kind: Literal[
        "crash", "pause", "freeze", "kill", "teardown", "power", "full", "slow", "outage", "partition",
        "database", "cancel", "usurp",
    ]  # fmt: skip
    seconds: float = 0.0
    number: int = 0


@dataclass(frozen=True)
class Rates:
    """Probabilities of small accidents while faults are on."""

    lost: float = 0.0
    doubled: float = 0.0
    retry: float = 0.0
    unknown: float = 0.0
    poison: float = 0.0


@dataclass(frozen=True)
class Plan:
    """A whole history.

    Attributes:
        restarts: which the launcher makes, and counts.
        again: a shell starts the whole job once more with the same ranks, as `train || train` does.
    """

    seed: int
    mode: Literal["pluto", "local"] = "pluto"
    restarts: int = 0
    again: bool = False
    actors: tuple[Actor, ...] = ()
    faults: tuple[Fault, ...] = ()
    rates: Rates = field(default_factory=Rates)

    def without_actor(self, number: int) -> Plan:
        """A smaller plan."""
        return replace(self, actors=self.actors[:number] + self.actors[number + 1 :])

    def without_fault(self, number: int) -> Plan:
        """A smaller plan."""
        return replace(self, faults=self.faults[:number] + self.faults[number + 1 :])

    def describe(self) -> list[str]:
        """Lines for people."""
        again = ", started again" if self.again else ""
        lines = [f"seed {self.seed}, {self.mode}, restarts {self.restarts}{again}, {self.rates}"]
        return lines + [f"  {actor}" for actor in self.actors] + [f"  {fault}" for fault in self.faults]


def make_plan(seed: int) -> Plan:
    """The plan of a seed."""
    random = Random(f"plan {seed}")
    ranks = random.choice((1, 1, 2, 3))
    restarts = random.choice((0, 0, 1)) if ranks > 1 else 0
    actors = _job(random, "train", ranks, random.uniform(0.0, 1.0), restarts)
    actors += [_side(random, number) for number in range(random.choice((0, 1, 1, 2, 3)))]
    if random.random() < 0.35:
        actors.append(_other(random, "again", "resume"))
    if random.random() < 0.2:
        actors.append(_other(random, "other", "init"))
    family = Random(f"family {seed}")
    again = ranks > 1 and not restarts and family.random() < AGAIN
    if again and family.random() < 0.5:
        actors = [replace(actor, run=None) if actor.rank is not None else actor for actor in actors]
    children = _children(family, actors[0]) if family.random() < CHILDREN else []
    if seed >= HAND_OVER_SINCE:
        actors = _handing_over(Random(f"topics {seed}"), actors)
    if seed >= REDUCE_SINCE and Random(f"reduce {seed}").random() < REDUCED:
        actors = [replace(actor, reduces=actor.rank is not None) for actor in actors]
    if seed >= FILES_SINCE:
        actors = _with_files(Random(f"with files {seed}"), actors)
    calm = random.random() < 0.15
    usurpers = Random(f"usurper {seed}")
    usurped = (Fault(usurpers.uniform(1.0, 25.0), "usurp"),) if usurpers.random() < USURPED else ()
    return Plan(
        seed=seed,
        mode="local" if random.random() < 0.2 else "pluto",
        restarts=restarts,
        again=again,
        actors=(*actors, *children),
        faults=() if calm else (*_faults(random, len(actors)), *usurped),
        rates=Rates() if calm else _rates(random),
    )


def _job(random: Random, job: str, ranks: int, start: float, restarts: int) -> list[Actor]:
    end: End = random.choice(OWNER_ENDS)
    duration = random.uniform(1.0, 12.0)
    everybody = random.random() < 0.6
    actors = []
    for rank in range(ranks):
        own = end if everybody else random.choice(OWNER_ENDS)
        if restarts and own == "close":
            own = "finish"
        actors.append(
            Actor(
                name=f"{job}{rank}",
                job=job,
                verb="init",
                start=start + random.choice((0.0, 0.1, 0.5, 6.0 if random.random() < 0.2 else 0.3)),
                duration=duration + random.choice((0.0, 0.01, 0.5, random.uniform(0, 12.0))),
                end=own,
                rank=rank if ranks > 1 else None,
                code=random.choice((0, 1, 2, 143)),
                pause_s=random.choice((0.05, 0.2, 0.6)),
                linger_s=random.choice((0.05, 0.5, 3.0)),
                forks=random.random() < 0.15,
                streams=random.choice((("metrics",), ("metrics", "data"), ("metrics", "data", "console"))),
            )
        )
    return actors


def _children(random: Random, parent: Actor) -> list[Actor]:
    """Trials and pool workers of the first process."""
    return [
        Actor(
            name=f"child{number}",
            job=f"child{number}",
            verb="init",
            start=parent.start + random.uniform(0.3, 8.0),
            duration=random.uniform(0.3, 5.0),
            end=random.choice((*OWNER_ENDS, "stopped", "stopped")),
            code=random.choice((0, 1)),
            run=None,
            parent=parent.name,
            asks=random.choice((None, f"trial{number}")),
        )
        for number in range(random.choice((1, 2, 3)))
    ]


def _side(random: Random, number: int) -> Actor:
    return Actor(
        name=f"side{number}",
        job=f"side{number}",
        verb="attach",
        start=random.uniform(0.0, 14.0),
        duration=random.uniform(0.5, 10.0),
        end=random.choice(SIDE_ENDS),
        code=random.choice((0, 1)),
        pause_s=random.choice((0.1, 0.5)),
        streams=random.choice((("metrics",), ("metrics", "data", "console"))),
    )


def _handing_over(random: Random, actors: list[Actor]) -> list[Actor]:
    """The job publishes, and several processes take it: by label, one behind the other, and as a group."""
    given = [
        replace(actor, publishes=actor.rank in (None, 0) or random.random() < 0.2)
        if actor.verb != "attach"
        else actor
        for actor in actors
    ]
    loops = [_loop(random, f"loop{number}", "label") for number in range(random.choice((0, 1, 1, 2)))]
    behind = [
        replace(
            _loop(random, f"{each.name}b", "label"),
            label=each.name,
            latest=each.latest,
            start=min(each.start + each.duration + random.choice((0.1, 1.0, 5.0)), 30.0),
        )
        for each in loops
        if random.random() < 0.7
    ]
    members = [_loop(random, f"member{number}", "group") for number in range(random.choice((0, 2, 3)))]
    latest = random.random() < 0.4
    return [*given, *loops, *behind, *(replace(each, latest=latest) for each in members)]


def _with_files(random: Random, actors: list[Actor]) -> list[Actor]:
    """Trainers that save, and sides that ship."""
    return [
        replace(actor, streams=(*actor.streams, "files")) if random.random() < 0.6 else actor
        for actor in actors
    ]


def _loop(random: Random, name: str, reads: Literal["label", "group"]) -> Actor:
    return Actor(
        name=name,
        job=name,
        verb="attach",
        start=random.uniform(0.0, 20.0),
        duration=random.choice((3.0, 10.0, 60.0, 200.0)),
        end=random.choice(SIDE_ENDS),
        code=random.choice((0, 1)),
        streams=(),
        reads=reads,
        latest=random.random() < 0.2,
    )


def _other(random: Random, job: str, verb: Literal["init", "resume"]) -> Actor:
    return Actor(
        name=job,
        job=job,
        verb=verb,
        start=random.uniform(1.0, 30.0),
        duration=random.uniform(1.0, 8.0),
        end=random.choice(OWNER_ENDS),
        code=random.choice((0, 1)),
        streams=("metrics", "data"),
    )


def _faults(random: Random, actors: int) -> list[Fault]:
    faults = [
        Fault(random.uniform(0.0, 25.0), "crash", number=random.randint(0, 25))
        for _ in range(random.choice((0, 1, 2, 5)))
    ]
    for _ in range(random.choice((0, 1, 2, 4))):
        at, seconds = random.uniform(0.0, 25.0), random.choice((0.3, 2.0, 8.0))
        kind = random.choice(
            ("pause", "freeze", "kill", "full", "slow", "outage", "partition", "database", "cancel")
        )
        faults.append(Fault(at, kind, seconds, random.randrange(actors)))  # type: ignore[arg-type]
    if random.random() < 0.15:
        kind = random.choice(("teardown", "teardown", "power"))
        faults.append(Fault(random.uniform(1.0, 25.0), kind, random.uniform(0.5, 10.0)))  # type: ignore[arg-type]
    return sorted(faults, key=lambda fault: fault.at)


def _rates(random: Random) -> Rates:
    few = (0.0, 0.0, 0.05, 0.3)
    return Rates(
        lost=random.choice(few),
        doubled=random.choice(few),
        retry=random.choice(few),
        unknown=random.choice((0.0, 0.03, 0.15)),
        poison=random.choice((0.0, 0.0, 0.03)),
    )
