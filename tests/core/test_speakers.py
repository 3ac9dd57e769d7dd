"""Who speaks on a console of several participants."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pluto_dist.core.rules.participants import node_lease, relieved_launchers, speaker_of, speaker_shown
from pluto_dist.core.values.document import read, show
from pluto_dist.core.values.ids import Job
from pluto_dist.core.values.records import Lease
from tests.core import builders
from tests.core.test_sampling import member
from tests.core.world import World


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


def test_a_launcher_speaks_for_its_command() -> None:
    """Also where the launcher itself is one of several tasks: what its command says is no rank's."""
    several = Job(key="job", node_rank=1, world_size=2)
    launcher = builders.member(
        None, opened=builders.claim(None, launcher=True, job=several), label="launcher"
    )
    rank = named(member(1), "rank1", "rank1")
    assert speaker_of(launcher, [launcher]) == ""
    assert speaker_of(launcher, [launcher, rank]) == "command"
    assert speaker_of(rank, [launcher, rank]) == "rank1"


@pytest.mark.parametrize(
    ("opened", "lease", "relieved"),
    [
        pytest.param({"console": "auto"}, {}, True, id="a worker"),
        pytest.param({"console": "auto"}, {"role": "side"}, False, id="a side"),
        pytest.param({"console": "auto", "notebook": True}, {}, False, id="a notebook"),
        pytest.param({"console": "wrap"}, {"role": "side"}, True, id="a side that asks for it"),
        pytest.param({"console": "fd", "notebook": True}, {}, True, id="a notebook that asks for it"),
        pytest.param({"console": "off"}, {}, False, id="a worker that does not want it"),
        pytest.param({"console": "auto"}, {"state": "ended"}, False, id="a worker that has ended"),
        pytest.param({"console": "auto", "launched_by": ""}, {}, False, id="a worker from elsewhere"),
    ],
)
def test_a_launcher_is_silent_while_somebody_below_records(
    opened: dict[str, Any], lease: dict[str, Any], relieved: bool
) -> None:
    """No line twice: what a process below prints passes through the launcher too."""
    claim = builders.claim(None, **{"launched_by": "launcher", **opened})
    below = builders.member(None, **{"opened": claim, "owns": False, "role": "worker", **lease})
    launcher = builders.member(None, opened=builders.claim(None, launcher=True, console="auto"))
    assert relieved_launchers([launcher, below]) == ({"launcher"} if relieved else set())


def test_the_launcher_hears_when_those_below_begin_and_end() -> None:
    """Each time at once and unasked."""
    world = World()
    launcher = world.process("launcher").init("x", launcher=True, wanted="owner", console="auto")
    below = {"launched_by": launcher.spool.lease_id, "console": "auto"}
    assert not launcher.view.relieved
    first, second = (world.process("w", Job("torch", rank)).init("x", **below) for rank in range(2))
    assert [first.role, second.role] == ["worker", "worker"]
    assert launcher.view.relieved
    first.finish()
    assert launcher.view.relieved
    assert not first.view.relieved
    second.kill()
    assert not launcher.view.relieved


def test_a_line_is_named_alike_now_and_when_it_is_uploaded_or_read_later() -> None:
    """The first rank of a job was `rank0` on the server, and nobody after a `sync`."""
    world = World()
    launch = world.launch(ranks=2)
    launch.start()
    comers = (launch.rank(0).init, launch.rank(1).init, world.process("eval").attach)
    for come in comers:
        come()
        world.wait(1)
        document = read(show(world.book, world.run()))
        leases = world.book.leases_of(world.run().key)
        now = {lease.lease_id: speaker_of(lease, leases) for lease in leases if lease.identity.pid}
        later = {lease.lease_id: speaker_shown(lease, document) for lease in document.leases if lease.pid}
        assert later == now
        assert "rank0" in now.values()


def test_a_lone_process_has_no_name_now_or_later() -> None:
    world = World()
    world.process("owner").init()
    document = read(show(world.book, world.run()))
    assert [speaker_shown(lease, document) for lease in document.leases] == [""]
