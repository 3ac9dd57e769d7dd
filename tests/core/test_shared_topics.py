"""R14 with a cluster store: one order, one progress, to others when a node is lost."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pluto_dist.core.values.engine import Versioned
from pluto_dist.core.values.topics import Keeper, Position
from tests.core.cluster_world import ClusterWorld
from tests.core.processes import Process
from tests.core.test_cluster import started

FOLDER = "p/v1-topics/demo/x/"


def payloads(process: Process) -> list[Any]:
    answers = process.world.answers.get(process.spool.lease_id.encode(), [])
    found = [msgspec.json.decode(each.body) for each in answers]
    return [each["item"]["payload"] if not each.get("ended") else "ended" for each in found]


def position(world: ClusterWorld, kind: str = "label", name: str = "eval") -> Position:
    found = world.engine.get(f"{FOLDER}at/t/{kind}/{name}")
    assert isinstance(found, Versioned)
    return msgspec.json.decode(found.value, type=Position)


def finish(world: ClusterWorld) -> None:
    for rank in world.ranks.values():
        if rank.alive:
            rank.finish().exit()
    world.wait(5)


def take_all(world: ClusterWorld, side: Process, count: int, **options: Any) -> list[int | str]:
    """What a process gets that works off one item after the other."""
    for _ in range(count):
        before = len(side.got)
        side.take(**options)
        world.wait(1)
        for number in side.got[before:]:
            if isinstance(number, int):
                side.done(number, group=options.get("group", ""))
    return side.got


def test_an_eval_on_another_node_gets_the_backlog_then_waits_and_ends_with_the_run() -> None:
    world = started()
    world.ranks[0].publish(payload=1).publish(payload=2)
    world.wait(1)
    side = world.side(1)
    world.wait(1)
    assert take_all(world, side, 2) == [1, 2]
    side.take()
    world.wait(1)
    assert side.got == [1, 2]
    world.ranks[0].publish(payload=3)
    world.wait(1)
    assert payloads(side) == [1, 2, 3], "who waits is told at once"
    finish(world)
    assert world.statuses() == ["COMPLETED"]
    side.done(3).take()
    world.wait(1)
    assert side.got == [1, 2, 3, "ended"]
    side.close().exit()
    world.wait(200)
    assert all(node.core.at_rest for node in world.nodes)


def with_a_third_node() -> ClusterWorld:
    """The third node has no rank: an eval's machine."""
    world = ClusterWorld(3)
    world.start(0, 1, 2, 3)
    world.wait(10)
    return world


def test_a_node_without_ranks_is_told_the_end() -> None:
    world = with_a_third_node()
    side = world.side(2)
    world.wait(3)
    world.ranks[0].publish(payload=1)
    world.ranks[2].publish(payload=2)
    world.wait(2)
    assert take_all(world, side, 2) == [1, 2]
    side.take()
    world.wait(1)
    assert side.got == [1, 2]
    finish(world)
    assert side.got == [1, 2, "ended"]
    side.close().exit()
    world.wait(200)
    assert all(node.core.at_rest for node in world.nodes)


def test_an_eval_on_another_node_may_come_when_all_is_over() -> None:
    """The seat is vacant by then, and the trainers' coordinators may be gone."""
    world = with_a_third_node()
    for number in range(130):
        world.ranks[number % 4].publish(payload=number)
    finish(world)
    world.kill_node(0)
    world.kill_node(1)
    side = world.side(2)
    world.wait(5)
    got = take_all(world, side, 131)
    assert got == [*range(1, 131), "ended"]
    assert sorted(payloads(side)[:-1]) == list(range(130))
    for rank in range(4):
        own = [each for each in payloads(side)[:-1] if each % 4 == rank]
        assert own == sorted(own), "what one process publishes stays in order"


def test_all_nodes_have_one_order() -> None:
    world = started(3)
    for number in range(12):
        for rank in (0, 2, 4):
            world.ranks[rank].publish(payload=f"{rank}.{number}")
    sides = [world.side(number, f"eval{number}") for number in range(3)]
    world.wait(5)
    for side in sides:
        take_all(world, side, 36)
    assert payloads(sides[0]) == payloads(sides[1]) == payloads(sides[2])
    assert len(set(payloads(sides[0]))) == 36


