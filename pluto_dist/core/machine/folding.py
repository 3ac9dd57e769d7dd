"""Folding: lifecycle entries take effect, each once and in order (R1, G9).

Entries have ordinal numbers, and a lease knows how many of its have taken effect, so that reading a stream
again changes nothing. The claim makes the lease; entries behind it wait until the claim is decided. A death
is folded only after the stream was read to its end: what the process did not write, it did not do.
"""

from __future__ import annotations

from collections import deque
from typing import assert_never

from pluto_dist.core.machine.admission import Admission
from pluto_dist.core.machine.context import Context, Shared
from pluto_dist.core.machine.control import Alerts
from pluto_dist.core.machine.topics import Topics
from pluto_dist.core.rules.claims import is_child_of
from pluto_dist.core.rules.verdict import describe, fault_of
from pluto_dist.core.values.effects import AwaitRelease, Say, TakeForDead, WatchProcess
from pluto_dist.core.values.events import LifecycleRead, ProcessDied
from pluto_dist.core.values.lifecycle import (
    Alerted,
    ChildStopped,
    Claim,
    Closed,
    ConfigUpdated,
    Counted,
    Evidence,
    EvidenceKind,
    Finished,
    ItemDone,
    LifecycleEntry,
    Noted,
    Published,
    TagsAdded,
    TagsRemoved,
    Unreadable,
    Unsubscribed,
)
from pluto_dist.core.values.messages import PROTOCOL, wrong_protocol
from pluto_dist.core.values.records import EndReason, Lease, Run

MAX_EVIDENCE = 8  # of one lease; the first says most

Inbox = deque[tuple[int, LifecycleEntry | Unreadable]]


