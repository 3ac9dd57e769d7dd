"""The real driver around the real core, in simulated time: no sockets, threads, SQLite or processes.

A coordinator dies in front of an effect, before or after a transaction, or between two turns; what it had
committed, the spools and the targets survive it, and nothing else.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from pluto_dist.coordinator import driver as node_driver
from pluto_dist.coordinator.database import Database, DatabaseUnusableError, SupersededError
from pluto_dist.coordinator.driver import Driver, Keys
from pluto_dist.coordinator.watches import Death
from pluto_dist.coordinator.worker import Slow, Worker
from pluto_dist.core.machine.coordinator import Coordinator
from pluto_dist.core.values import effects as do
from pluto_dist.core.values import events as on
from pluto_dist.core.values.book import Book
from pluto_dist.core.values.effects import Save
from pluto_dist.core.values.ids import Identity
from pluto_dist.core.values.messages import Reply, Request
from pluto_dist.core.values.records import Now
from pluto_dist.core.values.topics import Item
from pluto_dist.host.liveness import ExitStatus
from tests.simulation.processes import PLUTO

if TYPE_CHECKING:
    from tests.simulation.world import World

SPOOL = Path("/spool")
IDLE_EXIT_S = 60.0
SLOW_BEATS, SLOW_BEAT_S = 0.1, 5.0  # an answer that crosses the status
MANY_AT_ONCE = 200  # after a pause so many messages may be dealt with at one instant


class CrashError(Exception):
    """SIGKILL of the coordinator."""


class SimDatabase:
    """Committed records; power loss takes what no durable transaction has followed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.state: dict[tuple[str, str], bytes] = {}
        self.synced: dict[tuple[str, str], bytes] = {}
        self.generation = 0

    def session(self) -> DatabaseSession:
        """What a starting coordinator opens."""
        self.generation += 1
        return DatabaseSession(self, self.generation)

    def power_loss(self) -> None:
        """Cursors of the last moments are gone."""
        self.state = dict(self.synced)

    def load(self) -> Book:
        """A fresh book."""
        book = Book()
        for (table, key), value in sorted(self.state.items()):
            book.load(table, key, msgspec.json.decode(value, type=book.tables[table].kind))
        return book


class DatabaseSession:
    """Stands for `state.database.Database`; the fence of generations is the real one."""

    _path = "simulated"

    def __init__(self, database: SimDatabase, generation: int) -> None:
        self._database = database
        self.generation = generation

    def _meta(self, name: str) -> int:
        return self._database.generation

    def item(self, key: str) -> Item | None:
        body = self._database.state.get(("items", key))
        return msgspec.json.decode(body, type=Item) if body is not None else None

    def commit(self, saves: Iterable[Save], *, durable: bool) -> None:
        database = self._database
        database.world.boundary("before commit")
        Database._check_generation(self)  # type: ignore[arg-type] # it looks at what is defined above
        newest = database.generation == self.generation
        database.world.checks.expect(newest, f"R3: generation {self.generation} writes after its successor")
        if database.world.database_full:
            raise DatabaseUnusableError("no space")
        for save in saves:
            key = save.table, save.key
            if save.value is None:
                database.state.pop(key, None)
            else:
                database.state[key] = msgspec.json.encode(save.value)
        if durable:
            database.synced = dict(database.state)
        database.world.checks.topics.kept(saves)
        database.world.boundary("after commit")


class SimWatches:
    """Stands for `Watches`: who is alive, by the simulated kernel."""

    probe_interval_s = None

    def __init__(self, world: World) -> None:
        self.world = world
        self.watched: dict[str, tuple[Identity, float, bool]] = {}

    def start(self, key: str, identity: Identity, folder: str | None, now: float) -> None:
        if key not in self.watched:
            self.watched[key] = identity, now, self.world.kernel.lives(identity)

    def note_message(self, key: str, now: float) -> None:
        pass

    def stop(self, key: str) -> None:
        self.watched.pop(key, None)

    def look(self, now: float) -> list[Death]:
        return []

    def noticed(self, now: float) -> list[Death]:
        """Deaths since the last turn."""
        return [death for key in tuple(self.watched) for death in self.check(key, now)]

    def check(self, key: str, now: float) -> list[Death]:
        if key not in self.watched:
            return []
        identity, since, seen_alive = self.watched[key]
        if self.world.kernel.lives(identity):
            return []
        del self.watched[key]
        status = self.world.kernel.status(identity) if seen_alive else None
        found = ExitStatus(*status) if status is not None else None
        return [Death(key, now if seen_alive else since, found, oom=False)]


