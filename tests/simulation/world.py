"""One node, one server, one seed: everything happens in one thread, one thing after the other.

A heap of events in simulated time drives processes, the coordinator, messages and requests. The code under
test is the real one: core, driver, worker, spool writer and reader, session, handle and lease of the client.
What is simulated is what they stand on: clock, network, disk, database, kernel, server and store.
"""

from __future__ import annotations

import contextlib
import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Protocol
from unittest import mock

from pluto_dist.client import lease
from pluto_dist.coordinator import driver, reducer, spools, threads, worker
from pluto_dist.core.values.ids import Identity, Job
from pluto_dist.core.values.messages import Reply, Request, View
from pluto_dist.errors import ProtocolError
from pluto_dist.spool import reader, space, writer
from tests.simulation import files as simulated_files
from tests.simulation.checks import Checks, ViolationError
from tests.simulation.coordinator import CrashError, SimCoordinator, SimDatabase
from tests.simulation.files import Storage
from tests.simulation.launcher import Launcher
from tests.simulation.memory_files import MemoryDisk, MemoryFiles
from tests.simulation.plan import QUIET_AFTER_S, Actor, Fault, Plan, Rates
from tests.simulation.processes import LOCAL, PLUTO, Child, Process
from tests.simulation.processes import Kernel as _Kernel
from tests.simulation.server import Server, Store, StoreBackend, value_of

LONGEST_S = 6000.0
START_S = 1000.0
BLIND_LOCKS = 0.5  # so often a lock says nothing of the second coordinator
SETTLED_S = 21.0  # a coordinator at rest is looked at again after this time


class Actress(Protocol):
    """Whoever does something: dead ones do nothing more, stopped ones later."""

    gone: bool
    resume_at: float


