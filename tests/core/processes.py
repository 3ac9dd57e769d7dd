"""Processes of the world: ranks, evals, notebooks. Each call does what the client library would do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from pluto_dist.core.values.ids import Identity, Job, RunRef, classify_run_id
from pluto_dist.core.values.lifecycle import (
    Alerted,
    ChildStopped,
    Claim,
    Closed,
    ConfigUpdated,
    Evidence,
    Finished,
    ItemDone,
    LifecycleEntry,
    Published,
    TagsAdded,
    TagsRemoved,
    Target,
    Unreadable,
    Unsubscribed,
)
from pluto_dist.core.values.messages import PROTOCOL, View
from tests.core.spool import Spool

if TYPE_CHECKING:
    from tests.core.world import World

LOCAL = Target("local", "/store")
PLUTO = Target("pluto", "/store", "http://api", "http://ingest", "http://py", "http://app", "key1")


@dataclass
class Process:
    """One process; what it does without a lease is of no interest.

    Attributes:
        parents: ancestors of whose program it is a part.
        spool: of the newest lease.
        status: (exit code, signal) once it is dead.
        died_ms: when that was.
        family: children that it has forked outlive it.
    """

    world: World
    name: str
    identity: Identity
    job: Job
    ancestors: tuple[Identity, ...] = ()
    parents: tuple[Identity, ...] = ()
    spools: list[Spool] = field(default_factory=list)
    status: tuple[int | None, str] | None = None
    died_ms: int = 0
    oom: bool = False
    family: bool = False
    steps: int = 0

    @property
    def alive(self) -> bool:
        return self.status is None

    @property
    def spool(self) -> Spool:
        return self.spools[-1]

    @property
    def view(self) -> View:
        """What it was told last."""
        return self.world.views[self.spool.lease_id]

    @property
    def role(self) -> str:
        """Its role, or its state as long as it has none."""
        return self.view.role if self.view.state in ("active", "ended") else self.view.state

    # --- claims -----------------------------------------------------------------------------------

    def init(self, run: str | int | None = None, **fields: Any) -> Process:
        """`init()`; `run` is an explicit run_id, `env=` one from the environment."""
        return self._open("init", run, fields)

    def attach(self, run: str | int | None = None, **fields: Any) -> Process:
        """`attach()`."""
        return self._open("attach", run, fields)

    def _open(self, verb: str, run: str | int | None, fields: dict[str, Any]) -> Process:
        env = fields.pop("env", None)
        config = msgspec.json.encode(fields.pop("config", {}))
        number = self.world.next_lease()
        lease_id = f"{number:016x}"
        spool = Spool(lease_id, f"/spool/{lease_id}", self.name)
        self.spools.append(spool)
        self.world.spools[lease_id] = spool
        self.world.owners[lease_id] = self
        opened = Claim(
            at=self.world.now,
            wall_ms=self.world.wall_ms,
            protocol=PROTOCOL,
            verb="init" if verb == "init" else "attach",
            identity=self.identity,
            job=fields.pop("job", self._job()),
            target=fields.pop("target", self.world.target),
            project=fields.pop("project", "demo"),
            run=_ref(run if run is not None else env),
            run_from_env=env is not None,
            generated_id=f"run-{number:06x}",
            config=msgspec.Raw(config),
            ancestors=self.ancestors,
            parents=self.parents,
            again=fields.pop("again", any(map(_was_finished, self.spools[:-1]))),
            **fields,
        )
        return self._say(opened)

    def _job(self) -> Job:
        """Each `init()` is a job of its own; tests of ranks call it once."""
        nth = len(self.spools)
        return self.job if nth == 1 else msgspec.structs.replace(self.job, key=f"{self.job.key}:{nth}")

    # --- what a lease can say ---------------------------------------------------------------------

    def log(
        self, step: int | None = None, stream: str = "metrics", poison: bool = False, **values: float
    ) -> Process:
        """One record; without a step it has the next one."""
        self.steps = self.steps if step is None else step
        self.spool.log(values, self.steps, stream, poison=poison)
        self.steps += 1
        self.world.look()
        return self

    def add_tags(self, *tags: str) -> Process:
        return self._say(TagsAdded(tags=tags, **self._stamp()))

    def remove_tags(self, *tags: str) -> Process:
        return self._say(TagsRemoved(tags=tags, **self._stamp()))

    def update_config(self, **patch: Any) -> Process:
        return self._say(ConfigUpdated(patch=msgspec.Raw(msgspec.json.encode(patch)), **self._stamp()))

    def evidence(self, kind: str, **what: Any) -> Process:
        return self._say(Evidence(kind=kind, **what, **self._stamp()))  # type: ignore[arg-type] # by its name

    def raises(self, what: str = "ValueError", *, communication: bool = False) -> Process:
        """An uncaught exception, then the exit hook."""
        self.evidence("exception", type=what, message="boom", communication=communication)
        return self.finish().exit(1)

    def sigterm(self) -> Process:
        """SIGTERM with our handler."""
        return self.evidence("signal", signal="SIGTERM").finish().exit(None, "SIGTERM")

    def finish(self, code: int | None = None, *, at_exit: bool = False) -> Process:
        return self._say(Finished(code=code, at_exit=at_exit, **self._stamp()))

    def close(self) -> Process:
        return self._say(Closed(**self._stamp()))

    def let_go(self) -> Process:
        """It has waited long enough for what it wrote, closes its files and lives on."""
        self.world.released(self.spool)
        return self

    def say(self, entry: LifecycleEntry | Unreadable) -> Process:
        """Any entry."""
        return self._say(entry)

    def sync(self) -> Process:
        """A heartbeat."""
        self.world.hear(self.spool)
        return self

    def _stamp(self) -> dict[str, Any]:
        return {"at": self.world.now, "wall_ms": self.world.wall_ms}

    def _say(self, entry: LifecycleEntry | Unreadable) -> Process:
        self.spool.entries.append(entry)
        if self.world.nudges:
            self.world.hear(self.spool)
        return self

    def stops(self, child: Process, signal: str = "SIGTERM") -> Process:
        """Ends a process that it has started; a SIGTERM is handled there."""
        self._say(ChildStopped(pid=child.identity.pid, signal=signal, **self._stamp()))
        self.world.wait(0.01)
        if signal == "SIGTERM":
            child.sigterm()
        else:
            child.kill(signal)
        return self

    def alert(self, title: str = "loss is NaN", message: str = "at step 3", **more: Any) -> Process:
        return self._say(Alerted(title=title, message=message, level="WARNING", **more, **self._stamp()))

    # --- hand-over --------------------------------------------------------------------------------

    def publish(self, topic: str = "t", payload: object = None) -> Process:
        body = msgspec.Raw(msgspec.json.encode(payload))
        return self._say(Published(topic=topic, payload=body, **self._stamp()))

    def done(self, number: int, topic: str = "t", group: str = "") -> Process:
        return self._say(ItemDone(topic=topic, number=number, group=group, **self._stamp()))

    def leave_loop(self, member: int = 1, topic: str = "t", group: str = "") -> Process:
        return self._say(Unsubscribed(topic=topic, member=member, group=group, **self._stamp()))

    def take(self, topic: str = "t", *, group: str = "", latest: bool = False, member: int = 1) -> Process:
        """Asks for the next item; `got` says what came."""
        self.world.take(self, topic, group=group, latest=latest, member=member)
        return self

    @property
    def got(self) -> list[int | str]:
        """Numbers of the items that it was given so far; "ended" once the topic was over."""
        return self.world.got(self)

    # --- ends -------------------------------------------------------------------------------------

    def exit(self, code: int | None = 0, signal: str = "") -> Process:
        """The process ends; whoever watches it notices at once."""
        self.status = (code, signal)
        self.died_ms = self.world.wall_ms
        self.world.bury(self)
        return self

    def kill(self, signal: str = "SIGKILL", *, oom: bool = False) -> Process:
        """It is killed."""
        self.oom = oom
        return self.exit(None, signal)

    def vanish(self) -> Process:
        """It is gone, and nobody has noticed yet."""
        self.status = (None, "")
        self.died_ms = self.world.wall_ms
        return self


@dataclass
class Launch:
    """One launch of a program with ranks: a launcher, and the ranks of its attempts."""

    world: World
    name: str
    size: int
    max_restarts: int
    launcher: Process
    attempt: int = 0
    ranks: dict[int, Process] = field(default_factory=dict)

    def rank(self, number: int) -> Process:
        """A rank of the current attempt."""
        return self.ranks[number]

    def start(self, *numbers: int) -> list[Process]:
        """Starts ranks of the current attempt, all if none is named."""
        started = []
        for number in numbers or range(self.size):
            job = Job(
                key=f"job-{self.name}",
                rank=number,
                local_rank=number,
                world_size=self.size,
                attempt=self.attempt,
                max_restarts=self.max_restarts,
                launcher=self.launcher.identity,
            )
            name = f"rank{number}" if self.attempt == 0 else f"rank{number}.{self.attempt}"
            self.ranks[number] = self.world.process(name, job, (self.launcher.identity,))
            started.append(self.ranks[number])
        return started

    def restart(self) -> list[Process]:
        """The launcher kills what is left and starts all ranks again."""
        for process in self.ranks.values():
            if process.alive:
                process.kill()
        self.attempt += 1
        return self.start()


def _was_finished(spool: Spool) -> bool:
    """Whether it was opened by `init()` and ended by `finish()`."""
    opened = spool.entries[0]
    by_init = isinstance(opened, Claim) and opened.verb == "init"
    return by_init and any(isinstance(entry, Finished) for entry in spool.entries)


def _ref(run: str | int | None) -> RunRef | None:
    return classify_run_id(run) if run is not None else None
