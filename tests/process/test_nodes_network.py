"""Real torchrun on two machines: a rank, a machine, a link or the seat fails (G2, G7).

Each story compares what the processes of both machines believe with what readers of the server see.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.harness import Pid, wait_until
from tests.process.machines import ALONE, TwoMachines, two_machines
from tests.process.served import Served
from tests.process.torchjob import code_of

pytest.importorskip("torch")


@pytest.fixture
def two(served: Served, tmp_path: Path) -> Iterator[TwoMachines]:
    yield from two_machines(served, tmp_path)


def test_all_well(two: TwoMachines) -> None:
    """G2: one Run, one report."""
    two.start()
    two.trained()
    two.say("end")
    assert [code_of(agent) for agent in two.agents] == [0, 0]
    run = two.run()
    assert run["status"] == "COMPLETED"
    assert two.server.paths().count("/api/runs/status/update") == 1
    assert {name for name in two.server.series(two.name) if name.startswith("loss")} == {
        "loss", "loss/rank1", "loss/rank2", "loss/rank3",
    }  # fmt: skip
    wait_until(lambda: [two.believed(number) for number in (0, 1)] == ["COMPLETED"] * 2, "both stores")


@pytest.mark.parametrize(("what", "told"), [("kill", "killed by SIGKILL"), ("boom", "ValueError: boom")])
def test_a_rank_of_the_other_machine_fails(two: TwoMachines, what: str, told: str) -> None:
    """G7: every other rank loses its connections within milliseconds; the one that began is named."""
    two.start()
    two.trained()
    two.say("fail3", what)
    assert all(code_of(agent) != 0 for agent in two.agents)
    run = two.run()
    assert run["status"] == "FAILED"
    reason = run["statusMetadata"]["reason"]
    assert reason.startswith("rank 3 (pid")
    assert reason.endswith(f"node1) failed first: {told}")
    wait_until(lambda: [two.believed(number) for number in (0, 1)] == ["FAILED"] * 2, "both stores")


def test_the_owners_machine_dies(two: TwoMachines) -> None:
    """G7: everything on machine 0 is killed at once; machine 1 says so."""
    two.start()
    two.trained()
    two.met()
    two.network.kill(0)
    assert code_of(two.agents[1]) != 0
    run = two.run()
    assert run["status"] == "FAILED"
    assert run["statusMetadata"]["reason"].startswith("node0 (host")
    assert run["config"]["pluto_dist"]["seat"]["epoch"] == 2


@pytest.mark.parametrize("machine", [0, 1])
def test_a_cut_link_fails_no_healthy_run(two: TwoMachines, machine: int) -> None:
    """G7: cut for longer than a lease; the job waits for its own packets and goes on."""
    two.start()
    two.trained()
    two.met()
    two.network.cut(machine)
    wait_until(lambda: len(two.present()) == 1, "the store to lose sight of it")
    two.network.restore(machine)
    two.say("end")
    assert [code_of(agent) for agent in two.agents] == [0, 0]
    assert two.run()["status"] == "COMPLETED"


def test_the_seat_stands_still(two: TwoMachines) -> None:
    """G7: its node is lost for the store and takes the job up again; nothing has failed, one node reports."""
    two.ranks = ALONE
    two.start()
    two.trained()
    two.met()
    stopped = Pid(two.nodes[0].coordinator())
    stopped.signal(signal.SIGSTOP)
    wait_until(
        lambda: two.document()["seat"] and two.document()["epoch"] == 2, "the other node to take the seat"
    )
    stopped.signal(signal.SIGCONT)
    stopped.close()
    two.say("end")
    assert [code_of(agent) for agent in two.agents] == [0, 0]
    assert two.run()["status"] == "COMPLETED"
    assert two.server.missing(two.name) == []
    wait_until(lambda: [two.believed(number) for number in (0, 1)] == ["COMPLETED"] * 2, "both stores")