class World:
    """Runs one plan.

    Attributes:
        quiet: faults are over and all processes have ended.
        transcript: what happened, line by line.
        counts: faults that happened, by name.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.random = Random(f"world {plan.seed}")
        self.now = START_S
        self.boot_id = "boot-1"
        self.steps = 0
        self.transcript: list[str] = []
        self.counts: Counter[str] = Counter()
        self.rates = plan.rates
        self.disk = MemoryDisk(clock=self.clock)
        self.view = MemoryFiles(self.disk)
        self.kernel = _Kernel()
        self.kernel.listeners.append(self._somebody_died)
        self.database = SimDatabase(self)
        self.store = Store()
        self.server = Server(self)
        self.stored = StoreBackend(self)
        self.files = Storage(self)
        self.target = PLUTO if plan.mode == "pluto" else LOCAL
        self.checks = Checks(self)
        self.coordinator: SimCoordinator | None = None
        self.usurped: SimCoordinator | None = None  # the one before, beside which another one was started
        self.lock_is_blind = Random(f"lock {plan.seed}").random() < BLIND_LOCKS
        self.processes: list[Process] = []
        self.leases: dict[str, Process] = {}
        self.launchers: dict[str, Launcher] = {}
        self.set_aside: set[int] = set()
        self.removed: set[str] = set()
        self.database_full = False
        self.outages: list[tuple[float, float]] = []
        self.powered_off = False
        self.boundary_name = ""
        self._heap: list[tuple[float, int, Callable[[], None], Actress | None]] = []
        self._order = 0
        self._numbers = 0
        self._crash_in: int | None = None
        self._launching = False
        self._rest_since: float | None = None
        self._partitioned_until = 0.0
        self._down_since: float | None = START_S
        self.server.on_report = self.checks.reported

    # --- time ---------------------------------------------------------------------------------------

    def clock(self) -> float:
        """The machine's time since boot, in seconds."""
        return self.now

    @property
    def wall_ms(self) -> int:
        """Epoch milliseconds."""
        return 1_700_000_000_000 + round(self.now * 1000)

    def ms(self) -> int:
        """For the handle's wall clock."""
        return self.wall_ms

    @property
    def faulty(self) -> bool:
        """Whether accidents may happen now."""
        return self.now < START_S + QUIET_AFTER_S

    @property
    def quiet(self) -> bool:
        """Nobody is left, so nothing needs to be quick."""
        return not self.faulty and all(process.gone for process in self.processes)

    def at(self, delay: float, work: Callable[[], None], who: Actress | None, label: str = "") -> None:
        """Plans an event."""
        self._order += 1
        heapq.heappush(self._heap, (self.now + max(0.0, delay), self._order, work, who))

    def number(self) -> int:
        """A number that nothing else has."""
        self._numbers += 1
        return self._numbers

    def say(self, who: str, what: str) -> None:
        """One line of the transcript."""
        self.transcript.append(f"{self.now - START_S:10.4f} {self.steps:6d} {who:12s} {what}")

    def count(self, fault: str, times: int = 1) -> None:
        """Something went wrong, on purpose."""
        self.counts[fault] += times

    def run(self, steps: int | None = None) -> None:
        """The whole history; raises `ViolationError`."""
        with installed(self):
            for actor in self.plan.actors:
                self.at(actor.start, self._starter(actor), None)
            for fault in self.plan.faults:
                self.at(fault.at, self._striker(fault), None)
            self.at(QUIET_AFTER_S, self._faults_end, None)
            while self._heap and (steps is None or self.steps < steps):
                self._step()
                if self.quiet and self._finished():
                    break
                if self.now > START_S + LONGEST_S:
                    raise ViolationError(f"not at rest after {LONGEST_S:g} s: {self.checks.unrest()}")
            if steps is None:
                self.checks.at_the_end()

    def _step(self) -> None:
        when, _, work, who = heapq.heappop(self._heap)
        if who is not None:
            if who.gone:
                return
            if who.resume_at > when:
                self._order += 1
                heapq.heappush(self._heap, (who.resume_at, self._order, work, who))
                return
        self.now = max(self.now, when)
        self.steps += 1
        work()

    def _finished(self) -> bool:
        if self.coordinator is None:
            self.launch("a person")
            return False
        self.coordinator.hand_key_over()
        if self.coordinator is None:
            return False
        if not self.coordinator.core.at_rest:
            self._rest_since = None
            return False
        if self._rest_since is None:
            self._rest_since = self.now
        return self.now >= self._rest_since + SETTLED_S

    # --- actors -------------------------------------------------------------------------------------

    def _starter(self, actor: Actor) -> Callable[[], None]:
        return lambda: self.start_actor(actor)

    def start_actor(self, actor: Actor) -> None:
        """A process begins; ranks begin under their launcher."""
        if actor.rank is not None:
            launcher = self.launchers.get(actor.job)
            if launcher is None:
                launcher = self.launchers[actor.job] = Launcher(self, actor.job, self.plan)
            if launcher.gone:
                return
            launcher.start(actor)
            return
        parents = self._parents(actor)
        if parents is None:
            return
        identity = self.kernel.spawn(self.boot_id, self.ticks())
        process = Process(self, actor, identity, Job(key=f"{actor.job}-{identity.pid}-{identity.start}"))
        process.ancestors = process.parents = parents
        self.begin(process)

    def _parents(self, actor: Actor) -> tuple[Identity, ...] | None:
        """The process that starts it, None if that one is not at work."""
        if actor.parent is None:
            return ()
        parent = self.at_work(actor.parent)
        return (parent.identity, *parent.ancestors) if parent is not None else None

    def at_work(self, name: str) -> Process | None:
        """The newest process of an actor, if its lease is open."""
        named = [process for process in self.processes if process.name == name]
        working = named and not (named[-1].gone or named[-1].leaving) and named[-1].lease is not None
        return named[-1] if working else None

    def begin(self, process: Process) -> None:
        """It calls `init()` or `attach()`."""
        self.processes.append(process)
        process.open()

    def execute(self, process: Process) -> None:
        """`exec`: the old program is gone without a word, another one is in its place."""
        process.gone = True
        process.files.die()
        self.say(process.name, "execs another program")
        identity = self.kernel.execute(process.identity, f"x{self.number()}")
        actor = process.actor
        again = Actor(**{**_fields(actor), "end": "finish", "duration": 2.0, "forks": False})
        self.begin(Process(self, again, identity, process.job))

    def ticks(self) -> int:
        """Start time of a process in clock ticks."""
        return round(self.now * 100) * 1000 + self.number() % 1000

    # --- network ------------------------------------------------------------------------------------

    def to_coordinator(self, peer: bytes, request: Request) -> None:
        """A message leaves a client."""
        self._send(lambda: self._deliver_request(peer, request))

    def to_client(self, peer: bytes, reply: Reply) -> None:
        """A message leaves the coordinator."""
        self._send(lambda: self._deliver_reply(peer, reply))

    def _send(self, arrive: Callable[[], None]) -> None:
        if self.now < self._partitioned_until:
            self.count("message_cut_off")
            return
        rates, random = self.rates, self.random
        if random.random() < rates.lost:
            self.count("message_lost")
            return
        for _ in range(2 if random.random() < rates.doubled else 1):
            self.at(random.choice((0.0002, 0.001, 0.02)), arrive, None)

    def _deliver_request(self, peer: bytes, request: Request) -> None:
        coordinator = self.coordinator
        if coordinator is None:
            return
        if self.now < coordinator.resume_at:
            self.at(coordinator.resume_at - self.now, lambda: self._deliver_request(peer, request), None)
            return
        coordinator.receive(peer, request)

    def _deliver_reply(self, peer: bytes, reply: Reply) -> None:
        process = self.leases.get(peer.decode())
        if process is None or process.gone:
            return
        if isinstance(reply, View):
            self.at(0.0, lambda: process.hear(reply), process)
        else:
            self.at(0.0, lambda: process.answered(reply), process)

    # --- coordinator --------------------------------------------------------------------------------

    def launch(self, who: str) -> bool:
        """Somebody starts a coordinator, if there is none; True if there is one."""
        if self.coordinator is None and not self._launching:
            self._launching = True
            self.at(self.random.choice((0.1, 0.3)), lambda: self._start_coordinator(who), None)
        return self.coordinator is not None

    def _start_coordinator(self, who: str) -> None:
        self._launching = False
        if self.coordinator is not None:
            return
        if self._down_since is not None:
            self.outages.append((self._down_since, self.now))
            self._down_since = None
        coordinator = self.coordinator = SimCoordinator(self)
        self.say("coordinator", f"generation {coordinator.generation} starts for {who}")
        coordinator.start()
        coordinator.turn()

    def coordinator_left(self, coordinator: SimCoordinator) -> None:
        """It is dead or has left."""
        if self.coordinator is coordinator:
            self.coordinator = None
            self._down_since = self.now
            for process in dict.fromkeys(self.leases.values()):
                self.at(0.001, process.unlinked, process)

    def boundary(self, what: object) -> None:
        """A place where a coordinator may be killed."""
        self.boundary_name = what if isinstance(what, str) else type(what).__name__
        if self._crash_in is not None:
            self._crash_in -= 1
            if self._crash_in < 0:
                self._crash_in = None
                raise CrashError

    def _somebody_died(self) -> None:
        """pidfds wake the coordinator."""
        coordinator = self.coordinator
        if coordinator is not None:
            self.at(0.0005, coordinator.turn, coordinator)

    def outages_touch(self, at: float) -> bool:
        """Whether no coordinator was looking around this time."""
        spans = [*self.outages, *([(self._down_since, self.now)] if self._down_since is not None else [])]
        return any(start - 2.0 <= at <= end + 2.0 for start, end in spans)

    # --- faults -------------------------------------------------------------------------------------

    def _striker(self, fault: Fault) -> Callable[[], None]:
        return lambda: self._strike(fault)

    def _strike(self, fault: Fault) -> None:  # noqa: PLR0912 # one case for each fault
        self.count(fault.kind)
        self.say("fault", f"{fault.kind} {fault.seconds:g} s {fault.number}")
        match fault.kind:
            case "crash":
                self._crash_in = fault.number
            case "pause" if self.coordinator is not None:
                self.coordinator.resume_at = self.now + fault.seconds
                self.outages.append((self.now, self.now + fault.seconds))
            case "freeze" | "kill" if self.processes:
                process = self.processes[fault.number % len(self.processes)]
                process.resume_at = self.now + fault.seconds if fault.kind == "freeze" else 0.0
                if fault.kind == "kill":
                    process.die((None, "SIGKILL"))
            case "usurp" if self.coordinator is not None:
                self.usurped = self.coordinator
                self.coordinator_left(self.coordinator)  # it goes on, and nobody speaks to it any more
                self.launch("somebody who found no lock")
            case "teardown" | "power":
                self._teardown(fault)
            case "full":
                self.disk.capacity = self.disk.used + self.random.choice((0, 20, 100))
                self.at(fault.seconds, lambda: setattr(self.disk, "capacity", 1 << 40), None)
            case "slow":
                self.disk.before = self._slow_disk
                self.at(fault.seconds, lambda: setattr(self.disk, "before", _nothing), None)
            case "outage":
                self.server.down = True
                self.at(fault.seconds, lambda: setattr(self.server, "down", False), None)
            case "partition":
                self._partitioned_until = self.now + fault.seconds
            case "database":
                self.database_full = True
                self.outages.append(
                    (self.now, self.now + fault.seconds)
                )  # what it cannot keep it does not do
                self.at(fault.seconds, lambda: setattr(self, "database_full", False), None)
            case "cancel":
                for run_id in self.server.runs:
                    self.server.cancel(run_id)
                    self.checks.cancelled(run_id)

    def _slow_disk(self, operation: str) -> None:
        if operation in ("write", "sync", "sizes"):
            self.now += self.random.choice((0.0, 0.0, 0.002, 0.02))

    def _teardown(self, fault: Fault) -> None:
        """Everything of the node is killed at once; somebody comes back later."""
        for process in self.processes:
            process.die((None, "SIGKILL"))
            process.tear_down((None, "SIGKILL"))
            for child in process.children:
                child.die()
        for launcher in self.launchers.values():
            launcher.die()
        if self.coordinator is not None:
            self.coordinator.die("with everything else")
        self.say("fault", "everything on the node is dead")
        if fault.kind == "power":
            self.powered_off = True
            self.disk.power_loss(self.random)
            self.database.power_loss()
            self.boot_id = f"boot-{self.number()}"
            self.checks.recount()
        self.at(fault.seconds, lambda: self.launch("a person"), None)

    def _faults_end(self) -> None:
        self.say("fault", "no more faults")
        self.rates = Rates()
        self._crash_in = None
        self.disk.capacity, self.disk.before = 1 << 40, _nothing
        self.server.down = self.database_full = False
        if self.coordinator is None:
            self.launch("a person")

    # --- the ledger ---------------------------------------------------------------------------------

    def accepted(self, process: Process, value: int, kind: str, chain: str, *, poison: bool) -> None:
        """`append` took a record."""
        assert process.lease is not None
        self.checks.accepted(process.lease.lease_id, process.name, value, kind, chain, poison)

    def shared(self, process: Process, what: str, name: str) -> None:
        """A tag or a config value was written, or will be when the disk takes it."""
        self.checks.shared(process, what, name)

    def backend(self, mode: str) -> Any:
        """The target of a mode."""
        return self.server if mode == "pluto" else self.stored


