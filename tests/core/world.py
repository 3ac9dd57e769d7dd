"""A small world around the core: processes with spools, a server, a coordinator that may die at any moment.

The clock is its own. Local effects answer at once; those of worker threads answer after all local ones,
unless they are held back (`hold`). After each event the `invariants` are called; whoever breaks a guarantee
is found at the event that broke it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pluto_dist.core.values import events as on
from pluto_dist.core.values.ids import Identity, Job
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.core.values.messages import (
    PROTOCOL,
    Answer,
    ForceFinish,
    ForgetRun,
    Question,
    Refusal,
    Sync,
    TakeItem,
)
from pluto_dist.core.values.records import Lease, Run
from tests.core.driver import Driver
from tests.core.processes import PLUTO, Launch, Process
from tests.core.spool import Spool


class World(Driver):
    """One node, one server.

    Attributes:
        target: of claims that name none.
        nudges: whether a lifecycle entry is followed by a message to the coordinator.
    """

    def __init__(self, target: Target = PLUTO, **options: Any) -> None:
        self._asked = 0
        super().__init__(target, **options)
        self.start()

    def start(self, *, hello: bool = True) -> None:
        """A coordinator starts on what was kept; clients that live say hello to it."""
        super().start()
        if hello:
            self.hello()

    # --- actors -----------------------------------------------------------------------------------

    def process(self, name: str, job: Job | None = None, ancestors: tuple[Identity, ...] = ()) -> Process:
        """A new process; without a job it is its own."""
        self._pids += 1
        identity = Identity(self.boot, 1, self._pids, self._pids * 10, f"n{self._pids}", "host")
        process = Process(self, name, identity, job or Job(key=f"own-{self._pids}"), ancestors)
        self.processes.append(process)
        return process

    def child(self, of: Process, name: str = "child", job: Job | None = None) -> Process:
        """A process that `multiprocessing` has started in another, or that was forked there."""
        child = self.process(name, job, (of.identity, *of.ancestors))
        child.parents = (of.identity, *of.parents)
        return child

    def launch(self, name: str = "train", ranks: int = 2, max_restarts: int = 0) -> Launch:
        """A launcher; `start` its ranks."""
        return Launch(self, name, ranks, max_restarts, self.process(f"torchrun-{name}"))

    def ask(self, question: Question) -> Answer | Refusal | None:
        """A person's question and its answer, None if the coordinator died before it could be sent."""
        self.replies.clear()
        self._handle(on.Asked(peer=b"person", question=question))
        self.settle()
        return self.replies[-1] if self.replies else None

    def take(self, process: Process, topic: str, *, group: str, latest: bool, member: int) -> None:
        """A process asks for an item, over its own connection; each question has a number of its own."""
        self._asked += 1
        if not self.running:
            return
        question = TakeItem(
            request=self._asked,
            lease_id=process.spool.lease_id,
            topic=topic,
            member=member,
            entries=len(process.spool.entries),
            group=group,
            latest=latest,
        )
        self._handle(on.Asked(peer=process.spool.lease_id.encode(), question=question))
        self.settle()

    def got(self, process: Process) -> list[int | str]:
        """What a process was given: the numbers of items, and "ended"."""
        answers = self.answers.get(process.spool.lease_id.encode(), [])
        found = [msgspec.json.decode(each.body) for each in answers if isinstance(each, Answer)]
        return ["ended" if each.get("ended") else each["number"] for each in found]

    def force_finish(self, run: str, status: str, *, force: bool = True) -> Answer | Refusal | None:
        """`pluto-dist finish`."""
        return self.ask(ForceFinish(request=1, run=run, status=status, force=force))  # type: ignore[arg-type]

    def forget(self, run: str, *, force: bool = False) -> Answer | Refusal | None:
        """`pluto-dist rm`."""
        return self.ask(ForgetRun(request=1, run=run, force=force))

    # --- what there is ----------------------------------------------------------------------------

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

    def next_lease(self) -> int:
        self._leases += 1
        return self._leases

    # --- what reaches the coordinator -------------------------------------------------------------

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
        self.look_at_watches()
        self.look()

    def suspend(self, seconds: float) -> None:
        """The machine sleeps: time has passed, and nobody was there to notice."""
        self.now += seconds
        self.tick()
        self.wait(1.0)
