"""Tags and config of a Run of several nodes: appended by each, folded at the seat (G9)."""

from __future__ import annotations

import msgspec
import pytest

from pluto_dist.core.rules.changes import LARGEST_CONFIG, fitting, too_large, untold
from pluto_dist.core.values.cluster import SharedState
from pluto_dist.core.values.engine import Versioned
from tests.core.cluster_world import FOLDER, ClusterWorld
from tests.core.test_cluster import started


def state(world: ClusterWorld) -> SharedState:
    found = world.engine.get(FOLDER + "shared")
    assert isinstance(found, Versioned)
    return msgspec.json.decode(found.value, type=SharedState)


def config_of(world: ClusterWorld, node: int) -> dict[str, object]:
    book = world.nodes[node].book
    found = book.configs.get(world.nodes[node].run().key)
    assert found is not None
    return dict(msgspec.json.decode(found.body))


def agree(world: ClusterWorld, tags: set[str], config: dict[str, object]) -> None:
    """Server, store and all nodes say the same."""
    assert set(world.run.tags) == tags
    assert set(state(world).tags) == tags
    server = world.run.config
    assert {name: server[name] for name in config} == config
    for number, node in enumerate(world.nodes):
        if number not in world.dead:
            assert set(node.run().tags) == tags, number
            assert config_of(world, number).items() >= config.items(), number


def test_changes_of_all_nodes_meet() -> None:
    world = started(3)
    for rank in (0, 2, 4):
        world.ranks[rank].add_tags(f"t{rank}").update_config(by={f"n{rank}": rank})
    world.wait(5)
    agree(world, {"t0", "t2", "t4"}, {"by": {"n0": 0, "n2": 2, "n4": 4}})
    world.ranks[4].remove_tags("t0")
    world.ranks[2].add_tags("t9")
    world.wait(5)
    agree(world, {"t2", "t4", "t9"}, {})
    assert not world.engine.all(FOLDER + "op/")


def test_another_order_of_tags_is_no_change() -> None:
    """The seat is vacant after the end; a node that has them in another order told the server for ever."""
    world = started()
    for rank in (0, 2, 1, 3):
        world.ranks[rank].add_tags(f"a{rank}", f"b{rank}")
    for rank in (2, 3, 0, 1):
        world.ranks[rank].finish().exit()
    world.wait(10)
    world.server.asked.clear()
    world.wait(60)
    assert world.server.said("put_tags", "merge_config") == []
    assert all(node.core.at_rest for node in world.nodes)


def test_only_the_seat_tells_the_server() -> None:
    """Two nodes that read, merge and write at the server may miss each other."""
    world = started()
    world.server.asked.clear()
    world.ranks[2].add_tags("a").update_config(b=1)
    world.wait(5)
    assert sorted(world.server.said("put_tags", "merge_config")) == ["merge_config", "put_tags"]


def test_what_a_lost_seat_did_not_fold_the_next_one_does() -> None:
    world = started(3)
    world.nodes[0].hold |= {"Control", "WriteCluster"}
    world.ranks[2].add_tags("a").update_config(b=1)
    world.ranks[4].add_tags("c")
    world.wait(3)
    world.kill_node(0)
    world.wait(25)
    agree(world, {"a", "c"}, {"b": 1})


def test_what_a_lost_seat_had_folded_and_not_told_the_server_the_next_one_tells() -> None:
    world = started(3)
    world.nodes[0].hold.add("Control")
    world.ranks[2].add_tags("a").update_config(b=1)
    world.ranks[1].remove_tags("never").add_tags("own")
    world.wait(3)
    assert state(world).base == ()
    assert not world.engine.all(FOLDER + "op/")
    world.kill_node(0)
    world.wait(25)
    agree(world, {"a", "own"}, {"b": 1})


@pytest.mark.parametrize("node", [0, 1])
def test_a_restart_loses_and_repeats_nothing(node: int) -> None:
    world = started()
    world.nodes[node].hold |= {"Control", "WriteCluster"}
    world.ranks[2].add_tags("a").update_config(n=1)
    world.ranks[0].add_tags("b")
    world.wait(1)
    world.nodes[node].hold.clear()
    world.nodes[node].restart()
    world.give_keys()
    world.wait(10)
    world.ranks[0].update_config(n=2)
    world.wait(5)
    agree(world, {"a", "b"}, {"n": 2})


@pytest.mark.parametrize("cut", [0, 1])
def test_changes_during_a_partition_meet_after_it(cut: int) -> None:
    """The seat moves where node 0 is cut off; both sides go on changing."""
    world = started()
    world.cut(cut)
    world.wait(25)
    world.ranks[0].add_tags("a").update_config(x=1)
    world.ranks[2].add_tags("b").update_config(y=1)
    world.wait(5)
    world.mend()
    world.wait(15)
    agree(world, {"a", "b"}, {"x": 1, "y": 1} if cut else {"y": 1})
    assert world.run.config.items() >= {"x": 1, "y": 1}.items()


def test_an_answer_that_was_lost_repeats_nothing() -> None:
    world = started()
    for number in range(10):
        world.engine.lost_answers = 1
        world.ranks[2].add_tags(f"t{number}")
        world.wait(2)
    world.wait(5)
    agree(world, {f"t{number}" for number in range(10)}, {})


