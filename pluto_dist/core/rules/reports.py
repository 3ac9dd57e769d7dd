"""Reports: each node as the seat sees it, with all times on the seat's clock; the input of `joint.judge`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from pluto_dist.core.rules.offsets import Offset, Span, span
from pluto_dist.core.values.cluster import (
    MemberShown,
    NodeDocument,
    NodeEnd,
    NodeReport,
    Piece,
    RunDocument,
)

Document = TypeVar("Document", bound=msgspec.Struct)

LATEST_S = 33.0  # a node that is known to be gone was there within this time: two leases and a margin


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


def decoded(value: bytes, kind: type[Document]) -> Document | None:
    """A document of another node; None if this version cannot read it."""
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.MsgspecError:
        return None


def _here(piece: Piece, apart: Span) -> Piece:
    return msgspec.structs.replace(
        piece, since=piece.since + apart.low, until=piece.until + apart.high, spread=apart.spread
    )
