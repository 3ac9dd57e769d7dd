"""Several nodes without a server, on a cluster store: one Run, of which each node has its part (R12)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pluto_dist.core.machine import shared_run
from pluto_dist.core.rules import joint
from pluto_dist.core.rules.parts import grouped, together
from pluto_dist.core.values.document import Document, read
from pluto_dist.core.values.records import Run
from tests.core.builders import job
from tests.core.cluster_world import ADDRESS, ClusterWorld


def started(*ranks: int, size: int = 2, **fields: Any) -> ClusterWorld:
    """All ranks train; node 1's store has a Run of its own, so its next number would be another."""
    world = ClusterWorld(size, local=True)
    world.nodes[1].process("earlier").init("earlier").finish().exit()
    world.start(*(ranks or range(2 * size)), **fields)
    world.wait(10)
    return world


def part(world: ClusterWorld, number: int) -> Run:
    return world.nodes[number].run("x")


def document(world: ClusterWorld, number: int) -> Document:
    """What a node's store has of the Run."""
    return read(world.nodes[number].documents[part(world, number).key])


def seen_together(world: ClusterWorld) -> Document:
    """As a reader sees it who has all stores."""
    documents = [document(world, number) for number in range(len(world.nodes))]
    (parts,) = grouped(documents)
    return together(parts)


def test_all_nodes_have_one_run_with_one_id() -> None:
    """R12: the ids are those of the node that made it, also where that number is taken by another Run."""
    world = started()
    first, second = part(world, 0), part(world, 1)
    assert (second.id, second.display_id, second.name) == (first.id, first.display_id, first.name)
    assert first.key != second.key
    assert (first.part_of, second.part_of) == (first.key, first.key)
    assert (first.relay, second.relay) == ("", "node1")
    assert world.nodes[1].server.asked == ["open create earlier", f"open part of {first.key}"]
    assert world.nodes[1].run("earlier").status == "COMPLETED"


@pytest.mark.parametrize("order", [(2, 3, 0, 1), (0, 1, 2, 3)])
def test_one_verdict_in_every_part(order: tuple[int, ...]) -> None:
    """G2, G7: the end, its time and its reason are the same everywhere, and nothing is left to do."""
    world = started()
    for rank in order:
        world.ranks[rank].log(loss=1.0 + rank).finish().exit()
    world.wait(15)
    ends = {(part(world, n).status, part(world, n).ended_ms, part(world, n).reported) for n in (0, 1)}
    assert len(ends) == 1
    assert ends.pop()[0] == "COMPLETED"
    run = seen_together(world)
    assert (run.status, run.parts) == ("COMPLETED", (part(world, 0).key, part(world, 1).key))
    assert set(run.summary) == {"loss", "loss/rank1", "loss/rank2", "loss/rank3"}
    world.wait(120)
    assert all(node.core.at_rest for node in world.nodes)


def test_a_rank_of_another_node_that_fails_first_is_named_in_all_parts() -> None:
    """G7"""
    world = started()
    world.ranks[3].kill()
    for rank in (0, 1, 2):
        world.ranks[rank].raises(what="ConnectionResetError", communication=True)
    world.wait(15)
    for number in (0, 1):
        verdict = document(world, number).verdict
        assert verdict is not None
        assert (verdict.status, verdict.first_failure and verdict.first_failure.rank) == ("FAILED", 3)


def test_a_node_that_comes_first_waits_for_the_ids_and_then_has_them() -> None:
    """R12: nothing is in its store before, and no process waits for it."""
    world = started(2, 3)
    assert part(world, 1).opening
    assert world.nodes[1].views[world.ranks[2].spool.lease_id].state == "active"
    world.start(0, 1)
    world.wait(5)
    assert part(world, 1).part_of == part(world, 0).key
    assert not part(world, 1).opening


