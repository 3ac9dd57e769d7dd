"""A starting coordinator takes over what the book knows: every lease, every launcher is looked at (G12)."""

from __future__ import annotations

from pluto_dist.core.admission import Admission
from pluto_dist.core.boots import rebased_lease, rebased_run
from pluto_dist.core.context import Context
from pluto_dist.core.effects import (
    AwaitRelease,
    FindFence,
    LookAtStreams,
    ReadLifecycle,
    RemoveLease,
    WatchLauncher,
    WatchProcess,
)
from pluto_dist.core.elsewhere import Elsewhere
from pluto_dist.core.nodes import is_node
from pluto_dist.core.opening import Opening
from pluto_dist.core.records import Lease, Run


class Recovery:
    """Done once, at the start."""

    def __init__(
        self, context: Context, admission: Admission, opening: Opening, elsewhere: Elsewhere
    ) -> None:
        self._context = context
        self._book = context.book
        self._admission = admission
        self._opening = opening
        self._elsewhere = elsewhere

    def start(self) -> None:
        """First the Runs, so that a claim which waits finds its Run as it is now."""
        for run in self._book.runs:
            self._take_up_run(run)
        for lease in self._book.leases:
            self._take_up_lease(lease)
        self._opening.wake()

    def _take_up_run(self, run: Run) -> None:
        self._context.touch(run.key)
        self._elsewhere.ask(run)
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
