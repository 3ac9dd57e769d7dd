"""Several nodes on a cluster store: one seat, one verdict, whatever fails (G2, G7)."""

from __future__ import annotations

from typing import Any

import pytest

from pluto_dist.core.values.engine import Unavailable, Versioned, WriteResult
from tests.cluster.memory import MemoryStore
from tests.core.builders import job
from tests.core.cluster_world import FOLDER, ClusterWorld

VICTIM = {"what": "ConnectionResetError", "communication": True}


def started(size: int = 2) -> ClusterWorld:
    """All ranks train, and the nodes know each other's clocks."""
    world = ClusterWorld(size)
    world.start(*range(2 * size))
    world.wait(10)
    assert world.seat() == "n0"
    return world


def test_all_well() -> None:
    """G2, G7: one report, from the seat, after the verdict was stored; then the seat is vacant."""
    world = started()
    for rank in (2, 3, 0, 1):
        world.ranks[rank].finish().exit()
    world.wait(5)
    assert world.statuses() == ["COMPLETED"]
    assert world.document.sent
    assert world.document.seat is None
    assert world.verdicts[world.document.round].verdict.status == "COMPLETED"
    world.wait(120)
    assert all(node.core.at_rest for node in world.nodes)


@pytest.mark.parametrize("how", ["finish", "raises"])
def test_a_cancel_that_crosses_the_end_is_the_end_on_all_nodes(how: str) -> None:
    """R10: the last question before the status finds it when the verdict of all nodes is stored already."""
    world = started()
    world.server.cancel(world.run.id)
    for rank in (2, 3, 0, 1):
        process = world.ranks[rank]
        process.finish().exit() if how == "finish" else process.raises("Boom")
    world.wait(30)
    assert world.verdicts[world.document.round].verdict.status == (
        "COMPLETED" if how == "finish" else "FAILED"
    )
    assert world.run.status == "CANCELLED"
    assert world.statuses() == []
    assert world.document.sent
    assert [node.run().status for node in world.nodes] == ["CANCELLED", "CANCELLED"]
    reason = world.nodes[1].run().verdict.reason
    assert reason.startswith("cancelled on the server")
    assert ("it ended FAILED" in reason) == (how == "raises")
    world.wait(120)
    assert all(node.core.at_rest for node in world.nodes)


def test_a_cancel_that_only_the_next_seat_hears_of_is_the_end_too() -> None:
    """R10: the seat stores the verdict, and is gone before it has asked the server."""
    world = started()
    world.nodes[0].hold.add("BeatRun")
    world.server.cancel(world.run.id)
    for rank in (2, 3, 0, 1):
        world.ranks[rank].finish().exit()
    world.wait(1)
    assert world.document.ended is not None
    world.kill_node(0)
    world.wait(60)
    assert world.run.status == "CANCELLED"
    assert world.statuses() == []
    assert world.nodes[1].run().status == "CANCELLED"


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_rank_that_failed_first_is_named_on_whatever_node(rank: int) -> None:
    """G7, R10: its victims raise connection errors milliseconds later; clocks differ by hours."""
    world = started()
    world.ranks[rank].kill()
    for other in {0, 1, 2, 3} - {rank}:
        world.ranks[other].raises(**VICTIM)
    world.wait(5)
    assert world.statuses() == ["FAILED"]
    assert f"rank {rank} (pid" in world.reason()
    assert f"node{rank // 2}) failed first: killed by SIGKILL" in world.reason()