def test_a_label_goes_on_on_another_node_where_it_stopped() -> None:
    world = started()
    for number in range(4):
        world.ranks[0].publish(payload=number)
    first = world.side(0)
    world.wait(1)
    assert take_all(world, first, 2) == [1, 2]
    first.take()
    world.wait(1)
    first.kill()
    world.wait(1)
    second = world.side(1)
    world.wait(1)
    assert take_all(world, second, 3) == [3, 4], "3 was given and not done"
    assert position(world) == Position(4)


def test_a_group_shares_over_nodes_and_each_item_goes_to_one_member() -> None:
    world = with_a_third_node()
    members = [world.side(1, "one"), world.side(2, "two")]
    world.wait(3)
    for number in range(20):
        world.ranks[0].publish(payload=number)
    world.wait(1)
    for _ in range(12):
        for member in members:
            member.take(group="g")
        world.wait(0.5)
        for member in members:
            if member.got:
                member.done(int(member.got[-1]), group="g")
    world.wait(1)
    got = [*members[0].got, *members[1].got]
    assert sorted(map(int, got)) == list(range(1, 21))
    assert all(len(member.got) > 5 for member in members)
    assert position(world, "group", "g") == Position(20)


@pytest.mark.parametrize("lost", ["process", "node"])
def test_what_a_dead_member_on_another_node_had_comes_first(lost: str) -> None:
    world = with_a_third_node()
    first, second = world.side(2, "one"), world.side(1, "two")
    world.wait(3)
    for number in range(3):
        world.ranks[0].publish(payload=number)
    world.wait(1)
    first.take(group="g")
    world.wait(1)
    second.take(group="g")
    world.wait(1)
    assert (first.got, second.got) == ([1], [2])
    if lost == "node":
        world.kill_node(2)
        second.done(2, group="g").take(group="g")
        world.wait(1)
        assert second.got == [2, 3], "nobody knows yet"
        second.done(3, group="g").take(group="g")
        world.wait(20)
    else:
        first.kill()
        world.wait(1)
        second.done(2, group="g").take(group="g")
        world.wait(1)
    assert second.got[-1] == 1
    finish(world)
    take_all(world, second.done(1, group="g"), 2, group="g")
    assert second.got[-1] == "ended"


def test_a_member_waits_with_the_end_for_what_another_node_is_at() -> None:
    world = with_a_third_node()
    first, second = world.side(2, "one"), world.side(1, "two")
    world.wait(3)
    world.ranks[0].publish()
    first.take(group="g")
    world.wait(1)
    finish(world)
    second.take(group="g")
    world.wait(5)
    assert (first.got, second.got) == ([1], [])
    first.done(1, group="g")
    world.wait(2)
    assert second.got == ["ended"]


def test_a_process_without_a_label_has_all_for_itself() -> None:
    """On two nodes they would have the same name by chance."""
    world = with_a_third_node()
    world.ranks[0].publish().publish()
    sides = [world.nodes[number].process("s").attach("x", topics_at=world.address) for number in (1, 2)]
    world.wait(3)
    for side in sides:
        assert take_all(world, side, 2) == [1, 2]
    finish(world)
    for side in sides:
        assert take_all(world, side, 1) == [1, 2, "ended"]
    assert not world.engine.all(FOLDER + "at/")


def test_latest_passes_over_what_is_superseded_for_all_nodes() -> None:
    world = started()
    side = world.side(1)
    for _ in range(5):
        world.ranks[0].publish()
    world.wait(1)
    assert take_all(world, side, 1, latest=True) == [5]
    again = world.side(0)
    world.wait(1)
    side.close().exit()
    assert take_all(world, again, 1) == []
    assert position(world) == Position(5)


@pytest.mark.parametrize("deaths", range(0, 24, 2))
@pytest.mark.parametrize("node", [0, 1])
def test_each_item_has_one_number_and_is_done_once_whenever_a_coordinator_dies(
    node: int, deaths: int
) -> None:
    """G12"""
    world = started()
    side = world.side(1)
    world.wait(1)
    world.nodes[node].die_after(deaths)
    for number in range(1, 4):
        world.ranks[0].publish(payload=number)
        for _ in range(3):  # a question may meet the death
            if not side.got or side.got[-1] != number:
                side.take()
                world.wait(1)
        assert payloads(side)[-1] == number
        side.done(number)
    world.nodes[node].restart()
    world.give_keys()
    world.wait(20)
    assert position(world) == Position(3)
    assert side.take().got[-1] == 3


