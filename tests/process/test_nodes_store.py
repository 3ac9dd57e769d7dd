"""Real torchrun on two machines: the store is away, jobs are started again, nodes join and leave (G2)."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.harness import wait_until
from tests.process.machines import ALONE, GLOO, TwoMachines, trained_in, two_machines
from tests.process.served import Served
from tests.process.torchjob import code_of

pytest.importorskip("torch")


@pytest.fixture
def two(served: Served, tmp_path: Path) -> Iterator[TwoMachines]:
    yield from two_machines(served, tmp_path, ALONE)


def test_the_store_has_no_quorum_at_the_end(two: TwoMachines) -> None:
    """The owner's machine reports alone, and says so; when the store is back it has that verdict."""
    two.start()
    two.trained()
    for member in two.cluster.members[:2]:
        member.signal(signal.SIGSTOP)
    two.say("end")
    assert [code_of(agent) for agent in two.agents] == [0, 0]
    run = two.run()
    assert run["status"] == "COMPLETED"
    for member in two.cluster.members[:2]:
        member.signal(signal.SIGCONT)
    assert two.run()["status"] == "COMPLETED"


def test_the_store_comes_after_the_job(two: TwoMachines) -> None:
    """The job begins as without a store, and joins it later."""
    for node in two.nodes:
        node.set(PLUTO_DIST_OPEN_WAIT_S="2")
    two.start(etcd=False)
    two.trained()
    two.cluster.start()
    two.cluster.wait()
    two.met()
    two.say("fail2", "late")
    assert all(code_of(agent) != 0 for agent in two.agents)
    assert "rank 2 (pid" in two.run()["statusMetadata"]["reason"]


def test_the_store_has_no_quorum_at_first(two: TwoMachines) -> None:
    """Training waits for it a moment and begins; when it answers, the nodes find each other."""
    two.store()
    away = two.cluster.members[:2]
    for member in away:
        member.signal(signal.SIGSTOP)
    for number, node in enumerate(two.nodes):
        node.set(PLUTO_DIST_OPEN_WAIT_S="2")
        two.launch(number)
    two.trained()
    for member in away:
        member.signal(signal.SIGCONT)
    two.met()
    two.say("fail3", "after all")
    assert all(code_of(agent) != 0 for agent in two.agents)
    assert two.run()["statusMetadata"]["reason"].endswith("node1) failed first: ValueError: after all")


def test_the_store_has_no_quorum_in_the_middle(two: TwoMachines) -> None:
    """Nobody waits for it; `ps` tells; what happens afterwards is told of all nodes as ever."""
    two.start()
    two.trained()
    two.met()
    away = two.cluster.members[:2]
    for member in away:
        member.signal(signal.SIGSTOP)
    wait_until(lambda: "cannot be read" in two.trouble(), two.trouble)
    before = two.last_step()
    wait_until(lambda: two.last_step() > before + 20, "training to go on")
    for member in away:
        member.signal(signal.SIGCONT)
    wait_until(lambda: not two.trouble(), two.trouble)
    two.say("fail2", "kill")
    assert all(code_of(agent) != 0 for agent in two.agents)
    assert two.run()["statusMetadata"]["reason"].startswith("rank 2 (pid")


def test_the_job_is_started_again_with_its_id(two: TwoMachines) -> None:
    """Both machines' ranks go on in the Run that failed, and its end is that of the last attempt."""
    two.server.server.waive("6.3.3")  # steps again from 0 on, as in a script without a checkpoint
    two.start()
    two.trained()
    two.say("fail1", "boom")
    assert all(code_of(agent) != 0 for agent in two.agents)
    first = two.run()
    assert first["status"] == "FAILED"
    two.take_back("fail1")
    for number in (1, 0):
        two.launch(number, port=29401)
    two.trained(since=2)
    wait_until(lambda: two.document()["round"] == 2, "the second start")
    two.met()
    two.say("end")
    assert [code_of(agent) for agent in two.agents[2:]] == [0, 0]
    wait_until(lambda: two.run()["status"] == "COMPLETED", "the second end")
    assert two.run()["id"] == first["id"]
    assert len(two.server.server.runs()) == 1


def test_nodes_join_and_leave(two: TwoMachines) -> None:
    """`--nnodes 1:2`: one node trains, a second one comes, and dies; the Run stays one and completes."""
    two.server.server.waive("6.3.3")  # steps again from 0 on, as in a script without a checkpoint
    for node in two.nodes:
        node.set(TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    two.ranks = GLOO  # an agent learns of a lost machine by its own ranks' ends
    elastic = ("--nnodes", "1:2", "--max-restarts", "3")
    two.store()
    two.launch(0, *elastic)
    two.trained({"0", "1"})
    two.launch(1, *elastic)
    two.trained()
    two.met()
    (listed,) = json.loads(two.nodes[0].cli("ps", "--json"))["shared_runs"]
    assert {process["rank"] for node in listed["nodes"] for process in node["processes"]} == {0, 1, 2, 3}
    said = len(two.agents[0].lines)
    two.network.kill(1)
    wait_until(lambda: trained_in(two.agents[0].lines[said:]) == {"0", "1"}, "node 0 to train alone")
    two.say("end")
    assert code_of(two.agents[0]) == 0
    assert two.run()["status"] == "COMPLETED"
    assert len(two.server.server.runs()) == 1
