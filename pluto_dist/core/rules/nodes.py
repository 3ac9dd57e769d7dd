"""Several nodes of one Run: what each has to report, which of them has the seat, and what their verdict is.

The verdict, from the evidence of all nodes (`judge`). Every node's report has its times on the clock of the
seat, which decides.

    owner's node      others                         then
    ended             all ended                      verdict
    ended             one still at work              10 s after the owner's word; for victims only, 18 s
    ended             one lost, something failed     verdict
    ended             one lost, nothing failed       10 s after the owner's word, and the loss is an event
    lost              one still at work              no verdict: the job goes on
    lost              all ended, something failed    verdict
    lost              all ended, nothing failed      no verdict: the owner may be well. Without a server,
                                                     which has a monitor, FAILED after an hour
    at work           whatever                       no verdict

A loss names the cause of failures, and never makes one: a node that cannot reach the cluster store looks like
a dead one, and a healthy Run must not fail for that. A job whose node died in earnest has failures enough,
because its other ranks lose their connections. So the loss of a node is the cause of lost connections alone:
an error that explains itself, or a request to stop, is never put down to a node that only cannot be seen. And
a node whose lease was revoked while it lives is back within a moment, for which any verdict waits. An end
because nobody has seen the owner's node for an hour is presumed: if it lives after all, it takes it back and
begins another round.

Each owner and each restart of the job begins another round. A round has its own evidence, ends and verdict,
so nothing that was said before ends a Run that goes on.

The seat is the coordinator that sends statuses (`plan`). The *owner* is a process and may finish the Run.
They are on one node, except when that node is lost: then the seat moves and the owner stays what it is.

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
engine breaks that promise, the epoch in the Run's config at the server fences it. So in a store that is new,
or was emptied, a seat begins behind all epochs that its node knows of.

Reports are each node as the seat sees it (`report_of`). Clocks cannot be compared directly; only messages
bound their difference, the offset. What a node wrote at `s` by its clock and was read here at `a` proves that
mine - theirs <= a - s. What was written here at `t` and read there at `b` proves that mine - theirs >= t - b.
Each bound holds for good, but for the drift of the clocks: it widens with its age. A few exchanges give a few
milliseconds (seen: 7 to 10 ms over a cluster store that is written each second).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

import msgspec

from pluto_dist.core.rules.verdict import DRAIN_S, describe, likeliest, who_failed
from pluto_dist.core.values.cluster import (
    Judgement,
    MemberShown,
    NodeDocument,
    NodeEnd,
    NodeReport,
    OwnerAt,
    Piece,
    RunDocument,
    Seat,
    failure_of,
)
from pluto_dist.core.values.lifecycle import Evidence
from pluto_dist.core.values.records import Lease, Run, Verdict

RETURNS_S = 2.0  # a node that lost its lease, and nothing else, has another one by then
ABANDONED_S = 3600.0  # as a Run that was closed waits for whoever takes it up (R6)
VICTIMS_WAIT_S = 18.0  # so long after its death a node is known to be lost, with a lease of 15 s


def judge(reports: Sequence[NodeReport], now: float, *, monitored: bool = True) -> Judgement:
    """The verdict, or why there is none yet.

    Args:
        reports: of all nodes.
        now: by the seat's clock.
        monitored: a server ends a Run of which nobody is heard any more.
    """
    if not reports:
        return Judgement("nobody takes part yet")
    owners = next((report for report in reports if report.owner), None)
    working = [report for report in reports if report.end is None and report.present]
    lost = [report for report in reports if report.end is None and not report.present]
    back_at = max((report.gone_since + RETURNS_S for report in lost), default=now)
    if now < back_at:
        return Judgement(f"{_names(lost)} cannot be seen, perhaps for a moment", None, back_at)
    if owners is not None and owners.end is None and (owners.present or working):
        unseen = f"{owners.name} with the owner cannot be seen; {_names(working)} works on"
        return Judgement("the owner's node is at work" if owners.present else unseen)
    unheard = owners is None or owners.end is None
    if lost and unheard and not working and not _failures(reports, None):
        return _nobody_is_left(owners, lost, now, monitored=monitored)
    if working:
        return _somebody_works(owners, reports, working, lost, now)
    verdict = joint_verdict(owners, reports, lost)
    if lost and owners is not None and verdict.status == "COMPLETED" and now < owners.owner_at + DRAIN_S:
        return Judgement(f"{_names(lost)} cannot be seen", None, owners.owner_at + DRAIN_S)
    return Judgement(verdict.reason, verdict)


def _nobody_is_left(
    owners: NodeReport | None, lost: Sequence[NodeReport], now: float, *, monitored: bool
) -> Judgement:
    """All that can be seen have ended well; the others count as lost once they were silent for long."""
    left_s = ABANDONED_S - min(report.silent_s for report in lost)
    if monitored or left_s > 0:
        told = f"{_names(lost)} cannot be seen, and nobody failed elsewhere"
        return Judgement(told, later=None if monitored else now + left_s)
    missed = owners if owners is not None else lost[0]
    failure = failure_of(_loss(missed))
    told = f"{who_failed(failure)} has not been seen for an hour, and nobody else is left"
    told = f"{told}; {missed.last_words}" if missed.last_words else told
    return Judgement(told, Verdict("FAILED", told, failure), presumed=True)


def _somebody_works(
    owners: NodeReport | None,
    reports: Sequence[NodeReport],
    working: list[NodeReport],
    lost: list[NodeReport],
    now: float,
) -> Judgement:
    if owners is None:
        return Judgement(f"{_names(working)} is at work")
    causes = likeliest(_failures(reports, owners))
    victims = bool(causes) and all(_is_victim(piece) for piece in causes)
    deadline = owners.owner_at + (VICTIMS_WAIT_S if victims else DRAIN_S)
    if now < deadline:
        return Judgement(f"the owner has ended, {_names(working)} has not", None, deadline)
    verdict = joint_verdict(owners, reports, lost)
    return Judgement(verdict.reason, verdict)


def joint_verdict(
    owners: NodeReport | None, reports: Sequence[NodeReport], lost: Sequence[NodeReport]
) -> Verdict:
    """One status of all evidence; the owner's node alone decides where nothing failed or it is settled."""
    failures = _failures(reports, owners)
    own = owners.end.verdict if owners is not None and owners.end is not None else None
    if own is not None and owners is not None and owners.end is not None and owners.end.settled:
        return own
    unseen = [report for report in lost if _unexplained(report)]
    causes = likeliest(failures)
    if causes and all(piece.evidence.communication and not piece.stop for piece in causes):
        causes, unseen = likeliest([*failures, *map(_loss, unseen)]), []
    verdict = _verdict_of(causes) if causes else own
    if verdict is None:
        verdict = Verdict("COMPLETED", "all nodes ended and nobody failed")
    if unseen:
        told = f"{verdict.reason}; {_names(unseen)} could not be seen at the end"
        verdict = msgspec.structs.replace(verdict, reason=told)
    return verdict


