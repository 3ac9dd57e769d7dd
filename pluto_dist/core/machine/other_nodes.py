"""What one node of a Run sees of the others: who is there, what they report, how far clocks are apart.

All of it comes from their documents in the Run's folder. Nothing else is sent to compare clocks: for a few
seconds after a change of the seat, or of a node, the seat writes the run document each second, and every node
answers with its own.
"""

from __future__ import annotations

from collections.abc import Container

from pluto_dist.core.machine.context import Context
from pluto_dist.core.machine.shared_folder import Lookout
from pluto_dist.core.rules.nodes import (
    Offset,
    by_node,
    decoded,
    read_ours,
    read_theirs,
    report_of,
    span,
    takes_part,
)
from pluto_dist.core.values.cluster import Heard, NodeDocument, NodeEnd, NodeReport, Presence, RunDocument

MEASURING_S = 5.0  # so long after a change of the seat clocks are compared, once a second
MEASURING_MORE_S = 60.0  # and so much longer where a node was not heard meanwhile, or did not hear
UNSURE_S = 1.0  # a clock that is known no better is measured
NODES_A_SECOND = 100.0  # of many nodes each measures less often


class OtherNodes:
    """The nodes of one Run beside this one.

    Args:
        context: of the coordinator.
        lookout: the copy of the Run's folder.
        node: this one.

    Attributes:
        clocks: of the others, beside this node's.
        gone_at: the nodes that are absent, and since when that is known.
    """

    def __init__(self, context: Context, lookout: Lookout, node: str) -> None:
        self._context = context
        self._lookout = lookout
        self._node = node
        self._document: tuple[int, RunDocument | None] = (0, None)
        self._replaced_at: tuple[str, float] | None = None
        self.clocks = Clocks(node)
        self.gone_at: dict[str, float] = {}

    @property
    def document(self) -> RunDocument | None:
        """The run document; None if there is none, or it has not been read."""
        found = self._lookout.get("run")
        if found is None:
            return None
        if self._document[0] != found.version:
            self._document = (found.version, decoded(found.value, RunDocument))
        return self._document[1]

    @property
    def replaced_at(self) -> float | None:
        """Since when the seat's coordinator is known to have a successor on its node; None without one."""
        return self._replaced_at[1] if self._replaced_at is not None else None

    def read(self, keys: tuple[str, ...], read_at: float) -> None:
        """Learns from new documents how far the clocks of the nodes are apart."""
        for key in keys:
            name = key.removeprefix(self._lookout.folder)
            if name == "run" and self.document is not None:
                self.clocks.read_run(self.document, read_at)
            elif name.startswith("state/"):
                found = self._lookout.get(name)
                document = decoded(found.value, NodeDocument) if found is not None else None
                if document is not None:
                    self.clocks.read_node(document, read_at)

    def notice(self) -> None:
        """Notes which nodes are absent, and whether the seat's coordinator has a successor."""
        document, now = self.document, self._context.now.at
        seat = document.seat if document is not None else None
        known = set(self._lookout.below("state/")) | set(document.nodes if document is not None else ())
        known |= {seat.node} if seat is not None else set()
        for node in known:
            if self._lookout.get(f"node/{node}") is not None or not self._lookout.knows(f"node/{node}"):
                if self.gone_at.pop(node, None) is not None:
                    self.clocks.returned(now)
            else:
                self.gone_at.setdefault(node, now)
        found = self._lookout.get(f"node/{seat.node}") if seat is not None else None
        presence = decoded(found.value, Presence) if found is not None else None
        if seat is None or presence is None or presence.generation <= seat.generation:
            self._replaced_at = None
        elif self._replaced_at is None or self._replaced_at[0] != seat.nonce:
            self._replaced_at = (seat.nonce, now)

    def measures(self, document: RunDocument) -> bool:
        """Whether the seat goes on to compare clocks."""
        return self.clocks.measures(document, self.gone_at, self._context.now.at)

    def reports(self, document: RunDocument) -> list[NodeReport]:
        """The others in the document's round, by what they have stored."""
        owner = document.owner.node if document.owner is not None else ""
        evidence = {name: found.value for name, found in self._lookout.below(f"ev/{document.round}/").items()}
        pieces = by_node(evidence)
        found: list[NodeReport] = []
        for node, state in sorted(self._lookout.decoded("state/", NodeDocument).items()):
            concerned = node in document.nodes or node in pieces or takes_part(state, document)
            if node == self._node or not concerned:
                continue
            ended = self._lookout.get(f"end/{document.round}/{node}")
            found.append(
                report_of(
                    state,
                    pieces=pieces.get(node, ()),
                    end=decoded(ended.value, NodeEnd) if ended is not None else None,
                    offset=self.clocks.of(node),
                    gone_at=self.gone_at.get(node),
                    owner=node == owner,
                    now=self._context.now.at,
                    wall_ms=self._context.now.wall_ms,
                )
            )
        return found


class Clocks:
    """The clocks of the other nodes beside this one's.

    Args:
        node: this one.

    Attributes:
        heard: what this node read last of a seat on another node, None for nothing.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._offsets: dict[str, tuple[str, Offset]] = {}
        self._until = 0.0
        self.heard: Heard | None = None

    def read_run(self, document: RunDocument, read_at: float) -> None:
        """The run document was read here."""
        seat = document.seat
        if seat is None or seat.node == self._node:
            return
        if self.heard is None or self.heard.nonce != seat.nonce:
            self._until = read_at + MEASURING_S
        self.heard = Heard(seat.nonce, document.written_at, read_at)

    def read_node(self, document: NodeDocument, read_at: float) -> None:
        """The document of a node was read here."""
        if document.node == self._node:
            return
        boot_id, offset = self._offsets.get(document.node, ("", Offset()))
        if boot_id != document.boot_id:
            offset = Offset()
            self._until = read_at + MEASURING_S
        offset = read_theirs(offset, document.written_at, read_at)
        heard = document.heard
        if heard is not None and heard.nonce.startswith(f"{self._node}-"):
            offset = read_ours(offset, heard.written_at, heard.read_at)
        self._offsets[document.node] = (document.boot_id, offset)

    def returned(self, now: float) -> None:
        """A node that could not be seen is there again."""
        self._until = now + MEASURING_S

    def of(self, node: str) -> Offset:
        """What is known of a node's clock."""
        return self._offsets.get(node, ("", Offset()))[1]

    def measures(self, document: RunDocument, absent: Container[str], now: float) -> bool:
        """Whether the seat goes on to compare: the clock of a node that is there is not known well enough."""
        unsure = any(
            span(offset, now).spread > UNSURE_S
            for node, (_, offset) in self._offsets.items()
            if node in document.nodes and node not in absent
        )
        return now < self._until + (MEASURING_MORE_S if unsure else 0.0)

    def answers(self, document: RunDocument | None, last: Heard | None, now: float) -> bool:
        """Whether this node answers what it has heard of the seat since its `last` word."""
        asked = document is not None and document.measuring
        return (asked or now < self._until) and self.heard != last


def pause_s(document: RunDocument | None) -> float:
    """Between two words of a node while clocks are compared."""
    return max(1.0, len(document.nodes) / NODES_A_SECOND) if document is not None else 1.0
