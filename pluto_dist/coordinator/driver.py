"""The driver: the loop around the core. Waits, turns what happens into events, carries effects out.

One thread decides; a few others carry out what takes long and hand back events. All events that are there are
handled before one transaction keeps what changed, and only then effects leave (R1): so sixty-four processes
that attach at once cost a few transactions, not sixty-four. While a full disk refuses the transaction,
effects wait; nothing is lost.

API keys are in this process's memory, and nowhere else (G11).
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import assert_never

import msgspec
import zmq

from pluto_dist.coordinator import spools
from pluto_dist.coordinator.database import Database, DatabaseUnusableError, SupersededError
from pluto_dist.coordinator.log import say
from pluto_dist.coordinator.spools import LeaseFolders
from pluto_dist.coordinator.threads import Background
from pluto_dist.coordinator.watches import Death, Watches
from pluto_dist.coordinator.worker import Slow, Worker
from pluto_dist.core.machine.coordinator import Coordinator
from pluto_dist.core.values import effects as do
from pluto_dist.core.values import events as on
from pluto_dist.core.values.effects import Commit, Save
from pluto_dist.core.values.engine import ABSENT
from pluto_dist.core.values.ids import Identity
from pluto_dist.core.values.messages import Answer, HandOverKey, Refusal, Request, Sync
from pluto_dist.core.values.records import Now
from pluto_dist.core.values.topics import Batch, Item
from pluto_dist.errors import MachineError, ProtocolError, SettingError
from pluto_dist.host.identity import boot_clock
from pluto_dist.host.places import Places
from pluto_dist.secret import Secret
from pluto_dist.spool.file_lines import remove_blobs
from pluto_dist.spool.space import remove
from pluto_dist.transport.zeromq import RouterServer

_encode = msgspec.json.Encoder().encode

AGAIN_S = 1.0  # after the disk refused something

_OnProcess = do.WatchProcess | do.TakeForDead | do.WatchLauncher | do.CheckLiveness | do.PollMembers
_InSpool = (
    do.ReadLifecycle
    | do.LookAtStreams
    | do.FindFence
    | do.RemoveSegments
    | do.RemoveBlobs
    | do.AwaitRelease
    | do.RemoveLease
)


class Driver:
    """Runs one coordinator until `StopSelf`.

    Args:
        core: the decisions.
        places: of this node.
        database, server: opened by the caller, under the coordinator's lock.
        worker: carries out slow effects.
        keys: API keys, in memory only.
        intact: whether the coordinator's lock is still its own; if not, nothing leaves any more (R3).
        before_ms: when the coordinator before this one was last known to serve, epoch milliseconds; 0 if
            there was none.

    Raises:
        SupersededError: from `start` and `run_once`: there is another coordinator.
    """

    def __init__(
        self,
        core: Coordinator,
        places: Places,
        database: Database,
        server: RouterServer,
        worker: Worker,
        keys: Keys,
        intact: Callable[[], bool],
        before_ms: int = 0,
    ) -> None:
        self._core = core
        self._before_ms = before_ms
        self._inherited: set[str] | None = set()
        self._database = database
        self._commits = GroupCommit(database)
        self._server = server
        self._worker = worker
        self._keys = keys
        self._watches = Watches()
        self._intact = intact
        self._background = Background(worker, intact)
        self._folders = LeaseFolders(places.spool)
        self._events: deque[on.Event] = deque()
        self._launchers: dict[str, Identity] = {}
        self._effects: deque[do.Outward] = deque()
        self._put_off: list[tuple[float, do.Outward]] = []
        self.stop: do.StopSelf | None = None

    def start(self) -> None:
        """Takes over what earlier coordinators and processes left behind."""
        self._take(self._core.start(self._now()))
        self._turn()
        self._inherited = None
        self._events.extend(self._folders.scan(boot_clock()))
        self._turn()

    def run_once(self, longest_s: float) -> None:
        """Waits for something to happen, at most so long, and handles it."""
        poller = zmq.Poller()
        poller.register(self._server.socket, zmq.POLLIN)
        if self._background.wake is not None:
            poller.register(self._background.wake, zmq.POLLIN)
        if self._watches.descriptor is not None:
            poller.register(self._watches.descriptor, zmq.POLLIN)
        ready = dict(poller.poll(self._timeout_ms(longest_s)))
        polled_at = boot_clock()
        if self._watches.descriptor in ready:
            self._deaths(self._watches.readable(polled_at))
        self._watches.polled(polled_at)
        self._receive()
        self._events.extend(self._background.collect())
        self._look()
        deadline = self._core.deadline()
        if deadline is not None and deadline <= boot_clock():
            self._events.append(on.Ticked())
        self._effects.extend(self._due())
        self._turn()

    def close(self) -> bool:
        """Waits for requests in flight; their outcomes are kept, the rest is left to the next coordinator.

        Returns:
            False if a request is still in flight.
        """
        self._events.extend(self._background.close())
        while self._events:
            self._take(self._core.handle(self._events.popleft(), self._now()))
        self._commits.keep(boot_clock())
        return self._background.quiet

    @property
    def idle(self) -> bool:
        """Whether no process is attached and nothing is left to do."""
        return self._core.at_rest

    # --- what happens -----------------------------------------------------------------------------

    def _receive(self) -> None:
        for peer, request in self._server.receive():
            try:
                self._events.append(self._event_of(peer, request))
            except ProtocolError as error:
                number = getattr(request, "request", 0)
                self._server.send(peer, Refusal(request=number, error=error.code, message=error.message))

    def _event_of(self, peer: bytes, request: Request) -> on.Event:
        if isinstance(request, HandOverKey):
            self._key(request.key)
            request = msgspec.structs.replace(request, key="")
        if not isinstance(request, Sync):
            return on.Asked(peer=peer, question=request)
        self._folders.check(request.lease_id, request.folder)
        self._watches.note_message(request.lease_id, boot_clock())
        if request.key:
            self._key(request.key)
            request = msgspec.structs.replace(request, key="")
        return on.Synced(peer=peer, message=request)

    def _key(self, key: str) -> None:
        self._events.append(on.KeyGiven(key_id=self._keys.remember(key)))

    def _deaths(self, deaths: Iterable[Death], *, replaced: bool = False) -> None:
        """Adds events of deaths, behind those of what each process had written before (R1)."""
        for death in deaths:
            if death.key.startswith("run:"):
                run = death.key.removeprefix("run:")
                self._events.append(on.LauncherDied(run=run, launcher=self._launchers.pop(run)))
                continue
            self._events.extend(self._folders.died(death.key, boot_clock()))
            status = death.status
            self._events.append(
                on.ProcessDied(
                    lease_id=death.key,
                    alive_until=death.alive_until,
                    alive_until_ms=self._alive_until_ms(death),
                    exit_code=status.exit_code if status is not None else None,
                    signal=status.signal if status is not None else "",
                    oom=death.oom,
                    next_step=self._folders.next_step(death.key),
                    replaced=replaced,
                    family=spools.has_family(self._folders.folder(death.key)),
                )
            )

    def _alive_until_ms(self, death: Death) -> int:
        """The time at which a process was last known to live, for people; 0 if not known."""
        known_ms = spools.last_written_ms(self._folders.folder(death.key))
        if death.seen:
            ago_ms = round((boot_clock() - death.alive_until) * 1000)
            known_ms = max(known_ms, time.time_ns() // 1_000_000 - ago_ms)
        elif self._inherited is not None and death.key in self._inherited:
            known_ms = max(known_ms, self._before_ms)
        return known_ms

    def _look(self) -> None:
        """Looks at locks and spools when it is time."""
        now = boot_clock()
        if self._watches.probe_interval_s is not None:
            self._deaths(self._watches.look(now))
        self._events.extend(self._folders.look(now))

    # --- what to do -------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Handles all events, keeps what changed, carries the effects out; until nothing is left."""
        while self._events or self._effects:
            while self._events:
                self._take(self._core.handle(self._events.popleft(), self._now()))
            # No effect leaves before the changes behind it are on disk (R1), nor after the lock is lost (R3).
            if not self._commits.keep(boot_clock()):
                return
            if self._effects and not self._intact():
                raise SupersededError("the lock file was replaced; another coordinator may have it")
            effects, self._effects = self._effects, deque()
            self._background.expect(effects)
            for effect in effects:
                try:
                    self._carry_out(effect)
                except OSError as error:
                    self._try_later(effect, error)

    def _take(self, effects: Iterable[do.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, do.Commit):
                self._commits.add(effect)
            else:
                self._effects.append(effect)

    def _try_later(self, effect: do.Outward, error: OSError) -> None:
        self._folders.log_trouble(getattr(effect, "lease_id", ""), error)
        self._put_off.append((boot_clock() + AGAIN_S, effect))

    def _due(self) -> list[do.Outward]:
        """Effects that the disk refused earlier and that are to be tried again."""
        now = boot_clock()
        due = [effect for at, effect in self._put_off if at <= now]
        self._put_off = [later for later in self._put_off if later[0] > now]
        return due

    def _carry_out(self, effect: do.Outward) -> None:
        if isinstance(effect, Slow):
            self._background.submit(effect)
        elif isinstance(effect, _OnProcess):
            self._carry_out_on_process(effect, boot_clock())
        elif isinstance(effect, _InSpool):
            self._carry_out_in_spool(effect, boot_clock())
        elif isinstance(effect, do.Send):
            self._server.send(effect.peer, effect.reply)
        elif isinstance(effect, do.GiveItem):
            self._server.send(effect.peer, Answer(request=effect.request, body=self._item(effect)))
        elif isinstance(effect, do.StoreItems):
            self._background.submit(self._with_items(effect))
        elif isinstance(effect, do.Say):
            say(effect.event, **effect.fields)
        elif isinstance(effect, do.EndReducing):
            self._worker.reducer.end(effect.lease_id)
        elif isinstance(effect, do.EndSampling):
            self._worker.recorder.end(effect.lease_id)
        elif isinstance(effect, do.StopSelf):
            self.stop = effect
        else:
            assert_never(effect)

    def _item(self, effect: do.GiveItem) -> bytes:
        """What a subscriber gets; one that cannot be read any more has no payload."""
        try:
            item = self._database.item(effect.key)
        except MachineError as error:
            say("item_unreadable", item=effect.key, error=error.message)
            item = None
        return _encode({"number": effect.number, "last": effect.last, "item": item})

    def _with_items(self, effect: do.StoreItems) -> do.WriteCluster:
        """The change with its items; one that cannot be read any more keeps its number, without a payload."""
        items = []
        for key in effect.items:
            try:
                item = self._database.item(key)
            except MachineError as error:
                say("item_unreadable", item=key, error=error.message)
                item = None
            items.append(item or Item(msgspec.Raw(b"null"), 0, ""))
        return do.WriteCluster(
            run=effect.run,
            address=effect.address,
            token=effect.token,
            key=effect.key,
            value=_encode(Batch(tuple(items), effect.node, effect.origin, effect.first)),
            expect=ABSENT,
        )

    def _carry_out_on_process(self, effect: _OnProcess, now: float) -> None:
        match effect:
            case do.WatchProcess(lease_id=lease_id, folder=folder, identity=identity):
                if self._inherited is not None:
                    self._inherited.add(lease_id)
                self._watches.start(lease_id, identity, folder, now)
                self._deaths(self._watches.check(lease_id, now))
            case do.TakeForDead(lease_id=lease_id):
                self._watches.stop(lease_id)
                self._deaths([Death(lease_id, now, None, oom=False)], replaced=True)
            case do.WatchLauncher(run=run, identity=identity):
                if self._launchers.get(run) != identity:  # the Run belongs to another job now
                    self._watches.stop(f"run:{run}")
                self._launchers[run] = identity
                self._watches.start(f"run:{run}", identity, None, now)
                self._deaths(self._watches.check(f"run:{run}", now))
            case do.CheckLiveness(claim=claim, lease_id=lease_id):
                self._deaths(self._watches.check(lease_id, now))
                self._events.append(on.LivenessChecked(claim=claim, lease_id=lease_id))
            case do.PollMembers(run=run, members=members):
                self._events.extend(self._folders.scan(now))
                for lease_id, folder in members:
                    self._events.extend(self._folders.read(lease_id, folder))
                    self._deaths(self._watches.check(lease_id, now))
                self._events.append(on.MembersPolled(run=run))
            case _:
                assert_never(effect)

    def _carry_out_in_spool(self, effect: _InSpool, now: float) -> None:
        match effect:
            case do.ReadLifecycle(lease_id=lease_id, folder=folder):
                self._events.extend(self._folders.read(lease_id, folder))
            case do.LookAtStreams(lease_id=lease_id, folder=folder, final=final):
                self._events.append(self._folders.seen(lease_id, folder, final=final, now=now))
            case do.FindFence(lease_id=lease_id, folder=folder):
                self._events.append(_fence(lease_id, folder))
            case do.RemoveSegments(lease_id=lease_id, folder=folder, stream=stream, segments=segments):
                for segment, size in segments:
                    remove(folder, stream, segment, size)
                self._folders.look_again(lease_id)
            case do.RemoveBlobs():
                remove_blobs(effect.folder, effect.stream, effect.segment, effect.start, effect.end)
            case do.AwaitRelease(lease_id=lease_id):
                self._folders.await_release(lease_id)
            case do.RemoveLease(lease_id=lease_id, folder=folder):
                self._watches.stop(lease_id)
                self._folders.remove(lease_id, folder)
            case _:
                assert_never(effect)

    def _now(self) -> Now:
        return Now(boot_clock(), time.time_ns() // 1_000_000, random.random())  # noqa: S311 # backoff jitter

    def _timeout_ms(self, longest_s: float) -> int:
        now = boot_clock()
        waits = [longest_s, max(0.0, self._folders.look_at - now) if self._folders else longest_s]
        deadline = self._core.deadline()
        if deadline is not None:
            waits.append(max(0.0, deadline - now))
        if self._watches.probe_interval_s is not None:
            waits.append(self._watches.probe_interval_s)
        return int(min(waits) * 1000) + 1


def _fence(lease_id: str, folder: str) -> on.FenceFound:
    sizes, _ = spools.record_sizes(folder)
    fences = {stream: max(segments.items()) for stream, segments in sizes.items() if segments}
    return on.FenceFound(lease_id=lease_id, fences=fences)


KEPT_AGAIN_S = 1.0


class GroupCommit:
    """Gathers commits, and writes one transaction for all since the last.

    Args:
        database: opened by the caller.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._saves: dict[tuple[str, str], Save] = {}
        self._durable = self._awaited = False
        self._not_before = 0.0
        self._works = True

    def add(self, commit: Commit) -> None:
        """Adds a commit to the next transaction."""
        self._saves.update({(save.table, save.key): save for save in commit.saves})
        self._durable = self._durable or commit.durable
        self._awaited = self._awaited or commit.awaited

    def keep(self, now: float) -> bool:
        """Writes the transaction; False if it failed and effects have to wait for it (R1).

        Raises:
            SupersededError: there is a newer coordinator.
        """
        if self._saves and now >= self._not_before:
            try:
                self._database.commit(self._saves.values(), durable=self._durable)
            except DatabaseUnusableError as error:
                self._not_before = now + KEPT_AGAIN_S
                self._tell(error.message)
            else:
                self._saves.clear()
                self._durable = self._awaited = False
                self._tell("")
        return not (self._saves and self._awaited)

    def _tell(self, trouble: str) -> None:
        if self._works == bool(trouble):
            self._works = not trouble
            say("keeps_again" if self._works else "cannot_keep", error=trouble)


class Keys:
    """Keys by their digest; processes hand them over, again after a restart of the coordinator."""

    def __init__(self) -> None:
        self._keys: dict[str, Secret] = {}
        self._lock = threading.Lock()

    def remember(self, key: str) -> str:
        """Keeps a key; returns its digest, as it stands in `Target.key_id`.

        Raises:
            ProtocolError: what came is no key.
        """
        try:
            secret = Secret(key)
        except SettingError as error:
            raise ProtocolError(error.message) from None
        with self._lock:
            self._keys[secret.digest] = secret
        return secret.digest

    def get(self, key_id: str) -> Secret | None:
        """The key with this digest."""
        with self._lock:
            return self._keys.get(key_id)