def _verdict_of(causes: tuple[Piece, ...]) -> Verdict:
    first, *others = (failure_of(piece) for piece in causes)
    if causes[0].stop:
        by = first.signal or first.type or f"exit code {first.exit_code}"
        return Verdict("TERMINATED", f"{who_failed(first)} was asked to stop by {by}", first)
    names = " or ".join(who_failed(each) for each in (first, *others))
    within = f" ({_apart(causes)})" if others else ""
    return Verdict("FAILED", f"{names} failed first{within}: {describe(first)}", first, tuple(others))


def _apart(causes: tuple[Piece, ...]) -> str:
    spread = max(piece.spread for piece in causes)
    if spread >= UNKNOWN_S:
        return "their clocks were not compared"
    return f"their clocks are {max(1, round(spread * 1000))} ms uncertain"


def _failures(reports: Sequence[NodeReport], owners: NodeReport | None) -> list[Piece]:
    """Evidence that counts: after the owner's `finish()` and its grace a failure is only an event."""
    limit = float("inf")
    if owners is not None and owners.end is not None and owners.end.finished:
        limit = owners.owner_at + DRAIN_S
    return [piece for report in reports for piece in report.pieces if piece.since <= limit]


def _is_victim(piece: Piece) -> bool:
    return piece.evidence.communication or piece.stop


def _unexplained(report: NodeReport) -> bool:
    """Whether a lost node has members whose end is not known."""
    return report.open_members > 0 and all(_is_victim(piece) for piece in report.pieces)


def _loss(report: NodeReport) -> Piece:
    told = f"the node was lost; {report.last_words}" if report.last_words else "the node was lost"
    return Piece(
        role="owner" if report.owner else "worker",
        label=report.name,
        rank=None,
        host=report.host,
        node=report.name,
        pid=0,
        attempt=report.attempt,
        evidence=Evidence(
            at=report.gone_since, wall_ms=0, kind="vanished", message=told, alive_until=report.alive_until
        ),
        stop=False,
        since=report.alive_until,
        until=report.gone_since,
    )


def _names(reports: Sequence[NodeReport]) -> str:
    return ", ".join(report.name for report in reports)


def start_of(run: Run) -> str:
    """What tells this owner, and this start of its job, from every other; "" without an owner here."""
    if run.relay or run.owner is None or run.epoch == 0:
        return ""
    return f"{run.job_key}/{run.attempt}/{run.epoch}"


def launch_of(run: Run, leases: tuple[Lease, ...]) -> str:
    """The launch's name, the same on all its nodes; "" where nothing tells launches apart.

    That of the job's last start: a job of one node has none, and may go on with several.
    """
    ours = [lease for lease in leases if lease.opened.job.key == run.job_key]
    last = max((lease.epoch for lease in ours), default=0)
    return next((lease.opened.job.launch for lease in ours if lease.epoch == last), "")


