"""Lifecycle entries take effect, each once and in order (R1, G9)."""

from __future__ import annotations

from collections import deque
from typing import assert_never

import msgspec

from pluto_dist.core.admission import Admission
from pluto_dist.core.book import Config
from pluto_dist.core.context import Context
from pluto_dist.core.effects import Say, WatchProcess
from pluto_dist.core.events import LifecycleRead, ProcessDied
from pluto_dist.core.lifecycle import (
    Closed,
    ConfigUpdated,
    Counted,
    Evidence,
    EvidenceKind,
    Finished,
    LifecycleEntry,
    Noted,
    Opened,
    TagsAdded,
    TagsRemoved,
)
from pluto_dist.core.merge import add_tags, merge_json, remove_tags
from pluto_dist.core.messages import PROTOCOL
from pluto_dist.core.records import Lease, Run


class Folding:
    """Entries by lease; those of a lease without a role wait for it."""

    def __init__(self, context: Context, admission: Admission) -> None:
        self._context = context
        self._book = context.book
        self._admission = admission
        self._inbox: dict[str, deque[tuple[int, LifecycleEntry]]] = {}
        self._dead: dict[str, ProcessDied] = {}

    def read(self, event: LifecycleRead) -> None:
        """New entries of one lease were read from its spool."""
        inbox = self._inbox.setdefault(event.lease_id, deque())
        newest = inbox[-1][0] if inbox else self._folded(event.lease_id)
        inbox.extend((number, entry) for number, entry in event.entries if number > newest)
        if event.lease_id not in self._book.leases:
            self._open(event, inbox)
        self.fold(event.lease_id)

    def fold(self, lease_id: str) -> None:
        """Lets entries take effect, as far as the lease has a role to do so."""
        inbox = self._inbox.get(lease_id)
        while inbox:
            lease = self._book.leases.get(lease_id)
            if lease is None or lease.state == "waiting":
                return
            number, entry = inbox.popleft()
            lease = self._context.change_lease(lease, folded=number)
            self._apply(lease, entry)
        dead = self._dead.get(lease_id)
        if dead is not None and self._book.leases[lease_id].state != "waiting":
            del self._dead[lease_id]
            self.died(dead)

    def fold_all(self) -> None:
        """Claims were decided: lets the entries behind them take effect."""
        for lease_id in (*self._inbox, *self._dead):
            self.fold(lease_id)

    def unfolded(self, lease_id: str) -> bool:
        """Whether entries of this lease wait for its role."""
        return bool(self._inbox.get(lease_id))

    def died(self, event: ProcessDied) -> None:
        """The process of a lease is gone. What it had to say was read before, so silence is silence."""
        lease = self._book.leases.get(event.lease_id)
        if lease is None:
            return
        if lease.code_awaited:
            self._exit_code_known(lease, event)
        if not lease.alive:
            return
        if lease.state == "waiting":
            self._dead_before_granted(lease, event)
            return
        lease = self._context.end_lease(
            lease, "exited" if lease.evidence else "died", next_step=max(lease.next_step, event.next_step)
        )
        if lease.role == "side" or lease.run is None:
            self._context.note(lease.run or "", "side_died", lease=lease.lease_id, signal=event.signal)
        elif not lease.evidence:
            self._context.change_lease(lease, evidence=(self._evidence_of(event),))

    def _exit_code_known(self, lease: Lease, event: ProcessDied) -> None:
        """It said "finished" from its exit hook; what the kernel says now completes it."""
        failed = bool(event.signal) or event.exit_code not in (None, 0)
        evidence = lease.evidence
        if failed and not evidence:
            evidence = (self._evidence_of(event),)
        self._context.change_lease(lease, code_awaited=False, evidence=evidence)

    def forget(self, lease_id: str) -> None:
        """The lease's folder is gone."""
        self._inbox.pop(lease_id, None)

    def _folded(self, lease_id: str) -> int:
        lease = self._book.leases.get(lease_id)
        return lease.folded if lease is not None else 0

    def _open(self, event: LifecycleRead, inbox: deque[tuple[int, LifecycleEntry]]) -> None:
        """The first entry of a stream says who it is and makes the lease."""
        if not inbox or not isinstance(inbox[0][1], Opened):
            self._context.emit(Say(event="lifecycle_without_opening", fields={"lease": event.lease_id}))
            return
        number, opened = inbox.popleft()
        assert isinstance(opened, Opened)  # noqa: S101 # looked at above
        lease = Lease(
            lease_id=event.lease_id,
            folder=event.folder,
            opened=opened,
            folded=number,
            asked_at=self._context.now.at,
        )
        self._book.put_lease(lease)
        if opened.protocol != PROTOCOL:
            self._admission.refuse(
                lease,
                "VersionMismatchError",
                f"the client speaks protocol {opened.protocol}, the coordinator {PROTOCOL}; "
                "stop the coordinator (pluto-dist coordinator stop) or use one version in all environments",
            )
            return
        self._context.emit(
            WatchProcess(lease_id=lease.lease_id, folder=lease.folder, identity=opened.identity)
        )
        self._end_former_program(lease)
        self._admission.claim(lease)

    def _end_former_program(self, lease: Lease) -> None:
        """Same process, new program: `exec` ended the lease that was there before (R2)."""
        for other in self._book.leases:
            if (
                other.alive
                and other.lease_id != lease.lease_id
                and other.identity.same_process(lease.identity)
                and other.identity.nonce != lease.identity.nonce
            ):
                self._context.end_lease(other, "exited" if other.evidence else "died")
                self._context.note(other.run or "", "replaced_by_exec", lease=other.lease_id)

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
                    late=entry.late,
                    next_step=max(lease.next_step, entry.next_step),
                )
            case TagsAdded() | TagsRemoved() | ConfigUpdated():
                self._merge(run, entry)
            case Noted():
                self._context.note(run.key, entry.text, **entry.detail, lease=lease.lease_id)
            case Opened():
                self._context.emit(Say(event="second_opening", fields={"lease": lease.lease_id}))
            case _:
                assert_never(entry)

    def _evidence(self, lease: Lease, run: Run, entry: Evidence) -> None:
        if lease.role == "side":
            self._context.note(run.key, "side_failed", label=lease.label, kind=entry.kind, type=entry.type)
        elif lease.state == "active" or lease.end_reason != "superseded":
            self._context.change_lease(lease, evidence=(*lease.evidence, entry)[:8])

    def _end(self, lease: Lease, run: Run, entry: Finished | Closed) -> None:
        if not lease.alive:
            return
        if isinstance(entry, Closed):
            self._context.end_lease(lease, "closed")
            return
        is_owner = lease.role == "owner" and run.owner == lease.lease_id
        code = entry.code if is_owner else None
        self._context.end_lease(lease, "finished", finish_code=code, code_awaited=entry.at_exit)
        if lease.role == "side":
            self._context.note(run.key, "finish_by_side", label=lease.label)

    def _merge(self, run: Run, entry: TagsAdded | TagsRemoved | ConfigUpdated) -> None:
        try:
            match entry:
                case ConfigUpdated(patch=patch):
                    self._merge_config(run, bytes(patch))
                case TagsAdded(tags=tags):
                    self._context.change_run(run, tags=add_tags(run.tags, tags))
                case TagsRemoved(tags=tags):
                    self._context.change_run(run, tags=remove_tags(run.tags, tags))
        except ValueError as error:
            self._context.note(run.key, "change_refused", why=str(error))

    def _merge_config(self, run: Run, patch: bytes) -> None:
        config = self._book.configs.get(run.key) or Config()
        merged = merge_json(config.body, patch)
        self._book.configs.put(run.key, msgspec.structs.replace(config, body=merged))
        self._context.change_run(run, config_patch=merge_json(run.config_patch or b"{}", patch))

    def _dead_before_granted(self, lease: Lease, event: ProcessDied) -> None:
        """It may have logged, so its claim is still decided; one that only waited to join is gone."""
        if lease.opened.verb == "init":
            self._dead[lease.lease_id] = event
            return
        now = self._context.now
        self._context.change_lease(
            lease, state="ended", ended_at=now.at, ended_ms=now.wall_ms, end_reason="gave_up"
        )

    def _evidence_of(self, event: ProcessDied) -> Evidence:
        now = self._context.now
        kind: EvidenceKind = (
            "signal" if event.signal else "exit" if event.exit_code is not None else "vanished"
        )
        return Evidence(
            at=now.at,
            wall_ms=now.wall_ms,
            kind=kind,
            signal=event.signal,
            exit_code=event.exit_code,
            alive_until=event.alive_until,
            oom=event.oom,
        )
