"""Who speaks for a Run of several nodes: the table of the seat in `core/rules/nodes.py` (G2)."""

from __future__ import annotations

from typing import Any

import pytest

from pluto_dist.core.rules.nodes import FIRST_S, REQUEST_S, Follow, Hold, SeatView, Take, may_act, plan
from pluto_dist.core.values.cluster import RunDocument, Seat

MINE = RunDocument(epoch=3, seat=Seat("me", 1, "x"))
OLDER = RunDocument(epoch=3, seat=Seat("me", 0, "x"))
OTHERS = RunDocument(epoch=3, seat=Seat("other", 7, "x"))
VACANT = RunDocument(epoch=3)
NOW = 1000.0


def view(document: RunDocument | None, **fields: Any) -> SeatView:
    """A node with members and a good lease."""
    given = {
        "node": "me",
        "generation": 1,
        "valid_until": NOW + 10,
        "stands": True,
        "rank": 1,
        "asked_at": NOW,
    }
    return SeatView(document=document, **{**given, **fields})


ROWS: list[tuple[str, SeatView, object]] = [
    ("it is this coordinator's", view(MINE), Hold()),
    ("also without a lease: nobody has taken it", view(MINE, valid_until=None), Hold()),
    ("of an earlier start of this node", view(OLDER), Take(4, "")),
    ("nobody ever had it: node 0", view(None, rank=0), Take(1)),
    ("the owner's node", view(None, owns=True), Take(1)),
    ("another node waits for node 0", view(None), Follow(NOW + FIRST_S)),
    ("and then goes", view(None, asked_at=NOW - FIRST_S), Take(1)),
    ("vacant: the owner's node", view(VACANT, owns=True), Take(4)),
    ("vacant: another one waits", view(VACANT), Follow(NOW + FIRST_S)),
    ("another node has it", view(OTHERS), Follow()),
    ("also for the owner's node", view(OTHERS, owns=True), Follow()),
    ("and is gone", view(OTHERS, present=False, gone_at=NOW - 1), Take(4, "other")),
    ("and is just gone: by rank", view(OTHERS, present=False, gone_at=NOW, rank=3), Follow(NOW + 0.6)),
    ("a thousandth node waits 2 s", view(OTHERS, present=False, gone_at=NOW, rank=999), Follow(NOW + 2.0)),
    (
        "the owner's node at once",
        view(OTHERS, present=False, gone_at=NOW, rank=9, owns=True),
        Take(4, "other"),
    ),
    (
        "its coordinator was started anew: that one is waited for",
        view(OTHERS, replaced=True, gone_at=NOW - 1),
        Follow(NOW + 1.0),
    ),
    ("and does not claim", view(OTHERS, replaced=True, gone_at=NOW - 2), Take(4)),
    ("the owner of the job's next start waits for nobody", view(OTHERS, succeeds=True, owns=True), Take(4)),
    (
        "who has no members does not stand",
        view(OTHERS, present=False, gone_at=NOW - 9, stands=False),
        Follow(),
    ),
    ("nor who has no lease", view(OTHERS, present=False, gone_at=NOW - 9, valid_until=None), Follow()),
    ("nor whose lease ends soon", view(None, owns=True, valid_until=NOW + REQUEST_S), Follow()),
]


@pytest.mark.parametrize(("given", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_the_table(given: SeatView, expected: object) -> None:
    assert plan(given, NOW) == expected


@pytest.mark.parametrize(
    ("given", "until"),
    [
        (view(MINE), NOW + 10 - REQUEST_S),
        (view(MINE, valid_until=NOW + REQUEST_S), None),
        (view(MINE, valid_until=None), None),
        (view(OLDER), None),
        (view(OTHERS), None),
        (view(VACANT), None),
        (view(None), None),
    ],
)
def test_only_a_seat_with_a_safe_lease_may_act(given: SeatView, until: float | None) -> None:
    """A request that leaves now has arrived before anybody else can have the seat."""
    assert may_act(given, NOW) == until


def test_a_seat_that_cannot_open_the_run_gives_way_to_the_owners_node() -> None:
    """R12: its node is there; but no two owners take it from each other."""
    relays = RunDocument(epoch=3, seat=Seat("other", 7, "x", owns=False))
    facts = {"valid_until": 100.0, "owns": True, "opens": True}
    assert plan(view(relays, **facts), 10.0) == Take(4)
    assert plan(view(OTHERS, **facts), 10.0) == Follow()
    assert plan(view(relays, **{**facts, "opens": False}), 10.0) == Follow()