def test_ranks_that_nobody_joins_have_the_run_themselves() -> None:
    """R4, R12: no process on node 0 calls init(); if it does after all, it has a part like any other."""
    world = started(2, 3)
    for rank in (2, 3):
        world.ranks[rank].finish().exit()
    world.wait(60)
    alone = part(world, 1)
    assert (alone.status, alone.relay, alone.part_of, alone.external_id) == ("COMPLETED", "", alone.key, "x")
    world.start(0, key="later")
    world.wait(10)
    late = part(world, 0)
    assert (late.part_of, late.id, late.relay) == (alone.key, alone.id, "")


def test_without_the_store_each_node_has_a_run_of_its_own_in_the_end() -> None:
    """R12: it cannot be known whether another node has made the Run, so nobody else's id is taken."""
    world = ClusterWorld(local=True)
    world.cut(0)
    world.cut(1)
    world.start(0, 1, 2, 3)
    world.wait(20)
    assert world.nodes[0].run("x").status == "RUNNING"
    for rank in (2, 3, 0, 1):
        world.ranks[rank].finish().exit()
    world.wait(120)
    assert [world.nodes[0].run().status, world.nodes[0].run().external_id] == ["COMPLETED", "x"]
    assert [world.nodes[1].run().status, world.nodes[1].run().external_id] == ["COMPLETED", "x-node1"]


def test_tags_and_config_of_all_nodes_are_in_every_part() -> None:
    """G9"""
    world = started(config={"lr": 0.1}, tags=("given",))
    world.ranks[0].add_tags("zero").update_config(a={"zero": 0})
    world.ranks[2].add_tags("two").update_config(a={"two": 2})
    world.wait(5)
    for number in (0, 1):
        found = document(world, number)
        assert set(found.tags) == {"given", "zero", "two"}
        assert msgspec.json.decode(found.config)["a"] == {"zero": 0, "two": 2}
        assert msgspec.json.decode(found.config)["lr"] == 0.1


def test_the_owners_node_is_lost_and_another_part_has_the_end() -> None:
    """G7: what is left of node 0 says RUNNING; together they say what happened."""
    world = started()
    world.kill_node(0)
    for rank in (2, 3):
        world.ranks[rank].raises(what="ConnectionResetError", communication=True)
    world.wait(40)
    assert document(world, 0).status == "RUNNING"
    run = seen_together(world)
    assert run.status == "FAILED"
    assert run.verdict is not None
    assert "node0" in run.verdict.reason
    world.revive_node(0)
    world.wait(20)
    assert document(world, 0).verdict == document(world, 1).verdict


def test_a_coordinator_of_the_other_node_dies_and_its_part_goes_on() -> None:
    """G12"""
    world = started()
    before = part(world, 1).key
    world.nodes[1].kill()
    world.wait(1)
    world.nodes[1].start()
    world.ranks[2].log(loss=2.0)
    for rank in (2, 3, 0, 1):
        world.ranks[rank].finish().exit()
    world.wait(15)
    assert (part(world, 1).key, part(world, 1).status) == (before, "COMPLETED")
    assert "loss/rank2" in seen_together(world).summary


def test_an_unrelated_run_with_that_number_is_not_taken_for_the_same() -> None:
    """The numbers of two stores have nothing in common."""
    world = ClusterWorld(local=True)
    other = world.nodes[1].process("earlier").init("earlier")
    world.start(0, 1, 2, 3)
    world.wait(10)
    assert world.nodes[1].run("earlier").id == part(world, 1).id == 1
    assert world.nodes[1].run("earlier").key != part(world, 1).key
    other.finish().exit()
    world.wait(5)
    assert world.nodes[1].run("earlier").status == "COMPLETED"
    assert part(world, 1).status == "RUNNING"


def test_without_a_cluster_store_nothing_changes() -> None:
    """R12: a Run for each node, by its name."""
    world = ClusterWorld(local=True, address=None)
    world.start(0, 1, 2, 3)
    world.wait(10)
    assert world.nodes[0].run().external_id == "x"
    assert world.nodes[1].run().external_id == "x-node1"
    assert world.nodes[1].run().part_of == ""


