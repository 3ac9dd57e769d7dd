"""Simulated processes with the real client: handle, session, and spool writers over files in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from pluto_dist.client.lease import Lease
from pluto_dist.client.lease_files import LeaseFiles, RoomForRecords
from pluto_dist.client.run import Run
from pluto_dist.core.rules.session import Session
from pluto_dist.core.values.ids import Identity, Job, RunRef
from pluto_dist.core.values.lifecycle import Claim, Closed, Counted, Finished, Target
from pluto_dist.core.values.messages import PROTOCOL, Answer, Refusal, Sync, View
from pluto_dist.host.settings import Settings
from pluto_dist.secret import Secret
from pluto_dist.spool.writer import Limits, Room, StreamWriter
from tests.simulation.files import log_file
from tests.simulation.memory_files import MemoryFiles
from tests.simulation.plan import Actor
from tests.simulation.topics import Loop, Publisher

if TYPE_CHECKING:
    from tests.simulation.world import World

KEY = "simulated-key-0123456789"
PLUTO = Target(
    "pluto", "/store", "http://api", "http://ingest", "http://py", "http://app", Secret(KEY).digest
)
LOCAL = Target("local", "/store")
EXIT_WAIT_S = 20.0
SEGMENT_BYTES = 700
Status = tuple[int | None, str]


@dataclass
class Truth:
    """What really happened to a process, for the oracle.

    Attributes:
        evidence: (time, kind, exit code) of what it said and what reached the disk.
        ended: (time, "finished" or "closed", code, at_exit) of its last word.
        died: (time, exit code, signal).
        noticed: when the kernel had torn it down.
        stopped: when its parent has ended it.
        stop_unsaid: the disk was full just then, so that the parent's word for it may come too late.
    """

    evidence: list[tuple[float, str, int | None]] = field(default_factory=list)
    ended: tuple[float, str, int | None, bool] | None = None
    died: tuple[float, int | None, str] | None = None
    noticed: float | None = None
    execed: float | None = None
    stopped: float | None = None
    stop_unsaid: bool = False


class _Lock:
    """The lease file's lock; whether it is held is `Process.released`."""

    def release(self) -> None:
        pass


class _Endless:
    """No quota."""

    def shortage(self) -> str:
        return ""


class SimLease(LeaseFiles):
    """A lease folder in memory."""

    def __init__(self, process: Process, lease_id: str) -> None:
        self.lease_id = lease_id
        self.folder: Any = f"/spool/leases/{lease_id}"
        self.declared = self.undeclared = 0
        self._unsaid = deque()
        self._machine = False
        self.lock: Any = _Lock()
        self.room = RoomForRecords(_Endless())
        for stream in ("lifecycle", "metrics", "data", "files", "console"):
            room = None if stream == "lifecycle" else self.room
            setattr(self, stream, process.writer(self.folder, stream, room))