def _nothing(operation: str) -> None:
    pass


def _fields(actor: Actor) -> dict[str, Any]:
    return {name: getattr(actor, name) for name in Actor.__dataclass_fields__}


@contextlib.contextmanager
def installed(world: World) -> Iterator[None]:
    """Puts the simulated machine under the real code."""

    def files() -> MemoryFiles:
        return world.view

    def check_exists(folder: str) -> None:
        if not world.view.sizes(folder):
            raise ProtocolError(f"there is no lease folder {folder}")

    def remove_folder(folder: str) -> None:
        world.checks.folder_goes(folder)
        world.removed.add(folder)
        for path in [path for path in world.disk.files if path.startswith(f"{folder}/")]:
            del world.disk.files[path]

    def family(folder: str) -> bool:
        process = world.leases.get(folder.rsplit("/", 1)[-1])
        return process is not None and any(not child.gone for child in process.children)

    def released(folder: str) -> bool:
        process = world.leases.get(folder.rsplit("/", 1)[-1])
        ended = process is None or process.released or process.truth.noticed is not None
        gone = ended or process.truth.execed is not None  # the lock's descriptor is closed by `exec`
        return gone and not family(folder) and not spools.still_written(folder)

    def say(event: str, **fields: str) -> None:
        world.checks.logged(event, fields)

    class SimStore:
        """Stands for the store where records are set aside."""

        def __init__(self, path: object) -> None:
            pass

        def set_aside(self, run: str, record: bytes) -> None:
            world.set_aside.add(value_of(json.loads(record)["record"].encode())[1])

    with contextlib.ExitStack() as stack:
        stack.enter_context(simulated_files.installed(world))
        stack.enter_context(mock.patch.object(worker, "Store", SimStore))
        stack.enter_context(mock.patch.object(reducer, "make_folder", _nothing))
        for module in (reader, space, spools, space, writer):
            stack.enter_context(mock.patch.object(module, "real_files", files))
        for module in (driver, lease):
            stack.enter_context(mock.patch.object(module, "boot_clock", world.clock))
        for module in (threads, spools, driver, driver):
            stack.enter_context(mock.patch.object(module, "say", say))
        for name, stand_in in {
            "lease_ids": lambda spool: world.view.folders(f"{spool}/leases"),
            "check_exists": check_exists,
            "remove_folder": remove_folder,
            "has_family": family,
            "is_released": released,
        }.items():
            stack.enter_context(mock.patch.object(spools, name, stand_in))
        yield


__all__ = ["Child", "Identity", "ViolationError", "World", "defaultdict", "installed"]
