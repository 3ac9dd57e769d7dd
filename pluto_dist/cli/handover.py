"""Runs that this node's own spool holds are its coordinator's to deliver: it gets the key, and time.

That is the exact way: it knows to the record what it has sent. From the store alone, which has what a
document said last, `sync` does what is left: Runs of other nodes, and those whose key was replaced.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from pluto_dist.backend.local.store import Store
from pluto_dist.core.values.document import Document, read
from pluto_dist.core.values.messages import AskRun, HandOverKey
from pluto_dist.errors import RunNotFoundError
from pluto_dist.host.places import Places
from pluto_dist.host.settings import Settings
from pluto_dist.read.ask import ask
from pluto_dist.read.starting import ensure_running
from pluto_dist.secret import Secret
from pluto_dist.sync.source import cursors_of, streams_of

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
        """Whether this node's spool has records of a Run that is meant for a server."""
        leases = self._places.spool / "leases"
        return document.mode == "pluto" and any(
            (leases / lease.lease_id).exists() for lease in document.leases
        )

    def deliver(self, documents: Iterable[Document]) -> dict[str, str]:
        """Lets the coordinator deliver these Runs; returns why not, by key, for those it could not.

        Raises:
            CoordinatorUnavailableError: none could be started.
        """
        mine = [document for document in documents if self.concerns(document)]
        if not mine:
            return {}
        ensure_running(self._places, self._settings)
        self.tell()
        return {document.key: why for document in mine if (why := self._wait(document.key)) is not None}

    def tell(self) -> None:
        """Gives it the key, and lets it look at what was uploaded from the store."""
        ask(self._places.socket, HandOverKey(request=1, key=self._key.reveal()))

    def _wait(self, key: str) -> str | None:
        """None when everything is delivered and told, else the trouble."""
        last, deadline = None, time.monotonic() + self._patience_s
        while True:
            try:
                body = ask(self._places.socket, AskRun(request=1, run=key))
            except RunNotFoundError:
                return "this node's coordinator does not know it"
            if body is None:
                return "this node's coordinator has ended"
            document = read(body)
            if document.pending == 0 and (document.reported or document.verdict is None):
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
