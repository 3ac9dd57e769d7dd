"""One verdict of the evidence of all nodes: the table of `joint.py`, and the order of causes (G7)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pluto_dist.core.rules.joint import RETURNS_S, VICTIMS_WAIT_S, judge
from pluto_dist.core.rules.verdict import DRAIN_S, is_stop, likeliest
from pluto_dist.core.values.cluster import NodeEnd, NodeReport, Piece
from pluto_dist.core.values.lifecycle import Evidence
from pluto_dist.core.values.records import Verdict
from tests.core.builders import killed, raised, signalled

T = 1000.0
DONE = Verdict("COMPLETED", "the owner ended and nobody failed")


def piece(rank: int, evidence: Evidence, *, spread: float = 0.0, late: float = 0.0) -> Piece:
    """Of a rank; two ranks a node."""
    since = evidence.at if evidence.alive_until is None else evidence.alive_until
    return Piece(
        role="worker", label=f"rank{rank}", rank=rank, host="h", pid=rank + 1, attempt=0,
        evidence=evidence, stop=is_stop(evidence),
        since=since + late, until=evidence.at + spread + late, spread=spread, node=f"node{rank // 2}",
    )  # fmt: skip


def node(number: int, *pieces: Piece, ends: bool = True, lost: bool = False, **fields: Any) -> NodeReport:
    """Node 0 has the owner."""
    owner = number == 0
    end = NodeEnd(
        pieces=len(pieces), written_at=T, owner=owner, finished=fields.pop("finished", True),
        settled=fields.pop("settled", False), verdict=fields.pop("verdict", DONE) if owner else None,
    )  # fmt: skip
    given: dict[str, Any] = {
        "node": f"n{number}", "name": f"node{number}", "host": "h", "owner": owner, "present": not lost,
        "pieces": pieces, "end": end if ends and not lost else None,
        "owner_at": T if ends and not lost else 0.0,
        "alive_until": T - 20, "gone_since": T, "open_members": 2 if lost else 0,
        "last_words": "rank 9 slept",
    }  # fmt: skip
    return NodeReport(**{**given, **fields})


VICTIM = raised(T, "ConnectionResetError", communication=True)
ROWS: list[tuple[str, list[NodeReport], float, str | None, str]] = [
    ("all ended well", [node(0), node(1)], T, "COMPLETED", "nobody failed"),
    ("node 1 failed", [node(0), node(1, piece(2, killed(T)))], T, "FAILED", "rank 2 (pid 3 on h, node1)"),
    ("one at work", [node(0), node(1, ends=False)], T + 1, None, "node1 has not"),
    ("still after 10 s", [node(0), node(1, ends=False)], T + DRAIN_S, "COMPLETED", "nobody failed"),
    ("only victims: longer", [node(0, piece(0, VICTIM)), node(1, ends=False)],
     T + DRAIN_S, None, "node1 has not"),
    ("but not for ever", [node(0, piece(0, VICTIM)), node(1, ends=False)],
     T + VICTIMS_WAIT_S, "FAILED", "rank 0"),
    ("a lost node explains victims", [node(0, piece(0, VICTIM)), node(1, lost=True)], T + RETURNS_S,
     "FAILED", "node1 (host h) failed first: the node was lost; rank 9 slept"),
    ("it may be back in a moment", [node(0, piece(0, VICTIM)), node(1, lost=True)], T + 1, None,
     "node1 cannot be seen, perhaps for a moment"),
    ("a node that cannot be seen explains no error that explains itself",
     [node(0, piece(0, raised(T - 5, "OwnError"))), node(1, lost=True)], T + RETURNS_S, "FAILED",
     "rank 0 (pid 1 on h, node0) failed first: OwnError: boom; node1 could not be seen at the end"),
    ("nor a request to stop", [node(0, piece(0, signalled(T))), node(1, lost=True)], T + RETURNS_S,
     "TERMINATED", "rank 0 (pid 1 on h, node0) was asked to stop by SIGTERM; node1 could not be seen"),
    ("nor a death", [node(0, lost=True), node(1, piece(2, killed(T - 5)), piece(3, VICTIM))], T + RETURNS_S,
     "FAILED", "rank 2 (pid 3 on h, node1) failed first: killed by SIGKILL; node0 could not be seen"),
    ("a lost node alone fails nobody", [node(0), node(1, lost=True)], T + DRAIN_S, "COMPLETED",
     "node1 could not be seen at the end"),
    ("and is waited for", [node(0), node(1, lost=True)], T + 1, None, "node1 cannot be seen"),
    ("the owner's node is lost, the job goes on", [node(0, lost=True), node(1, ends=False)],
     T + 99, None, "works on"),
    ("the owner's node is lost, all others ended well", [node(0, lost=True), node(1)],
     T + 99, None, "nobody failed"),
    ("the owner's node is lost, others failed", [node(0, lost=True), node(1, piece(2, VICTIM))],
     T + RETURNS_S, "FAILED", "node0 (host h) failed first"),
    ("its own words explain more than its loss",
     [node(0, piece(0, raised(T - 1, "OwnError")), lost=True), node(1, piece(2, VICTIM))],
     T + RETURNS_S, "FAILED", "OwnError"),
    ("the owner is at work", [node(0, ends=False), node(1, piece(2, killed(T)))], T + 99, None, "at work"),
    ("the owner said it", [node(0, settled=True), node(1, piece(2, killed(T)))],
     T, "COMPLETED", "nobody failed"),
    ("a failure long after finish() is an event", [node(0), node(1, piece(2, killed(T + 11)))],
     T + 11, "COMPLETED", ""),
    ("a request to stop", [node(0, piece(0, signalled(T))), node(1, piece(2, signalled(T + 1)))],
     T, "TERMINATED",
     "rank 0"),
    ("nobody owns it", [node(1), node(2)], T, "COMPLETED", "all nodes ended"),
    ("nobody takes part", [], T, None, "nobody"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reports", "now", "status", "told"), [row[1:] for row in ROWS], ids=[r[0] for r in ROWS]
)
def test_the_table(reports: list[NodeReport], now: float, status: str | None, told: str) -> None:
    found = judge(reports, now)
    assert (found.verdict.status if found.verdict else None) == status
    assert told in (found.verdict.reason if found.verdict else found.reason)
    assert found.deadline is None or found.deadline > now


@pytest.mark.parametrize("owned", [True, False])
def test_a_node_that_stays_away_counts_as_lost_where_no_server_watches(owned: bool) -> None:
    """After an hour of silence, by its last document; until then somebody may look again later."""
    away = node(0, lost=True, owner=owned)
    assert judge([away, node(1)], T + 99).later is None
    found = judge([msgspec.structs.replace(away, silent_s=600.0), node(1)], T + 99, monitored=False)
    assert (found.verdict, found.deadline, found.later) == (None, None, T + 99 + 3000)
    long = msgspec.structs.replace(away, silent_s=3600.0)
    found = judge([long, node(1)], T + 99, monitored=False)
    assert found.presumed
    assert found.verdict is not None
    assert found.verdict.status == "FAILED"
    assert found.verdict.reason.startswith("node0 (host h) has not been seen for an hour")
    assert judge([long, node(1, ends=False)], T + 99, monitored=False).verdict is None


def test_whoever_is_first_on_its_own_node_is_first() -> None:
    """Within a node the order of notice decides, however uncertain the clocks of others are."""
    first, second = piece(2, raised(T, "A"), spread=0.5), piece(3, raised(T + 0.01, "B"), spread=0.5)
    assert [found.rank for found in likeliest([second, first])] == [2]


def test_uncertain_clocks_name_both() -> None:
    near = [piece(0, raised(T + 0.3, "A")), piece(2, raised(T, "B"), spread=0.5)]
    assert {found.rank for found in likeliest(near)} == {0, 2}
    far = [piece(0, raised(T + 0.6, "A")), piece(2, raised(T, "B"), spread=0.5)]
    assert [found.rank for found in likeliest(far)] == [2]


def test_a_victim_is_never_named_beside_its_cause() -> None:
    """R10: kinds rank before times, and the window is as much wider as the clocks are uncertain."""
    cause = piece(2, killed(T + 2.5), spread=1.0)
    victim = piece(0, raised(T, "ConnectionResetError", communication=True))
    assert [found.rank for found in likeliest([victim, cause])] == [0]
    wide = piece(0, raised(T, "ConnectionResetError", communication=True), spread=1.0)
    assert [found.rank for found in likeliest([wide, cause])] == [2]
