"""Reports: each node as the seat sees it, with all times on the seat's clock; the input of `joint.judge`.

Clocks cannot be compared directly; only messages bound their difference, the offset. What a node wrote at
`s` by its clock and was read here at `a` proves that mine - theirs <= a - s. What was written here at `t` and
read there at `b` proves that mine - theirs >= t - b. Each bound holds for good, but for the drift of the
clocks: it widens with its age. A few exchanges give a few milliseconds (seen: 7 to 10 ms over a cluster store
that is written each second).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from pluto_dist.core.values.cluster import (
    MemberShown,
    NodeDocument,
    NodeEnd,
    NodeReport,
    Piece,
    RunDocument,
)

T = TypeVar("T", bound=msgspec.Struct)

LATEST_S = 33.0  # a node that is known to be gone was there within this time: two leases and a margin
DRIFT = 200e-6  # two clocks that NTP does not slew are apart by less than this
UNKNOWN_S = 60.0  # for a bound that is not known yet: wide enough that only the kind of evidence decides


def takes_part(shown: NodeDocument, document: RunDocument) -> bool:
    """Whether a node is in the document's round; one that did not know of the round yet, by its job.

    A node that is lost at once has not seen the round that others have begun.
    """
    if shown.round:
        return shown.round == document.round
    same = (shown.launch, shown.attempt) == (document.launch, document.attempt)
    return same and bool(shown.owner or open_members(shown))


def open_members(shown: NodeDocument) -> int:
    """How many owners and workers had not ended in the node's last document."""
    return sum(member.alive and member.role != "side" for member in shown.members)


def report_of(
    document: NodeDocument,
    *,
    pieces: Iterable[Piece],
    end: NodeEnd | None,
    offset: Offset,
    gone_at: float | None,
    owner: bool,
    now: float,
    wall_ms: int,
) -> NodeReport:
    """One node by its documents, with their times converted by what is known of its clock."""
    apart = span(offset, now)
    found = tuple(_here(piece, apart) for piece in pieces)
    complete = end if end is not None and len(found) >= end.pieces else None
    spoke_at = document.written_at + apart.low
    return NodeReport(
        node=document.node,
        name=document.name,
        host=document.host,
        attempt=document.attempt,
        owner=owner,
        present=gone_at is None,
        pieces=found,
        end=complete,
        owner_at=end.owner_at + apart.high if end is not None else 0.0,
        alive_until=max(spoke_at, gone_at - LATEST_S) if gone_at is not None else now,
        gone_since=gone_at if gone_at is not None else now,
        last_words=last_words(document.members),
        open_members=open_members(document),
        silent_s=max(0.0, (wall_ms - document.wall_ms) / 1000),
    )


def last_words(members: Iterable[MemberShown]) -> str:
    """The last known state of a node's ranks, for people."""
    told = [
        f"{f'rank {member.rank}' if member.rank is not None else member.label} (pid {member.pid}) "
        + (f"was at step {member.step}" if member.step else "had logged nothing yet")
        for member in members
        if member.alive
    ]
    return ", ".join(told)


def by_node(values: Mapping[str, bytes]) -> dict[str, list[Piece]]:
    """Pieces below `ev/<round>/`, by node; one that cannot be read is left out."""
    found: dict[str, list[Piece]] = {}
    for name, value in sorted(values.items()):
        piece = decoded(value, Piece)
        if piece is not None:
            found.setdefault(name.partition("/")[0], []).append(piece)
    return found


def decoded(value: bytes, kind: type[T]) -> T | None:
    """A document of another node; None if this version cannot read it."""
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.MsgspecError:
        return None


def _here(piece: Piece, apart: Span) -> Piece:
    return msgspec.structs.replace(
        piece, since=piece.since + apart.low, until=piece.until + apart.high, spread=apart.spread
    )


class Offset(msgspec.Struct, frozen=True):
    """Bounds of mine - theirs, each with the time here at which it was learned; None for one that is not."""

    low: float | None = None
    low_at: float = 0.0
    high: float | None = None
    high_at: float = 0.0


class Span(msgspec.Struct, frozen=True):
    """An interval from `low` to `high`."""

    low: float
    high: float

    @property
    def spread(self) -> float:
        """The width of the interval."""
        return self.high - self.low


HERE = Span(0.0, 0.0)  # a node's clock and itself


def read_theirs(offset: Offset, written_at: float, read_at: float) -> Offset:
    """A document that the other node wrote at `written_at`, by its clock, was read here."""
    high = read_at - written_at
    if offset.high is not None and offset.high + DRIFT * (read_at - offset.high_at) <= high:
        return offset
    return msgspec.structs.replace(offset, high=high, high_at=read_at)


def read_ours(offset: Offset, written_at: float, read_there_at: float) -> Offset:
    """The other node's document says when, by its clock, it read what was written here at `written_at`.

    The bound dates from the writing and not from the telling, which may come a minute later.
    """
    low = written_at - read_there_at
    if offset.low is not None and offset.low - DRIFT * (written_at - offset.low_at) >= low:
        return offset
    return msgspec.structs.replace(offset, low=low, low_at=written_at)


def span(offset: Offset, now: float) -> Span:
    """The interval of mine - theirs now."""
    low = None if offset.low is None else offset.low - DRIFT * (now - offset.low_at)
    high = None if offset.high is None else offset.high + DRIFT * (now - offset.high_at)
    if low is None and high is None:
        return Span(-UNKNOWN_S, UNKNOWN_S)
    if low is None:
        return Span((high or 0.0) - UNKNOWN_S, high or 0.0)
    return Span(low, max(low, high) if high is not None else low + UNKNOWN_S)
