"""Documents of Runs on their way to the store: one a second at most, unless somebody waits."""

from __future__ import annotations

from collections.abc import Callable

from pluto_dist.core.context import Context
from pluto_dist.core.effects import WriteDocument
from pluto_dist.core.events import DocumentWritten
from pluto_dist.core.records import Run

DOCUMENT_S = 1.0  # a document is written at most this often, unless somebody waits for it


class Filing:
    """Revisions count changes of a Run since this coordinator started."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._book = context.book
        self._revisions: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self._writing: set[str] = set()
        self._due: dict[str, float] = {}
        self._troubled: set[str] = set()

    def changed(self, key: str) -> None:
        """There is something new to write."""
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
        """The store has a document, or could not take it."""
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
        for lease in self._book.leases_of(key):
            self._context.news[lease.lease_id] = None

    def safe(self, run: Run) -> bool:
        """Whether nobody has to wait for the store; what the server has needs no document."""
        newest = self._written.get(run.key, 0) == self._revisions.get(run.key, 0)
        return newest or run.target.mode == "pluto"

    def forget(self, run: str) -> None:
        """The Run is forgotten."""
        for known in (self._revisions, self._written, self._due):
            known.pop(run, None)
        self._troubled.discard(run)