def test_a_job_that_is_started_again_on_other_hosts_goes_on_in_its_run() -> None:
    """R5, R12: the store of the new node 0 has never heard of it; both parts carry the same ids."""
    world = started(tags=("old",), config={"old": 1, "lr": 1})
    for rank in (2, 3, 0, 1):
        world.ranks[rank].finish().exit()
    world.wait(15)
    first = part(world, 0)
    for node in (world.nodes[0],):  # the machine is not among those of the second start
        node.kill()
        world.dead.add(0)
    agent = world.nodes[1].process("agent")
    place = job(0, key="again", nodes=2, world_size=4, launch="again", launcher=agent.identity)
    rank0 = world.nodes[1].process("rank0", place)
    rank0.init(env="x", cluster=ADDRESS, tags=("new",), config={"lr": 2})
    world.wait(30)
    second = part(world, 1)
    assert (second.relay, second.part_of, second.id) == ("", first.key, first.id)
    assert second.status == "RUNNING"
    rank0.log(loss=9.0).finish().exit()
    world.wait(15)
    run = seen_together(world)
    assert (run.key, run.status, run.parts) == (second.key, "COMPLETED", (second.key, first.key))
    assert run.restore.run.round == 2
    assert set(run.tags) == {"old", "new"}
    assert msgspec.json.decode(run.config) == {"old": 1, "lr": 2}


def abandoned(**fields: Any) -> ClusterWorld:
    """All ranks of node 1 have ended well; those of node 0 go on."""
    world = started(**fields)
    for rank in (2, 3):
        world.ranks[rank].log(loss=1.0).finish().exit()
    world.wait(10)
    return world


def test_a_node_that_never_comes_back_is_the_end_after_an_hour() -> None:
    """G7: no monitor ends a local Run; the coordinators of the other nodes stay for that."""
    world = abandoned()
    world.kill_node(0)
    world.wait(600)
    assert part(world, 1).status == "RUNNING"
    assert world.nodes[1].core.deadline() is not None
    world.wait(3000)
    verdict = document(world, 1).verdict
    assert verdict is not None
    assert verdict.status == "FAILED"
    assert "node0" in verdict.reason
    assert "rank 0 (pid" in verdict.reason
    world.revive_node(0)
    world.wait(60)
    ends = {part(world, number).status for number in (0, 1)} | {seen_together(world).status}
    assert ends == {"FAILED"}
    assert all(node.core.at_rest for node in world.nodes)


def test_whoever_looks_later_starts_the_coordinator_that_makes_the_end() -> None:
    """G7: all coordinators were killed with their nodes' jobs."""
    world = abandoned()
    world.kill_node(0)
    world.kill_node(1)
    world.wait(1000)
    world.revive_node(1)
    world.wait(60)
    assert part(world, 1).status == "RUNNING"
    world.kill_node(1)
    world.wait(3000)
    world.revive_node(1)
    world.wait(60)
    assert part(world, 1).status == "FAILED"


@pytest.mark.parametrize("code", [0, 1])
def test_an_owner_that_was_only_cut_off_takes_its_end_back(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A partition fails no healthy Run, however long: what it says in the end is the end of the whole."""
    for module in (joint, shared_run):
        monkeypatch.setattr(module, "ABANDONED_S", 120.0)  # who is cut off asks each second
    world = abandoned()
    world.cut(0)
    world.wait(240)
    assert (part(world, 0).status, part(world, 1).status) == ("RUNNING", "FAILED")
    world.mend()
    world.wait(60)
    assert part(world, 0).status == "RUNNING"
    for rank in (1, 0):
        world.ranks[rank].finish(code=code).exit(code)
    world.wait(60)
    status = "FAILED" if code else "COMPLETED"
    assert (part(world, 0).status, part(world, 0).reported) == (status, True)
    run = seen_together(world)
    assert run.status == status
    assert "has not been seen" not in (run.verdict.reason if run.verdict is not None else "")
    assert all(node.core.at_rest for node in world.nodes)
