"""How far the clocks of the nodes of one Run are apart, as their documents tell, and when to ask for more.

Nothing is sent for this but the documents themselves: for a few seconds after a change of the seat, or of a
node, the seat writes the run document each second, and every node answers with its own.
"""

from __future__ import annotations

from collections.abc import Container

from pluto_dist.core.rules.reports import Offset, read_ours, read_theirs, span
from pluto_dist.core.values.cluster import Heard, NodeDocument, RunDocument

MEASURING_S = 5.0  # so long after a change of the seat clocks are compared, once a second
MEASURING_MORE_S = 60.0  # and so much longer where a node was not heard meanwhile, or did not hear
UNSURE_S = 1.0  # a clock that is known no better is measured
NODES_A_SECOND = 100.0  # of many nodes each measures less often


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
