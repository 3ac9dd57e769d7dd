"""The state machine of the coordinator: events in, effects out.

`handle` takes one event and the time and returns what to do, in order; `deadline` says when to come back with
`Ticked` if nothing happens. Nothing here reads a clock, a socket or a file. The first effect is the `Commit`
of what has changed, so that nothing leaves the process that is not on disk (R1).

    Synced, Asked          from processes and people      -> ReadLifecycle, Send
    LifecycleRead          entries of one lease           -> roles, ends, tags, config
    ProcessDied, …         from outside                   -> evidence, verdict
    StreamsSeen, Shipped   from spool and backend         -> Ship, cursors
    OpenEnded, Controlled  from the backend               -> ids, statuses

A starting coordinator takes over from the book: it reads and watches every lease and every launcher anew
(G12).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from pluto_dist.core.machine.admission import Admission
from pluto_dist.core.machine.cluster import Clusters
from pluto_dist.core.machine.context import Context, Shared
from pluto_dist.core.machine.control import Alerts, Controls
from pluto_dist.core.machine.delivery import Delivery
from pluto_dist.core.machine.folding import Folding
from pluto_dist.core.machine.node_streams import Reducing, Sampling
from pluto_dist.core.machine.opening import Opening, Restoring
from pluto_dist.core.machine.settle import Idle, Leftovers, Part, Retention, Settling
from pluto_dist.core.machine.store import DocumentWriter, SyncUploads, UndeliveredCopies
from pluto_dist.core.machine.stragglers import Stragglers
from pluto_dist.core.machine.topics import Topics
from pluto_dist.core.machine.views import Questions, RunSituations, Views
from pluto_dist.core.rules.participants import is_node
from pluto_dist.core.rules.series import SeriesNames
from pluto_dist.core.values.backend import Refused
from pluto_dist.core.values.book import Book
from pluto_dist.core.values.effects import (
    AwaitRelease,
    Effect,
    FindFence,
    LookAtStreams,
    ReadLifecycle,
    RemoveLease,
    Send,
    StopSelf,
    WatchLauncher,
    WatchProcess,
)
from pluto_dist.core.values.events import (
    Asked,
    Beaten,
    ClusterJoined,
    ClusterListed,
    ClusterSeen,
    ClusterWritten,
    Controlled,
    CopiesDropped,
    CopiesKept,
    DocumentWritten,
    Event,
    FenceFound,
    KeyGiven,
    LauncherDied,
    LeaseReleased,
    LifecycleRead,
    LivenessChecked,
    MembersPolled,
    NamesFound,
    OpenEnded,
    ProcessDied,
    RanksReduced,
    RecordSetAside,
    Shipped,
    StreamsSeen,
    Synced,
    Ticked,
    UploadsRead,
)
from pluto_dist.core.values.ids import Identity
from pluto_dist.core.values.messages import PROTOCOL, HandOverKey, Refusal, TakeItem, wrong_protocol
from pluto_dist.core.values.records import Lease, Now, Run, rebased_lease, rebased_run


class Coordinator:
    """One per process and start; `generation` rises with each.

    Args:
        book: what the database holds.
        boot_id: of this boot; instants of another boot are long ago.
        generation: fencing number of this start.
        idle_exit_s: seconds without work before `StopSelf`.
        node: id of this node for cluster stores; "" uses none.
    """

    def __init__(
        self, book: Book, *, boot_id: str, generation: int, idle_exit_s: float = 60.0, node: str = ""
    ) -> None:
        self._context = Context(book, boot_id)
        self._book = book
        self._idle = Idle(idle_exit_s)
        self._stopping = False
        shared = Shared(self._context)
        self._clusters = Clusters(self._context, node, generation)
        self._opening = Opening(self._context, shared, self._clusters)
        self._admission = Admission(self._context, self._opening, shared, self._clusters)
        self._topics = Topics(self._context, self._clusters)
        self._alerts = Alerts(self._context)
        self._folding = Folding(self._context, self._admission, shared, self._topics, self._alerts)
        self._delivery = Delivery(self._context, SeriesNames(book))
        self._copies = UndeliveredCopies(self._context, self._delivery)
        self._uploads = SyncUploads(self._context)
        self._controls = Controls(self._context, self._clusters, self._alerts)
        self._document_writer = DocumentWriter(self._context)
        self._restoring = Restoring(self._context)
        self._stragglers = Stragglers(self._context)
        situations = RunSituations(
            self._context,
            self._delivery,
            self._controls,
            self._document_writer,
            self._stragglers,
            self._clusters,
        )
        self._views = Views(self._context, self._delivery, situations, self._stragglers, generation)
        self._sampling = Sampling(self._context, self._delivery)
        self._reducing = Reducing(self._context, self._delivery)
        self._leftovers = Leftovers(self._context)
        self._settling = Settling(
            self._context,
            shared,
            self._admission,
            self._folding,
            self._delivery,
            self._controls,
            self._document_writer,
            situations,
            self._views,
            self._sampling,
            self._reducing,
            self._clusters,
            self._leftovers,
        )
        # Every part that has a `forget` is found here; a list kept by hand would miss the next one.
        self._retention = Retention(
            self._context, [part for part in vars(self).values() if isinstance(part, Part)]
        )
        self._recovery = Recovery(self._context, self._admission, self._opening, self._uploads)
        self._questions = Questions(
            self._context, self._views, generation, at_rest=self._settling.at_rest, drop=self._drop
        )

    def start(self, now: Now) -> list[Effect]:
        """The first effects: every lease and launcher in the book is read and watched."""
        self._context.now = now
        self._recovery.start()
        return self._finish()

    def handle(self, event: Event, now: Now) -> list[Effect]:
        """Takes one event; returns what to do, in order."""
        self._context.now = now
        self._dispatch(event)
        return self._finish()

    def deadline(self) -> float | None:
        """When to come with `Ticked`, CLOCK_BOOTTIME seconds; None if only an event can matter."""
        deadlines = [
            self._admission.deadline(),
            self._opening.deadline(),
            self._restoring.deadline(),
            self._delivery.deadline(),
            self._settling.deadline(),
            self._views.deadline(),
            self._sampling.deadline(),
            self._reducing.deadline(),
            self._stragglers.deadline(),
            self._leftovers.deadline(),
            self._document_writer.deadline(),
            self._copies.deadline(),
            self._idle.deadline(),
            self._clusters.deadline(),
        ]
        return min((at for at in deadlines if at is not None), default=None)

    def _dispatch(self, event: Event) -> None:  # noqa: PLR0912, PLR0915 # one case for each event
        match event:
            case Synced():
                self._synced(event)
            case Asked(peer=peer, question=TakeItem() as question):
                self._topics.take(peer, question)
            case Asked(peer=peer, question=question):
                self._stopping = self._questions.answer(peer, question) or self._stopping
                if isinstance(question, HandOverKey):
                    self._uploads.ask_all()
            case LifecycleRead():
                self._folding.read(event)
                self._views.send_reply(event.lease_id, self._folding.unopened(event.lease_id))
            case ProcessDied():
                self._died(event)
            case LeaseReleased(lease_id=lease_id):
                self._released(lease_id)
            case LauncherDied(run=key, launcher=launcher):
                self._launcher_died(key, launcher)
            case LivenessChecked(claim=claim):
                self._admission.verified(claim)
            case MembersPolled(run=key):
                self._settling.polled(key)
            case StreamsSeen():
                self._delivery.seen(event)
                self._stragglers.seen(event)
                self._reducing.seen(event)
            case NamesFound():
                self._delivery.names_found(event)
            case Shipped():
                self._delivery.shipped(event)
            case RanksReduced():
                self._reducing.reduced(event)
            case RecordSetAside():
                self._delivery.put_aside(event)
            case OpenEnded():
                self._opened(event)
            case Controlled(operation="put_back"):
                self._restoring.answered(event)
            case Controlled():
                if self._controls.answered(event):
                    self._delivery.names_registered(event.run)
            case Beaten():
                self._controls.beaten(event)
            case DocumentWritten():
                self._document_writer.done(event)
            case CopiesKept():
                self._copies.kept(event)
            case CopiesDropped():
                self._copies.dropped(event)
            case UploadsRead():
                self._uploads.read(event)
                self._opening.wake()
                self._delivery.kick_run(event.run)
            case FenceFound(lease_id=lease_id, fences=fences):
                self._fenced(lease_id, fences)
            case KeyGiven(key_id=key_id):
                self._key_given(key_id)
            case ClusterJoined():
                self._clusters.joined(event)
            case ClusterListed() | ClusterSeen() | ClusterWritten():
                self._clusters.told(event)
                self._opening.wake()
            case Ticked():
                self._opening.wake()
                self._delivery.wake()
                self._sampling.sample()
                self._reducing.look()
                self._stragglers.look()
                self._leftovers.look()
                self._clusters.tick()
            case _:
                assert_never(event)

    def _synced(self, event: Synced) -> None:
        message = event.message
        if message.protocol != PROTOCOL:
            told = wrong_protocol(message.protocol)
            refusal = Refusal(request=message.request, error="VersionMismatchError", message=told)
            self._context.emit(Send(peer=event.peer, reply=refusal))
            return
        self._views.note_message(message.lease_id, event.peer)
        lease = self._book.leases.get(message.lease_id)
        if lease is None or lease.folded < message.entries:
            # The answer waits for the entries, so that its view shows their effect (R1).
            self._context.emit(ReadLifecycle(lease_id=message.lease_id, folder=message.folder))
            self._views.reply_later(message.lease_id, message.request)
            return
        if message.request:
            final = not lease.may_write
            self._context.emit(LookAtStreams(lease_id=lease.lease_id, folder=lease.folder, final=final))
        self._views.answer(lease, message.request)

    def _died(self, event: ProcessDied) -> None:
        ended_now = self._folding.died(event)
        lease = self._book.leases.get(event.lease_id)
        if lease is None:
            return
        if not ended_now and not lease.alive and not lease.removed:
            self._delivery.look_again(lease)  # it ended before its process did
        if event.family:
            self._context.emit(AwaitRelease(lease_id=lease.lease_id))  # their records are still to come (G3)
        else:
            self._settling.gone(lease.lease_id)

    def _released(self, lease_id: str) -> None:
        lease = self._book.leases.get(lease_id)
        if lease is None or lease.removed:
            return
        if not lease.alive:  # a claim that still waits ends later, and its streams are read to the end then
            self._delivery.look_again(lease)
        self._settling.gone(lease_id)

    def _launcher_died(self, key: str, launcher: Identity) -> None:
        run = self._book.runs.get(key)
        if run is not None and run.launcher == launcher and run.launcher_gone_at is None:
            self._context.change_run(run, launcher_gone_at=self._context.now.at)
            self._context.note(key, "launcher_gone")

    def _opened(self, event: OpenEnded) -> None:
        run = self._book.runs.get(event.run)
        # First of all: the Run is gone after `withdraw`, and nothing else remembers what has to be put back.
        if run is not None and isinstance(event.result, Refused) and event.result.reopened is not None:
            self._restoring.keep(run.target, event.result.reopened)
        refused = self._opening.ended(event)
        if run is not None and refused is not None:
            self._admission.refuse_all(run, refused.error, refused.message)
            self._opening.withdraw(run)
        for key in self._context.touched:
            self._delivery.kick_run(key)

    def _fenced(self, lease_id: str, fences: dict[str, tuple[int, int]]) -> None:
        lease = self._book.leases.get(lease_id)
        if lease is not None and lease.fences is None:
            self._context.change_lease(lease, fences=fences)
            self._delivery.kick(lease)

    def _key_given(self, key_id: str) -> None:
        self._context.keys.add(key_id)
        for run in {run.key: run for run in (*self._book.runs.live, *self._book.unfinished)}.values():
            if run.target.key_id == key_id:
                self._context.touch(run.key)
                self._delivery.kick_run(run.key)
        for lease in self._book.live_leases:
            self._context.news[lease.lease_id] = None
        self._opening.key_given(key_id)

    def _drop(self, run: Run) -> None:
        for lease in self._book.leases_of(run.key):
            if not lease.removed:
                self._settling.remove(lease)
        self._retention.forget(run.key)

    def _finish(self) -> list[Effect]:
        self._retention.forget_old()
        self._restoring.wake()
        self._copies.look()
        self._topics.serve(self._settling.settle())
        self._retention.forget_gone()
        if self._stopping:
            self._context.emit(StopSelf(reason="asked to stop"))
        elif self._idle.long_enough(self._rest(self._book.unfinished), self._context.now.at) and self.at_rest:
            self._context.emit(StopSelf(reason=f"idle for {self._idle.exit_s:g} s", unless=True))
        # All that the event has changed is one commit, and it leads: no effect leaves before it is kept (R1).
        changes = self._book.take_changes()
        effects = self._context.take_effects()
        return [changes, *effects] if changes.saves else effects

    @property
    def at_rest(self) -> bool:
        """Whether no process is attached, all is delivered and reported, and no end is to be put back."""
        return self._rest(self._book.runs)

    def _rest(self, runs: Iterable[Run]) -> bool:
        at_rest = not self._book.anybody and self._restoring.at_rest
        return at_rest and all(self._settling.at_rest(run) for run in runs)


class Recovery:
    """The takeover from the book, once at the start (G12)."""

    def __init__(
        self, context: Context, admission: Admission, opening: Opening, uploads: SyncUploads
    ) -> None:
        self._context = context
        self._book = context.book
        self._admission = admission
        self._opening = opening
        self._uploads = uploads

    def start(self) -> None:
        """Takes up the Runs before the leases, so that a waiting claim finds its Run as it is now."""
        for run in self._book.runs:
            self._take_up_run(run)
        for lease in self._book.leases:
            self._take_up_lease(lease)
        self._opening.wake()

    def _take_up_run(self, run: Run) -> None:
        self._context.touch(run.key)
        self._uploads.ask(run)
        if run.boot_id != self._context.boot_id:
            for lease in self._book.leases_of(run.key):
                self._book.put_lease(rebased_lease(lease))
            run = self._book.runs.put(run.key, rebased_run(run, self._context.boot_id))
        if not run.ended and run.launcher is not None and run.launcher_gone_at is None:
            self._context.emit(WatchLauncher(run=run.key, identity=run.launcher))

    def _take_up_lease(self, lease: Lease) -> None:
        lease_id, folder = lease.lease_id, lease.folder
        if lease.removed:
            self._context.emit(RemoveLease(lease_id=lease_id, folder=folder))  # perhaps it was never done
            return
        self._context.emit(ReadLifecycle(lease_id=lease_id, folder=folder))
        if is_node(lease):
            self._context.emit(LookAtStreams(lease_id=lease_id, folder=folder))  # it ends with the Run
            return
        self._context.emit(WatchProcess(lease_id=lease_id, folder=folder, identity=lease.identity))
        if lease.end_reason == "superseded" and lease.fences is None:
            self._context.emit(FindFence(lease_id=lease_id, folder=folder))
        self._context.emit(LookAtStreams(lease_id=lease_id, folder=folder, final=not lease.may_write))
        if lease.state == "waiting":
            asked_at = min(lease.asked_at, self._context.now.at)  # it may have been at another boot
            self._admission.claim(self._context.change_lease(lease, asked_at=asked_at))
        elif lease.state == "ended" and not lease.code_awaited:
            self._context.emit(AwaitRelease(lease_id=lease_id))