def succeeds(document: RunDocument, run: Run, *, node: str, launch: str) -> bool:
    """Whether the owner is on this node, of a later start of the job than the document tells of."""
    start, owner = start_of(run), document.owner
    if not start or run.ended:
        return False
    if takes_back(document, run, node=node):
        return True
    if owner is not None and owner.node == node and owner.start.rsplit("/", 2)[0] == run.job_key:
        return (
            owner.start != start
        )  # its launch may have another name now, as where ranks meet at another port
    return launch == document.launch and run.attempt > document.attempt


def takes_back(document: RunDocument, run: Run, *, node: str) -> bool:
    """Whether the owner that others have presumed to be lost is on this node, and its Run goes on."""
    presumed = document.ended is not None and document.ended.presumed
    start = start_of(run) if presumed and not run.ended else ""
    return bool(start) and document.owner == OwnerAt(node, start)


def of_round(
    document: RunDocument, run: Run, *, node: str, launch: str, shown: Mapping[str, NodeDocument]
) -> RunDocument:
    """The run document in the round of this node's members, with all nodes that take part.

    Args:
        document: as it is.
        run: on this node.
        node: this one.
        launch: of the Run's members here.
        shown: documents of all nodes.
    """
    start = start_of(run)
    owner = OwnerAt(node, start) if start else _owner_in(shown, launch, run.attempt)
    same = (document.launch, document.attempt) == (launch, run.attempt)
    joins = document.owner is None and document.round > 0 and same  # the round began without its owner
    if owner is not None and joins:
        document = msgspec.structs.replace(document, owner=owner)
    elif (
        (start and document.owner != owner)
        or takes_back(document, run, node=node)
        or (document.round == 0 and run.epoch > 0)
    ):
        document = msgspec.structs.replace(
            document,
            round=max(document.round, run.round) + 1,  # also in a store that was emptied
            owner=owner,
            launch=launch,
            attempt=run.attempt,
            nodes={},
            ended=None,
            sent=False,
        )
    taking_part = {name: each for name, each in shown.items() if takes_part(each, document)}
    nodes = {name: (each.name, each.host) for name, each in taking_part.items()}
    return msgspec.structs.replace(document, nodes={**document.nodes, **nodes})


def belongs(
    document: RunDocument, run: Run, members: tuple[Lease, ...], *, node: str, launch: str, known: int
) -> bool:
    """Whether the document's round is that of this node's members; of a Run that goes on it may be over.

    Args:
        document: as it is.
        run, members: on this node.
        node: this one.
        launch: of the members.
        known: the round that they were found to belong to before.
    """
    if run.forced:  # a person means the Run as it is
        return True
    start = start_of(run)
    if start:  # also of a Run that this node has ended alone
        return document.owner == OwnerAt(node, start) and not takes_back(document, run, node=node)
    if run.ended and run.round:
        return document.round == run.round
    if not run.relay or run.epoch == 0 or (not run.ended and document.round <= run.round):
        return False
    same = document.attempt == run.attempt and (not launch or document.launch == launch)
    living = any(member.alive for member in members)
    late = document.ended is not None and (not launch or living)
    return same and (document.round == known or not late)


def _owner_in(shown: Mapping[str, NodeDocument], launch: str, attempt: int) -> OwnerAt | None:
    """The owner of a start of the job, as its node told of it."""
    for each in shown.values():
        if each.start and (each.launch, each.attempt) == (launch, attempt):
            return OwnerAt(each.node, each.start)
    return None


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
        latest: the highest epoch of a seat that is known of the Run, from whatever store.
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
    latest: int = 0


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
    epoch = max(view.latest, document.epoch if document is not None else 0) + 1
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


@lru_cache(maxsize=2)  # asked again with each event of the Run
def seat_in(config: bytes) -> int:
    """The epoch of the seat in a Run's config; 0 without one, or for any other value in its place."""
    try:
        return msgspec.json.decode(config, type=_Config).pluto_dist.seat.epoch
    except msgspec.MsgspecError:
        return 0


class _Note(msgspec.Struct, frozen=True):
    epoch: int = 0


class _Notes(msgspec.Struct, frozen=True):
    seat: _Note = _Note()


class _Config(msgspec.Struct, frozen=True):
    pluto_dist: _Notes = _Notes()


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


T = TypeVar("T", bound=msgspec.Struct)

LATEST_S = 33.0  # a node that is known to be gone was there within this time: two leases and a margin
DRIFT = 200e-6  # two clocks that NTP does not slew are apart by less than this
# For a bound that is not known: wide enough that only the kind of evidence decides. What a lost node has
# written last may be read long after, by a coordinator that has begun anew.
UNKNOWN_S = 86_400.0


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
