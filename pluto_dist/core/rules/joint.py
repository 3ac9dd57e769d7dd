"""The verdict of a Run of several nodes, from the evidence of all of them.

Every node's report has its times on the clock of the seat, which decides.

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
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pluto_dist.core.rules.reports import takes_part
from pluto_dist.core.rules.verdict import DRAIN_S, describe, likeliest, who_failed
from pluto_dist.core.values.cluster import (
    Judgement,
    NodeDocument,
    NodeReport,
    OwnerAt,
    Piece,
    RunDocument,
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
    within = f" (their clocks are {_apart_ms(causes)} ms uncertain)" if others else ""
    return Verdict("FAILED", f"{names} failed first{within}: {describe(first)}", first, tuple(others))


def _apart_ms(causes: tuple[Piece, ...]) -> int:
    return max(1, round(max(piece.spread for piece in causes) * 1000))


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