def test_an_emptied_store_gets_the_state_again() -> None:
    world = started()
    world.ranks[2].add_tags("a")
    world.wait(5)
    world.engine.empty()
    world.seats.clear()
    world.ranks[2].add_tags("b")
    world.wait(40)
    agree(world, {"a", "b"}, {})


def test_changes_reach_the_server_before_the_status() -> None:
    world = started()
    world.ranks[2].add_tags("late").update_config(late=True)
    for rank in (2, 3, 0, 1):
        world.ranks[rank].finish().exit()
    world.wait(15)
    assert world.statuses() == ["COMPLETED"]
    assert world.run.tags == ("late",)
    assert world.run.config["late"] is True
    world.wait(100)
    assert all(node.core.at_rest for node in world.nodes)


def test_a_store_that_is_away_for_ever_loses_no_change() -> None:
    world = started()
    world.engine.lose_quorum()
    world.ranks[2].add_tags("there").update_config(there=1)
    for rank in range(4):
        world.ranks[rank].finish().exit()
    world.wait(60)
    assert "there" in world.run.tags
    assert world.run.config["there"] == 1


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("node", [0, 1])
def test_a_value_that_the_store_cannot_take_holds_nothing_up(node: int, local: bool) -> None:
    """It stays where it was set, its node tells the server, and everything else meets as ever."""
    world = ClusterWorld(local=local)
    world.start(0, 1, 2, 3)
    world.wait(10)
    big = "x" * (LARGEST_CONFIG << 1)
    world.ranks[2 * node].update_config(big=big, small=1)
    world.wait(5)
    world.ranks[2 * node].update_config(later=2)
    world.ranks[2 - 2 * node].update_config(other=3).add_tags("t")
    world.wait(5)
    everywhere = {"small": 1, "later": 2, "other": 3}
    assert [{name: config_of(world, each).get(name) for name in everywhere} for each in (0, 1)] == [
        everywhere
    ] * 2
    assert [config_of(world, each).get("big") == big for each in (node, 1 - node)] == [True, False]
    assert "big" in told_of(world, node)
    for rank in (2, 3, 0, 1):
        world.ranks[rank].finish().exit()
    world.wait(30)
    assert [each.run("x").status for each in world.nodes] == ["COMPLETED"] * 2
    assert all(each.core.at_rest for each in world.nodes)
    if not local:
        agree(world, {"t"}, everywhere)
        assert world.run.config["big"] == big


def told_of(world: ClusterWorld, node: int) -> str:
    """What a node's history says of values that others do not see."""
    (note,) = world.nodes[node].notes(world.nodes[node].run("x"), "config_too_large")
    return str(note["values"])


def test_what_fits_is_the_smaller_values() -> None:
    half, more = (msgspec.json.encode("y" * (LARGEST_CONFIG // 2 + size)) for size in (0, 1))
    config = b'{"b":%b,"a":%b,"c":1}' % (half, more)
    fits, left_out = fitting(config)
    assert (fits, left_out) == (b'{"b":%b,"c":1}' % half, ("a",))
    assert (fitting(fits), too_large(fits)) == ((fits, ()), b"")
    assert too_large(config) == b'{"a":%b}' % more


def test_of_a_patch_that_went_on_only_the_rest_is_told() -> None:
    assert untold(b'{"a":1,"b":{"c":2}}', b'{"a":1,"b":{"c":1}}') == b'{"b":{"c":2}}'
    assert untold(b'{"a":1}', b'{"a":1}') == untold(b"", b'{"a":1}') == b""


def test_the_alert_of_another_node_does_not_wait_for_the_seat() -> None:
    world = started()
    world.ranks[2].alert("on node 1")
    world.wait(5)
    assert [alert.title for alert in world.run.alerts] == ["on node 1"]


def test_the_seats_next_coordinator_knows_what_the_one_before_had_told_only_the_server() -> None:
    """It was killed before the state was stored; the store's older one is its own, and is not adopted."""
    world = started()
    world.ranks[0].add_tags("x").update_config(n=1)
    world.wait(3)
    world.nodes[0].hold.add("WriteCluster")
    world.ranks[0].remove_tags("x").update_config(n=2)
    world.wait(0.5)
    assert (world.run.tags, world.run.config["n"]) == ((), 2)
    world.nodes[0].hold.clear()
    world.nodes[0].restart()
    world.give_keys()
    world.wait(30)
    agree(world, set(), {"n": 2})


def test_a_new_seat_lays_its_own_latest_change_over_one_that_nobody_had_folded() -> None:
    world = started()
    world.nodes[0].hold.add("WriteCluster")
    world.ranks[2].update_config(n=1)
    world.ranks[2].add_tags("x")
    world.wait(1)
    assert world.engine.all(FOLDER + "op/n1/")
    world.kill_node(0)
    world.cut(1)
    world.wait(3)
    world.ranks[2].update_config(n=2)
    world.ranks[2].remove_tags("x")
    world.wait(20)
    world.mend()
    world.wait(60)
    assert world.seat() == "n1"
    agree(world, set(), {"n": 2})