class SimServer:
    """Stands for the ROUTER socket."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.inbox: deque[tuple[bytes, Request]] = deque()

    def receive(self) -> Iterator[tuple[bytes, Request]]:
        while self.inbox:
            yield self.inbox.popleft()

    def send(self, peer: bytes, reply: Reply) -> None:
        self.world.to_client(peer, reply)


class SimPools:
    """Stands for the bulkheads: each effect is carried out after a while."""

    def __init__(self, coordinator: SimCoordinator) -> None:
        self._coordinator = coordinator

    def submit(self, place: object, work: Callable[[], None]) -> None:
        world = self._coordinator.world
        delay = world.random.choice((0.0005, 0.005, 0.05, 0.6 if world.faulty else 0.05))
        world.at(delay, work, self._coordinator, "slow effect")

    def close(self, within_s: float) -> bool:
        return True


class SimDone:
    """Answers of worker threads, each on its way for a while; those to signs of life sometimes for long."""

    def __init__(self, coordinator: SimCoordinator) -> None:
        self._coordinator = coordinator
        self._ready: deque[on.Event] = deque()
        self._slow = Random(f"slow {coordinator.world.plan.seed} {coordinator.generation}")

    def put(self, event: on.Event) -> None:
        world = self._coordinator.world
        delay = world.random.choice((0.0001, 0.01, 0.2))
        if isinstance(event, on.Beaten) and world.faulty and self._slow.random() < SLOW_BEATS:
            delay = SLOW_BEAT_S
            world.server.hung[event.run].append((world.now, world.now + delay))
        world.at(delay, lambda: self._arrive(event), self._coordinator, "")

    def get_nowait(self) -> on.Event:
        import queue

        if not self._ready:
            raise queue.Empty
        return self._ready.popleft()

    def _arrive(self, event: on.Event) -> None:
        self._ready.append(event)
        self._coordinator.turn()


class SimWorker(Worker):
    """The real worker; only what it would write into the store goes into memory."""

    def __init__(self, coordinator: SimCoordinator) -> None:
        world = self._world = coordinator.world
        super().__init__(lambda target: world.backend(target.mode), recorder=_NoRecorder())  # type: ignore[arg-type]
        self._coordinator = coordinator

    def ship_together(self, ships: Sequence[do.Ship]) -> list[on.Event] | None:
        self._world.checks.expect(
            self._coordinator.is_intact(), "R3: Ships of a coordinator that was replaced"
        )
        return super().ship_together(ships)

    def do(self, effect: Slow) -> on.Event | None:
        world = self._world
        world.files.act(self._coordinator)
        first = self._coordinator.is_intact()
        world.checks.expect(first, f"R3: {type(effect).__name__} of a coordinator that was replaced")
        match effect:
            case do.WriteDocument(run=run, revision=revision, body=body):
                world.store.documents[run] = body
                return on.DocumentWritten(run=run, revision=revision)
            case do.KeepCopies(run=run, lease_id=lease_id, copies=copies):
                return on.CopiesKept(run=run, lease_id=lease_id, copies=copies)
            case do.DropCopies(run=run, lease_id=lease_id, segments=segments):
                return on.CopiesDropped(run=run, lease_id=lease_id, segments=segments)
            case do.ReadUploads(run=run):
                return on.UploadsRead(run=run, uploaded=None)
            case do.SampleNode():
                return None
            case _:
                return super().do(effect)


class _NoRecorder:
    def end(self, lease_id: str) -> None:
        pass


class SimDriver(Driver):
    """The real driver; waiting is the simulation's business."""

    @property
    def unkept(self) -> bool:
        """Whether the book is ahead of the database: then nothing that it says has left yet."""
        return bool(self._commits._saves)

    def __init__(self, coordinator: SimCoordinator, core: Coordinator, session: DatabaseSession) -> None:
        world = coordinator.world
        places: Any = _Places()
        database: Any = session
        self.socket = SimServer(world)
        server: Any = self.socket
        super().__init__(
            core, places, database, server, SimWorker(coordinator), Keys(), coordinator.is_intact
        )
        background = self._background
        if background.wake is not None:
            os.close(background.wake)
        background.wake = None
        pools: Any = SimPools(coordinator)
        done: Any = SimDone(coordinator)
        background._pools, background._done = pools, done
        self._world = world
        self._watches: Any = SimWatches(world)

    def turn(self) -> None:
        """What `run_once` does after its wait."""
        now = self._world.now
        self._deaths(self._watches.noticed(now))
        self._receive()
        self._events.extend(self._background.collect())
        self._look()
        deadline = self._core.deadline()
        if deadline is not None and deadline <= now:
            self._events.append(on.Ticked())
        self._effects.extend(self._due())
        self._turn()

    def give_key(self, key_id: str) -> None:
        """Somebody hands the key over."""
        self._events.append(on.KeyGiven(key_id=key_id))

    def next_at(self) -> float:
        """When to come back if nothing happens."""
        waits = [self._folders.look_at if self._folders else self._world.now + 1.0, self._world.now + 1.0]
        if self._world.quiet:
            waits = [self._world.now + 20.0]
        deadline = self._core.deadline()
        if deadline is not None:
            waits.append(deadline)
        return max(min(waits), self._world.now + 0.0005)

    def _carry_out(self, effect: do.Effect) -> None:
        self._world.boundary(effect)
        super()._carry_out(effect)

    def _now(self) -> Now:
        world = self._world
        return Now(world.now, world.wall_ms, world.random.random())


