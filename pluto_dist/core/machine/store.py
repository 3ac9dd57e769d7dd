"""The store, as the coordinator uses it: documents, copies of undelivered records, uploads by `sync`.

**Documents** are written at most once a second, unless a process waits for one.

**Copies** hold what the server has not taken. The spool is on a node's own disk, which may be gone with the
node; the store is where people look, and `sync` can upload it from any host. So closed segments are copied
when the server does not take them, everything every minute, and all that a process has left behind when it is
gone. A copy is removed once its records are delivered, and before its segment is: the document says how far
they are, and forgets a segment that is gone. What a power loss took from the disk stays in the store, with
its cursor in the document, for `sync`.

**Uploads by `sync`** may have happened while no coordinator ran. A starting one reads them before it sends
anything of an unfinished Run: otherwise data and console rows would be on the server twice. A store that does
not answer is waited for, but not for ever.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from pluto_dist.core.machine.context import Context
from pluto_dist.core.machine.delivery import Delivery
from pluto_dist.core.machine.lane import Lane
from pluto_dist.core.values.book import cursor_key
from pluto_dist.core.values.effects import Copy, DropCopies, KeepCopies, ReadUploads, WriteDocument
from pluto_dist.core.values.events import CopiesDropped, CopiesKept, DocumentWritten, UploadsRead
from pluto_dist.core.values.records import Cursor, Lease, Run

ALIVE_S = 60.0  # the document of a Run with live processes is never older; see `FRESH_S` in sync/plan.py
DOCUMENT_S = 1.0  # a document is written at most this often, unless a process waits for it


class DocumentWriter:
    """Documents on their way to the store; revisions count a Run's changes since this coordinator started."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._book = context.book
        self._revisions: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self._writing: set[str] = set()
        self._due: dict[str, float] = {}
        self._troubled: set[str] = set()

    def changed(self, key: str) -> None:
        """Notes that a Run's document has to be written."""
        run = self._book.runs.get(key)
        if run is None or (run.id is None and (run.target.mode == "local" or not run.provisional)):
            return  # it has no place in the store yet, or may still be refused, and then it never was
        now = self._context.now.at
        self._revisions[key] = self._revisions.get(key, 0) + 1
        urgent = key in self._context.urgent or run.ended or key not in self._written
        self._due[key] = now if urgent else min(self._due.get(key, now + DOCUMENT_S), now + DOCUMENT_S)

    def write_due(self, document: Callable[[Run], bytes]) -> None:
        """Writes what is due; what is being written is written again afterwards if it has changed."""
        now = self._context.now.at
        for key in [key for key, at in self._due.items() if at <= now and key not in self._writing]:
            del self._due[key]
            run = self._book.runs.get(key)
            if run is not None:
                self._context.urgent.discard(key)
                self._writing.add(key)
                self._context.emit(
                    WriteDocument(
                        run=key, store=run.target.store, revision=self._revisions[key], body=document(run)
                    )
                )

    def deadline(self) -> float | None:
        """When `write_due` has something to do."""
        return min((at for key, at in self._due.items() if key not in self._writing), default=None)

    def done(self, event: DocumentWritten) -> None:
        """Takes an answer: the store has a document, or could not take it."""
        key = event.run
        self._writing.discard(key)
        run = self._book.runs.get(key)
        if run is None:
            return
        if event.error:
            self._due[key] = self._context.now.at + DOCUMENT_S
            if key not in self._troubled:
                self._context.note(key, "store_trouble", why=event.error)
                self._troubled.add(key)
            return
        self._troubled.discard(key)
        self._written[key] = event.revision
        if self._book.anybody_in(key):  # other hosts know by it that the Run lives, and how far it is
            self._due.setdefault(key, self._context.now.at + ALIVE_S)
        for lease in self._book.left(key):  # only processes that leave wait for the document
            self._context.news[lease.lease_id] = None

    def safe(self, run: Run) -> bool:
        """Whether no process has to wait for the Run's document; what the server has needs none."""
        newest = self._written.get(run.key, 0) == self._revisions.get(run.key, 0)
        return newest or run.target.mode == "pluto"

    def forget(self, run: str) -> None:
        for known in (self._revisions, self._written, self._due):
            known.pop(run, None)
        self._troubled.discard(run)


LOOK_S = 0.5
OPEN_S = 60.0  # what is in segments that are still written is copied this often
ENDED_S = 1.0  # what a process left behind is usually delivered within this time
AGAIN_S = 5.0  # after the store could not take a copy


