"""The list of Runs, and server-sent events: what has changed since the page looked.

    runs     the list anew, or `{"changed": [rows], "gone": [keys]}`
    page     a Run's page, when it is another one than before
    points   something was logged: {"run": key}; the page asks for the charts that it shows
    console  something was printed: {"run": key}
    media    a file, text, histogram or table was logged: {"run": key}
    trouble  {"run": key, "error": text}: it cannot be read now

An event says that there is something, never what exactly; a page that has missed one has lost nothing, since
the next connection begins with everything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import anyio
import msgspec
from anyio.to_thread import run_sync

from pluto_dist.errors import PlutoDistError
from pluto_dist.read.listing import Listed, listed
from pluto_dist.read.lookup import Lookup
from pluto_dist.read.settle import settle
from pluto_dist.spool.frames import stream_kind
from pluto_dist.ui.opened import Opened, Sizes

FRESH_S = 1.0  # several pages that look at once share one look
SETTLE_EVERY_S = 15.0


class Row(msgspec.Struct, frozen=True):
    """One Run of the list; instants are epoch milliseconds.

    Attributes:
        status: for people; never RUNNING unless a process is known to live.
        standing: as `read.Situation.standing`.
        processes: leases over all restarts.
        differs: the server has another status, or does not take this one.
    """

    key: str
    display_id: str | None
    run_id: str
    name: str
    project: str
    status: str
    standing: str
    tags: tuple[str, ...]
    created_at: int
    ended_at: int | None
    points: int
    processes: int
    mode: str
    store: str
    differs: bool


class Listing(msgspec.Struct, frozen=True):
    """All Runs in reach, newest first.

    Attributes:
        runs: rows.
        remarks: what a person should know about the looking: Runs that cannot be read, an unsettled node.
        where: what was looked at.
    """

    runs: list[Row]
    remarks: list[str]
    where: str


class Runs:
    """Lists Runs; may be asked by several threads.

    Args:
        make: a lookup with what takes its remarks.
        only_store: of the Runs of the node only those of the store that is looked at.
    """

    def __init__(
        self,
        make: Callable[[Callable[[str], object]], Lookup],
        *,
        only_store: bool = False,
    ) -> None:
        self._make, self._only_store = make, only_store
        self._turn = threading.Lock()
        self._seen: Listing | None = None
        self._seen_at = self._settled_at = float("-inf")
        self._unsettled = ""

    def look(self) -> Listing:
        """The list as of now, or of a moment ago."""
        with self._turn:
            if self._seen is None or time.monotonic() >= self._seen_at + FRESH_S:
                self._seen = self._listing()
                self._seen_at = time.monotonic()
            return self._seen

    def store_of(self, key: str) -> Path | None:
        """The store that holds a Run of the list."""
        return next((Path(row.store) for row in self.look().runs if row.key == key), None)

    def _listing(self) -> Listing:
        remarks: list[str] = []
        lookup = self._make(remarks.append)
        self._settle(lookup)
        found = [
            each for each in listed(lookup) if not self._only_store or each.known.store == lookup.store.root
        ]
        rows = [row_of(each) for each in reversed(found)]
        unsettled = [self._unsettled] if self._unsettled else []
        return Listing(rows, [*unsettled, *remarks], lookup.where())

    def _settle(self, lookup: Lookup) -> None:
        """Settles Runs that no coordinator looks after (G7), at the first look and from time to time."""
        if time.monotonic() >= self._settled_at + SETTLE_EVERY_S:
            self._unsettled = settle(lookup)
            self._settled_at = time.monotonic()


def row_of(each: Listed) -> Row:
    """A Run as a row."""
    head = each.known.head
    return Row(
        key=head.key,
        display_id=head.display_id,
        run_id=head.run_id,
        name=head.name,
        project=head.project,
        status=each.situation.status,
        standing=each.situation.standing,
        tags=head.tags,
        created_at=head.created_at,
        ended_at=head.ended_at,
        points=head.points,
        processes=sum(lease.pid > 0 for lease in head.leases),
        mode=head.mode,
        store=str(each.known.store),
        differs=head.server_status is not None or "status" in head.refusals,
    )


LOOK_S = 0.3  # a new point is on the page within a second
PAGE_EVERY_S = 1.0
LIST_EVERY_S = 2.0
TURN_S = 0.1
QUIET_S = 15.0  # so often at least something is sent, which shows that the connection lives

KINDS = {"metrics": "points", "console": "console", "data": "media", "files": "media"}


def event(name: str, data: object) -> bytes:
    """One event on the wire."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))


