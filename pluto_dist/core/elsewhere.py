"""What `sync` has uploaded from the store while no coordinator ran.

A starting coordinator asks for it before it sends anything of an unfinished Run: otherwise data and console
rows would be on the server twice. A store that does not answer is waited for, but not for ever.
"""

from __future__ import annotations

import msgspec

from pluto_dist.core.book import feed_key
from pluto_dist.core.context import Context
from pluto_dist.core.effects import ReadUploads
from pluto_dist.core.events import UploadsRead
from pluto_dist.core.records import Lease, Run

WAIT_S = 30.0


class Elsewhere:
    """Asks once for each Run."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._book = context.book

    def ask_all(self) -> None:
        """A sync was here."""
        for run in self._book.runs:
            self.ask(run)

    def ask(self, run: Run) -> None:
        """Holds the Run back until it is known."""
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
        feed = self._book.feeds.get(feed_key(lease.lease_id, "run", stream))
        if feed is None:
            return
        known = feed.offsets
        ahead = {number: end for number, end in offsets.items() if end > known.get(number, 0)}
        if ahead:
            self._book.put_feed(msgspec.structs.replace(feed, offsets={**known, **ahead}, intent=None))
