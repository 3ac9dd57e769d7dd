"""Names of series where several participants log under one name (R7, G10).

The plain name belongs to the owner if it uses it, else to the lowest rank, else to the first side; every
other participant's series gets a suffix from then on, over restarts too, and is never renamed back. A new
name of a worker or side is held for up to two seconds so that the owner's declaration can come first.

One rule, for three users: `SeriesNames` settles names while the coordinator delivers, `Names` while `sync`
uploads what no coordinator has delivered, and `FinalNames` looks up what is settled, for readers and
`export`.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from typing import Final, Literal

import msgspec

from pluto_dist.core.rules.participants import NODE, REDUCED
from pluto_dist.core.values.backend import LogType
from pluto_dist.core.values.book import Book
from pluto_dist.core.values.document import Document
from pluto_dist.core.values.ids import Job
from pluto_dist.core.values.lifecycle import RankMetrics
from pluto_dist.core.values.records import SeriesOwner

HOLD_S = 2.0

Treatment = Literal["shared", "apart", "left out", "reduced"]


class Candidate(msgspec.Struct, frozen=True):
    """A participant that wants a plain name, and since when."""

    participant: str
    order: tuple[int, int]
    since: float


class Settled(msgspec.Struct, frozen=True):
    """Final names by logged name, None to leave a series out; names that are held; collisions to report."""

    names: dict[str, str]
    held_until: float | None = None
    collisions: tuple[tuple[str, str, str], ...] = ()


_NUMBERED = re.compile(r"(?:^|(?<=[/_.:-]))(rank|node)[_-]?(\d+)(?=$|[/_.:-])", re.IGNORECASE)


def names_itself(name: str, job: Job) -> bool:
    """Whether a script has put its own rank, or its node's number, into the name: `loss/rank3`, `node1/loss`.

    No other participant will use such a name, so it needs no suffix on a node that cannot ask the owner's.
    """
    own = {"rank": job.rank, "node": job.node_rank if job.nodes > 1 else None}
    return any(own[word.lower()] == int(number) for word, number in _NUMBERED.findall(name))


def treatment(
    name: str, mode: RankMetrics, job: Job, log_type: LogType = "METRIC", *, relayed: bool
) -> Treatment:
    """The treatment of a participant's new name; what is `reduced` is left out, for what ranks say together.

    Args:
        mode: what the participant's process asked for; only workers have another than `auto`, and all ranks
            where theirs are reduced.
        job: its own.
        log_type: of the series: only numbers can be reduced, and files that a rank names its own are no
            repeats of those of rank 0.
        relayed: on a node that relays: only the owner's node knows who has the plain name.
    """
    if log_type in ("ARTIFACT", "FILE") and names_itself(name, job):
        return "shared"
    if mode == "rank0":
        return "left out"
    if mode == "reduce" and log_type == "METRIC":
        return "reduced"
    return "apart" if mode == "suffix" or (relayed and not names_itself(name, job)) else "shared"


def treatment_shown(
    name: str, participant: str, document: Document, log_type: LogType = "METRIC"
) -> Treatment:
    """As `treatment`, by the Run's document: for records that no coordinator has delivered."""
    base = participant.partition("/")[0]  # what a superseded lease has still written is treated as the rest
    lease = next((lease for lease in document.leases if lease.participant == base), None)
    if lease is None:
        return "shared"
    if not lease.pid:  # the names of its system metrics have the node's in them
        return "shared" if base in (NODE, REDUCED) else "apart"
    relay = lease.relay or document.relay
    digits = re.search(r"[0-9]+$", relay)
    job = Job(key="", rank=lease.rank, node_rank=int(digits[0]) if digits else 0, nodes=2 if digits else 1)
    return treatment(name, lease.rank_metrics, job, log_type, relayed=bool(relay))


LEFT_OUT: Final = frozenset({"left out", "reduced"})


