"""Whose plain name a series is (R7, G10).

The plain name belongs to the owner if it uses it, else to the lowest rank, else to the first side; every
other participant's series gets a suffix from then on, over restarts too, and is never renamed back. A new
name of a worker or side is held for up to two seconds so that the owner's declaration can come first.
"""

from __future__ import annotations

import msgspec

from pluto_dist.core.book import Book
from pluto_dist.core.records import SeriesOwner
from pluto_dist.core.requests import LogType

HOLD_S = 2.0


class Candidate(msgspec.Struct, frozen=True):
    """A participant that wants a plain name, and since when."""

    participant: str
    order: tuple[int, int]
    since: float


class Settled(msgspec.Struct, frozen=True):
    """Final names by the names under which the participant logs; what is held; collisions to report."""

    names: dict[str, str]
    held_until: float | None = None
    collisions: tuple[tuple[str, str, str], ...] = ()


class SeriesNames:
    """Settles names, one Run and participant at a time."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._candidates: dict[str, dict[str, Candidate]] = {}

    def settle(
        self,
        run: str,
        participant: str,
        names: dict[str, LogType],
        *,
        wait_for_owner: bool,
        now: float,
    ) -> Settled:
        """Final names for `names`; all of them, or those that need not wait."""
        settled: dict[str, str] = {}
        collisions: list[tuple[str, str, str]] = []
        held: list[float] = []
        for name, log_type in names.items():
            key = f"{run}/{name}"
            series = self._book.series.get(key)
            if series is None:
                deadline = self._hold(key, participant, now) if wait_for_owner else now
                if deadline > now:
                    held.append(deadline)
                    continue
                series = self._give(key, participant, log_type)
            final, fresh = self._final(run, series, participant, name)
            settled[name] = final
            if fresh:
                collisions.append((name, participant, final))
        return Settled(settled, min(held, default=None), tuple(collisions))

    def names_of(self, run: str, participant: str) -> dict[str, str | None]:
        """All settled names of one participant, from the book."""
        prefix = run + "/"
        found: dict[str, str | None] = {}
        for key in self._book.series.all_keys():
            if not key.startswith(prefix):
                continue
            series = self._book.series[key]
            if series.participant == participant:
                found[key[len(prefix) :]] = key[len(prefix) :]
            elif participant in series.others:
                found[key[len(prefix) :]] = series.others[participant]
        return found

    def _hold(self, key: str, participant: str, now: float) -> float:
        candidates = self._candidates.setdefault(key, {})
        if participant not in candidates:
            candidates[participant] = Candidate(participant, _order(participant, len(candidates)), now)
        return min(candidate.since for candidate in candidates.values()) + HOLD_S

    def _give(self, key: str, participant: str, log_type: LogType) -> SeriesOwner:
        candidates = self._candidates.pop(key, {})
        candidates.setdefault(participant, Candidate(participant, _order(participant, len(candidates)), 0.0))
        winner = min(candidates.values(), key=lambda candidate: candidate.order)
        return self._book.series.put(key, SeriesOwner(winner.participant, log_type))

    def _final(self, run: str, series: SeriesOwner, participant: str, name: str) -> tuple[str, bool]:
        if series.participant == participant:
            return name, False
        known = series.others.get(participant)
        if known is not None:
            return known, False
        final = f"{name}/{participant}"
        while f"{run}/{final}" in self._book.series:  # somebody logs under that very name
            final = f"{final}/{participant}"
        others = {**series.others, participant: final}
        self._book.series.put(f"{run}/{name}", msgspec.structs.replace(series, others=others))
        self._book.series.put(f"{run}/{final}", SeriesOwner(participant, series.log_type))
        return final, True


def _order(participant: str, arrival: int) -> tuple[int, int]:
    """Owner first, then ranks by number, then sides by arrival."""
    if participant == "owner":
        return (0, 0)
    if participant.startswith("rank") and participant[4:].isdigit():
        return (1, int(participant[4:]))
    return (2, arrival)