def test_an_answer_that_was_lost_repeats_and_loses_nothing() -> None:
    world = started()
    side = world.side(1)
    world.wait(1)
    for number in range(1, 9):
        world.engine.lost_answers = 2
        world.ranks[0].publish(payload=number)
        world.wait(4)
        side.take()
        world.wait(6)
        side.done(number)
        world.wait(4)
    assert side.got == list(range(1, 9))


def test_while_the_store_is_away_nothing_is_handed_over_and_nothing_lost() -> None:
    world = started()
    side = world.side(0)
    world.wait(1)
    world.engine.lose_quorum()
    world.ranks[0].publish(payload="a")
    side.take()
    world.wait(30)
    assert side.got == []
    world.nodes[0].restart()
    world.give_keys()
    world.engine.regain_quorum()
    world.wait(5)
    side.take()
    world.wait(5)
    assert payloads(side) == ["a"]


def test_a_node_that_was_cut_off_gives_its_item_to_another_and_both_may_say_that_they_are_through() -> None:
    """At least once: a node that is alive and silent cannot be told from a dead one."""
    world = with_a_third_node()
    first, second = world.side(2, "one"), world.side(1, "two")
    world.wait(3)
    world.ranks[0].publish()
    world.wait(1)
    first.take(group="g")
    world.wait(1)
    world.cut(2)
    second.take(group="g")
    world.wait(30)
    assert (first.got, second.got) == ([1], [1])
    first.done(1, group="g")
    world.mend()
    world.wait(10)
    second.done(1, group="g")
    world.ranks[0].publish()
    world.wait(5)
    first.take(group="g")
    world.wait(3)
    assert first.got == [1, 2]


def test_a_node_that_holds_an_item_stays_present_whatever_the_engine_does_to_its_lease() -> None:
    world = with_a_third_node()
    first, second = world.side(2, "one"), world.side(1, "two")
    world.wait(3)
    world.ranks[0].publish()
    world.wait(1)
    first.take(group="g")
    world.wait(1)
    second.take(group="g")
    world.wait(120)
    assert (first.got, second.got) == ([1], [])
    assert f"{FOLDER}node/n2" in world.engine.all(FOLDER + "node/")


def test_the_last_rank_waits_until_other_nodes_can_have_what_it_published() -> None:
    """R11: nothing of this node may be left a moment later."""
    world = started()
    world.nodes[0].hold.add("WriteCluster")
    world.ranks[0].publish(payload="last")
    for rank in range(4):
        world.ranks[rank].finish()
    world.wait(3)
    assert not world.ranks[0].view.drained
    world.nodes[0].release("WriteCluster")
    world.wait(5)
    world.kill_node(0)
    side = world.side(1)
    world.wait(3)
    assert take_all(world, side, 2) == [1, "ended"]
    assert payloads(side)[0] == "last"


def test_an_emptied_store_gets_items_and_progress_again() -> None:
    world = started()
    for number in range(30):
        world.ranks[0].publish(payload=number)
    side = world.side(1)
    world.wait(2)
    assert take_all(world, side, 3) == [1, 2, 3]
    world.engine.empty()
    world.seats.clear()
    world.wait(20)
    side.take()
    world.ranks[0].publish(payload="after")
    world.wait(60)
    assert side.got == [1, 2, 3, 4]
    late = world.side(1, "late")
    world.wait(3)
    assert take_all(world, late, 31) == list(range(1, 32))
    assert payloads(late)[-1] == "after"


def test_after_the_end_the_engine_deletes_all_of_it_in_a_week() -> None:
    world = started()
    for number in range(150):
        world.ranks[0].publish(payload=number)
    side = world.side(1)
    world.wait(3)
    take_all(world, side, 3)
    finish(world)
    take_all(world, side, 3)
    side.close().exit()
    assert len(world.engine.all(FOLDER)) > 3
    world.wait(60)
    world.time += 7 * 86_400
    world.wait(60)
    assert world.engine.all(FOLDER) == {}


def test_nodes_that_hand_nothing_over_write_nothing() -> None:
    """A thousand of them watch nothing either."""
    world = started()
    world.wait(60)
    finish(world)
    assert world.engine.all(FOLDER) == {}
    assert not [watch for node in world.nodes for _, watch in node.watches if "topics" in watch.prefix]


def test_an_eval_does_not_wait_for_ever_for_nodes_that_are_all_lost() -> None:
    """Nobody is left to say how the Run ended; the server finds that out after as long."""
    world = with_a_third_node()
    world.ranks[0].publish()
    side = world.side(2)
    world.wait(3)
    assert take_all(world, side, 1) == [1]
    side.take()
    world.kill_node(0)
    world.kill_node(1)
    world.wait(150)
    assert side.got == [1]
    world.wait(40)
    assert side.got == [1, "ended"]


