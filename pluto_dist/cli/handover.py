"""Hand-over by `sync`: Runs that this node's coordinator has are delivered and ended by it, with the key.

That is exact: the coordinator knows to the record what it has sent, and has all the evidence. It is also the
only safe way: two processes that report one Run would contradict each other (R3), for instance about a Run
that waits for a restart. `sync` itself does what is left, from the store alone: Runs of other nodes, and
those whose key was replaced.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from pluto_dist.backend.local.store import Store
from pluto_dist.core.values.document import Document, read
from pluto_dist.core.values.messages import AskRun, AskRuns, HandOverKey
from pluto_dist.errors import RunNotFoundError
from pluto_dist.host.places import Places
from pluto_dist.host.settings import Settings
from pluto_dist.read.ask import ask, ensure_running
from pluto_dist.secret import Secret
from pluto_dist.sync.delivery import cursors_of, streams_of

POLL_S = 0.2


class Handover:
    """One node's coordinator.

    Args:
        places: of this node.
        settings: for a coordinator that has to be started.
        key: the API key.
        patience_s: how long to wait without any progress.
    """

    def __init__(self, places: Places, settings: Settings, key: Secret, patience_s: float) -> None:
        self._places = places
        self._settings = settings
        self._key = key
        self._patience_s = patience_s

    def concerns(self, document: Document) -> bool:
        """Whether this node's coordinator may have this Run of a server with something left to deliver."""
        if document.mode != "pluto":
            return False
        unended = not document.reported and not document.relay and self._places.database.exists()
        return unended or self._in_spool(document)

    def deliver(self, documents: Iterable[Document]) -> dict[str, str]:
        """Has the coordinator deliver these Runs; returns the reason, by key, for those that it could not.

        Raises:
            CoordinatorUnavailableError: none could be started.
        """
        mine = [document for document in documents if self.concerns(document)]
        if not mine:
            return {}
        ensure_running(self._places, self._settings)
        self.tell()
        known = self.kept()
        here = [each for each in mine if each.key in known or self._in_spool(each)]
        return {document.key: why for document in here if (why := self._wait(document.key)) is not None}

    def kept(self) -> dict[str, Document]:
        """Documents, by key, of the Runs that this node's coordinator has now; empty if none runs."""
        body = ask(self._places.socket, AskRuns(request=1))
        documents = msgspec.json.decode(body, type=list[msgspec.Raw]) if body is not None else []
        return {document.key: document for document in map(read, map(bytes, documents))}

    def tell(self) -> None:
        """Gives the coordinator the key, and has it read what was uploaded from the store."""
        ask(self._places.socket, HandOverKey(request=1, key=self._key.reveal()))

    def _in_spool(self, document: Document) -> bool:
        leases = self._places.spool / "leases"
        return any((leases / lease.lease_id).exists() for lease in document.leases)

    def _wait(self, key: str) -> str | None:
        """Waits until everything is delivered and reported; returns None then, else the trouble."""
        last, deadline = None, time.monotonic() + self._patience_s
        while True:
            try:
                body = ask(self._places.socket, AskRun(request=1, run=key))
            except RunNotFoundError:
                return "this node's coordinator does not know it"
            if body is None:
                return "this node's coordinator has ended"
            document = read(body)
            if document.verdict is None and (document.pending == 0 or document.phase == "running"):
                return None  # it goes on, with its coordinator
            if document.pending == 0 and document.reported:
                return None
            stand = (document.pending, document.reported)
            if stand != last:
                last, deadline = stand, time.monotonic() + self._patience_s
            foreign = document.restore.run.target.key_id != self._key.digest
            if foreign and _copied(document):
                return "it was begun with another API key"
            if time.monotonic() > deadline:
                return document.trouble or "its coordinator does not get on"
            time.sleep(POLL_S)


def _copied(document: Document) -> bool:
    """Whether the store has all that the coordinator could not deliver."""
    streams = streams_of(Store(Path(document.restore.run.target.store)), document)
    cursors = cursors_of(document)
    return sum(stream.pending(cursors) for stream in streams) >= document.pending