class Folding:
    """Entries that have been read, by lease; those of a lease without a role wait until it has one."""

    def __init__(
        self, context: Context, admission: Admission, shared: Shared, topics: Topics, alerts: Alerts
    ) -> None:
        self._context = context
        self._topics = topics
        self._alerts = alerts
        self._book = context.book
        self._admission = admission
        self._shared = shared
        self._inbox: dict[str, Inbox] = {}
        self._dead: dict[str, ProcessDied] = {}

    def read(self, event: LifecycleRead) -> None:
        """Takes new entries of one lease, and lets them take effect as far as possible."""
        inbox = self._inbox.setdefault(event.lease_id, deque())
        # An entry counts once, although streams are read again after restarts and in polls.
        newest = inbox[-1][0] if inbox else self._folded(event.lease_id)
        inbox.extend((number, entry) for number, entry in event.entries if number > newest)
        if event.lease_id not in self._book.leases:
            self._open(event, inbox)
        self.fold(event.lease_id)

    def unopened(self, lease_id: str) -> str:
        """Why the entries that were read make no lease; "" if they do, or if none were read yet."""
        if lease_id in self._book.leases or not self._inbox.get(lease_id):
            return ""
        first = self._inbox[lease_id][0][1]
        what = first.why if isinstance(first, Unreadable) else f"it is {type(first).__name__!r}"
        return (
            f"the first entry of the lease is no opening that this coordinator can read: {what}. Everything "
            "is kept in the spool; if versions of pluto_dist are mixed, run `pluto-dist coordinator stop` "
            "and start again"
        )

    def fold(self, lease_id: str) -> None:
        """Lets entries take effect, as far as the lease has a role to do so."""
        lease = self._book.leases.get(lease_id)
        if lease is None or lease.state == "waiting":
            return
        skipped: list[tuple[int, Unreadable]] = []
        for number, entry in self._inbox.pop(lease_id, ()):
            # In one transaction with its effect: after a crash an entry has taken effect, or is read again.
            lease = self._context.change_lease(self._book.leases[lease_id], folded=number)
            if isinstance(entry, Unreadable):
                skipped.append((number, entry))
            else:
                self._apply(lease, entry)
        if skipped:
            self._note_skipped(lease, skipped)
        dead = self._dead.pop(lease_id, None)
        if dead is not None:
            self.died(dead)

    def fold_all(self) -> None:
        """Lets entries take effect that waited for a claim to be decided."""
        for lease_id in (*self._inbox, *self._dead):
            self.fold(lease_id)

    def died(self, event: ProcessDied) -> bool:
        """Takes the death of a lease's process; True if that ended the lease.

        Its stream was read to the end before, so a lease that is alive by then has ended without an entry.
        """
        lease = self._book.leases.get(event.lease_id)
        if lease is not None and lease.code_awaited:
            self._exit_code_known(lease, event)
        if lease is None or not lease.alive:
            return False
        if lease.state == "waiting":
            self._dead_before_granted(lease, event)
            return not self._book.leases[lease.lease_id].alive
        lease = self._context.end_lease(
            lease,
            "exited" if lease.said else "died",
            event.alive_until_ms,
            next_step=max(lease.next_step, event.next_step),
        )
        if event.replaced:
            self._context.note(lease.run or "", "replaced_by_exec", lease=lease.lease_id)
        if lease.role == "side":
            self._context.note(lease.run or "", "side_died", label=lease.label, signal=event.signal)
        elif not lease.said:
            self._take(lease, self._evidence_of(event, lease))
        return True

    def _exit_code_known(self, lease: Lease, event: ProcessDied) -> None:
        """Completes a `Finished` that the exit hook wrote with the exit code that the kernel gives."""
        failed = bool(event.signal) or event.exit_code not in (None, 0)
        if failed and not lease.said:
            lease = self._take(lease, self._evidence_of(event, lease))
        self._context.change_lease(lease, code_awaited=False)

    def lease_removed(self, lease_id: str) -> None:
        """Forgets the entries of a lease whose folder is gone."""
        self._inbox.pop(lease_id, None)

    def _folded(self, lease_id: str) -> int:
        lease = self._book.leases.get(lease_id)
        return lease.folded if lease is not None else 0

    def _open(self, event: LifecycleRead, inbox: Inbox) -> None:
        """Makes the lease from its claim, the first entry of the stream."""
        if not inbox or not isinstance(inbox[0][1], Claim):
            fields = {"lease": event.lease_id, "why": self.unopened(event.lease_id) or "it is empty"}
            self._context.emit(Say(event="lifecycle_without_opening", fields=fields))
            return
        number, opened = inbox.popleft()
        assert isinstance(opened, Claim)  # noqa: S101 # looked at above
        lease = Lease(
            lease_id=event.lease_id,
            folder=event.folder,
            opened=opened,
            stopped_at=self._stopped_by_parent(opened),
            folded=number,
            asked_at=self._context.now.at,
        )
        self._book.put_lease(lease)
        self._context.emit(
            WatchProcess(lease_id=lease.lease_id, folder=lease.folder, identity=opened.identity)
        )
        if opened.protocol != PROTOCOL:
            self._admission.refuse(lease, "VersionMismatchError", wrong_protocol(opened.protocol))
            return
        other = self._other_program(lease)
        former = min(other or lease, lease, key=lambda each: each.opened.at)
        if other is not None:
            self._context.emit(TakeForDead(lease_id=former.lease_id))
        if former is other:
            self._admission.look_first(lease, former)
        else:
            self._admission.claim(lease)

    def _other_program(self, lease: Lease) -> Lease | None:
        """The live lease of the same process under another nonce: `exec` has ended that one (R2)."""
        mine = lease.identity
        return next(
            (
                other
                for other in self._book.live_leases
                if other.identity.same_process(mine) and other.identity.nonce != mine.nonce
            ),
            None,
        )

    def _note_skipped(self, lease: Lease, skipped: list[tuple[int, Unreadable]]) -> None:
        """Notes entries that cannot be read; they are counted without effect, so that those behind go on."""
        number, first = skipped[0]
        if lease.run is not None:
            self._context.note(
                lease.run,
                "unreadable_entry",
                lease=lease.lease_id,
                number=str(number),
                entries=str(len(skipped)),
                why=first.why,
            )

    def _apply(self, lease: Lease, entry: LifecycleEntry) -> None:
        run = self._book.runs.get(lease.run) if lease.run is not None else None
        if run is None:
            return
        match entry:
            case Evidence():
                self._evidence(lease, run, entry)
            case Finished() | Closed():
                self._end(lease, run, entry)
            case Counted():
                self._context.change_lease(
                    lease,
                    rejected=entry.rejected,
                    dropped=entry.dropped,
                    next_step=max(lease.next_step, entry.next_step),
                )
                if entry.first_reject and not run.first_reject:
                    first = f"{lease.label or lease.participant}, log(): {entry.first_reject}"
                    self._context.change_run(run, first_reject=first)
            case TagsAdded() | TagsRemoved() | ConfigUpdated() | Published():
                self._share(lease, run, entry)
            case Alerted():
                self._alerts.take(lease, run, entry)
            case ItemDone() | Unsubscribed():
                self._topics.give_up(lease, run, entry)
            case ChildStopped():
                self._child_stopped(lease, entry)
            case Noted():
                self._context.note(run.key, entry.text, **{**entry.detail, "lease": lease.lease_id})
            case Claim():
                self._context.emit(Say(event="second_opening", fields={"lease": lease.lease_id}))
            case _:
                assert_never(entry)

    def _evidence(self, lease: Lease, run: Run, entry: Evidence) -> None:
        """Adds evidence to a lease; of a side, or after the lease's end, it is only an event of the Run."""
        if lease.role == "side" or not lease.alive:
            event = "side_failed" if lease.role == "side" else "late_failure"
            self._context.note(run.key, event, label=lease.label, kind=entry.kind, what=describe(entry)[:500])
            if lease.alive:
                self._context.change_lease(lease, fault=lease.fault or fault_of(entry))
        else:
            self._take(lease, entry)

    def _take(self, lease: Lease, entry: Evidence) -> Lease:
        """Adds evidence to the lease of a member."""
        evidence = (*lease.evidence, entry)[:MAX_EVIDENCE]
        return self._context.change_lease(lease, evidence=evidence, fault=lease.fault or fault_of(entry))

    def _end(self, lease: Lease, run: Run, entry: Finished | Closed) -> None:
        if not lease.alive:
            return
        if isinstance(entry, Closed) or not entry.at_exit:
            self._context.emit(AwaitRelease(lease_id=lease.lease_id))
        if isinstance(entry, Closed):
            reason: EndReason = "gave_up" if entry.gave_up else "closed"
            self._context.end_lease(lease, reason, entry.wall_ms, left_at=entry.at)
            return
        is_owner = lease.role == "owner" and run.owner == lease.lease_id
        code = entry.code if is_owner else None
        awaited = entry.at_exit and not lease.opened.notebook  # a kernel's exit code says nothing of the work
        self._context.end_lease(
            lease,
            "finished",
            entry.wall_ms,
            left_at=entry.at,
            finish_code=code,
            by_exit=entry.at_exit or entry.by_exit,
            code_awaited=awaited,
        )
        if lease.role == "side":
            self._context.note(run.key, "finish_by_side", label=lease.label)

    def _child_stopped(self, lease: Lease, entry: ChildStopped) -> None:
        """Marks the stopped child's leases, in whatever Run; a claim that is read later is marked then."""
        lease = self._context.change_lease(lease, stopped={**lease.stopped, str(entry.pid): entry.at})
        for child in self._book.leases_of_pids((entry.pid,)):
            if is_child_of(child.opened, lease.identity):
                self._context.change_lease(child, stopped_at=entry.at)
                self._context.note(
                    child.run or "", "stopped_by_parent", label=child.label, signal=entry.signal
                )

    def _stopped_by_parent(self, opened: Claim) -> float | None:
        """When the parent stopped this process; not if the claim is later: then the pid was used again."""
        for lease in self._book.leases_of_pids(parent.pid for parent in opened.parents):
            at = lease.stopped.get(str(opened.identity.pid))
            if at is not None and at >= opened.at and is_child_of(opened, lease.identity):
                return at
        return None

    def _share(
        self, lease: Lease, run: Run, entry: TagsAdded | TagsRemoved | ConfigUpdated | Published
    ) -> None:
        late = lease.end_reason == "superseded" and lease.ended_at is not None and entry.at > lease.ended_at
        if late:
            self._context.note(
                run.key, "change_refused", why=f"{lease.label} was replaced by a newer attempt"
            )
            return
        match entry:
            case ConfigUpdated(patch=patch):
                self._shared.update_config(run.key, bytes(patch), by=lease.lease_id)
            case TagsAdded(tags=tags):
                self._shared.add_tags(run.key, tags, by=lease.lease_id)
            case TagsRemoved(tags=tags):
                self._shared.remove_tags(run.key, tags)
            case Published():
                self._topics.publish(lease, run, entry)
            case _:
                assert_never(entry)

    def _dead_before_granted(self, lease: Lease, event: ProcessDied) -> None:
        """Ends a waiting claim that only wanted to join; another is still decided: it may have logged."""
        if lease.opened.verb == "init":
            self._dead[lease.lease_id] = event
            return
        now = self._context.now
        self._context.change_lease(
            lease, state="ended", ended_at=now.at, ended_ms=now.wall_ms, end_reason="gave_up"
        )

    def _evidence_of(self, event: ProcessDied, lease: Lease) -> Evidence:
        """Evidence of a death; always later than the process's own entries."""
        now = self._context.now
        found_ms = self._context.found_ms(event.alive_until_ms)
        kind: EvidenceKind = (
            "signal" if event.signal else "exit" if event.exit_code is not None else "vanished"
        )
        return Evidence(
            at=now.at,
            wall_ms=event.alive_until_ms if found_ms else now.wall_ms,
            found_ms=found_ms,
            kind=kind,
            message="its program was replaced by exec" if event.replaced else "",
            signal=event.signal,
            exit_code=event.exit_code,
            alive_until=max([event.alive_until, *(said.at for said in lease.evidence)]),
            oom=event.oom,
        )
