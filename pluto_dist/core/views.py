"""What participants and people are told: views of leases, answers to questions."""

from __future__ import annotations

import msgspec

from pluto_dist.core.book import Config
from pluto_dist.core.context import Context
from pluto_dist.core.control import Controls
from pluto_dist.core.delivery import Delivery
from pluto_dist.core.document import Live, show
from pluto_dist.core.effects import Send
from pluto_dist.core.messages import RunView, View
from pluto_dist.core.phase import assess, members_of
from pluto_dist.core.records import Lease, Run


class Views:
    """Remembers where each lease's process can be reached and what it was told last."""

    def __init__(self, context: Context, delivery: Delivery, controls: Controls, generation: int) -> None:
        self._context = context
        self._book = context.book
        self._delivery = delivery
        self._controls = controls
        self._generation = generation
        self._peers: dict[str, bytes] = {}
        self._told: dict[str, View] = {}
        self._seen_ms: dict[str, int] = {}
        self._owed: dict[str, int] = {}
        self._document_pending: set[str] = set()

    def heard(self, lease_id: str, peer: bytes) -> None:
        """A process spoke; any message is a sign of life."""
        self._peers[lease_id] = peer
        self._seen_ms[lease_id] = self._context.now.wall_ms

    def last_seen_ms(self, lease_id: str) -> int | None:
        """When the process last spoke, epoch milliseconds."""
        return self._seen_ms.get(lease_id)

    def answer(self, lease: Lease, request: int) -> None:
        """Tells a process how things stand."""
        peer = self._peers.get(lease.lease_id)
        if peer is None:
            return
        view = self.view(lease)
        self._told[lease.lease_id] = view
        self._context.emit(Send(peer=peer, reply=msgspec.structs.replace(view, request=request)))

    def owe(self, lease_id: str, request: int) -> None:
        """The answer has to wait until the entries have been read."""
        self._owed[lease_id] = request

    def pay(self) -> None:
        """Answers what can be answered now."""
        for lease_id, request in tuple(self._owed.items()):
            lease = self._book.leases.get(lease_id)
            if lease is not None:
                del self._owed[lease_id]
                self.answer(lease, request)

    def tell(self, run: Run) -> None:
        """Tells all processes of a Run what they do not know yet."""
        for lease in self._book.leases_of(run.key):
            self.tell_lease(lease)

    def tell_lease(self, lease: Lease) -> None:
        """Tells one process, if anything that matters has changed."""
        told = self._told.get(lease.lease_id)
        if told is not None and _matters(self.view(lease)) != _matters(told):
            self.answer(lease, 0)

    def view(self, lease: Lease) -> View:
        """How things stand for one lease."""
        run = self._book.runs.get(lease.run) if lease.run is not None else None
        return View(
            generation=self._generation,
            lease_id=lease.lease_id,
            request=0,
            state=lease.state,
            folded=lease.folded,
            role=lease.role,
            label=lease.label,
            rank=lease.rank,
            participant=lease.participant,
            epoch=lease.epoch,
            attempt=lease.attempt,
            error=lease.error,
            run=self.run_view(run) if run is not None else None,
            next_step=self._delivery.next_step(run.key, lease.participant) if run is not None else 0,
            last_out=run is not None and self._last_out(run, lease),
            drained=run is None or self.drained(run, lease),
            pending=self._delivery.pending_bytes(lease),
            passed=self._delivery.passed(lease),
            key_wanted=self._key_wanted(lease),
            trouble=self.trouble(run) if run is not None else "",
        )

    def run_view(self, run: Run) -> RunView:
        """A Run as its participants see it."""
        assessment = assess(run, members_of(run, self._book.leases_of(run.key)), self._context.now.at)
        return RunView(
            key=run.key,
            external_id=run.external_id,
            project=run.project,
            name=run.name,
            mode=run.target.mode,
            status=run.status,
            phase=assessment.phase,
            id=run.id,
            display_id=run.display_id,
            url=run.url,
            epoch=run.epoch,
            resumed=run.resumed,
            tags=run.tags,
            fork_run_id=run.fork_run_id,
            fork_step=run.fork_step,
            points=sum(point.count for point in self._book.points_of(run.key).values()),
            provisional=run.provisional,
            cancelled=run.cancelled,
            reason=run.verdict.reason if run.verdict is not None else "",
            owner=self._owner(run),
        )

    def drained(self, run: Run, lease: Lease) -> bool:
        """Whether a leaving participant has nothing left to wait for (R11).

        The status is waited for only where it is certain: not while the launcher may restart the job, nor
        for a Run that was closed and may be taken up again.
        """
        if not self.delivered(run, lease):
            return False
        if run.key in self._document_pending:
            return False
        if lease.code_awaited:  # the verdict waits for this very process
            return self._controls.settled(run)
        ended = run.verdict is None or run.reported
        return ended and self._controls.settled(run) and not self._verdict_is_near(run)

    def delivered(self, run: Run, lease: Lease | None = None) -> bool:
        """Whether everything of owner, workers and this lease has been delivered."""
        return all(
            self._delivery.complete(other)
            for other in self._book.leases_of(run.key)
            if not other.alive and (other.role != "side" or other is lease) and other.participant
        )

    def document_pending(self, run: str, pending: bool) -> None:
        """Whether the store still lacks the newest document of the Run."""
        (self._document_pending.add if pending else self._document_pending.discard)(run)

    def document(self, run: Run) -> bytes:
        """The Run's document as of now."""
        leases = self._book.leases_of(run.key)
        phase = assess(run, members_of(run, leases), self._context.now.at).phase
        return show(
            self._book,
            run,
            phase=phase,
            pending=sum(self._delivery.pending_bytes(lease) for lease in leases),
            trouble=self.trouble(run),
            live={
                lease.lease_id: Live(self.last_seen_ms(lease.lease_id), 0, None)
                for lease in leases
                if lease.lease_id in self._seen_ms
            },
        )

    def config(self, lease: Lease) -> bytes:
        """The Run's merged config."""
        return (self._book.configs.get(lease.run or "") or Config()).body

    def trouble(self, run: Run) -> str:
        """Why something does not go on, "" if all is well."""
        if run.target.mode == "pluto" and run.target.key_id not in self._context.keys:
            return "no API key in memory; any process of the Run hands it over"
        leases = self._book.leases_of(run.key)
        return run.open_trouble or next((t for t in map(self._delivery.trouble, leases) if t), "")

    def forget(self, lease_id: str) -> None:
        """The process is gone for good."""
        self._peers.pop(lease_id, None)
        self._told.pop(lease_id, None)

    def _owner(self, run: Run) -> str:
        lease = self._book.leases.get(run.owner or "")
        if lease is None or not lease.alive:
            return ""
        return f"{lease.label!r}, pid {lease.identity.pid} on {lease.identity.host}"

    def _last_out(self, run: Run, lease: Lease) -> bool:
        return not any(
            other.alive and other.role != "side" and other.lease_id != lease.lease_id
            for other in self._book.leases_of(run.key)
        )

    def _verdict_is_near(self, run: Run) -> bool:
        """The end is certain within seconds, so it is worth waiting for."""
        members = members_of(run, self._book.leases_of(run.key))
        phase = assess(run, members, self._context.now.at).phase
        return run.verdict is None and phase in ("finishing", "orphaned")

    def _key_wanted(self, lease: Lease) -> bool:
        target = lease.opened.target
        return target.mode == "pluto" and target.key_id not in self._context.keys


def _matters(view: View) -> View:
    """A view without what changes all the time."""
    run = msgspec.structs.replace(view.run, points=0) if view.run is not None else None
    return msgspec.structs.replace(view, run=run, pending=0, passed=0, request=0, next_step=0)
