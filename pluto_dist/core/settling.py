"""After every event: what has become of each Run that it touched.

The order is fixed: claims, then entries that waited for them, then the verdict, then what the backend and the
store have to be told, then what the participants have to be told. A verdict is frozen when it is made; it is
reported once, after everything of owner and workers has been delivered.
"""

from __future__ import annotations

import msgspec

from pluto_dist.core.admission import Admission
from pluto_dist.core.context import Context
from pluto_dist.core.control import Controls
from pluto_dist.core.delivery import Delivery
from pluto_dist.core.effects import RemoveLease, WriteDocument
from pluto_dist.core.events import DocumentWritten
from pluto_dist.core.folding import Folding
from pluto_dist.core.phase import Assessment, assess, members_of
from pluto_dist.core.records import Lease, Run, Verdict
from pluto_dist.core.views import Views

DOCUMENT_S = 1.0  # a document is written at most this often, unless somebody waits for it


class Settling:
    """Deadlines and documents of Runs."""

    def __init__(
        self,
        context: Context,
        admission: Admission,
        folding: Folding,
        delivery: Delivery,
        controls: Controls,
        views: Views,
    ) -> None:
        self._context = context
        self._book = context.book
        self._admission = admission
        self._folding = folding
        self._delivery = delivery
        self._controls = controls
        self._views = views
        self._deadlines: dict[str, float] = {}
        self._revisions: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self._writing: dict[str, float] = {}
        self._write_at: dict[str, float] = {}
        self._dirty: dict[str, None] = {}
        self._gone: set[str] = set()

    def settle(self) -> None:
        """Settles all touched Runs; settling one may touch it again, so it goes on until nothing changes."""
        self._touch_due()
        for _ in range(20):
            self._admission.retry()
            self._folding.fold_all()
            touched = tuple(self._context.touched)
            self._context.touched.clear()
            if not touched:
                self._write_dirty()
                return
            for key in touched:
                run = self._book.runs.get(key)
                if run is not None:
                    self._settle_run(run)
        raise RuntimeError(f"Runs {tuple(self._context.touched)} do not come to rest")

    def deadline(self) -> float | None:
        """When some Run has to be looked at again."""
        return min((*self._deadlines.values(), *self._write_at.values()), default=None)

    def document_written(self, event: DocumentWritten) -> None:
        """The store has a document, or could not take it."""
        self._writing.pop(event.run, None)
        if event.error:
            self._write_at[event.run] = self._context.now.at + DOCUMENT_S
            if event.revision <= 1:
                self._context.note(event.run, "store_trouble", why=event.error)
            return
        self._written[event.run] = event.revision
        self._views.document_pending(event.run, self._revisions.get(event.run, 0) > event.revision)
        run = self._book.runs.get(event.run)
        if run is not None:
            self._views.tell(run)
            if self._revisions.get(event.run, 0) > event.revision:
                self._write(run)

    def gone(self, lease_id: str) -> None:
        """The process of a lease is dead; its folder may go once it is delivered."""
        self._gone.add(lease_id)
        lease = self._book.leases.get(lease_id)
        if lease is not None:
            self._remove_if_done(lease)
            self._context.touch(lease.run)

    def at_rest(self, run: Run) -> bool:
        """Whether nothing is left to do for the Run."""
        if run.stage == "refused":
            return True
        written = self._written.get(run.key, 0) == self._revisions.get(run.key, 0)
        delivered = all(
            lease.removed or self._delivery.complete(lease)
            for lease in self._book.leases_of(run.key)
            if lease.participant
        )
        return run.stage == "ended" and run.reported and written and delivered and self._controls.settled(run)

    def _touch_due(self) -> None:
        now = self._context.now.at
        for key in [key for key, at in self._deadlines.items() if at <= now]:
            del self._deadlines[key]
            self._context.touch(key)
        for key in [key for key, at in self._write_at.items() if at <= now]:
            run = self._book.runs.get(key)
            if run is None:
                del self._write_at[key]
            else:
                self._write(run)

    def _settle_run(self, run: Run) -> None:
        leases = self._book.leases_of(run.key)
        assessment = assess(run, members_of(run, leases), self._context.now.at)
        if assessment.verdict is not None and run.verdict is None:
            run = self._end(run, assessment.verdict)
        self._controls.advance(run, may_report=self._views.delivered(run), lives=self._lives(run, assessment))
        run = self._book.runs[run.key]
        self._revisions[run.key] = self._revisions.get(run.key, 0) + 1
        self._views.document_pending(run.key, True)
        self._dirty[run.key] = None
        for lease in leases:
            self._remove_if_done(lease)
        self._views.tell(run)
        self._plan(run, assessment)

    def _end(self, run: Run, verdict: Verdict) -> Run:
        """Freezes the verdict."""
        self._context.urgent.add(run.key)
        self._context.note(run.key, "ended", status=verdict.status, reason=verdict.reason)
        restored = run.prior is not None and verdict is run.prior.verdict
        ended_ms = run.prior.ended_ms if restored and run.prior is not None else None
        return self._context.change_run(
            run,
            stage="ended",
            status=verdict.status,
            verdict=verdict,
            ended_ms=ended_ms or self._context.now.wall_ms,
        )

    def _lives(self, run: Run, assessment: Assessment) -> bool:
        """Whether a heartbeat is the truth: a coordinator never keeps the Run of a dead job alive (G7)."""
        return run.verdict is None and assessment.phase in (
            "running",
            "orphaned",
            "restarting",
            "detached",
            "finishing",
        )

    def _plan(self, run: Run, assessment: Assessment) -> None:
        lives = self._lives(run, assessment)
        candidates = (assessment.deadline, self._controls.deadline(run, lives=lives))
        deadlines = [at for at in candidates if at is not None and at > self._context.now.at]
        if deadlines:
            self._deadlines[run.key] = min(deadlines)
        else:
            self._deadlines.pop(run.key, None)

    def _write_dirty(self) -> None:
        for key in self._dirty:
            run = self._book.runs.get(key)
            if run is not None:
                self._write(run)
        self._dirty.clear()

    def _write(self, run: Run) -> None:
        """Writes the document now, or a little later if one was written just now."""
        if run.stage == "refused" or (run.id is None and run.target.mode == "local"):
            return
        if run.key in self._writing or self._revisions.get(run.key, 0) == self._written.get(run.key, 0):
            return
        now = self._context.now.at
        urgent = run.key in self._context.urgent or run.verdict is not None or run.key not in self._written
        if not urgent and self._write_at.setdefault(run.key, now + DOCUMENT_S) > now:
            return
        self._write_at.pop(run.key, None)
        self._context.urgent.discard(run.key)
        self._writing[run.key] = now
        self._context.emit(
            WriteDocument(
                run=run.key,
                store=run.target.store,
                revision=self._revisions[run.key],
                body=self._views.document(run),
            )
        )

    def _remove_if_done(self, lease: Lease) -> None:
        """The folder goes when the process is dead and everything is delivered and told."""
        if lease.removed or lease.alive or lease.lease_id not in self._gone:
            return
        if lease.participant and not self._delivery.complete(lease):
            return
        self._context.emit(RemoveLease(lease_id=lease.lease_id, folder=lease.folder))
        self._book.put_lease(msgspec.structs.replace(lease, removed=True))
        self._delivery.forget(lease)
        self._folding.forget(lease.lease_id)
        self._views.forget(lease.lease_id)
