"""A small world around the core: processes with spools, a server, a coordinator that may die at any moment.

It does what the driver does, in memory and with a clock of its own: an event goes in, what changed is kept,
then the effects are carried out one by one, each of which may lead to further events. Local effects answer
at once; those of worker threads answer after all local ones, unless they are held back (`hold`).

What survives a kill of the coordinator is what it has committed (`saves`, as JSON like in the database), the
spools and the server. `die_after(n)` kills it in front of the n-th effect from now and starts another one.

After each event the `invariants` are called; whoever breaks a guarantee is found at the event that broke it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from pluto_dist.core import effects as do
from pluto_dist.core import events as on
from pluto_dist.core.book import Book
from pluto_dist.core.coordinator import Coordinator
from pluto_dist.core.ids import Identity, Job
from pluto_dist.core.lifecycle import Target
from pluto_dist.core.messages import PROTOCOL, Answer, ForceFinish, Question, Refusal, Reply, Sync, View
from pluto_dist.core.outcomes import Delivered
from pluto_dist.core.records import Lease, Now, Run
from tests.core.invariants import Invariants
from tests.core.processes import PLUTO, Launch, Process
from tests.core.server import Server
from tests.core.spool import Spool

BOOT = "boot-1"
Slow = do.OpenRun | do.Ship | do.Control | do.BeatRun | do.WriteDocument | do.SetAside


class KilledError(Exception):
    """The coordinator is dead."""


class World:
    """One node, one server.

    Attributes:
        target: of claims that name none.
        nudges: whether a lifecycle entry is followed by a message to the coordinator.
        hold: kinds of slow effects (their class names) that are not answered until `release`.
        saves: what has been committed, (table, key) -> JSON.
        views: the last view of each lease; `replies`: answers to questions.
        documents: what the store has, by Run key.
        said: lines of the coordinator's log.
        others: effects that nothing here answers (samples of the node, copies in the store).
    """

    def __init__(self, target: Target = PLUTO, *, idle_exit_s: float = 60.0, leases: int = 0) -> None:
        self.target = target
        self.server = Server()
        self.invariants = Invariants(self)
        self.now = 100_000.0
        self.nudges = True
        self.hold: set[str] = set()
        self.saves: dict[tuple[str, str], bytes] = {}
        self.spools: dict[str, Spool] = {}
        self.owners: dict[str, Process] = {}
        self.processes: list[Process] = []
        self.views: dict[str, View] = {}
        self.replies: list[Answer | Refusal] = []
        self.documents: dict[str, bytes] = {}
        self.set_aside: set[tuple[str, str, int, int]] = set()
        self.said: list[str] = []
        self.others: list[do.Effect] = []
        self.stopped: str | None = None
        self.generation = 0
        self.boot = BOOT
        self.store_broken = False
        self.observers: list[Callable[[do.Effect], None]] = []
        self._idle_exit_s = idle_exit_s
        self._leases = leases  # so many were there before: worlds that meet share no ids
        self._pids = 1000
        self._die_after: int | None = None
        self._core: Coordinator | None = None
        self.start()

    # --- actors -----------------------------------------------------------------------------------

    def process(self, name: str, job: Job | None = None, ancestors: tuple[Identity, ...] = ()) -> Process:
        """A new process; without a job it is its own."""
        self._pids += 1
        identity = Identity(self.boot, 1, self._pids, self._pids * 10, f"n{self._pids}", "host")
        process = Process(self, name, identity, job or Job(key=f"own-{self._pids}"), ancestors)
        self.processes.append(process)
        return process

    def launch(self, name: str = "train", ranks: int = 2, max_restarts: int = 0) -> Launch:
        """A launcher; `start` its ranks."""
        return Launch(self, name, ranks, max_restarts, self.process(f"torchrun-{name}"))

    def ask(self, question: Question) -> Answer | Refusal | None:
        """A person's question and its answer, None if the coordinator died before it could be sent."""
        self.replies.clear()
        self._handle(on.Asked(peer=b"person", question=question))
        self.settle()
        return self.replies[-1] if self.replies else None

    def force_finish(self, run: str, status: str, *, force: bool = True) -> Answer | Refusal | None:
        """`pluto-dist finish`."""
        return self.ask(ForceFinish(request=1, run=run, status=status, force=force))  # type: ignore[arg-type]

    # --- what there is ----------------------------------------------------------------------------

    @property
    def core(self) -> Coordinator:
        assert self._core is not None, "the coordinator is dead"
        return self._core

    @property
    def running(self) -> bool:
        return self._core is not None

    @property
    def book(self) -> Book:
        return self._book

    def run(self, name: str | None = None) -> Run:
        """The Run that is called so, or the only one."""
        runs = [run for run in self.book.runs if name in (None, run.key, run.external_id, run.name)]
        assert len(runs) == 1, f"{name}: {[run.key for run in self.book.runs]}"
        return runs[0]

    def lease(self, process: Process) -> Lease:
        """The record of a process's newest lease."""
        return self.book.leases[process.spool.lease_id]

    def notes(self, run: Run, name: str) -> list[dict[str, str]]:
        """Details of a Run's events of one name."""
        history = self.book.histories.get(run.key)
        return [event.detail for event in history.events if event.name == name] if history else []

    @property
    def wall_ms(self) -> int:
        return 1_700_000_000_000 + round(self.now * 1000)

    def next_lease(self) -> int:
        self._leases += 1
        return self._leases

    # --- the coordinator --------------------------------------------------------------------------

    def start(self, *, hello: bool = True) -> None:
        """A coordinator starts on what was kept; clients that live say hello to it."""
        assert self._core is None
        self.generation += 1
        self.stopped = None
        book = self._book = self.load()
        self._events: deque[on.Event] = deque()
        self._effects: deque[do.Effect] = deque()
        self._slow: deque[Slow] = deque()
        self._tails: dict[str, int] = {}
        self._watched: set[str] = set()
        self._was_watched: set[str] = set()
        self._awaited: set[str] = set()
        self._keys: set[str] = set()
        self._launchers: dict[tuple[str, Identity], None] = {}
        self._sizes: dict[str, dict[str, dict[int, int]]] = {}
        self._core = Coordinator(
            book, boot_id=self.boot, generation=self.generation, idle_exit_s=self._idle_exit_s
        )
        self._take(self._core.start(self._instant()))
        self.settle()
        for spool in tuple(self.spools.values()):
            if spool.lease_id not in self._tails and self.running:
                self._read(spool)
        self.settle()
        if hello:
            self.hello()

    def kill(self) -> None:
        """SIGKILL of the coordinator: what it had not committed or done is gone."""
        self._core = None
        self._events.clear()
        self._effects.clear()
        self._slow.clear()

    def restart(self) -> None:
        """SIGKILL, and another one."""
        self.kill()
        self.start()

    def lose_database(self) -> None:
        """The coordinator is killed, and its memory is gone with it."""
        self.kill()
        self.saves.clear()
        self.invariants = Invariants(self)

    def die_after(self, effects: int) -> None:
        """Kills the coordinator in front of this effect, counted from now; another one is started."""
        self._die_after = effects

    def load(self) -> Book:
        """A book as the database gives it: in the order of the keys."""
        book = Book()
        for (table, key), value in sorted(self.saves.items()):
            book.load(table, key, msgspec.json.decode(value, type=book.tables[table].kind))
        return book

    def hello(self) -> None:
        """All live clients speak."""
        for lease_id, process in tuple(self.owners.items()):
            if process.alive and lease_id in self.spools:
                self.hear(self.spools[lease_id])

    def hear(self, spool: Spool) -> None:
        """A client speaks; it hands over its key when it sees a new coordinator."""
        if not self.running:
            return
        opened = spool.entries[0]
        target = getattr(opened, "target", self.target)
        self.give_key(target)
        message = Sync(
            protocol=PROTOCOL,
            lease_id=spool.lease_id,
            folder=spool.folder,
            entries=len(spool.entries),
            request=1,
        )
        self._handle(on.Synced(peer=spool.lease_id.encode(), message=message))
        self.settle()

    def give_key(self, target: Target) -> None:
        """Somebody of the same user hands over the API key, if the coordinator has none."""
        if target.mode == "pluto" and target.key_id not in self._keys:
            self._keys.add(target.key_id)
            self._handle(on.KeyGiven(key_id=target.key_id))

    def bury(self, process: Process) -> None:
        """A death is noticed by whoever watches."""
        if not self.running:
            return
        for spool in process.spools:
            self._check(spool.lease_id)
        for key, identity in tuple(self._launchers):
            if identity == process.identity:
                self._launcher_died(key, identity)
        self.settle()

    def released(self, spool: Spool) -> None:
        """A client has closed the files of its ended lease; its process lives on."""
        if self.running and spool.lease_id in self._awaited:
            self._awaited.discard(spool.lease_id)
            self._handle(on.LeaseReleased(lease_id=spool.lease_id))
            self.settle()

    def look(self) -> None:
        """The driver's round: sizes and lifecycle entries that are new."""
        if not self.running:
            return
        for lease_id in tuple(self._tails):
            spool = self.spools.get(lease_id)
            if spool is None:
                continue
            sizes = spool.sizes()
            if sizes and sizes != self._sizes.get(lease_id):
                self._sizes[lease_id] = sizes
                self._handle(on.StreamsSeen(lease_id=lease_id, sizes=sizes))
            if len(spool.entries) > self._tails[lease_id]:
                self._read(spool)
        self.settle()

    # --- time -------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Time passes; the coordinator is woken at each of its deadlines."""
        end = self.now + seconds
        while self.running:
            self.look()
            deadline = self.core.deadline()
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
            self.tick()
        self.now = end
        self.look()

    def suspend(self, seconds: float) -> None:
        """The machine sleeps: time has passed, and nobody was there to notice."""
        self.now += seconds
        self.tick()
        self.wait(1.0)

    def tick(self) -> None:
        """A deadline has passed."""
        if self.running:
            self._handle(on.Ticked())
            self.settle()

    def settle(self) -> None:
        """Until nothing is left to do but to wait."""
        while self.running and (self._events or self._effects or self._answerable()):
            try:
                self._turn()
            except KilledError:
                self.kill()
                self.start()

    def release(self, *kinds: str) -> None:
        """Answers what was held back; without names all of it."""
        self.hold -= set(kinds) or self.hold
        self.settle()

    # --- the driver -------------------------------------------------------------------------------

    def _instant(self) -> Now:
        return Now(self.now, self.wall_ms, 0.5)

    def _handle(self, event: on.Event) -> None:
        self._events.append(event)

    def _answerable(self) -> bool:
        return any(type(effect).__name__ not in self.hold for effect in self._slow)

    def _turn(self) -> None:
        while self._events:
            event = self._events.popleft()
            self._take(self.core.handle(event, self._instant()))
            self.invariants.check(event)
        while self._effects and not self._events:
            if self._die_after is not None:
                self._die_after -= 1
                if self._die_after < 0:
                    self._die_after = None
                    raise KilledError
            effect = self._effects.popleft()
            for observer in self.observers:
                observer(effect)
            self._carry_out(effect)
        if not self._events and not self._effects:
            self._answer_one()

    def _take(self, effects: list[do.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, do.Commit):
                for save in effect.saves:
                    if save.value is None:
                        self.saves.pop((save.table, save.key), None)
                    else:
                        self.saves[save.table, save.key] = msgspec.json.encode(save.value)
            else:
                self._effects.append(effect)

    def _carry_out(self, effect: do.Effect) -> None:  # noqa: PLR0912 # one case for each effect
        match effect:
            case do.Send(peer=peer, reply=reply):
                self._deliver(peer, reply)
            case do.ReadLifecycle(lease_id=lease_id):
                self._read(self.spools.get(lease_id) or Spool(lease_id, effect.folder, ""))
            case do.WatchProcess(lease_id=lease_id):
                self._watched.add(lease_id)
                self._check(lease_id)
                self._was_watched.add(lease_id)
            case do.WatchLauncher(run=key, identity=identity):
                self._launchers[key, identity] = None
                if not self._lives(identity):
                    self._launcher_died(key, identity)
            case do.TakeForDead(lease_id=lease_id):
                self._read(self.spools[lease_id])
                self._events.append(on.ProcessDied(lease_id=lease_id, alive_until=self.now))
            case do.CheckLiveness(claim=claim, lease_id=lease_id):
                self._check(lease_id)
                self._events.append(on.LivenessChecked(claim=claim, lease_id=lease_id))
            case do.LookAtStreams(lease_id=lease_id, final=final):
                sizes = self.spools[lease_id].sizes() if lease_id in self.spools else {}
                self._events.append(on.StreamsSeen(lease_id=lease_id, sizes=sizes, final=final))
            case do.FindFence(lease_id=lease_id):
                sizes = self.spools[lease_id].sizes()
                fences = {stream: max(segments.items()) for stream, segments in sizes.items()}
                self._events.append(on.FenceFound(lease_id=lease_id, fences=fences))
            case do.RemoveSegments(lease_id=lease_id, stream=stream, segments=segments):
                for number, size in segments:
                    self.spools[lease_id].remove(stream, number, size)
            case do.RemoveLease(lease_id=lease_id):
                self.invariants.removed(lease_id)
                self.spools.pop(lease_id, None)
                self._tails.pop(lease_id, None)
            case do.AwaitRelease(lease_id=lease_id):
                self._awaited.add(lease_id)
            case do.Say(event=event):
                self.said.append(event)
            case do.StopSelf(reason=reason):
                self.stopped = reason
            case do.OpenRun() | do.Ship() | do.Control() | do.BeatRun() | do.WriteDocument() | do.SetAside():
                self._slow.append(effect)
            case do.ReadUploads(run=key):
                self._events.append(on.UploadsRead(run=key, uploaded=None))
            case _:
                self.others.append(effect)

    def _answer_one(self) -> None:
        for effect in self._slow:
            if type(effect).__name__ not in self.hold:
                self._slow.remove(effect)
                self._events.append(self._answer_to(effect))
                return

    def _answer_to(self, effect: Slow) -> on.Event:
        match effect:
            case do.OpenRun(run=run):
                return on.OpenEnded(run=run, result=self.server.open(effect))
            case do.Control(run=run):
                outcome = self.server.control(effect)
                return on.Controlled(
                    run=run.key, operation=effect.operation, token=effect.token, outcome=outcome
                )
            case do.BeatRun(run=run):
                return on.Beaten(run=run.key, beat=self.server.beat(run.id))
            case do.WriteDocument(run=key, revision=revision, body=body):
                if self.store_broken:
                    return on.DocumentWritten(run=key, revision=revision, error="disk full")
                self.documents[key] = body
                return on.DocumentWritten(run=key, revision=revision)
            case do.SetAside():
                error = "disk full" if self.store_broken else ""
                if not error:
                    self.set_aside.add((effect.lease_id, effect.stream, effect.segment, effect.start))
                return on.RecordSetAside(
                    target=effect.target, lease_id=effect.lease_id, stream=effect.stream, error=error
                )
            case do.Ship():
                return self._ship(effect)

    def _ship(self, effect: do.Ship) -> on.Event:
        spool = self.spools.get(effect.lease_id) or Spool(effect.lease_id, effect.folder, "")
        cut = spool.cut(effect)
        names = {name for record in cut.records for name in record.values}
        unknown = sorted(names - effect.known.keys())
        if unknown:
            return on.NamesFound(
                target=effect.target,
                lease_id=effect.lease_id,
                stream=effect.stream,
                names=dict.fromkeys(unknown, "METRIC"),
            )
        counts = {name: sum(name in record.values for record in cut.records) for name in names}
        last = {name: record for record in cut.records for name in record.values}
        return on.Shipped(
            target=effect.target,
            lease_id=effect.lease_id,
            stream=effect.stream,
            segment=effect.segment,
            start=effect.start,
            end=cut.end,
            lines=len(cut.records),
            skipped=0,
            outcome=self.server.ship(effect, cut.records) if cut.records else Delivered(),
            summary={
                name: on.PointSummary(record.values[name], record.step, counts[name])
                for name, record in last.items()
            },
            max_step=max((record.step for record in cut.records), default=-1),
        )

    def _deliver(self, peer: bytes, reply: Reply) -> None:
        if isinstance(reply, View):
            process = self.owners[reply.lease_id]
            if process.alive:
                self.views[reply.lease_id] = reply
        else:
            self.replies.append(reply)

    def _read(self, spool: Spool) -> None:
        known = self._tails.get(spool.lease_id, 0)
        self._tails[spool.lease_id] = len(spool.entries)
        entries = tuple(enumerate(spool.entries, 1))[known:]
        self._events.append(on.LifecycleRead(lease_id=spool.lease_id, folder=spool.folder, entries=entries))

    def _lives(self, identity: Identity) -> bool:
        return any(process.identity == identity and process.alive for process in self.processes)

    def _check(self, lease_id: str) -> None:
        """If a watched process is dead: reads what it had to say, then says so."""
        process = self.owners.get(lease_id)
        if process is None or process.status is None or lease_id not in self._watched:
            return
        self._watched.discard(lease_id)
        spool = self.spools.get(lease_id)
        if spool is not None:
            self._read(spool)
        seen = lease_id in self._was_watched  # only who watched it can still ask the kernel
        code, signal = process.status if seen else (None, "")
        self._events.append(
            on.ProcessDied(
                lease_id=lease_id,
                alive_until=self.now,
                exit_code=code,
                signal=signal,
                oom=process.oom and seen,
                next_step=process.steps,
            )
        )

    def _launcher_died(self, key: str, identity: Identity) -> None:
        del self._launchers[key, identity]
        self._events.append(on.LauncherDied(run=key, launcher=identity))
