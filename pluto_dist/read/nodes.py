"""All nodes of the Runs in a cluster store, as they have told of themselves: from any host with its address.

Ages are differences of wall clocks, this host's and the node's; where those are not synchronised an age is
wrong by as much. Whether a node is present is the store's word, and needs no clock.

Such processes stand beside those of this node. A node tells of itself when something changes, else each
minute: so whether a process lives is known at once, and its step may be a minute old. Therefore it has no lag
and no rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from pluto_dist.core.rules.nodes import T, decoded
from pluto_dist.core.rules.verdict import describe, is_failure
from pluto_dist.core.values.backend import Status
from pluto_dist.core.values.cluster import (
    MemberShown,
    NodeDocument,
    Piece,
    RunDocument,
    StoredVerdict,
    text_of_part,
)
from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.engine import ClusterAddress, Listed, Versioned
from pluto_dist.core.values.ids import Role, classify_run_id
from pluto_dist.core.values.records import Verdict
from pluto_dist.errors import ClusterUnavailableError
from pluto_dist.read.processes import Health, Process

EVERY_S = 5.0

Ask = Callable[[ClusterAddress, int], "list[RunThere]"]


class ProcessThere(msgspec.Struct, frozen=True, kw_only=True):
    """A process as its node shows it; `age_s` since it was attached."""

    lease_id: str
    role: Role
    label: str
    rank: int | None
    pid: int
    alive: bool
    step: int
    age_s: float | None


class NodeThere(msgspec.Struct, frozen=True, kw_only=True):
    """A node of a Run.

    Attributes:
        node: its id; name: `node1` within the job.
        present: it holds a lease at the store.
        seat: its coordinator speaks for the Run.
        owner: the Run's owner is, or was, on it.
        current: it takes part in the present start of the job.
        ended: all its processes have ended, and all evidence of it is stored.
        said_s: how long ago it told of itself last; it does when something changes, else each minute.
    """

    node: str
    name: str
    host: str
    present: bool
    seat: bool
    owner: bool
    current: bool
    ended: bool
    attempt: int
    said_s: float
    processes: tuple[ProcessThere, ...]


class Told(msgspec.Struct, frozen=True):
    """A piece of evidence, for people: what became of whom, on which node, how long ago."""

    node: str
    label: str
    rank: int | None
    pid: int
    what: str
    age_s: float


class RunThere(msgspec.Struct, frozen=True, kw_only=True):
    """A Run as its nodes know it.

    Attributes:
        status: of the verdict; RUNNING while there is none.
        sent: the server has the verdict.
        epoch: number of the seat's changes; round: number of the job's starts.
    """

    project: str
    run_id: str
    id: int | None
    display_id: str
    url: str
    status: Status
    verdict: Verdict | None
    sent: bool
    epoch: int
    round: int
    attempt: int
    nodes: tuple[NodeThere, ...]
    evidence: tuple[Told, ...]

    def means(self, name: str) -> bool:
        """Whether a person may mean this Run by a name."""
        try:
            ref = classify_run_id(name)
        except ValueError:
            return False
        return self.id == ref.id if ref.id is not None else name in (self.run_id, self.display_id)


def runs_there(address: ClusterAddress, now_ms: int) -> list[RunThere]:
    """All Runs below the address's prefix, by project and id.

    Raises:
        ClusterUnavailableError: the store cannot be read; says why and what to do.
    """
    folder = f"{address.prefix}/v1/"
    folders: dict[tuple[str, str], dict[str, Versioned]] = {}
    for key, found in _listed(address, folder).items():
        project, _, rest = key.removeprefix(folder).partition("/")
        run_id, _, name = rest.partition("/")
        if name:
            folders.setdefault((text_of_part(project), text_of_part(run_id)), {})[name] = found
    runs = (run_of(project, run_id, items, now_ms) for (project, run_id), items in sorted(folders.items()))
    return [run for run in runs if run is not None]


def run_of(project: str, run_id: str, items: dict[str, Versioned], now_ms: int) -> RunThere | None:
    """A Run of what stands below its folder; None where there is no run document that can be read."""
    document = _read(items, "run", RunDocument)
    if document is None:
        return None
    stored = document.ended or _read(items, f"verdict/{document.round}", StoredVerdict)
    nodes = {
        name.removeprefix("state/"): _read(items, name, NodeDocument)
        for name in items
        if name.startswith("state/")
    }
    known = {node: shown for node, shown in nodes.items() if shown is not None}
    return RunThere(
        project=project,
        run_id=run_id,
        id=document.id,
        display_id=document.display_id,
        url=document.url,
        status=stored.verdict.status if stored is not None else "RUNNING",
        verdict=stored.verdict if stored is not None else None,
        sent=document.sent,
        epoch=document.epoch,
        round=document.round,
        attempt=document.attempt,
        nodes=tuple(
            _node(shown, document, items, now_ms)
            for _, shown in sorted(known.items(), key=lambda item: (item[1].rank, item[1].name))
        ),
        evidence=tuple(_evidence(items, f"ev/{document.round}/", now_ms)),
    )


def _node(shown: NodeDocument, document: RunDocument, items: dict[str, Versioned], now_ms: int) -> NodeThere:
    return NodeThere(
        node=shown.node,
        name=shown.name,
        host=shown.host,
        present=f"node/{shown.node}" in items,
        seat=document.seat is not None and document.seat.node == shown.node,
        owner=document.owner is not None and document.owner.node == shown.node,
        current=shown.node in document.nodes,
        ended=f"end/{document.round}/{shown.node}" in items,
        attempt=shown.attempt,
        said_s=_age_s(shown.wall_ms, now_ms),
        processes=tuple(_process(member, now_ms) for member in shown.members),
    )


def _process(member: MemberShown, now_ms: int) -> ProcessThere:
    return ProcessThere(
        lease_id=member.lease_id,
        role=member.role,
        label=member.label,
        rank=member.rank,
        pid=member.pid,
        alive=member.alive,
        step=member.step,
        age_s=_age_s(member.since_ms, now_ms) if member.since_ms else None,
    )


def _evidence(items: dict[str, Versioned], folder: str, now_ms: int) -> list[Told]:
    """What speaks against a good end, the newest last."""
    found = [_read(items, name, Piece) for name in items if name.startswith(folder)]
    pieces = [piece for piece in found if piece is not None and is_failure(piece.evidence)]
    return [
        Told(
            piece.node,
            piece.label,
            piece.rank,
            piece.pid,
            describe(piece.evidence),
            _age_s(piece.evidence.wall_ms, now_ms),
        )
        for piece in sorted(pieces, key=lambda piece: piece.evidence.wall_ms)
    ]


def _read(items: dict[str, Versioned], name: str, kind: type[T]) -> T | None:
    found = items.get(name)
    return decoded(found.value, kind) if found is not None else None


def _age_s(at_ms: int, now_ms: int) -> float:
    return max(0.0, (now_ms - at_ms) / 1000)


def _listed(address: ClusterAddress, prefix: str) -> dict[str, Versioned]:
    from pluto_dist.cluster.etcd import EtcdStore

    try:
        store = EtcdStore(address)
    except OSError as error:  # a certificate that cannot be read
        raise ClusterUnavailableError(f"the cluster store {address} cannot be asked: {error}") from error
    try:
        found = store.list(prefix)
    finally:
        store.close()
    if isinstance(found, Listed):
        return found.items
    reason = getattr(found, "reason", "it was emptied a moment ago")
    raise ClusterUnavailableError(
        f"the cluster store {address} cannot be read: {reason}. `pluto-dist doctor` says more"
    )


class OtherNodes:
    """What the cluster store says, asked from time to time.

    Attributes:
        trouble: why it could not be read, "" if it could.

    Args:
        address: of the store, None where there is none.
        ask: lists its Runs.
    """

    def __init__(self, address: ClusterAddress | None, ask: Ask | None = None) -> None:
        self.trouble = ""
        self._address, self._ask = address, ask
        self._runs: list[RunThere] = []
        self._next_at = float("-inf")

    def look(self, now: float, wall_ms: int) -> None:
        """Asks, if it is time; what was known before stays while the store is away."""
        if self._address is None or now < self._next_at:
            return
        self._next_at = now + EVERY_S
        try:
            self._runs = (self._ask or runs_there)(self._address, wall_ms)
            self.trouble = ""
        except ClusterUnavailableError as error:
            self.trouble = error.message

    def processes(self, document: Document, wall_ms: int) -> list[Process]:
        """Those of a Run that its document on this node does not have."""
        mine = (document.run_id, document.project)
        run = next((each for each in self._runs if (each.run_id, each.project) == mine), None)
        if run is None:
            return []
        here = {lease.lease_id for lease in document.leases}
        return list(_processes(run, here, document.attempt, wall_ms))


def _processes(run: RunThere, here: set[str], attempt: int, wall_ms: int) -> Iterator[Process]:
    for node in run.nodes:
        if node.attempt != attempt or not (node.current or node.present):
            continue
        for process in node.processes:
            if process.lease_id not in here:
                health: Health = "ended" if not process.alive else "well" if node.present else "lost"
                yield Process(lease=_lease(node, process, wall_ms), health=health, word_s=node.said_s)


def _lease(node: NodeThere, process: ProcessThere, wall_ms: int) -> LeaseShown:
    """As far as the other node has told."""
    return LeaseShown(
        lease_id=process.lease_id,
        role=process.role,
        label=process.label,
        participant=process.label,
        rank=process.rank,
        pid=process.pid,
        host=node.host,
        epoch=0,
        attempt=node.attempt,
        state="active" if process.alive else "ended",
        granted_at=wall_ms - round(1000 * process.age_s) if process.age_s is not None else None,
        last_seen_at=wall_ms - round(1000 * node.said_s),
        ended_at=None,
        end_reason=None,
        delivered=0,
        written=0,
        last_step=process.step,
        rejected=0,
        dropped=0,
    )
