"""Every request with its times and what became of the answer."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from .wire import Request

ANSWERED, UNKNOWN = "answered", "unknown"
_KEPT_BODY = 64 * 1024


@dataclass(slots=True)
class Entry:
    """One request. `at` and `finished_at` are epoch seconds of the real clock, shared by all processes.

    `outcome` is None in flight, then `answered`, or `unknown` when the client may not have the answer.
    """

    id: int
    service: str
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    size: int
    body: str | None
    at: float
    status: int | None = None
    fault: str | None = None
    finished_at: float | None = None
    outcome: str | None = None


class Journal:
    """The requests in order of arrival."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._in_flight: dict[int, Entry] = {}

    def open(self, request: Request) -> Entry:
        """Note the arrival of a request. The key it carries is not kept."""
        keeps_body = request.service in ("api", "py") and len(request.body) <= _KEPT_BODY
        body = request.body.decode("utf-8", "replace") if keeps_body else None
        headers = {name: value for name, value in request.headers.items() if name != "authorization"}
        entry = Entry(
            request.id,
            request.service,
            request.method,
            request.path,
            dict(request.query),
            headers,
            len(request.body),
            body,
            time.time(),
        )
        self._entries[request.id] = self._in_flight[request.id] = entry
        return entry

    def abandon(self, entry: Entry) -> None:
        """The client does not wait for the answer any more."""
        entry.outcome = UNKNOWN
        self._in_flight.pop(entry.id, None)

    def leaves(self, entry: Entry) -> None:
        """The answer leaves, or the connection breaks: from now on its client may act on that."""
        self._in_flight.pop(entry.id, None)

    def answers(self, entry: Entry) -> None:
        """The answer is about to leave: its client may have it, and ask again, before we know."""
        entry.outcome, entry.finished_at = ANSWERED, time.time()

    def close(self, entry: Entry, status: int | None, *, answered: bool) -> None:
        """The exchange is over."""
        entry.status, entry.finished_at = status, entry.finished_at or time.time()
        if entry.outcome is None:
            entry.outcome = ANSWERED if answered else UNKNOWN
        self._in_flight.pop(entry.id, None)

    def knows_answer(self, request_id: int) -> bool:
        """Whether the client of an earlier request has its answer."""
        entry = self._entries.get(request_id)
        return entry is not None and entry.outcome == ANSWERED

    def get(self, request_id: int) -> Entry | None:
        """The entry of a request that came over a socket."""
        return self._entries.get(request_id)

    def entries(self) -> list[Entry]:
        """All requests."""
        return list(self._entries.values())

    def in_flight(self) -> Iterable[Entry]:
        """The requests whose clients still wait."""
        return list(self._in_flight.values())