class Process:
    """One process and, once it has called `init` or `attach`, its lease.

    Attributes:
        parents: processes of whose program it is a part.
        start: of a rank, the how manieth start of its job it is in.
    """

    def __init__(self, world: World, actor: Actor, identity: Identity, job: Job) -> None:
        self.world = world
        self.actor = actor
        self.name = actor.name
        self.identity = identity
        self.job = job
        self.ancestors: tuple[Identity, ...] = ()
        self.parents: tuple[Identity, ...] = ()
        self.start = 0
        self.gone = False
        self.resume_at = 0.0
        self.files = MemoryFiles(world.disk)
        self.truth = Truth()
        self.lease: SimLease | None = None
        self.released = False
        self.leaving = False
        self.children: list[Child] = []
        self._timer = 0
        self._wait: tuple[Callable[[View], bool], float, Callable[[bool], None]] | None = None
        self._hand_over_key = world.target.mode == "pluto"
        self._linked = True
        self._next_step = self._points = 0
        self._said: set[tuple[str, int]] = set()
        self.loop: Loop | None = None

    # --- what the script does ---------------------------------------------------------------------

    def open(self) -> None:
        """`init()` or `attach()`."""
        world, actor = self.world, self.actor
        number = world.number()
        self.lease = SimLease(self, f"{number:016x}")
        world.leases[self.lease.lease_id] = self
        self.session = Session(5.0, world.now, listening=world.coordinator is not None)
        settings = Settings(mode="local", system_metrics_s=0.0)
        link: Any = self
        wall: Any = world
        self.held = Lease(self.lease, link, settings, attached=actor.verb == "attach", wall=wall)
        self.handle = Run(self.held)
        opened = Claim(
            at=world.now,
            wall_ms=world.wall_ms,
            protocol=PROTOCOL,
            verb="attach" if actor.verb == "attach" else "init",
            identity=self.identity,
            job=self.job,
            target=world.target,
            project="demo",
            name=actor.asks,
            label=(actor.label or actor.name) if actor.verb == "attach" else None,
            run=RunRef(external_id=actor.run) if actor.run else None,
            generated_id=f"run-{number:06x}",
            resume=actor.verb == "resume",
            config=msgspec.Raw(b"{}" if self.parents else b'{"of_%s":1}' % actor.name.encode()),
            tags=(f"by-{actor.name}",) if actor.verb != "attach" else (),
            ancestors=self.ancestors,
            parents=self.parents,
            wait_s=3.0,
            rank_metrics="reduce" if actor.reduces else "auto",
        )
        self.held.say(opened)
        world.say(self.name, f"{opened.verb}() as lease {self.lease.lease_id[-3:]}, pid {self.identity.pid}")
        self._until = world.now + actor.duration
        self.after(0.0, self._work)
        if actor.forks:
            self.after(actor.duration / 2, self._fork)
        if actor.publishes:
            Publisher(self)
        if actor.reads:
            self.loop = Loop(self)
        self._tick()

    def _work(self) -> None:
        world = self.world
        if self.leaving:
            return
        view = self.session.view
        if view is not None and view.state == "refused":
            world.say(self.name, f"is refused: {view.error}")
            self._leave(Closed(**self.held.stamp()))
            return
        if world.now >= self._until:
            self.end()
            return
        for stream in self.actor.streams:
            self.log(stream)
        if world.random.random() < 0.1:
            self._share()
        self.after(self.actor.pause_s, self._work)

    def log(self, stream: str) -> None:
        """One record with a value that nobody else has."""
        assert self.lease is not None
        world, lease, value = self.world, self.lease, self.world.number()
        self._next_step += 1
        writer: StreamWriter = getattr(lease, stream)
        before = writer.written - lease.declared
        declared = lease.declared
        poison = world.faulty and world.random.random() < world.rates.poison
        if stream == "metrics" and self.actor.reduces:
            self._log_reduced(value)
            return
        if stream == "files":
            log_file(self, value, poison=poison)
            return
        if stream == "metrics":
            name = "poison" if poison else world.random.choice(("loss", "loss", f"of_{self.name}"))
            self.handle.log({name: value}, step=self._next_step)
        elif stream == "data":
            self.handle.log({"text": f"{'poison' if poison else 'said'} {value}"}, step=self._next_step)
        else:
            line = b'{"time":%d,"message":"%s line %d","logType":"INFO"}\n' % (
                world.wall_ms, b"poison" if poison else b"a", value,
            )  # fmt: skip
            lease.console.append(line)
        if writer.written - lease.declared > before or (
            stream == "data" and writer.written - before > lease.declared - declared + declared
        ):
            world.accepted(self, value, stream, writer.stream, poison=poison)

    def _log_reduced(self, value: int) -> None:
        """A value at a step that the other ranks log too, most of them in this order."""
        assert self.lease is not None
        world, writer = self.world, self.lease.metrics
        self._points += 1
        step = self._points if world.random.random() < 0.9 else max(1, self._points - 3)
        name = world.random.choice(("loss", "loss", f"of_{self.name}"))
        before = writer.written - self.lease.declared
        if step != self._points and (name, step) in self._said:
            return
        self._said.add((name, step))
        self.handle.log({name: value}, step=step)
        if writer.written - self.lease.declared > before:
            world.accepted(self, value, "metrics", writer.stream, poison=False)
            world.checks.reduced.logged(self, name, step, value)

    def _share(self) -> None:
        world, number = self.world, self.world.number()
        if self.held.end:
            return
        choice = world.random.random()
        if choice < 0.5:
            self.handle.add_tags(f"t{number}")
            world.shared(self, "tag", f"t{number}")
        else:
            self.handle.update_config({f"c{number}": {"by": self.name}})
            world.shared(self, "config", f"c{number}")

    def _fork(self) -> None:
        if not self.leaving and self.lease is not None:
            self.children.append(Child(self))

    # --- its end ----------------------------------------------------------------------------------

    def end(self) -> None:
        """As the plan says."""
        actor = self.actor
        self.world.say(self.name, f"ends by {actor.end} {actor.code or ''}")
        match actor.end:
            case "finish":
                self._finish(None)
            case "finish_code":
                self._finish(actor.code)
            case "close":
                self._leave(Closed(**self.held.stamp()))
            case "exception" | "communication":
                self._fail(communication=actor.end == "communication")
            case "exit_code":
                if actor.code:
                    self._evidence("exit", exit_code=actor.code)
                self._finish(None, dies=(actor.code, ""))
            case "at_exit":
                self._finish(None, at_exit=True, dies=(actor.code, ""))
            case "sigterm":
                self.sigterm()
            case "finish_kill":  # its word is on the disk, and nobody may have heard of it
                self.after(0.0001, lambda: self.die((None, "SIGKILL")))
                self._finish(None)
            case "stopped":
                self._stopped()
            case "kill":
                self.die((None, "SIGKILL"))
            case "exec":
                self.truth.execed = self.world.now
                self.world.execute(self)

    def _stopped(self) -> None:
        """Its parent ends it and says so, if it is still there to do so."""
        parent = self.world.at_work(self.actor.parent or "")
        if parent is not None and parent.identity in self.parents[:1]:  # and not one of the job's next start
            signal = "SIGKILL" if self.actor.code else "SIGTERM"
            parent.held.note_stopped(self.identity.pid, signal)
            self.truth.stopped = self.world.now
            self.truth.stop_unsaid = self.world.disk.capacity < 1 << 40
        if self.actor.code:
            self.die((None, "SIGKILL"))
        else:
            self.sigterm()

    def sigterm(self) -> None:
        """The handler: evidence, then the end."""
        if self.lease is None:
            self.die((None, "SIGTERM"))
            return
        if self.leaving:
            return
        self.world.say(self.name, "gets SIGTERM")
        self._evidence("signal", signal="SIGTERM")
        self._finish(None, dies=(None, "SIGTERM"))

    def _fail(self, *, communication: bool) -> None:
        name = "ConnectionError" if communication else "ValueError"
        self._evidence("exception", type=name, message="boom", communication=communication)
        self._finish(None, dies=(1, ""))

    def _evidence(self, kind: str, **what: Any) -> None:
        self.held.evidence(kind=kind, **what)
        label = "communication" if what.get("communication") else kind
        self.truth.evidence.append((self.world.now, label, what.get("exit_code")))

    def _finish(self, code: int | None, *, at_exit: bool = False, dies: Status = (0, "")) -> None:
        if self.is_side:
            self._leave(Closed(**self.held.stamp()), dies)
        else:
            self._leave(Finished(**self.held.stamp(), code=code, at_exit=at_exit), dies)

    @property
    def is_side(self) -> bool:
        """What the handle believes."""
        return self.held.ends_as_side

    def _leave(self, entry: Finished | Closed, dies: Status = (0, "")) -> None:
        """`Lease._leave` and `leaving.leave`, without blocking."""
        assert self.lease is not None
        lease, held, world = self.lease, self.held, self.world
        self.leaving = True
        finished = isinstance(entry, Finished)
        held.end = "finished" if finished else "closed"
        held.say(Counted(**held.stamp(), dropped=lease.dropped, next_step=self._next_step))
        held.say(entry)
        lease.close()
        exiting = isinstance(entry, Finished) and entry.at_exit
        code = entry.code if isinstance(entry, Finished) else None
        self.truth.ended = (world.now, "finished" if finished else "closed", code, exiting)
        deadline = world.now + EXIT_WAIT_S

        def safe(done: bool) -> None:
            view = self.session.view
            if done and view is not None:
                world.checks.told_safe(self, view)
            world.say(self.name, "has left" if done else "has left without waiting any longer")
            self._linked = False
            if done and not exiting:
                lease.release()
                self.released = True
            self.after(0.001 if exiting else self.actor.linger_s, lambda: self.die(dies))

        def taken(done: bool) -> None:
            if done:
                self._await(lambda view: not view.last_out or view.drained, deadline, safe)
            else:
                safe(False)

        self._await(self._taken, deadline, taken)

    def _taken(self, view: View) -> bool:
        assert self.lease is not None
        folded = view.folded >= self.lease.lifecycle.written or view.state == "refused"
        return folded and view.state in ("ended", "refused") and not self.lease.unsaid

    def die(self, status: Status) -> None:
        """The process stops now; the kernel tears it down a little later."""
        if self.gone:
            return
        self.gone = True
        world = self.world
        self.truth.died = (world.now, *status)
        world.say(self.name, f"dies: {status[1] or status[0]}")
        delay = world.random.choice((0.001, 0.03, 0.5)) if status[1] == "SIGKILL" else 0.001
        world.at(delay, lambda: self.tear_down(status), None, "")

    def tear_down(self, status: Status) -> None:
        """Descriptors and locks are gone; whoever watches notices."""
        if self.identity in self.world.kernel.ended:
            return
        self.truth.noticed = self.world.now
        self.files.die()
        self.world.kernel.bury(self.identity, status)

    # --- the link ---------------------------------------------------------------------------------

    @property
    def view(self) -> View | None:
        """For the handle."""
        return self.session.view

    def nudge(self) -> None:
        """For the handle: there is a new entry."""
        assert self.lease is not None
        self.session.wrote(self.lease.lifecycle.written, self.world.now)
        self._tick()

    def hear(self, view: View) -> None:
        """A view has come."""
        if not self._linked or self.gone:
            return
        fresh = self.session.take_view(view, self.world.now)
        self._hand_over_key = self.world.target.mode == "pluto" and (fresh or view.key_wanted)
        self.world.checks.told(self, view)
        self._tick()

    def answered(self, reply: Answer | Refusal) -> None:
        """What its loop has asked for."""
        if self._linked and self.loop is not None:
            self.loop.hear(reply)

    def speak(self) -> None:
        """Somebody in it has a question."""
        self._tick()

    def unlinked(self) -> None:
        """The connection broke."""
        if self._linked and not self.gone:
            self.session.lost(self.world.now)
            self._tick()

    def _tick(self) -> None:
        """One round of the background thread."""
        world, lease = self.world, self.lease
        if not self._linked or lease is None or self.gone:
            return
        if lease.unsaid:
            lease.say_again()
        if lease.lifecycle.written > self.session.entries:
            self.session.wrote(lease.lifecycle.written, world.now)
        self._look_at_wait()
        todo = self.session.next(world.now)
        if todo.launch and world.launch(self.name):
            self.session.found(world.now)
        if todo.send:
            message = Sync(
                protocol=PROTOCOL,
                lease_id=lease.lease_id,
                folder=str(lease.folder),
                entries=lease.lifecycle.written,
                request=1 if self._wait is not None else 0,
                key=KEY if self._hand_over_key else "",
            )
            world.to_coordinator(lease.lease_id.encode(), message)
            if self.loop is not None:
                self.loop.repeat()
        self._timer += 1
        timer = self._timer
        wait = max(0.001, min(1.0, self.session.deadline() - world.now))
        self.after(wait, lambda: self._tick() if timer == self._timer else None)

    def _await(self, until: Callable[[View], bool], deadline: float, then: Callable[[bool], None]) -> None:
        self._wait = until, deadline, then
        self._look_at_wait()

    def _look_at_wait(self) -> None:
        if self._wait is None:
            return
        until, deadline, then = self._wait
        view = self.session.view
        done = view is not None and until(view)
        if done or self.world.now >= deadline:
            self._wait = None
            then(done)

    def after(self, delay: float, work: Callable[[], None]) -> None:
        """Does something later, unless the process is dead or stopped then."""
        self.world.at(delay, work, self, "")

    def writer(self, folder: str, stream: str, space: Room | None) -> StreamWriter:
        """A real writer on this process's files."""
        return StreamWriter(
            folder,
            stream,
            Limits(segment_bytes=SEGMENT_BYTES),
            space=space,
            files=self.files,
            clock=lambda: self.world.now,
            pid=lambda: self.identity.pid,
        )