class _Places:
    spool = SPOOL


class SimCoordinator:
    """One coordinator process."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.gone = False
        self.resume_at = 0.0
        self._same_time = (0.0, 0)
        session = world.database.session()
        self.generation = session.generation
        self.book = world.database.load()
        self.core = Coordinator(
            self.book, boot_id=world.boot_id, generation=self.generation, idle_exit_s=IDLE_EXIT_S
        )
        self.driver = SimDriver(self, self.core, session)
        self._timer = 0
        self.has_key = False

    def is_intact(self) -> bool:
        """Whether the lock is its own; a filesystem may show it to one alone: then the database tells."""
        return self.world.usurped is not self or self.world.lock_is_blind

    def start(self) -> None:
        self._guarded(self.driver.start)
        if not self.gone and self.world.quiet:
            self.hand_key_over()

    def hand_key_over(self) -> None:
        """A person comes with the API key, where nobody is left to do it."""
        if not self.has_key:
            self.has_key = True
            self.driver.give_key(PLUTO.key_id)
            self.turn()

    def receive(self, peer: bytes, request: Request) -> None:
        self.driver.socket.inbox.append((peer, request))
        self.turn()

    def turn(self) -> None:
        """Deals with everything that is there, then waits for the next deadline."""
        if self.gone:
            return
        self._guarded(self.driver.turn)
        if self.gone:
            return
        if self.driver.stop is not None and self._may_leave():
            self.world.say("coordinator", f"leaves: {self.driver.stop.reason}")
            self.gone = True
            self.driver.close()
            self.world.coordinator_left(self)
            return
        self._plan()

    def _may_leave(self) -> bool:
        stop = self.driver.stop
        assert stop is not None
        if not stop.unless or (self.driver.idle and not self.driver.socket.inbox):
            return True
        self.driver.stop = None
        return False

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except CrashError:
            self.die("at " + self.world.boundary_name)
            return
        except SupersededError:
            self.gone = True
            self.world.say("coordinator", f"generation {self.generation} finds its successor and exits")
            return
        if not self.driver.unkept and self.world.coordinator is self:
            self.world.checks.after_turn(self)

    def _plan(self) -> None:
        at = self.driver.next_at()
        when, count = self._same_time
        self._same_time = (self.world.now, count + 1 if when == self.world.now else 0)
        deadline = self.core.deadline()
        if deadline is not None and deadline <= self.world.now and not self.world.database_full:
            spins = count > MANY_AT_ONCE
            self.world.checks.expect(not spins, f"the deadline {deadline:.3f} stays in the past: it spins")
        self._timer += 1
        timer = self._timer
        self.world.at(at - self.world.now, lambda: self._timer_fired(timer), self, "")

    def _timer_fired(self, timer: int) -> None:
        if timer == self._timer:
            self.turn()

    def die(self, where: str) -> None:
        """SIGKILL."""
        if not self.gone:
            self.gone = True
            self.world.count("coordinator_killed")
            self.world.say("coordinator", f"generation {self.generation} is killed {where}")
            self.world.coordinator_left(self)


__all__ = ["CrashError", "SimCoordinator", "SimDatabase", "node_driver"]