class UndeliveredCopies:
    """Copies of all Runs with a server; looked at twice a second at most."""

    def __init__(self, context: Context, delivery: Delivery) -> None:
        self._context = context
        self._book = context.book
        self._delivery = delivery
        self._look_at = 0.0
        self._since: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self._busy: dict[str, int] = {}
        self._unseen = False

    def look(self) -> None:
        """Has the store get what should be copied, and lose what is delivered."""
        now = self._context.now.at
        if now < self._look_at and not self._context.urgent:
            self._unseen = True
            return
        self._look_at, self._unseen = now + LOOK_S, False
        self._not_before = {key: at for key, at in self._not_before.items() if at > now}
        for run in self._runs():
            if not self._busy.get(run.key) and run.key not in self._not_before:
                self._drop_delivered(run)
                self._leave_lost(run)
                self._keep(run)

    def deadline(self) -> float | None:
        """When `look` may have something to do, if nothing happens before."""
        waiting = self._since or any(self._busy.values())
        if waiting or (self._unseen and self._runs()):
            return self._look_at
        return max(self._look_at, min(self._not_before.values())) if self._not_before else None

    def kept(self, event: CopiesKept) -> None:
        """Takes an answer: copies are in the store, or it could not take them."""
        self._answered(event.run)
        run, lease = self._book.runs.get(event.run), self._book.leases.get(event.lease_id)
        if run is None or lease is None:
            return
        for copy in event.copies:
            cursor = self._cursor(lease, copy.stream)
            offsets = {**cursor.offsets, copy.segment: max(copy.end, cursor.offsets.get(copy.segment, 0))}
            self._book.put_cursor(msgspec.structs.replace(cursor, offsets=offsets))
        if event.error:
            self._delivery.kick(lease)  # what was delivered meanwhile may go
            self._not_before[run.key] = self._context.now.at + AGAIN_S
            self._context.note_once(run.key, "store_trouble", why=event.error)
        else:
            self._since.pop(run.key, None)
        self._context.urgent.add(run.key)  # the document is what makes them readable
        self._context.touch(run.key)

    def dropped(self, event: CopiesDropped) -> None:
        """Takes an answer: copies are gone, so their segments may go."""
        self._answered(event.run)
        lease = self._book.leases.get(event.lease_id)
        if lease is None:
            return
        if not event.segments:
            self._not_before[event.run] = self._context.now.at + AGAIN_S
        for stream, segment in event.segments:
            cursor = self._cursor(lease, stream)
            offsets = {number: end for number, end in cursor.offsets.items() if number != segment}
            self._book.put_cursor(msgspec.structs.replace(cursor, offsets=offsets))
        self._context.news[lease.lease_id] = None
        self._delivery.kick(lease)

    def forget(self, run: str) -> None:
        for known in (self._since, self._not_before, self._busy):
            known.pop(run, None)

    def _runs(self) -> list[Run]:
        """Runs that may have something undelivered, or copies."""
        return [run for run in self._book.unfinished if run.target.mode == "pluto"]

    def _keep(self, run: Run) -> None:
        now = self._context.now.at
        missing = [
            (lane, copies)
            for lease in self._book.leases_of(run.key)
            for lane in self._delivery.lanes_of(lease)
            if (copies := _missing(lane))
        ]
        if not missing:
            self._since.pop(run.key, None)
            return
        since = self._since.setdefault(run.key, now)
        patience_s = min(self._patience_s(run, lane, copies) for lane, copies in missing)
        if now < since + patience_s:
            return
        by_lease: dict[str, list[Copy]] = {}
        for lane, copies in missing:
            by_lease.setdefault(lane.cursor.lease_id, []).extend(copies)
            self._intend(lane, copies)
        self._busy[run.key] = self._busy.get(run.key, 0) + len(by_lease)
        for lease_id, copied in by_lease.items():
            lease = self._book.leases[lease_id]
            self._context.emit(
                KeepCopies(
                    run=run.key,
                    store=run.target.store,
                    lease_id=lease_id,
                    folder=lease.folder,
                    copies=tuple(copied),
                )
            )

    def _intend(self, lane: Lane, copies: tuple[Copy, ...]) -> None:
        """Keeps the intent before the copy is made: `sync` would take an unknown copy for undelivered."""
        cursor = self._cursor(lane.lease, lane.cursor.stream)
        offsets = {**{copy.segment: 0 for copy in copies}, **cursor.offsets}
        self._book.put_cursor(msgspec.structs.replace(cursor, offsets=offsets))

    def _patience_s(self, run: Run, lane: Lane, copies: tuple[Copy, ...]) -> float:
        """Seconds within which the server may take the records, so that no copy is made."""
        stuck = bool(lane.trouble) or not self._delivery.deliverable(run)
        if not lane.lease.alive:
            return 0.0 if stuck else ENDED_S
        newest = max(lane.sizes)
        return 0.0 if stuck and any(copy.segment < newest for copy in copies) else OPEN_S

    def _drop_delivered(self, run: Run) -> None:
        """Has copies removed that are delivered; others are looked at again after the Run's next delivery."""
        for lease in self._book.leases_of(run.key):
            done = tuple(
                (lane.cursor.stream, segment)
                for lane in self._delivery.lanes_of(lease)
                for segment in lane.needless
            )
            if done:
                self._busy[run.key] = self._busy.get(run.key, 0) + 1
                self._context.emit(
                    DropCopies(run=run.key, store=run.target.store, lease_id=lease.lease_id, segments=done)
                )

    def _leave_lost(self, run: Run) -> None:
        """Leaves to `sync` what only the copy has since a power loss; nothing here waits for it."""
        for lease in self._book.leases_of(run.key):
            for lane in self._delivery.lanes_of(lease):
                if lost := lane.lost:
                    cursor = self._cursor(lease, lane.cursor.stream)
                    self._book.put_cursor(msgspec.structs.replace(cursor, left=(*cursor.left, *lost)))
                    detail = {"lease": lease.lease_id, "stream": cursor.stream, "segments": str(list(lost))}
                    self._context.note(run.key, "left_in_store", **detail)
                    self._context.news[lease.lease_id] = None
                    self._context.urgent.add(run.key)

    def _cursor(self, lease: Lease, stream: str) -> Cursor:
        known = self._book.cursors.get(cursor_key(lease.lease_id, "store", stream))
        kind = self._book.cursors[cursor_key(lease.lease_id, "run", stream)].kind
        return known or Cursor(lease_id=lease.lease_id, target="store", stream=stream, kind=kind)

    def _answered(self, run: str) -> None:
        if run in self._busy:  # else the Run is forgotten
            self._busy[run] = max(0, self._busy[run] - 1)