def test_a_seat_that_was_lost_does_not_speak_again_before_it_has_looked() -> None:
    """G2: under another lease it has the old document in mind, and another node has the seat."""
    world = started()
    side = world.side(0)
    world.ranks[0].publish()
    world.wait(2)
    side.take()
    world.wait(1)
    world.cut(0)
    world.wait(40)
    assert world.seat() == "n1"
    world.nodes[0].hold.add("ListCluster")
    world.mend()
    world.ranks[0].add_tags("late")
    world.wait(3)
    shared = world.nodes[0].core._clusters.of(world.nodes[0].run())
    assert shared is not None
    assert shared.lease.valid_until is not None, "it has a lease again"
    assert shared.mine, "as far as it knows"
    assert shared.fence(world.nodes[0].run()) is None
    world.nodes[0].release("ListCluster")
    world.wait(5)
    assert not shared.mine


def test_a_process_gets_what_the_store_has_given_to_a_dead_one_of_its_name() -> None:
    """A write that was given up and applied later; nobody on the node remembers it."""
    world = started()
    world.ranks[0].publish()
    late = Position(1, {1: Keeper("n1", "eval on host")})
    world.engine.put(f"{FOLDER}at/t/label/eval", msgspec.json.encode(late), 0)
    side = world.side(1)
    world.wait(2)
    assert take_all(world, side, 1) == [1]
    assert position(world) == Position(1)


def test_what_a_process_had_that_died_while_the_store_was_away_goes_to_another_node() -> None:
    """The node tries for as long as it takes to give the item back."""
    world = started()
    world.ranks[0].publish()
    world.wait(1)
    first = world.side(0)
    first.take()
    world.wait(1)
    assert first.got == [1]
    world.engine.lose_quorum()
    world.wait(1)
    first.kill()
    world.wait(30)
    world.engine.regain_quorum()
    world.wait(30)
    assert take_all(world, world.side(1), 1) == [1]


@pytest.mark.parametrize("reads", ["where it was published", "elsewhere"])
def test_nobody_is_told_the_end_while_an_item_waits_here_for_its_number(reads: str) -> None:
    """The store was away when it was published, and when the Run ended."""
    world = started()
    side = world.side(0 if reads == "where it was published" else 1)
    world.wait(1)
    side.take()
    world.wait(1)
    world.engine.lose_quorum()
    world.ranks[0].publish(payload=7)
    for rank in world.ranks.values():
        rank.finish().exit()
    world.wait(60)
    world.engine.regain_quorum()
    world.wait(30)
    side.done(1).take()
    world.wait(5)
    assert payloads(side) == [7, "ended"]


def test_a_reader_that_is_killed_before_the_first_item_leaves_no_deadline_behind() -> None:
    """The coordinator of its node woke without end, for a hand-over that it never looked at."""
    world = started()
    side = world.side(1)
    world.wait(1)
    side.take()
    world.wait(1)
    world.cut(1)
    while not (due_in := _due_in(world, 1)) or due_in < 0.5:  # the store is asked again in a second
        world.wait(0.1)
    side.kill()
    world.nodes[1].settle()
    world.mend()
    world.wait(30)
    assert _due_in(world, 1) is None


def _due_in(world: ClusterWorld, number: int) -> float | None:
    node = world.nodes[number]
    shared = node.core._clusters.topics_of(node.run())
    return shared.due_at - node.now if shared is not None and shared.due_at is not None else None


@pytest.mark.parametrize("count", [3, 30])
def test_an_emptied_store_gets_all_items_again_for_a_node_that_has_none(count: int) -> None:
    """Also if only a few were there, and if one is published before anybody has looked."""
    world = with_a_third_node()
    for number in range(count):
        world.ranks[0].publish(payload=number)
    side = world.side(1)
    world.wait(2)
    take_all(world, side, count)
    side.take()
    world.wait(1)
    world.engine.empty()
    world.seats.clear()
    world.ranks[0].publish(payload="after")
    world.wait(30)
    assert side.got == list(range(1, count + 2))
    late = world.side(2, "late")
    world.wait(3)
    assert take_all(world, late, count + 1) == list(range(1, count + 2))
    assert payloads(late) == [*range(count), "after"]