class Feed(Protocol):
    """Something that is looked at every so often."""

    @property
    def every_s(self) -> float:
        """How often."""
        ...

    @property
    def key(self) -> str:
        """Of the Run that it is about, "" for the list."""
        ...

    def look(self) -> Iterator[bytes]:
        """What to send now."""
        ...


class ListFeed:
    """Changes of the list."""

    every_s = LIST_EVERY_S
    key = ""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._sent: dict[str, Row] | None = None

    def look(self) -> Iterator[bytes]:
        """What to send now."""
        seen = self._runs.look()
        rows = {row.key: row for row in seen.runs}
        if self._sent is None:
            yield event("runs", seen)
        elif rows != self._sent:
            changed = [row for row in seen.runs if self._sent.get(row.key) != row]
            yield event("runs", {"changed": changed, "gone": sorted(self._sent.keys() - rows.keys())})
        self._sent = rows


class RunFeed:
    """Changes of one Run.

    Args:
        opened: the Run.
        key: its key.
        whole: each process has a row of its own on its page.
    """

    every_s = LOOK_S

    def __init__(self, opened: Opened, key: str, *, whole: bool) -> None:
        self._opened, self.key, self._whole = opened, key, whole
        self._sizes: Sizes | None = None
        self._page = b""
        self._page_at = float("-inf")

    def look(self) -> Iterator[bytes]:
        """What to send now; raises as `Opened.seen`."""
        if time.monotonic() >= self._page_at + PAGE_EVERY_S:
            self._page_at = time.monotonic()
            yield from self._changed_page()
        sizes = self._opened.sizes()
        before = sizes if self._sizes is None else self._sizes
        self._sizes = sizes
        grown = {KINDS.get(stream_kind(stream)) for (_, stream, _), _ in sizes.items() ^ before.items()}
        yield from (event(kind, {"run": self.key}) for kind in sorted(filter(None, grown)))

    def _changed_page(self) -> Iterator[bytes]:
        page = self._opened.page(whole=self._whole)
        timeless = msgspec.structs.replace(
            page, now=0, timeline=msgspec.structs.replace(page.timeline, end=0)
        )
        said = msgspec.json.encode(timeless)
        if said != self._page:
            self._page = said
            yield event("page", page)


class _Turn:
    """When a feed is looked at again, and what went wrong the last time."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._due = float("-inf")
        self._trouble = ""

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._due

    def look(self) -> list[bytes]:
        """What to send now; trouble is told once."""
        try:
            found, trouble = list(self._feed.look()), ""
        except (PlutoDistError, OSError) as error:
            found, trouble = [], str(error)
        if trouble and trouble != self._trouble:
            found = [event("trouble", {"run": self._feed.key, "error": trouble})]
        self._trouble = trouble
        self._due = time.monotonic() + self._feed.every_s
        return found


async def events(feeds: Sequence[Feed], stopping: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Events of several feeds until the server stops or the page leaves."""
    turns = [_Turn(feed) for feed in feeds]
    sent_at = time.monotonic()
    while not stopping():
        for turn in turns:
            for found in await run_sync(turn.look) if turn.is_due else ():
                yield found
                sent_at = time.monotonic()
        if time.monotonic() > sent_at + QUIET_S:
            yield b": still here\n\n"
            sent_at = time.monotonic()
        await anyio.sleep(TURN_S)
