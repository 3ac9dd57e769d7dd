"""Participants and labels: the names of writers over restarts (R7, G10), of nodes, and on the console.

A participant is `owner`, `rank3`, or a label. The next process with the same rank or label goes on with the
same series, but only once the one before it has ended: two live processes never share a participant. Without
a label nothing says that two processes do the same work, so each has series of its own: `worker`, `worker-2`,
`worker-3`. The process that `pluto-dist run` starts has a place, as a rank has: the next one goes on with its
series.

The node is a participant too, for its system metrics, and another one for what its ranks say together. Its
leases have no process and are never alive, so they keep no Run alive, have no say in a verdict, and are not
listed as attached.

On the console of a Run with several participants each line carries the name of its participant, and each line
is recorded once: by a process or by the launcher above it, never by both.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from pluto_dist.core.values.backend import Reached
from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.ids import Identity, Job, Role, step_behind
from pluto_dist.core.values.lifecycle import Claim
from pluto_dist.core.values.records import Lease, Run

RANK = re.compile(r"rank\d+")
RESERVED = re.compile(r"owner|node|reduced|(rank|attempt|node)\d.*")  # other kinds of participants


def label_of(lease: Lease, role: Role, others: Sequence[Lease], run: Run) -> str:
    """The name of a lease for people; unique among live leases where series belong to labels.

    The node's name is part of it on a relay, where other nodes may have processes without a label too.
    """
    rank = lease.opened.job.rank if role != "side" else None
    given = lease.opened.label
    if role == "owner" or rank is not None:
        return given or (role if rank is None else f"rank{rank}")
    if given is None and not _is_the_command(lease, role):
        return _free(f"{role}-{run.relay}" if run.relay else role, _ever_used(lease, others, run))
    given = given or role
    wanted = f"{role}-{given}" if RESERVED.fullmatch(given) else given
    return _free(wanted, {other.label for other in _others_alive(lease, others)})


def participant_of(lease: Lease, role: Role, label: str, others: Iterable[Lease]) -> str:
    """The participant of a lease: series belong to this name."""
    if role == "owner":
        return "owner"
    rank = lease.opened.job.rank if role == "worker" else None
    taken = {other.participant for other in _others_alive(lease, others)}
    return _free(label if rank is None else f"rank{rank}", taken)


def steps_reached(series: Mapping[str, int], label: str | None) -> tuple[int, dict[str, int]]:
    """The next step behind all series of a Run, and behind those of single participants.

    The server knows names of series only, so a participant is recognised by its suffix: that of a rank, or
        the
    label of a side.

    Args:
        series: last step by name, as another node or an earlier coordinator has left them.
        label: of a side that joins the Run, None if none does.
    """
    behind, steps = 0, dict[str, int]()
    for name, last in series.items():
        suffix = name.rpartition("/")[2]
        if name.startswith("sys/"):
            whose = NODE
        else:
            behind = max(behind, step_behind(last))
            whose = suffix
        if whose in {NODE, label} or RANK.fullmatch(whose):
            steps[whose] = max(steps.get(whose, 0), step_behind(last))
    return behind, steps


def late_participant(participant: str, attempt: int) -> str:
    """Participant of the records that a superseded lease goes on to write (R7)."""
    late = f"attempt{attempt}"
    return late if participant == "owner" else f"{participant}/{late}"


def _others_alive(lease: Lease, others: Iterable[Lease]) -> Iterable[Lease]:
    return (other for other in others if other.alive and other.lease_id != lease.lease_id)


def _is_the_command(lease: Lease, role: Role) -> bool:
    return role == "worker" and bool(lease.opened.launched_by) and not lease.parent


def _ever_used(lease: Lease, others: Iterable[Lease], run: Run) -> set[str]:
    """Names that other processes have in this Run, or had; those of an earlier coordinator too."""
    used = set(run.steps)
    for other in others:
        if other.alive or not other.identity.same_process(lease.identity):
            used |= {other.label, other.participant}
    return used


def _free(wanted: str, taken: set[str]) -> str:
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}-{number}", number + 1
    return name


NODE: Final = "node"
REDUCED: Final = "reduced"
LINES_OF_A_NODE = 1_000_000_000


def is_node(lease: Lease) -> bool:
    """Whether this is a node's own lease; no process has the pid 0."""
    return lease.identity.pid == 0


def is_reduced(lease: Lease) -> bool:
    """Whether this is a node's lease for the series of its ranks together."""
    return is_node(lease) and lease.participant != NODE


def node_lease(lease_id: str, member: Lease, host: str, at: float, wall_ms: int) -> Lease:
    """A lease for the system metrics of the Run that `member` belongs to.

    Args:
        lease_id: of the new lease.
        member: an owner or worker on this node; the folder lies beside its folder.
        host: part of the names of metrics, "" for the plain names.
        at, wall_ms: now.
    """
    return _own_lease(lease_id, member, NODE, host, at, wall_ms)


