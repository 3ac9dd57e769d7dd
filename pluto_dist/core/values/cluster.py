"""Documents in the cluster store, by which the nodes of a job share a Run: JSON, one kind for each key.

Rules for editing: nodes of two versions may share a Run, so a new field has a default and none is renamed.

Instants named `*_at` are CLOCK_BOOTTIME seconds of the node that wrote the document. Clocks of two nodes have
nothing in common; only `core/rules/reports.py` compares them. No document holds a key or a secret.

    <prefix>/v1/<project>/<external id>/
        run                 `RunDocument`; written by the seat alone
        node/<node>         `Presence`, under the node's lease: it goes when the node is silent
        state/<node>        `NodeDocument`; it stays, so that the last words of a lost node are known
        ev/<round>/<node>/<n>   `Piece`, made once; it must outlive its node
        end/<round>/<node>  `NodeEnd`, made once
        op/<node>/<n>       `Change` of tags and config, made once; the seat folds it and deletes it
        shared              `SharedState`: tags and config of all nodes; written by the seat alone
        verdict/<round>     `StoredVerdict`, made once, while the seat is its writer's

    <prefix>/v1-topics/<project>/<external id>/
        item/<topic>/<hundred>/<number>  `Batch`, made once: the number is that of its first item
        at/<topic>/<kind>/<name>         `Position` of a label or group
        node/<node>                      `Presence` of a node that takes items, under its lease
"""

from __future__ import annotations

import msgspec

from pluto_dist.core.values.ids import Role
from pluto_dist.core.values.lifecycle import Evidence
from pluto_dist.core.values.records import Failure, Verdict


def key_part(text: str) -> str:
    """A name as a part of a key: a slash in it would begin another folder."""
    return text.replace("%", "%25").replace("/", "%2F")


def run_folder(prefix: str, project: str, external_id: str) -> str:
    """The folder by which nodes share a Run."""
    return f"{prefix}/v1/{key_part(project)}/{key_part(external_id)}/"


def topics_folder(prefix: str, project: str, external_id: str) -> str:
    """The folder by which its processes hand over to each other: whoever lists Runs need not read it."""
    return f"{prefix}/v1-topics/{key_part(project)}/{key_part(external_id)}/"


def text_of_part(part: str) -> str:
    """The name behind a part of a key."""
    return part.replace("%2F", "/").replace("%25", "%")


class Seat(msgspec.Struct, frozen=True):
    """The coordinator that speaks for the Run.

    Attributes:
        node: its node's id.
        generation: of that coordinator: a later one on the same node is another seat.
        nonce: random, new for each claim; tells this seat's own write from another node's after a lost
            answer.
        owns: it was claimed for an owner; only such a node can make the Run, or take it up again.
    """

    node: str
    generation: int
    nonce: str
    owns: bool = True


class OwnerAt(msgspec.Struct, frozen=True):
    """Where the Run's owner is; `start` changes with each owner and each restart of the job.

    A round that began without its owner has none, and gets it when it is heard of.
    """

    node: str
    start: str


class RunDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The Run as all its nodes have to know it.

    Attributes:
        epoch: rises with each change of the seat; what an older seat sends is refused.
        round: rises with each owner and each restart of the job; evidence belongs to one round.
        written_at: clock of the seat when it wrote this.
        measuring: the seat compares clocks: nodes answer each of its words with their time.
        launch, attempt: of the round.
        key: of the Run on the node that made it; where there is no server, all nodes' parts of it carry it.
        name, created_ms: as that node has them.
        id, display_id, url: at the tracking server, or in the store of that node; None and "" until there is
            a Run.
        nodes: nodes that took part in the round, id -> name and host.
        ended: the verdict of the round, None while there is none.
        sent: the server has that verdict.
    """

    epoch: int
    round: int = 0
    seat: Seat | None = None
    owner: OwnerAt | None = None
    written_at: float = 0.0
    measuring: bool = False
    launch: str = ""
    attempt: int = 0
    project: str = ""
    key: str = ""
    name: str = ""
    created_ms: int = 0
    id: int | None = None
    display_id: str = ""
    url: str = ""
    nodes: dict[str, tuple[str, str]] = {}
    ended: StoredVerdict | None = None
    sent: bool = False


class Change(msgspec.Struct, frozen=True):
    """Tags and config that one node has changed; `config` is a patch."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    config: msgspec.Raw = msgspec.Raw(b"{}")


class SharedState(msgspec.Struct, frozen=True):
    """Tags and config of all nodes.

    Attributes:
        tags: of the Run.
        config: without the values that are too large for the store.
        left_out: names of those.
        folded: the last change of each node that is in it, node -> number.
        base, untagged, patch: what the next seat has to say to the server, as in `Run`: the tags that it has,
            tags to be removed there, and the config that it does not have.
    """

    tags: tuple[str, ...] = ()
    config: msgspec.Raw = msgspec.Raw(b"null")
    folded: dict[str, int] = {}
    base: tuple[str, ...] | None = None
    untagged: tuple[str, ...] = ()
    patch: msgspec.Raw = msgspec.Raw(b"{}")
    left_out: tuple[str, ...] = ()


class StoredVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict of a round: the only status that any seat ever sends.

    Attributes:
        presumed: the owner's node had not been seen for so long that it counted as lost; if it comes back, it
            begins another round.
    """

    verdict: Verdict
    ended_ms: int
    epoch: int
    node: str
    nonce: str
    presumed: bool = False


class Presence(msgspec.Struct, frozen=True):
    """A node that is there."""

    boot_id: str
    generation: int


class MemberShown(msgspec.Struct, frozen=True, kw_only=True):
    """A process as its node shows it to the others."""

    lease_id: str
    role: Role
    label: str
    rank: int | None
    pid: int
    alive: bool
    step: int = 0
    since_ms: int = 0


class Heard(msgspec.Struct, frozen=True):
    """The latest document of the seat that a node has read: its nonce, its time, and when it was read."""

    nonce: str
    written_at: float
    read_at: float


class NodeDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A node and its participants; written when something changed, and every minute.

    Attributes:
        name: `node1` within the job.
        owner: the Run's owner is alive on this node, or was at the end of the round.
        start: of that owner, as in `OwnerAt`.
        rank: the node's rank in the job: nodes stand for the seat in this order.
        round: the round to which the members belong, 0 as long as that is not known.
        pieces: how many pieces of evidence it has stored for the round.
    """

    node: str
    name: str
    host: str
    boot_id: str
    generation: int
    written_at: float
    wall_ms: int
    owner: bool = False
    start: str = ""
    rank: int = 0
    round: int = 0
    launch: str = ""
    attempt: int = 0
    members: tuple[MemberShown, ...] = ()
    heard: Heard | None = None


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of evidence, with the span of time in which it happened.

    Attributes:
        stop: a request to stop, and no fault.
        since, until: the span; on the clock of its node as stored, on the seat's clock when it is judged.
        lease_id, number: the lease, and which of its pieces it is, counted from the first.
        spread: by how much the two clocks may differ from what is assumed, 0 within a node.
    """

    role: Role
    label: str
    rank: int | None
    host: str
    pid: int
    attempt: int
    evidence: Evidence
    stop: bool
    since: float
    until: float
    node: str = ""
    spread: float = 0.0
    lease_id: str = ""
    number: int = 0


class NodeEnd(msgspec.Struct, frozen=True, kw_only=True):
    """On this node the round is over, and all evidence of it is stored.

    Attributes:
        pieces: how many pieces of evidence there are.
        owner: the owner was on this node; then `verdict` is what follows from this node alone.
        owner_at: when the owner ended.
        finished: the owner called `finish()`, so what workers do much later does not count.
        ended_ms: when a Run that was put back had ended; 0 for now.
        settled: no evidence changes that verdict: it is a person's, the owner's, or was put back.
    """

    pieces: int
    written_at: float
    owner: bool = False
    owner_at: float = 0.0
    finished: bool = False
    settled: bool = False
    verdict: Verdict | None = None
    ended_ms: int = 0


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """One node as the seat sees it now, all times on the seat's clock; made when deciding, never stored.

    Attributes:
        present: the node's `Presence` is in the store.
        alive_until, gone_since: for a lost node, when it was present last and when its loss was noticed.
        last_words: of its ranks, for people.
        open_members: members that had not ended in the node's last document.
        silent_s: age of that document by the clocks on the walls, which may be wrong by minutes.
    """

    node: str
    name: str
    host: str
    attempt: int = 0
    owner: bool = False
    present: bool = True
    pieces: tuple[Piece, ...] = ()
    end: NodeEnd | None = None
    owner_at: float = 0.0
    alive_until: float = 0.0
    gone_since: float = 0.0
    last_words: str = ""
    open_members: int = 0
    silent_s: float = 0.0


class Judgement(msgspec.Struct, frozen=True):
    """The verdict that follows from all evidence now, or why none.

    Attributes:
        deadline: when to judge again; a process that leaves waits for it.
        later: the same, and nobody waits.
        presumed: as in `StoredVerdict`.
    """

    reason: str
    verdict: Verdict | None = None
    deadline: float | None = None
    later: float | None = None
    presumed: bool = False


def failure_of(piece: Piece) -> Failure:
    """A piece of evidence as a person reads it."""
    evidence = piece.evidence
    return Failure(
        role=piece.role,
        label=piece.label,
        rank=piece.rank,
        host=piece.host,
        node=piece.node,
        pid=piece.pid,
        attempt=piece.attempt,
        kind=evidence.kind,
        type=evidence.type,
        message=evidence.message,
        signal=evidence.signal,
        exit_code=evidence.exit_code,
        traceback=evidence.traceback,
        oom=evidence.oom,
        at=evidence.wall_ms,
        found_at=evidence.found_ms or None,
    )