class Child:
    """A forked child: it logs into a chain of its own and may outlive its parent."""

    def __init__(self, parent: Process) -> None:
        world = parent.world
        self.parent = parent
        self.world = world
        self.gone = False
        self.resume_at = 0.0
        self.pid = world.kernel.next_pid()
        self.files = MemoryFiles(world.disk)
        assert parent.lease is not None
        self.metrics = StreamWriter(
            str(parent.lease.folder),
            "metrics",
            Limits(segment_bytes=SEGMENT_BYTES),
            space=parent.lease.room,
            files=self.files,
            clock=lambda: world.now,
            pid=lambda: self.pid,
        )
        self.metrics.after_fork()
        self._until = world.now + world.random.uniform(0.1, 4.0)
        world.say(parent.name, f"forks {self.pid}")
        world.at(0.01, self._work, self, "")

    def _work(self) -> None:
        world = self.world
        if world.now >= self._until or (self.parent.gone and world.now > self._parent_died() + 1.0):
            self.die()
            return
        value = world.number()
        line = b'{"time":%d,"step":%d,"data":{"forked":%d}}\n' % (world.wall_ms, value, value)
        if self.metrics.append(line):
            world.accepted(self.parent, value, "metrics", self.metrics.stream, poison=False)
            if self.parent.actor.reduces:
                world.checks.reduced.logged(self.parent, "forked", value, value)
        world.at(0.1, self._work, self, "")

    def _parent_died(self) -> float:
        died = self.parent.truth.died
        return died[0] if died is not None else self.world.now

    def die(self) -> None:
        """Its descriptors go with it."""
        self.gone = True
        self.files.die()