def reduced_lease(lease_id: str, member: Lease, host: str, at: float, wall_ms: int) -> Lease:
    """As `node_lease`, for what the ranks of the node say together; with a host under its name."""
    return _own_lease(lease_id, member, host or REDUCED, host, at, wall_ms)


def _own_lease(lease_id: str, member: Lease, participant: str, host: str, at: float, wall_ms: int) -> Lease:
    identity = Identity(member.identity.boot_id, member.identity.pid_ns, 0, 0, host=member.identity.host)
    opened = msgspec.structs.replace(
        member.opened,
        identity=identity,
        job=Job(key=""),
        verb="attach",
        label=host or None,
        ancestors=(),
        config=msgspec.Raw(b"{}"),
        tags=(),
        launcher=False,
    )
    return Lease(
        lease_id=lease_id,
        folder=member.folder.removesuffix(member.lease_id) + lease_id,
        opened=opened,
        state="ended",
        run=member.run,
        role="side",
        label=participant,
        participant=participant,
        epoch=member.epoch,
        attempt=member.attempt,
        granted_at=at,
        granted_ms=wall_ms,
        ended_at=at,
        ended_ms=wall_ms,
    )


def node_label(members: Iterable[Lease]) -> str:
    """The node's name in the names of its metrics; "" for a job of one node."""
    return next((node_name(lease.opened) for lease in members if lease.opened.job.nodes > 1), "")


def node_name(claim: Claim) -> str:
    """`node1` within a job, the host's name for a node outside of it.

    Numbers and not hosts, since a job that is requeued elsewhere goes on with its series.
    """
    job = claim.job
    if job.nodes > 1:
        return f"node{job.node_rank}"
    return claim.identity.host.partition(".")[0].replace("/", "_") or "elsewhere"


def line_behind(reached: Reached, first: int) -> int:
    """Number of the next console line of a node: in the node's block, behind the lines that are there.

    The server tells only how many lines there are and their highest number. A block holds at most as many
    lines as there are in all (lines that were set aside leave gaps), and the highest number belongs to the
    last block.

    Args:
        reached: what the server has.
        first: of the block.
    """
    behind = first + reached.lines
    in_block = first <= reached.last_line < first + LINES_OF_A_NODE - 1
    return max(behind, reached.last_line + 1) if in_block else behind


def first_line(claim: Claim) -> int:
    """Number of a relay's first console line: readers sort by number alone, so each node has a block."""
    number = claim.job.node_rank or 1000 + zlib.crc32(node_name(claim).encode()) % 9000
    return number * LINES_OF_A_NODE + 1


COMMAND: Final = "command"  # what a launcher records is what its command says


def speaker_of(lease: Lease, leases: Iterable[Lease], *, relayed: bool = False) -> str:
    """The name in front of a console line; "" for the only participant of its Run.

    A rank of a job with several is never alone, also while the others have not come yet; nor is a process on
    a node that only relays.
    """
    others = (other.participant for other in leases if not is_node(other))
    launcher, world_size = lease.opened.launcher, lease.opened.job.world_size
    alone = _is_alone(lease.participant, others, launcher=launcher, world_size=world_size, relayed=relayed)
    return "" if alone else name_of(lease.rank, lease.label, launcher=launcher)


def speaker_shown(lease: LeaseShown, document: Document) -> str:
    """As `speaker_of`, by the Run's document: for lines that no coordinator has sent."""
    alone = _is_alone(
        lease.participant,
        (other.participant for other in document.leases if other.pid),
        launcher=lease.launcher,
        world_size=lease.world_size,
        relayed=bool(lease.relay or document.relay),
    )
    return "" if alone else name_of(lease.rank, lease.label, launcher=lease.launcher)


def _is_alone(
    participant: str, others: Iterable[str], *, launcher: bool, world_size: int | None, relayed: bool
) -> bool:
    several = relayed or ((world_size or 1) > 1 and not launcher)
    return not several and all(other in ("", participant) for other in others)


def name_of(rank: int | None, label: str, *, launcher: bool) -> str:
    """`rank3`, the label of a process without a rank, or `command` for what a launcher has started."""
    if launcher:
        return COMMAND
    return f"rank{rank}" if rank is not None else label


def relieved_launchers(leases: Iterable[Lease]) -> frozenset[str]:
    """Leases of launchers below which a process records its own console: they record none meanwhile.

    What a process prints passes through its launcher too, so only one of the two may record it. The process
    does, because it knows its rank, and which of its lines belong together.
    """
    return frozenset(
        lease.opened.launched_by
        for lease in leases
        if lease.opened.launched_by and lease.state == "active" and records_console(lease)
    )


def records_console(lease: Lease) -> bool:
    """Whether a process records what it prints: by itself an owner or worker outside of notebooks does."""
    if lease.opened.console == "auto":
        return lease.role != "side" and not lease.opened.notebook
    return lease.opened.console != "off"
