"""Who speaks on a console of several participants."""

from __future__ import annotations

import msgspec

from pluto_dist.core.ids import Job
from pluto_dist.core.nodes import node_lease
from pluto_dist.core.records import Lease
from pluto_dist.core.speakers import speaker_of
from tests.core.test_sampling import member


def named(lease: Lease, participant: str, label: str = "", role: str = "worker") -> Lease:
    return msgspec.structs.replace(lease, participant=participant, label=label, role=role)


def test_the_only_participant_needs_no_name() -> None:
    owner = named(member(None), "owner", "owner", "owner")
    again = msgspec.structs.replace(owner, lease_id="f" * 24)
    assert speaker_of(owner, [owner, again]) == ""


def test_a_rank_of_several_is_named_before_the_others_come() -> None:
    rank = named(member(3, world=4), "rank3", "rank3")
    assert speaker_of(rank, [rank]) == "rank3"


def test_ranks_are_told_apart_even_if_they_have_one_label() -> None:
    rank = named(member(1, world=2), "rank1", "trainer")
    assert speaker_of(rank, [rank]) == "rank1"


def test_a_side_is_called_by_its_label_and_then_the_owner_has_a_name_too() -> None:
    owner = named(member(None), "owner", "owner", "owner")
    side = msgspec.structs.replace(named(member(None), "eval", "eval", "side"), lease_id="e" * 24)
    assert [speaker_of(each, [owner, side]) for each in (owner, side)] == ["owner", "eval"]


def test_the_node_is_nobody_who_speaks() -> None:
    owner = named(member(None), "owner", "owner", "owner")
    node = node_lease("a" * 24, owner, "", 1.0, 1)
    assert node.opened.job == Job(key="")
    assert speaker_of(owner, [owner, node]) == ""