@pytest.mark.parametrize("first", [0, 3])
def test_between_nodes_the_order_of_failures_is_that_of_their_clocks_not_of_arrival(first: int) -> None:
    """G7: two exceptions half a second apart; the later one may be known first."""
    world = started()
    second = 3 - first
    held = world.nodes[first // 2]
    held.hold.add("WriteCluster")
    world.ranks[first].raises("FirstError")
    world.wait(0.5)
    world.ranks[second].raises("SecondError")
    world.wait(0.5)
    held.release("WriteCluster")
    for rank in {0, 1, 2, 3} - {first, second}:
        world.ranks[rank].raises(**VICTIM)
    world.wait(15)
    assert world.statuses() == ["FAILED"]
    assert "FirstError" in world.reason()
    assert f"rank {first} (pid" in world.reason()
    assert " or " not in world.reason()


def test_failures_at_one_instant_are_named_together() -> None:
    """G7: nobody can tell which came first, so nobody claims to."""
    world = started()
    world.ranks[0].raises("OneError")
    world.ranks[2].raises("OtherError")
    for rank in (1, 3):
        world.ranks[rank].raises(**VICTIM)
    world.wait(5)
    assert "rank 0 (pid" in world.reason()
    assert "rank 2 (pid" in world.reason()
    assert " or " in world.reason()


def test_the_owners_node_is_lost_and_another_one_says_so() -> None:
    """G7: with what its ranks last said; within the lease and a second."""
    world = started()
    world.ranks[0].log(41, loss=1.0)
    world.wait(61)
    world.kill_node(0)
    for rank in (2, 3):
        world.ranks[rank].raises(**VICTIM)
    world.wait(16.5)
    assert world.statuses() == ["FAILED"]
    assert world.reason().startswith("node0 (host host) failed first: the node was lost; rank 0 (pid")
    assert "was at step 41" in world.reason()
    assert world.run.config["pluto_dist"]["seat"]["epoch"] == world.document.epoch == 2


def test_what_lies_on_the_dead_node_is_delivered_by_its_next_coordinator_and_changes_nothing() -> None:
    """G3, G7"""
    world = started()
    world.nodes[0].hold.add("Ship")
    world.ranks[0].log(7, late=1.0)
    world.wait(1)
    world.kill_node(0)
    for rank in (2, 3):
        world.ranks[rank].raises(**VICTIM)
    world.wait(30)
    assert world.statuses() == ["FAILED"]
    world.nodes[0].hold.clear()
    world.revive_node(0)
    world.wait(60)
    assert world.run.values("late") == [1.0]
    assert (world.run.status, world.statuses()) == ("FAILED", ["FAILED"])
    assert world.nodes[0].run().status == "FAILED"


@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize("seconds", [5, 12, 40, 200])
def test_a_partition_fails_no_healthy_run(node: int, seconds: float) -> None:
    """G7: cut off from the store for a while, then all end well."""
    world = started()
    world.cut(node)
    world.wait(seconds)
    world.mend()
    world.wait(20)
    assert world.statuses() == []
    for rank in range(4):
        world.ranks[rank].finish().exit()
    world.wait(15)
    assert world.statuses() == ["COMPLETED"]
    assert (world.run.status, world.run.reopened) == ("COMPLETED", 0)


@pytest.mark.parametrize("node", [0, 1])
def test_a_healthy_run_that_ends_during_a_partition_does_not_fail(node: int) -> None:
    """G7: a node that cannot be seen looks like a dead one."""
    world = started()
    world.cut(node)
    world.wait(30)
    for rank in range(4):
        world.ranks[rank].finish().exit()
    world.wait(60)
    world.mend()
    world.wait(60)
    assert set(world.statuses()) == {"COMPLETED"}
    assert world.run.status == "COMPLETED"


def test_a_node_that_lost_its_lease_keeps_the_seat_if_nobody_took_it() -> None:
    """All leases may vanish while everybody lives."""
    world = started()
    world.revoke()
    world.wait(30)
    assert (world.seat(), world.document.epoch) == ("n0", 1)
    for rank in range(4):
        world.ranks[rank].finish().exit()
    world.wait(15)
    assert world.statuses() == ["COMPLETED"]


def test_a_frozen_seat_is_replaced_and_sends_nothing_when_it_thaws() -> None:
    """G2: fenced by its own clock, which counts the time in which it was frozen."""
    world = started()
    world.nodes[0].hold.add("Control")
    for rank in (0, 1):
        world.ranks[rank].raises("FrozenError")
    world.wait(1)
    world.frozen.add(0)
    for rank in (2, 3):
        world.ranks[rank].raises(**VICTIM)
    world.wait(40)
    world.frozen.clear()
    world.nodes[0].hold.clear()
    world.wait(40)
    assert set(world.statuses()) == {world.verdicts[world.document.round].verdict.status}
    assert world.run.status == "FAILED"


def test_a_coordinator_that_is_killed_goes_on_with_the_seat() -> None:
    """G12: the next one on the node has another generation, so another epoch."""
    world = started()
    world.nodes[0].restart()
    world.give_keys()
    world.wait(10)
    assert world.seat() == "n0"
    assert world.document.epoch == 2
    world.ranks[3].raises("OtherError")
    for rank in range(3):
        world.ranks[rank].finish().exit()
    world.wait(15)
    assert world.statuses() == ["FAILED"]
    assert "OtherError" in world.reason()


@pytest.mark.parametrize("when", ["init", "middle", "end"])
@pytest.mark.parametrize("seconds", [8, 25, 100])
def test_the_store_is_away_for_a_while(when: str, seconds: float) -> None:
    """Training never waits, and the end is true."""
    world = ClusterWorld()
    if when == "init":
        world.engine.lose_quorum()
    world.start(0, 1, 2, 3)
    world.wait(12)
    assert [world.ranks[rank].role for rank in range(4)] == ["owner", "worker", "worker", "worker"]
    if when == "middle":
        world.engine.lose_quorum()
    world.wait(seconds)
    if when != "end":
        world.engine.regain_quorum()
        world.wait(20)
    if when == "end":
        world.engine.lose_quorum()
    world.ranks[2].raises("ThereError")
    for rank in (3, 0, 1):
        world.ranks[rank].finish().exit()
    world.wait(seconds)
    if when == "end":
        world.engine.regain_quorum()
    world.wait(60)
    assert world.run.status == "FAILED" or (when == "end" and seconds > 15)
    assert len(set(world.statuses())) == 1


def test_the_store_is_away_for_ever() -> None:
    """The owner's node reports alone, with a word about it: 150 s of silence would make a good Run FAILED."""
    world = ClusterWorld()
    world.engine.lose_quorum()
    world.start(0, 1, 2, 3)
    world.wait(12)
    for rank in range(4):
        world.ranks[rank].finish().exit()
    world.wait(5)
    assert world.statuses() == []
    world.wait(15)
    assert world.statuses() == ["COMPLETED"]


def test_a_node_that_reports_alone_knows_what_others_had_told_before() -> None:
    """G7: the store goes away between a failure on node 1 and its victims' ends on node 0."""
    world = started()
    world.ranks[2].raises("OwnError")
    world.wait(0.5)
    world.engine.lose_quorum()
    for rank in (0, 1, 3):
        world.ranks[rank].raises(**VICTIM)
    world.wait(40)
    assert world.statuses() == ["FAILED"]
    assert world.reason().startswith("rank 2 (pid")
    assert "node1) failed first: OwnError" in world.reason()
    assert "this node alone" in world.reason()


def test_two_launches_that_claim_one_id_have_one_owner() -> None:
    """G2, R5: on different nodes; the second becomes a side."""
    world = ClusterWorld()
    world.start(0, key="one")
    world.wait(3)
    other = world.nodes[1].process("other")
    other.init(env="x", cluster=world.address)
    world.wait(15)
    assert world.ranks[0].role == "owner"
    assert other.role == "side"
    other.finish().exit()
    world.wait(30)
    assert world.statuses() == []
    world.ranks[0].finish().exit()
    world.wait(15)
    assert world.statuses() == ["COMPLETED"]


def test_an_id_of_a_job_that_is_not_ours_is_refused_with_the_way_out() -> None:
    """R5: by the caller's own word; it names the node and the host, and what else can be done."""
    world = ClusterWorld()
    world.start(0, key="one")
    world.wait(3)
    other = world.nodes[1].process("other").init("x", cluster=world.address)
    world.wait(15)
    error, message = other.view.error or ("", "")
    assert error == "RunExistsError"
    assert "has a live owner on node0 (host host)" in message
    assert "attach()" in message
    assert world.statuses() == []


def test_two_launches_at_the_same_instant_have_one_owner() -> None:
    """G2: one compare-and-set wins."""
    world = ClusterWorld()
    both = [node.process("solo").init(env="x", cluster=world.address) for node in world.nodes]
    world.wait(30)
    assert sorted(process.role for process in both) == ["owner", "side"]


def test_a_requeued_job_on_other_nodes_goes_on_in_its_run() -> None:
    """R5: the first launch has left the seat; the second begins another round."""
    world = ClusterWorld(3)
    world.start(0, 1)
    world.wait(5)
    world.ranks[1].raises("FirstError")
    world.ranks[0].raises(**VICTIM)
    world.wait(10)
    assert world.statuses() == ["FAILED"]
    again = world.nodes[2].process("again").init(env="x", cluster=world.address)
    world.wait(15)
    assert again.role == "owner"
    again.finish().exit()
    world.wait(15)
    assert world.statuses() == ["FAILED", "COMPLETED"]


def test_a_restart_of_all_ranks_is_another_round() -> None:
    """R10: no FAILED is reported while restarts are left; what the old ranks said does not count."""
    world = ClusterWorld()
    world.start(0, 1, 2, 3, max_restarts=1)
    world.wait(8)
    before = world.document.round
    world.ranks[2].raises("OldError")
    for rank in (0, 1, 3):
        world.ranks[rank].raises(**VICTIM)
    world.wait(5)
    world.start(0, 1, 2, 3, attempt=1, max_restarts=1)
    world.wait(8)
    assert world.document.round == before + 1
    assert world.statuses() == []
    for rank in range(4):
        world.ranks[rank].finish().exit()
    world.wait(15)
    assert world.statuses() == ["COMPLETED"]


def test_an_unknown_answer_is_read_back() -> None:
    """Every change may have been carried out although its answer was lost."""
    world = ClusterWorld()
    world.start(0, 1, 2, 3)
    for _ in range(40):
        world.engine.lost_answers = 1
        world.wait(0.5)
    world.ranks[2].raises("ThereError")
    for rank in (3, 0, 1):
        world.ranks[rank].finish().exit()
    for _ in range(40):
        world.engine.lost_answers = 1
        world.wait(0.5)
    world.wait(15)
    assert world.statuses() == ["FAILED"]
    assert "ThereError" in world.reason()


def test_an_emptied_store_is_filled_again() -> None:
    """Reset: versions fall; the seat makes its document anew."""
    world = started()
    world.engine.empty()
    world.seats.clear()
    world.wait(40)
    assert world.seat() == "n0"
    for rank in range(4):
        world.ranks[rank].finish().exit()
    world.wait(30)
    assert world.statuses() == ["COMPLETED"]


@pytest.mark.parametrize("node", [0, 1])
def test_a_persons_word_is_the_verdict_from_whatever_node(node: int) -> None:
    """G1: `finish --force` is a take-over, also of another node's seat."""
    world = started()
    world.nodes[node].force_finish("x", "TERMINATED")
    world.wait(5)
    assert set(world.statuses()) == {"TERMINATED"}
    for rank in range(4):
        world.ranks[rank].finish().exit()
    world.wait(15)
    assert set(world.statuses()) == {"TERMINATED"}
    assert [each.run().status for each in world.nodes] == ["TERMINATED"] * 2


def test_a_store_that_is_away_holds_up_no_exit_and_what_failed_elsewhere_is_kept() -> None:
    """G5: on the node without the owner too; its failure stands in the config, as without a store."""
    world = started()
    world.engine.lose_quorum()
    world.ranks[2].raises("ThereError")
    for rank in (3, 0, 1):
        world.ranks[rank].finish()
    world.wait(10)
    assert not world.ranks[3].view.drained
    world.wait(10)
    assert world.ranks[3].view.drained
    assert world.ranks[1].view.drained
    assert not world.nodes[1].core.at_rest
    world.engine.regain_quorum()
    world.wait(20)
    assert "rank 2 (pid" in str(world.run.config)
    assert "ThereError" in str(world.run.config)
    assert world.verdicts[1].verdict.status == world.run.status
    world.wait(100)
    assert all(node.core.at_rest for node in world.nodes)


@pytest.mark.parametrize(("key", "attempt"), [("again", 0), ("launch", 1)])
def test_a_run_that_is_taken_up_again_on_its_nodes_is_not_ended_by_the_verdict_before(
    key: str, attempt: int
) -> None:
    """R5: the verdict in the store belongs to the round that is over, also while the new owner is awaited."""
    world = started()
    world.ranks[1].raises("FirstError")
    for rank in (0, 2, 3):
        world.ranks[rank].raises(**VICTIM)
    world.wait(10)
    assert world.statuses() == ["FAILED"]
    world.start(0, 1, 2, 3, key=key, attempt=attempt, max_restarts=attempt)
    world.wait(12)
    assert [world.ranks[rank].role for rank in range(4)] == ["owner", "worker", "worker", "worker"]
    assert (world.run.status, world.document.round) == ("RUNNING", 2)
    world.nodes[0].restart()
    world.give_keys()
    for rank in range(4):
        world.ranks[rank].finish().exit()
    world.wait(15)
    assert world.statuses() == ["FAILED", "COMPLETED"]
    assert [node.run().status for node in world.nodes] == ["COMPLETED"] * 2


@pytest.mark.parametrize("launch", ["launch", "at another port"])
def test_the_seat_goes_to_the_owner_of_the_next_start_of_the_job(launch: str) -> None:
    """Only the seat begins a round, so an owner that comes back to node 0 must not wait for node 1's."""
    world = ClusterWorld()
    world.start(0, 1, 2, 3, max_restarts=1)
    world.wait(8)
    world.cut(0)
    world.wait(25)
    assert world.seat() == "n1"
    world.mend()
    for rank in (2, 0, 1, 3):
        world.ranks[rank].raises(**VICTIM)
    world.wait(3)
    world.start(0, 1, 2, 3, attempt=1, max_restarts=1, launch=launch)
    world.wait(8)
    assert (world.seat(), world.document.round) == ("n0", 2)
    for rank in range(4):
        world.ranks[rank].finish().exit()
    world.wait(15)
    assert world.statuses() == ["COMPLETED"]


@pytest.mark.parametrize("before", [False, True])
def test_an_owner_whose_node_comes_last_opens_its_run_all_the_same(before: bool) -> None:
    """R12: the other node has taken the seat meanwhile, and cannot make the Run, nor take it up again."""
    world = ClusterWorld()
    if before:  # the Run is there, and has ended
        world.start(0, 1, 2, 3, key="before")
        world.wait(10)
        for rank in (2, 3, 0, 1):
            world.ranks[rank].finish().exit()
        world.wait(60)
    world.start(2, 3)
    world.wait(10)
    assert world.seat() == "n1"
    world.start(0, 1)
    world.wait(5)
    assert world.seat() == "n0"
    assert world.run.status == "RUNNING"
    assert not any(run.opening for node in world.nodes for run in node.book.runs)
    for rank in (2, 3, 0, 1):
        world.ranks[rank].finish().exit()
    world.wait(15)
    assert world.statuses() == ["COMPLETED"] * (2 if before else 1)
    assert world.run.status == "COMPLETED"


def test_a_job_of_one_node_goes_on_with_two_and_with_one_again() -> None:
    """R10, R12: an elastic launcher starts all ranks anew when a node joins, and counts no attempt."""
    world = ClusterWorld()
    world.start(0, 1, nodes=1, launch="", max_restarts=3)
    world.wait(8)
    for rank in (0, 1):
        world.ranks[rank].sigterm().exit(None, "SIGTERM")
    world.wait(2)
    world.start(0, 1, 2, 3, launch="both", max_restarts=3)
    world.wait(12)
    assert (len(world.document.nodes), world.document.launch, world.statuses()) == (2, "both", [])
    world.kill_node(1)
    for rank in (0, 1):
        world.ranks[rank].raises(**VICTIM)
    world.wait(5)
    world.start(0, 1, nodes=1, launch="", attempt=1, max_restarts=3)
    world.wait(30)
    assert (len(world.document.nodes), world.statuses()) == (1, [])
    for rank in (0, 1):
        world.ranks[rank].finish().exit()
    world.wait(15)
    assert world.statuses() == ["COMPLETED"]


def test_an_owner_that_comes_late_to_its_round_is_in_it() -> None:
    """Node 0 is not seen from the start; node 1 has begun the round without an owner."""
    world = ClusterWorld()
    world.cut(0)
    world.start(0, 1, 2, 3)
    world.wait(25)
    assert (world.seat(), world.document.round, world.document.owner) == ("n1", 1, None)
    world.mend()
    world.wait(5)
    assert world.document.owner is not None
    assert (world.document.round, world.document.owner.node) == (1, "n0")
    for rank in range(4):
        world.ranks[rank].finish().exit()
    world.wait(15)
    assert world.statuses() == ["COMPLETED"]


def test_a_node_that_is_lost_before_it_knew_of_the_round_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """G7: node 0 has told of its ranks and is killed before it could begin the round."""
    world = ClusterWorld()
    put = world.engine.put

    def put_and_cut(key: str, value: bytes | None, lease: int) -> int:
        if key == FOLDER + "state/n0" and b'"owner":true' in (value or b""):
            world.cut(0)
        return put(key, value, lease)

    monkeypatch.setattr(world.engine, "put", put_and_cut)
    world.start(0, 1, 2, 3)
    world.wait(3)
    assert world.document.round == 0
    world.kill_node(0)
    for rank in (2, 3):
        world.ranks[rank].raises(**VICTIM)
    world.wait(20)
    assert world.reason().startswith("node0 (host host) failed first: the node was lost; rank 0 (pid")


@pytest.mark.parametrize("cut", [0, 1])
def test_a_node_that_cannot_be_seen_is_not_blamed_for_what_explains_itself(cut: int) -> None:
    """G7: its ranks work on, or their own evidence has not arrived."""
    world = started()
    world.cut(cut)
    world.wait(30)
    failed = 2 - 2 * cut
    world.ranks[failed].raises("ThereError")
    for rank in {0, 1, 2, 3} - {failed}:
        world.ranks[rank].raises(**VICTIM)
    world.wait(40)
    assert world.statuses() == ["FAILED"]
    assert f"rank {failed} (pid" in world.reason()
    assert "ThereError" in world.reason()
    assert f"node{cut} could not be seen at the end" in world.reason()


def test_a_lease_that_is_revoked_while_a_rank_fails_blames_nobody() -> None:
    """G7: the engine has ended all leases; every node is back within a moment."""
    world = started()
    world.ranks[2].raises(**VICTIM)
    world.ranks[3].raises(**VICTIM)
    world.wait(1)
    world.frozen.add(0)  # it comes to renew its lease a second late
    world.revoke()
    world.wait(1)
    world.frozen.clear()
    world.ranks[0].raises("OwnError")
    world.ranks[1].raises(**VICTIM)
    world.wait(15)
    assert "was lost" not in world.reason()


@pytest.mark.parametrize("size", [1, 2])
def test_a_verdict_that_is_stored_is_sent_by_whoever_is_left(size: int) -> None:
    """G12: the seat's coordinator is started anew between storing the verdict and sending it."""
    world = ClusterWorld(size)
    world.start(*range(2 * size))
    world.wait(10)
    last = world.nodes[-1]
    if size > 1:
        world.kill_node(0)
    last.hold.add("Control")
    for rank in (2 * size - 2, 2 * size - 1):
        world.ranks[rank].raises(**VICTIM)
    world.wait(25)
    assert (world.document.ended is not None, world.statuses()) == (True, [])
    last.hold.clear()
    last.restart()
    world.wait(5)
    assert not last.core.at_rest
    world.give_keys()
    world.wait(20)
    assert world.statuses() == ["FAILED"]
    assert world.document.sent
    assert last.core.at_rest


def test_a_verdict_that_the_lost_seat_has_stored_is_sent_by_another_node() -> None:
    """G7: nobody failed, and nobody but node 0 has seen the end of the owner."""
    world = started()
    world.nodes[0].hold.add("Control")
    for rank in (2, 3, 0, 1):
        world.ranks[rank].finish().exit()
    world.wait(8)
    world.kill_node(0)
    assert not world.nodes[1].core.at_rest
    world.wait(25)
    assert world.statuses() == ["COMPLETED"]
    assert world.nodes[1].core.at_rest


@pytest.mark.parametrize("begins", ["before the store is away", "after"])
def test_what_one_node_has_reported_alone_reaches_the_others_after_its_restart(begins: str) -> None:
    """The last resort is made up for: nobody waits for a word that the owner's node has forgotten."""
    world = ClusterWorld()
    if begins == "after":
        world.engine.lose_quorum()
    world.start(0, 1, 2, 3)
    world.wait(12)
    world.engine.lose_quorum()
    for rank in range(4):
        world.ranks[rank].finish().exit()
    world.wait(60)
    assert world.statuses() == ["COMPLETED"]
    world.nodes[0].restart()
    world.give_keys()
    world.wait(5)
    assert not world.nodes[0].core.at_rest
    world.engine.regain_quorum()
    world.wait(40)
    assert world.document.sent
    assert [(node.run().status, node.core.at_rest) for node in world.nodes] == [("COMPLETED", True)] * 2
    assert world.statuses() == ["COMPLETED"]


def test_a_run_that_was_taken_up_again_may_end_without_the_store() -> None:
    """The round whose verdict it took before is not the one that its owner's node has ended alone."""
    world = started()
    for rank in range(4):
        world.ranks[rank].raises("FirstError")
    world.wait(25)
    world.start(0, 1, 2, 3, key="again")
    world.wait(12)
    world.engine.lose_quorum()
    for rank in range(4):
        world.ranks[rank].finish().exit()
    world.wait(40)
    world.engine.regain_quorum()
    world.wait(40)
    assert world.statuses() == ["FAILED", "COMPLETED"]
    assert world.verdicts[2].verdict.status == "COMPLETED"
    assert [(node.run().status, node.core.at_rest) for node in world.nodes] == [("COMPLETED", True)] * 2


@pytest.mark.parametrize("first", ["store", "server"])
def test_a_verdict_that_was_made_alone_and_not_sent_is_stored_first(first: str) -> None:
    """Store and server are away at the end; `ClusterWorld` looks at each status that leaves."""
    world = started()
    world.engine.lose_quorum()
    world.server.down = True
    for rank in range(4):
        world.ranks[rank].finish().exit()
    world.wait(40)
    assert world.nodes[0].run().status == "COMPLETED"
    if first == "store":
        world.engine.regain_quorum()
    world.server.down = False
    world.wait(30)
    if first == "server":
        world.engine.regain_quorum()
        world.wait(30)
    assert world.statuses() == ["COMPLETED"]
    assert world.document.sent


def test_a_clock_that_could_not_be_measured_at_first_is_measured_later() -> None:
    """G7: node 1 hears nothing of the seat for twenty seconds."""
    world = ClusterWorld()
    world.engine.blind.add("n1")
    world.start(0, 1, 2, 3)
    world.wait(20)
    world.engine.blind.clear()
    world.wait(30)
    world.ranks[3].raises("FirstError")
    world.wait(1)
    world.ranks[0].raises("SecondError")
    for rank in (1, 2):
        world.ranks[rank].raises(**VICTIM)
    world.wait(10)
    assert world.reason().startswith("rank 3 (pid")
    assert " or " not in world.reason()


def test_a_verdict_that_a_later_seat_forbade_to_send_is_that_nodes_word() -> None:
    """The owner's node decided alone while node 1 had the seat; restarted, it still says how it ended."""
    world = started()
    world.cut(0)
    world.wait(30)
    for rank in range(4):
        world.ranks[rank].finish().exit()
    world.wait(40)
    assert world.statuses() == []
    world.nodes[0].restart()
    world.give_keys()
    world.mend()
    world.wait(60)
    assert world.statuses() == ["COMPLETED"]
    assert [(node.run().status, node.core.at_rest) for node in world.nodes] == [("COMPLETED", True)] * 2


def test_a_verdict_that_was_made_alone_gives_way_to_that_of_all_nodes() -> None:
    """R12: the owner's node saw its own ranks end well; the seat knew of the one that failed elsewhere."""
    world = started()
    world.cut(0)
    world.wait(30)
    world.ranks[2].raises("ThereError")
    for rank in (0, 1, 3):
        world.ranks[rank].finish().exit()
    world.wait(40)
    assert world.nodes[0].run().status == "COMPLETED"
    world.mend()
    world.wait(60)
    assert [node.run().status for node in world.nodes] == ["FAILED"] * 2
    assert [node.notes(node.run(), "illegal_move") for node in world.nodes] == [[], []]


@pytest.mark.parametrize("what", ["node/n1", "state/n1", "run", "ev/", "end/", "verdict/"])
def test_a_change_that_did_not_arrive_is_made_again(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows whether it was carried out, and it was not."""
    real, lost = MemoryStore.write, list[str]()

    def write(self: MemoryStore, key: str, value: bytes | None, **conditions: Any) -> WriteResult:
        if key.startswith(FOLDER + what) and not lost:
            lost.append(key)
            return Unavailable("ReadTimeout", "unknown")
        return real(self, key, value, **conditions)

    monkeypatch.setattr(MemoryStore, "write", write)
    world = started()
    if what in ("node/n1", "state/n1"):
        assert lost
        assert isinstance(world.engine.get(FOLDER + what), Versioned)
    world.ranks[2].raises("ThereError")
    for rank in (0, 1, 3):
        world.ranks[rank].raises(**VICTIM)
    world.wait(8)
    assert lost
    assert (world.statuses(), "ThereError" in world.reason()) == (["FAILED"], True)


def test_a_node_that_only_relayed_is_the_owners_in_the_next_launch() -> None:
    """R5, R12: a requeued job has its nodes in another order; the end of before is none of the new start."""
    world = started()
    for rank in (2, 3, 0, 1):
        world.ranks[rank].finish().exit()
    world.wait(15)
    assert world.statuses() == ["COMPLETED"]
    world.dead.add(0)
    world.nodes[0].kill()
    agent = world.nodes[1].process("agent")
    place = job(0, key="again", nodes=2, world_size=4, launch="again", launcher=agent.identity)
    rank0 = world.nodes[1].process("rank0", place).init(env="x", cluster=world.address)
    world.wait(30)
    run = world.nodes[1].run()
    assert (run.status, run.verdict, run.relay, world.run.status) == ("RUNNING", None, "", "RUNNING")
    rank0.raises("OwnError")
    world.wait(20)
    assert world.statuses() == ["COMPLETED", "FAILED"]


@pytest.mark.parametrize("owners_last", [True, False])
def test_a_script_that_ends_by_its_last_line_waits_for_nothing_that_needs_its_end(owners_last: bool) -> None:
    """R11: only the kernel knows its exit code, so neither the verdict nor the status can come before."""
    world = started()
    order = (2, 3, 1, 0) if owners_last else (1, 0, 2, 3)
    for rank in order[:3]:
        world.ranks[rank].finish(at_exit=True).exit()
        world.wait(1)
    last = world.ranks[order[3]]
    last.finish(at_exit=True)
    world.wait(3)
    assert last.view.last_out
    assert last.view.drained
    assert last.view.run is not None
    assert (last.view.run.status, last.view.run.expected) == ("RUNNING", None)
    assert world.statuses() == []
    last.exit()
    world.wait(5)
    assert world.statuses() == ["COMPLETED"]


def test_a_seat_in_an_emptied_store_begins_behind_all_epochs_before() -> None:
    """G2: the server refuses what an older epoch says, so the status was never sent."""
    world = started(3)
    world.cut(0)
    world.wait(40)
    world.mend()
    world.wait(10)
    assert (world.seat(), world.document.epoch) == ("n1", 2)
    world.engine.empty()
    world.wait(60)
    for rank in (2, 3, 4, 5, 0, 1):
        world.ranks[rank].finish().exit()
    world.wait(60)
    assert world.statuses() == ["COMPLETED"]
    assert all(node.run().reported for node in world.nodes)


def test_a_next_job_with_a_store_of_its_own_goes_on_behind_the_epochs_at_the_server() -> None:
    """Its nodes are new too: only the Run's config tells that other seats have spoken."""
    first = started()
    first.cut(0)
    first.wait(40)
    first.mend()
    for rank in (2, 3, 0, 1):
        first.ranks[rank].finish().exit()
    first.wait(60)
    assert first.run.config["pluto_dist"]["seat"]["epoch"] > 1
    world = ClusterWorld()
    for node in world.nodes:
        node.server = first.server
    world.server = first.server
    world.start(0, 1, 2, 3, key="next")
    world.wait(10)
    for rank in (2, 3, 0, 1):
        world.ranks[rank].finish().exit()
    world.wait(60)
    assert world.statuses() == ["COMPLETED", "COMPLETED"]
    assert all(node.run().reported for node in world.nodes)


def test_an_emptied_store_gets_the_evidence_again() -> None:
    """G7: what was written is written again, so the failure that came before is not forgotten."""
    world = started()
    world.ranks[3].raises("ThereError")
    world.ranks[3].exit(1)
    world.wait(5)
    world.engine.empty()
    world.wait(30)
    assert world.engine.all(FOLDER + "ev/")
    assert {key.rpartition("/")[2] for key in world.engine.all(FOLDER + "state/")} == {"n0", "n1"}
    for rank in (0, 1, 2):
        world.ranks[rank].finish().exit()
    world.wait(60)
    assert world.statuses() == ["FAILED"]
    assert "ThereError" in world.reason()