class Kernel:
    """Who lives, and how those ended that do not."""

    def __init__(self) -> None:
        self.ended: dict[Identity, Status] = {}
        self._alive: dict[tuple[int, int], Identity] = {}
        self._next = 100
        self._free: list[int] = []
        self.listeners: list[Callable[[], None]] = []

    def next_pid(self) -> int:
        """Pids are used again soon."""
        if len(self._free) > 2:
            return self._free.pop(0)
        self._next += 1
        return self._next

    def spawn(self, boot: str, start: int, pid: int | None = None) -> Identity:
        """A new process, or (with a pid) another program in one that lives."""
        number = pid if pid is not None else self.next_pid()
        identity = Identity(boot, 1, number, start, f"n{number}-{start}", "host")
        self._alive[number, start] = identity
        return identity

    def execute(self, old: Identity, nonce: str) -> Identity:
        """Another program in the same process."""
        new = msgspec.structs.replace(old, nonce=nonce)
        self._alive[old.pid, old.start] = new
        return new

    def lives(self, identity: Identity) -> bool:
        """Whether this kernel process is there, whatever its program is."""
        return (identity.pid, identity.start) in self._alive

    def status(self, identity: Identity) -> Status | None:
        """How it ended."""
        return self.ended.get(identity)

    def bury(self, identity: Identity, status: Status) -> None:
        """It is gone; its pid may be used again."""
        self._alive.pop((identity.pid, identity.start), None)
        self.ended[identity] = status
        self._free.append(identity.pid)
        for listener in self.listeners:
            listener()
