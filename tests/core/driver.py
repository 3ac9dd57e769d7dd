"""What the coordinator's process does, in memory: events in, what changed is kept, effects are carried out.

What survives a kill of the coordinator is what it has committed (`saves`, as JSON like in the database), the
spools and the server. `die_after(n)` kills it in front of the n-th effect from now and starts another one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from pluto_dist.coordinator.worker import ClusterStores, Worker
from pluto_dist.core.machine.coordinator import Coordinator
from pluto_dist.core.values import effects as do
from pluto_dist.core.values import events as on
from pluto_dist.core.values.book import Book
from pluto_dist.core.values.engine import ABSENT, Changed
from pluto_dist.core.values.ids import Identity
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.core.values.messages import Answer, Refusal, Reply, View
from pluto_dist.core.values.records import Now
from pluto_dist.core.values.topics import Batch, Item
from tests.cluster.memory import MemoryStore
from tests.core.invariants import Invariants
from tests.core.processes import PLUTO, Process
from tests.core.reducer import MemoryReducer
from tests.core.server import Server
from tests.core.spool import Spool
from tests.core.workers import Slow, answer_to


class KilledError(Exception):
    """The coordinator is dead."""


class Driver:
    """Runs one coordinator after the other, on what is kept.

    Attributes:
        hold: kinds of slow effects (their class names) that are not answered until `release`.
        saves: what has been committed, (table, key) -> JSON.
        views: the last view of each lease; `replies`: answers to questions, `answers` the same by who asked.
        documents: what the store has, by Run key.
        said: lines of the coordinator's log.
        others: effects that nothing here answers (samples of the node, blobs that are not needed any more).
        copies: ends of the copies in the store, by lease, stream and segment.
    """

    def __init__(
        self,
        target: Target = PLUTO,
        *,
        idle_exit_s: float = 60.0,
        leases: int = 0,
        now: float = 100_000.0,
        node: str = "",
        cluster: MemoryStore | None = None,
        boot: str = "boot-1",
    ) -> None:
        self.target = target
        self.server = Server()
        self.worker = Worker(
            lambda _: self.server,
            clusters=ClusterStores(lambda _: self._shared_store(), lambda: self.now),
            clock=lambda: self.now,
        )
        self.cut_off = False
        self.said_to_server: Callable[[do.Control], None] = lambda _: None
        self.invariants = Invariants(self)
        self.now = now
        self.node = node
        self.cluster = cluster
        self.watches: list[tuple[float, do.WatchCluster]] = []
        self.polled_before_s = 0.0  # a death is noticed this long after its process was last known to live
        self.nudges = True
        self.hold: set[str] = set()
        self.saves: dict[tuple[str, str], bytes] = {}
        self.spools: dict[str, Spool] = {}
        self.owners: dict[str, Process] = {}
        self.processes: list[Process] = []
        self.views: dict[str, View] = {}
        self.replies: list[Answer | Refusal] = []
        self.answers: dict[bytes, list[Answer | Refusal]] = {}
        self.documents: dict[str, bytes] = {}
        self.set_aside: set[tuple[str, str, int, int]] = set()
        self.said: list[str] = []
        self.others: list[do.Effect] = []
        self.copies: dict[tuple[str, str, int], int] = {}
        self.stopped: str | None = None
        self.generation = 0
        self.boot = boot
        self.store_broken = self.spool_broken = False
        self.observers: list[Callable[[do.Effect], None]] = []
        self._idle_exit_s = idle_exit_s
        self._leases = leases  # so many were there before: worlds that meet share no ids
        self._pids = 1000
        self._die_after: int | None = None
        self._core: Coordinator | None = None

    def _shared_store(self) -> MemoryStore:
        assert self.cluster is not None
        return self.cluster

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

    @property
    def wall_ms(self) -> int:
        return 1_700_000_000_000 + round(self.now * 1000)

    def start(self) -> None:
        """A coordinator starts on what was kept."""
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
        self.reducers: dict[str, MemoryReducer] = {}
        self._core = Coordinator(
            book,
            boot_id=self.boot,
            generation=self.generation,
            idle_exit_s=self._idle_exit_s,
            node=self.node,
        )
        self._take(self._core.start(self._instant()))
        self.settle()
        for spool in tuple(self.spools.values()):
            if spool.lease_id not in self._tails and self.running:
                self._read(spool)
        self.settle()

    def kill(self) -> None:
        """SIGKILL of the coordinator: what it had not committed or done is gone."""
        self._core = None
        self.watches.clear()
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

    def give_key(self, target: Target) -> None:
        """Somebody of the same user hands over the API key, if the coordinator has none."""
        if target.mode == "pluto" and target.key_id not in self._keys:
            self._keys.add(target.key_id)
            self._handle(on.KeyGiven(key_id=target.key_id))

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
            case do.GiveItem(peer=peer):
                self._deliver(peer, Answer(request=effect.request, body=self._item(effect)))
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
            case do.PollMembers(run=key, members=members):
                for spool in tuple(self.spools.values()):
                    if spool.lease_id not in self._tails:
                        self._read(spool)
                for lease_id, _ in members:
                    self._read(self.spools[lease_id])
                    self._check(lease_id)
                self._events.append(on.MembersPolled(run=key))
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
            case (
                do.OpenRun()
                | do.Ship()
                | do.Control()
                | do.BeatRun()
                | do.WriteDocument()
                | do.SetAside()
                | do.KeepCopies()
                | do.DropCopies()
                | do.ReduceRanks()
            ):
                self._slow.append(effect)
            case (
                do.JoinCluster()
                | do.RenewCluster()
                | do.LeaveCluster()
                | do.ListCluster()
                | do.WriteCluster()
                | do.ExpireCluster()
            ):
                self._slow.append(effect)
            case do.StoreItems():
                self._slow.append(self._with_items(effect))
            case do.WatchCluster(quiet_s=quiet_s):
                self.watches.append((self.now + quiet_s, effect))
            case do.ReadUploads(run=key):
                self._events.append(on.UploadsRead(run=key, uploaded=None))
            case do.EndReducing(lease_id=lease_id):
                self.reducers.pop(lease_id, None)
            case do.SampleNode() | do.EndSampling() | do.RemoveBlobs():
                self.others.append(effect)
            case _:
                raise AssertionError(f"nobody carries out {effect}")

    def _with_items(self, effect: do.StoreItems) -> do.WriteCluster:
        items = [msgspec.json.decode(self.saves["items", key], type=Item) for key in effect.items]
        return do.WriteCluster(
            run=effect.run,
            address=effect.address,
            token=effect.token,
            key=effect.key,
            value=msgspec.json.encode(Batch(tuple(items), effect.node, effect.origin, effect.first)),
            expect=ABSENT,
        )

    def _answer_one(self) -> None:
        for effect in self._slow:
            if type(effect).__name__ not in self.hold:
                self._slow.remove(effect)
                event = answer_to(self, effect)
                if event is not None:
                    self._events.append(event)
                return

    def look_at_watches(self) -> None:
        """Watches of the cluster store that have something to say, or were quiet for long enough."""
        for pending in tuple(self.watches):
            quiet_at, watch = pending
            assert self.cluster is not None
            found = self.cluster.peek(watch.prefix, watch.as_of)
            if found is None and self.now >= quiet_at:
                found = Changed({}, watch.as_of)
            if found is not None:
                self.watches.remove(pending)
                self._handle(
                    on.ClusterSeen(run=watch.run, prefix=watch.prefix, result=found, read_at=self.now)
                )
                self.settle()

    def _deliver(self, peer: bytes, reply: Reply) -> None:
        if isinstance(reply, View):
            process = self.owners[reply.lease_id]
            if process.alive:
                self.views[reply.lease_id] = reply
        else:
            self.replies.append(reply)
            self.answers.setdefault(peer, []).append(reply)

    def _item(self, effect: do.GiveItem) -> bytes:
        kept = self.saves.get(("items", effect.key))
        return msgspec.json.encode(
            {"number": effect.number, "last": effect.last, "item": msgspec.Raw(kept or b"null")}
        )

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
                alive_until=self.now - self.polled_before_s,
                alive_until_ms=process.died_ms,
                exit_code=code,
                signal=signal,
                oom=process.oom and seen,
                family=process.family,
                next_step=process.steps,
            )
        )

    def _launcher_died(self, key: str, identity: Identity) -> None:
        del self._launchers[key, identity]
        self._events.append(on.LauncherDied(run=key, launcher=identity))