def _missing(lane: Lane) -> tuple[Copy, ...]:
    """Parts of segments that are neither delivered nor copied."""
    delivered, kept = lane.cursor.offsets, lane.kept
    return tuple(
        Copy(lane.cursor.stream, segment, kept.get(segment, 0), size)
        for segment, size in sorted(lane.sizes.items())
        if size > max(delivered.get(segment, 0), kept.get(segment, 0))
    )


WAIT_S = 30.0


class SyncUploads:
    """Reads once for each Run what `sync` has uploaded, and moves the cursors past it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._book = context.book

    def ask_all(self) -> None:
        """Reads the uploads of all Runs again: a `sync` has announced itself."""
        for run in self._book.runs:
            self.ask(run)

    def ask(self, run: Run) -> None:
        """Reads a Run's uploads, and holds the Run back until they are known."""
        unfinished = not run.reported or any(not lease.removed for lease in self._book.leases_of(run.key))
        if run.target.mode == "pluto" and unfinished:
            self._context.held_back[run.key] = self._context.now.at + WAIT_S
            self._context.emit(ReadUploads(run=run.key, target=run.target))

    def read(self, event: UploadsRead) -> None:
        """Cursors go on from where the upload was."""
        self._context.held_back.pop(event.run, None)
        run, uploaded = self._book.runs.get(event.run), event.uploaded
        if run is None:
            return
        self._context.touch(run.key)
        if uploaded is None:
            return
        for lease in self._book.leases_of(run.key):
            for stream, offsets in uploaded.offsets.get(lease.lease_id, {}).items():
                self._advance(lease, stream, offsets)
        told = uploaded.status is not None and uploaded.status == run.status
        self._context.note(run.key, "uploaded_by_sync", status=uploaded.status or "")
        self._context.change_run(
            run,
            next_line=max(run.next_line, uploaded.next_line),
            external_id=uploaded.external_id or run.external_id,
            telling=run.telling or uploaded.status is not None,
            reported=run.reported or told,
        )

    def _advance(self, lease: Lease, stream: str, offsets: dict[int, int]) -> None:
        cursor = self._book.cursors.get(cursor_key(lease.lease_id, "run", stream))
        if cursor is None:
            return
        known = cursor.offsets
        ahead = {number: end for number, end in offsets.items() if end > known.get(number, 0)}
        if ahead:
            self._book.put_cursor(msgspec.structs.replace(cursor, offsets={**known, **ahead}, intent=None))
