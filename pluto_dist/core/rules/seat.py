"""The seat: which node's coordinator sends the status of a Run of several nodes.

The *owner* is a process and may finish the Run. The *seat* is the coordinator that sends statuses. They are
on one node, except when that node is lost: then the seat moves and the owner stays what it is.

    the run document                    a node without the seat
    there is none                       owner's node or node 0 takes it; another one after 5 s
    seat vacant                         the same
    seat of this node, older start      takes it: the lock of the node has passed on
    seat's node present                 follows; takes it if the owner is here, of a later start of the job
    … claimed for no owner              takes it if the owner is here, and the Run has still to be opened
    … with a later coordinator          takes it, if that one does not within two seconds
    seat's node gone                    takes it if it has members: owner's node first, then by node rank

A node takes it by one compare-and-set on the document's version, which holds only while the old seat's node
is absent. So of all that try one wins, and an old seat that comes back finds either the document as it left
it, and goes on, or another seat in it. A seat whose lease may have run out sends nothing (`may_act`): it is
fenced by time before another node can have its place, as long as the engine keeps what it promised. Where the
engine breaks that promise, the epoch in the Run's config at the server fences it.
"""

from __future__ import annotations

import msgspec

from pluto_dist.core.values.cluster import RunDocument, Seat

FIRST_S = 5.0  # node 0 may take it so long after this node had something for the Run
STEP_S = 0.2  # between candidates, so that a thousand of them do not race
LONGEST_S = 2.0
REPLACED_S = 2.0  # a coordinator that was started anew has claimed by then, if it has anything to do
REQUEST_S = 2.0  # a status that is sent now arrives by then, or never


class SeatView(msgspec.Struct, frozen=True, kw_only=True):
    """Facts on which a node decides about the seat.

    Attributes:
        document: None if there is none.
        node, generation: of this coordinator.
        valid_until: of its lease, None without one.
        present: the seat's node is in the store.
        replaced: it is, but its coordinator is a later one, and has not claimed.
        gone_at: since when that seat is known to be nobody's.
        owns: the owner, or a claim that may own the Run, is on this node.
        succeeds: it is, and the document tells of an earlier start of the same job.
        opens: it is, and the Run has to be made, or taken up again.
        stands: this node has members, or had some that failed, or knows a verdict that was not sent.
        rank: this node's rank in the job.
        asked_at: since when this node has something for the Run.
    """

    document: RunDocument | None
    node: str
    generation: int
    valid_until: float | None
    present: bool = True
    replaced: bool = False
    gone_at: float | None = None
    owns: bool = False
    succeeds: bool = False
    opens: bool = False
    stands: bool = False
    rank: int = 0
    asked_at: float = 0.0


class Hold(msgspec.Struct, frozen=True):
    """The seat is this coordinator's."""


class Take(msgspec.Struct, frozen=True):
    """Try to take the seat now; `dead` is the former seat's node, which must be absent, "" without one."""

    epoch: int
    dead: str = ""


class Follow(msgspec.Struct, frozen=True):
    """Another node has the seat, or may take it first; `until` is when to decide again at the latest."""

    until: float | None = None


def plan(view: SeatView, now: float) -> Hold | Take | Follow:
    """Whether to hold, take or follow the seat, by the table above."""
    document = view.document
    seat = document.seat if document is not None else None
    if document is not None and seat is not None and _is(seat, view):
        return Hold()
    if view.valid_until is None or now >= view.valid_until - REQUEST_S or not (view.owns or view.stands):
        return Follow()
    epoch = document.epoch + 1 if document is not None else 1
    if document is None or seat is None:
        first = view.owns or (document is None and view.rank == 0)
        return _after(view.asked_at if first else view.asked_at + FIRST_S, now, Take(epoch))
    if seat.node == view.node or view.succeeds or (view.opens and not seat.owns):
        return Take(epoch)
    if view.replaced:
        return _after((view.gone_at or now) + REPLACED_S, now, Take(epoch))
    if view.present:
        return Follow()
    wait_s = 0.0 if view.owns else min(view.rank * STEP_S, LONGEST_S)
    return _after((view.gone_at or now) + wait_s, now, Take(epoch, seat.node))


def may_act(view: SeatView, now: float) -> float | None:
    """Until when the seat may send; None if it may not."""
    document = view.document
    if document is None or document.seat is None or not _is(document.seat, view) or view.valid_until is None:
        return None
    until = view.valid_until - REQUEST_S
    return until if now < until else None


def _is(seat: Seat, view: SeatView) -> bool:
    return (seat.node, seat.generation) == (view.node, view.generation)


def _after(at: float, now: float, take: Take) -> Take | Follow:
    return take if now >= at else Follow(at)
