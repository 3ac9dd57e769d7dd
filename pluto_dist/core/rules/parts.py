"""Parts of a Run: without a server each node of a job keeps its own part of it, in a store of its own (R12).

All parts carry one identity: the key of the first of them, in `part_of`. Wherever several are seen together,
readers and `sync` put them together by the rule of this module. Each part has one writer, so nothing has to
be reconciled but this:

    what                         whose it is
    name, tags, config, fork     the owner's part; of several the one whose owner came last
    status, verdict              the same; of another part, where the owner's knows nothing yet of a later end
    leases, series, points …     all parts'
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import msgspec

from pluto_dist.core.rules.series import united
from pluto_dist.core.values.backend import Status
from pluto_dist.core.values.document import Document, Restore, TopicShown
from pluto_dist.core.values.ids import Role
from pluto_dist.core.values.records import Point, RunEvent


class _Lease(Protocol):
    @property
    def role(self) -> Role: ...
    @property
    def granted_at(self) -> int | None: ...


class _Record(Protocol):
    @property
    def round(self) -> int: ...
    @property
    def forced(self) -> bool: ...


class _Restore(Protocol):
    @property
    def run(self) -> _Record: ...


class Part(Protocol):
    """A Run's document, or its head."""

    @property
    def key(self) -> str: ...
    @property
    def part_of(self) -> str: ...
    @property
    def relay(self) -> str: ...
    @property
    def status(self) -> Status: ...
    @property
    def leases(self) -> Sequence[_Lease]: ...
    @property
    def restore(self) -> _Restore: ...


P = TypeVar("P", bound=Part)


def whole(part: Part) -> str:
    """The key that all parts of the Run have in common."""
    return part.part_of or part.key


def grouped(parts: Iterable[P]) -> list[tuple[P, ...]]:
    """Parts by Run, in the order in which the Runs are met; the part that speaks for its Run comes first."""
    groups: dict[str, list[P]] = {}
    for part in parts:
        groups.setdefault(whole(part), []).append(part)
    return [tuple(sorted(group, key=_says_more, reverse=True)) for group in groups.values()]


def _says_more(part: Part) -> tuple[bool, int, str]:
    owned_at = max((lease.granted_at or 0 for lease in part.leases if lease.role == "owner"), default=0)
    return not part.relay, owned_at, part.key


def that_ended(parts: Sequence[P]) -> P:
    """The part whose status is the Run's; `parts` as `grouped` has them.

    The owner's part stays RUNNING where its node was lost: the other nodes know the end of that round.
    """
    first = parts[0]
    if first.status != "RUNNING":
        return first
    known = first.restore.run.round
    ended = (part for part in parts[1:] if part.status != "RUNNING")
    later = [part for part in ended if part.restore.run.round > known or part.restore.run.forced]
    return max(later, key=lambda part: part.restore.run.round, default=first)


def together(parts: Sequence[Document]) -> Document:
    """One document of all parts; `parts` as `grouped` has them."""
    if len(parts) == 1:
        return parts[0]
    first, ended = parts[0], that_ended(parts)
    topics: dict[str, TopicShown] = {}
    for part in reversed(parts):
        topics |= {
            name if part is first else f"{name} on {part.relay}": each for name, each in part.topics.items()
        }
    return msgspec.structs.replace(
        first,
        parts=tuple(part.key for part in parts),
        status=ended.status,
        verdict=ended.verdict,
        ended_at=ended.ended_at,
        found_at=ended.found_at,
        reported=ended.reported,
        phase=ended.phase,
        created_at=min(part.created_at for part in parts),
        leases=tuple(lease for part in parts for lease in part.leases),
        summary=_summaries(parts),
        points=sum(part.points for part in parts),
        series=_others(parts),
        side_configs={label: body for part in reversed(parts) for label, body in part.side_configs.items()},
        pending=sum(part.pending for part in parts),
        rejected=sum(part.rejected for part in parts),
        first_reject=next((part.first_reject for part in parts if part.first_reject), ""),
        repeats=sum(part.repeats for part in parts),
        dropped=sum(part.dropped for part in parts),
        damaged=sum(part.damaged for part in parts),
        trouble="; ".join(dict.fromkeys(part.trouble for part in parts if part.trouble)),
        events=tuple(sorted((each for part in parts for each in _events(part)), key=lambda each: each.at_ms)),
        topics=topics,
        restore=_restore(first, ended, parts),
    )


def _restore(first: Document, ended: Document, parts: Sequence[Document]) -> Restore:
    run, end = first.restore.run, ended.restore.run
    names = ("status", "verdict", "ended_ms", "found_ms", "forced", "attempts", "round")
    run = (
        run
        if ended is first
        else msgspec.structs.replace(run, **{name: getattr(end, name) for name in names})
    )
    return msgspec.structs.replace(
        first.restore, run=run, series=united(part.restore.series for part in parts)
    )


def _others(parts: Sequence[Document]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for part in parts:
        for name, others in part.series.items():
            found[name] = {**others, **found.get(name, {})}
    return found


def _summaries(parts: Sequence[Document]) -> dict[str, Point]:
    found: dict[str, Point] = {}
    for part in parts:
        for name, point in part.summary.items():
            known = found.get(name)
            if known is None:
                found[name] = point
            else:
                last = max(known, point, key=lambda each: each.step)
                found[name] = msgspec.structs.replace(last, count=known.count + point.count)
    return found


def _events(part: Document) -> Iterable[RunEvent]:
    """A part's history; of another node's with its name."""
    if not part.relay:
        return part.events
    return (msgspec.structs.replace(each, detail={**each.detail, "node": part.relay}) for each in part.events)
