"""The list of Runs, as rows for the page."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from pluto_dist.read.listing import Listed, listed
from pluto_dist.read.lookup import Lookup
from pluto_dist.read.settle import settle

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
        clock: seconds that do not go back.
    """

    def __init__(
        self,
        make: Callable[[Callable[[str], object]], Lookup],
        *,
        only_store: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make, self._only_store, self._clock = make, only_store, clock
        self._turn = threading.Lock()
        self._seen: Listing | None = None
        self._seen_at = self._settled_at = float("-inf")
        self._unsettled = ""

    def look(self) -> Listing:
        """The list as of now, or of a moment ago."""
        with self._turn:
            if self._seen is None or self._clock() >= self._seen_at + FRESH_S:
                self._seen = self._listing()
                self._seen_at = self._clock()
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
        if self._clock() >= self._settled_at + SETTLE_EVERY_S:
            self._unsettled = settle(lookup)
            self._settled_at = self._clock()


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
