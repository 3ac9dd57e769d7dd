"""Final names of series (R7), for records that no coordinator has looked at as well as for the others."""

from __future__ import annotations

from pluto_dist.core.book import Book
from pluto_dist.core.document import Document
from pluto_dist.core.records import SeriesOwner
from pluto_dist.core.requests import LogType
from pluto_dist.core.series import SeriesNames


class Names:
    """The Run's series, to which new names are added in the order in which they are met.

    Args:
        document: of the Run.
        more: owners that an earlier upload has settled.
    """

    def __init__(self, document: Document, more: dict[str, SeriesOwner]) -> None:
        self._key = document.key
        self._book = Book()
        for name, owner in {**document.restore.series, **more}.items():
            self._book.put_series(self._key, name, owner)
        self._names = SeriesNames(self._book)
        self._known: dict[str, dict[str, str | None]] = {}

    def final(self, participant: str, logged: dict[str, LogType]) -> dict[str, str | None]:
        """Final names of a participant's series, those of `logged` included; None leaves a series out."""
        known = self._known.get(participant)
        if known is None:
            known = self._known[participant] = self._names.names_of(self._key, participant)
        unknown = {name: kind for name, kind in logged.items() if name not in known}
        if unknown:
            settled = self._names.settle(
                self._key, participant, unknown, wait_for_owner=False, apart=False, now=0.0
            )
            known.update(settled.names)
        return known

    @property
    def series(self) -> dict[str, SeriesOwner]:
        """All owners, to be kept in the mark."""
        return dict(self._book.series_of(self._key))

    def unregistered(self, registered: frozenset[str]) -> dict[str, LogType]:
        """Final names that the server has not been told."""
        named = self._book.series_of(self._key).items()
        return {name: owner.log_type for name, owner in named if owner.participant and name not in registered}
