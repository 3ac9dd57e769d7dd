"""Rounds of a Run of several nodes: each owner and each restart of the job begins another one.

A round has its own evidence, ends and verdict, so nothing that was said before ends a Run that goes on.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pluto_dist.core.rules.reports import takes_part
from pluto_dist.core.values.cluster import NodeDocument, OwnerAt, RunDocument
from pluto_dist.core.values.records import Lease, Run


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
    # The launch may have another name after each start, as where its ranks meet at another port.
    here = owner is not None and owner.node == node and owner.start != start
    again = here and owner is not None and owner.start.rpartition("/")[0].rpartition("/")[0] == run.job_key
    return again or (launch == document.launch and run.attempt > document.attempt)


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
    elif (start and document.owner != owner) or (document.round == 0 and run.epoch > 0):
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
        return document.owner == OwnerAt(node, start)
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