class SeriesNames:
    """Settles names, one Run and participant at a time."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._candidates: dict[str, dict[str, dict[str, Candidate]]] = {}

    def settle(
        self,
        run: str,
        participant: str,
        names: dict[str, LogType],
        *,
        wait_for_owner: bool,
        apart: Container[str],
        now: float,
    ) -> Settled:
        """Final names for `names`; all of them, or those that need not wait.

        Args:
            apart: names that get a suffix for this participant even where the plain name is free.
        """
        settled: dict[str, str] = {}
        collisions: list[tuple[str, str, str]] = []
        held: list[float] = []
        for name, log_type in names.items():
            series = self._book.series_of(run).get(name)
            if name in apart and series is None:
                series = self._book.put_series(run, name, SeriesOwner("", log_type))
            if series is None or not (series.participant or name in apart or participant in series.others):
                deadline = self._hold(run, participant, name, now) if wait_for_owner else now
                if deadline > now:
                    held.append(deadline)
                    continue
                series = self._give(run, participant, name, series or SeriesOwner("", log_type))
            final, fresh = self._final(run, series, participant, name)
            settled[name] = final
            if fresh:
                collisions.append((name, participant, final))
        return Settled(settled, min(held, default=None), tuple(collisions))

    def names_of(self, run: str, participant: str) -> dict[str, str | None]:
        """All settled names of one participant, from the book."""
        found: dict[str, str | None] = {}
        for name, series in self._book.series_of(run).items():
            if participant in series.others:
                found[name] = series.others[participant]
            elif series.participant == participant and not series.plain:
                found[name] = name
        return found

    def forget(self, run: str) -> None:
        self._candidates.pop(run, None)

    def _hold(self, run: str, participant: str, name: str, now: float) -> float:
        candidates = self._candidates.setdefault(run, {}).setdefault(name, {})
        if participant not in candidates:
            candidates[participant] = Candidate(participant, _order(participant, len(candidates)), now)
        return min(candidate.since for candidate in candidates.values()) + HOLD_S

    def _give(self, run: str, participant: str, name: str, series: SeriesOwner) -> SeriesOwner:
        candidates = self._candidates.get(run, {}).pop(name, {})
        candidates.setdefault(participant, Candidate(participant, _order(participant, len(candidates)), 0.0))
        winner = min(candidates.values(), key=lambda candidate: candidate.order)
        return self._book.put_series(
            run, name, msgspec.structs.replace(series, participant=winner.participant)
        )

    def _final(self, run: str, series: SeriesOwner, participant: str, name: str) -> tuple[str, bool]:
        known = series.others.get(participant)
        if known is not None:
            return known, False
        if series.participant == participant and not series.plain:
            return name, False
        final = f"{name}/{participant}"
        while final in self._book.series_of(run):  # a participant logs under that very name
            final = f"{final}/{participant}"
        others = {**series.others, participant: final}
        self._book.put_series(run, name, msgspec.structs.replace(series, others=others))
        self._book.put_series(run, final, SeriesOwner(participant, series.log_type, plain=name))
        return final, True


def _order(participant: str, arrival: int) -> tuple[int, int]:
    """Owner, or all ranks together, first, then ranks by number, then sides by arrival."""
    if participant in ("owner", REDUCED):
        return (0, 0)
    if participant.startswith("rank") and participant[4:].isdigit():
        return (1, int(participant[4:]))
    return (2, arrival)


class Names:
    """The Run's series, to which new names are added in the order in which they are met.

    Args:
        document: of the Run.
        more: owners that an earlier upload has settled.
    """

    def __init__(self, document: Document, more: dict[str, SeriesOwner]) -> None:
        self._key = document.key
        self._document = document
        self._book = Book()
        for name, owner in united((more, document.restore.series)).items():
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
            how = {
                name: treatment_shown(name, participant, self._document, kind)
                for name, kind in unknown.items()
            }
            known.update(dict.fromkeys(name for name in unknown if how[name] in LEFT_OUT))
            settled = self._names.settle(
                self._key,
                participant,
                {name: kind for name, kind in unknown.items() if how[name] not in LEFT_OUT},
                wait_for_owner=False,
                apart=[name for name in unknown if how[name] == "apart"],
                now=0.0,
            )
            known.update(settled.names)
        return known

    @property
    def series(self) -> dict[str, SeriesOwner]:
        """All owners, to be kept in the mark."""
        return dict(self._book.series_of(self._key))

    def unregistered(self, registered: frozenset[str]) -> dict[str, LogType]:
        """Final names that are not registered at the server."""
        named = self._book.series_of(self._key).items()
        return {name: owner.log_type for name, owner in named if owner.participant and name not in registered}


def united(several: Iterable[Mapping[str, SeriesOwner]]) -> dict[str, SeriesOwner]:
    """Owners of names, where each part of a Run knows those of its own participants; earlier ones win."""
    found: dict[str, SeriesOwner] = {}
    for owners in several:
        for name, owner in owners.items():
            known = found.setdefault(name, owner)
            found[name] = msgspec.structs.replace(
                known,
                participant=known.participant or owner.participant,
                others={**owner.others, **known.others},
            )
    return found


class FinalNames:
    """Final names by the document; unlike `Names` it settles nothing.

    Args:
        document: of the Run.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self._series: Mapping[str, SeriesOwner] = document.restore.series
        self._known: dict[tuple[str, str, LogType], str | None] = {}

    def of(self, participant: str, name: str, log_type: LogType = "METRIC") -> str | None:
        """The final name of a participant's series; None for one that is left out."""
        key = (participant, name, log_type)
        if key not in self._known:
            self._known[key] = self._find(participant, name, log_type)
        return self._known[key]

    def _find(self, participant: str, name: str, log_type: LogType) -> str | None:
        owner = self._series.get(name)
        if not participant or (owner is not None and owner.participant == participant):
            return name
        if owner is not None and participant in owner.others:
            return owner.others[participant]
        how = treatment_shown(name, participant, self._document, log_type)
        if how in LEFT_OUT:
            return None
        free = owner is None or not owner.participant
        return name if free and how == "shared" else f"{name}/{participant}"
