"""Real torchrun on two machines of two ranks each, three etcd members, one server (G2, G7).

Machines are network namespaces on one bridge. Each story compares what the processes of both machines believe
with what readers of the server see.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cluster.network import Network
from tests.cluster.servers import Cluster
from tests.process.harness import Pid, Script, wait_until
from tests.process.served import Served

pytest.importorskip("torch")

NAME = "two-machines"
TRAIN = """
    import torch, torch.distributed as dist
    RANK = int(os.environ["RANK"])
    run = pluto.init(config={"width": 4})
    dist.init_process_group("gloo")
    def step(number):
        "One step of a job whose ranks need each other."
        loss = torch.rand(1)
        dist.all_reduce(loss)
        log(run, {"loss": float(loss) / 4 + RANK}, number)
    first = int(os.environ["PD_TEST_FIRST"])
    for number in range(first, first + 20):
        step(number)
    tell(f"{RANK}:trained", run.run_id)
    here, go = os.environ["PD_TEST_WORDS"], first + 20
    def told(word):
        return os.path.exists(os.path.join(here, word))
    going = torch.ones(1)
    while going.item():  # all ranks leave in the same step: a word may come between two ranks' looks for it
        step(go)
        go += 1
        time.sleep(0.05)
        if told(f"fail{RANK}"):
            what = open(os.path.join(here, f"fail{RANK}")).read()
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError(what)
        going = torch.tensor([float(not told("end"))])
        dist.all_reduce(going, dist.ReduceOp.MIN)
    dist.barrier()
    dist.destroy_process_group()
    run.finish()
"""


class TwoMachines:
    """Two machines that run one job."""

    def __init__(self, served: Served, folder: Path) -> None:
        self.network = Network()
        self.nodes = (served, served.beside())
        self.server = served
        self.words = folder / "words"
        self.words.mkdir()
        self.cluster = Cluster(folder / "etcd", hosts=[(self.network.host, "")] * 3)
        self.agents: list[Script] = []
        urls = {name: url for name, url in served.env().items() if name.startswith("PLUTO_URL_")}
        ports = {urlsplit(url).port for url in urls.values()}
        self.network.offer(port for port in ports if port is not None)

    def start(self, *, etcd: bool = True) -> None:
        """The cluster store, and torchrun on both machines."""
        if etcd:
            self.store()
        for number in (0, 1):
            self.launch(number)

    def store(self) -> None:
        """The cluster store alone."""
        self.cluster.start()
        self.cluster.wait()

    def launch(self, number: int, *more: str, port: int = 29400, first: int = 0) -> Script:
        """torchrun on one machine; the first one holds the rendezvous.

        Args:
            number: which machine.
            more: arguments of torchrun; they win over those that stand here.
            port: of the rendezvous.
            first: the step that it begins with.
        """
        node = self.nodes[number]
        node.set(
            PLUTO_DIST_CLUSTER=self.cluster.url + "/jobs",
            PLUTO_DIST_CLUSTER_TTL_S="8",
            PLUTO_RUN_ID=NAME,
            PD_TEST_WORDS=str(self.words),
            PD_TEST_FIRST=str(first),
            GLOO_SOCKET_IFNAME="eth0",
        )
        name = f"agent{len(self.agents)}"
        command = [
            *self.network.inside(number), sys.executable, "-P", "-m", "torch.distributed.run",
            "--nnodes", "2", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-id", NAME,
            "--rdzv-endpoint", f"{self.network.addresses[0]}:{port}",
            "--local-addr", self.network.addresses[number], "--rdzv-conf", f"is_host={number == 0}",
            *more, *node.command(TRAIN, "train")[2:],
        ]  # fmt: skip
        agent: Script = node.keep(Script(name, *node.spawn(command, name)))
        self.agents.append(agent)
        return agent

    def say(self, word: str, content: str = "") -> None:
        """A word to all ranks."""
        path = self.words / f".{word}"
        path.write_text(content)
        path.rename(self.words / word)

    def trained(self, ranks: AbstractSet[str] = frozenset("0123"), *, since: int = 0) -> None:
        """These ranks have trained for a while, under the agents after the first `since` ones."""

        def said() -> set[str]:
            return _trained(line for agent in self.agents[since:] for line in agent.lines)

        wait_until(lambda: said() == ranks, "all ranks to train")

    def last_step(self) -> int:
        """The newest step that machine 0 has of rank 0."""
        (run,) = self.nodes[0].documents()
        return max(int(lease["last_step"] or 0) for lease in run["leases"])

    def run(self) -> dict[str, Any]:
        """The server's Run when it has ended."""
        return self.server.ended_remotely(NAME)

    def believed(self, number: int) -> str:
        """What a machine's own store says of the Run."""
        node = self.nodes[number]
        found = subprocess.run(
            [sys.executable, "-c", "from pluto_dist.cli.main import app; app()", "show", NAME, "--json"],
            env=node.env(), cwd=node.base, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return str(json.loads(found.stdout)["status"]) if found.returncode == 0 else found.stderr

    def close(self) -> None:
        self.network.close()
        self.cluster.close()
        self.nodes[1].close()


@pytest.fixture
def two(served: Served, tmp_path: Path) -> Iterator[TwoMachines]:
    served.server.waive("6.3.10", text="heartbeats from * sources in turn*")
    served.server.waive("6.3.2")
    made = TwoMachines(served, tmp_path)
    yield made
    made.close()


def test_all_well(two: TwoMachines) -> None:
    """G2: one Run, one report."""
    two.start()
    two.trained()
    two.say("end")
    assert [agent.wait() for agent in two.agents] == [0, 0]
    run = two.run()
    assert run["status"] == "COMPLETED"
    assert two.server.paths().count("/api/runs/status/update") == 1
    assert {name for name in two.server.series(NAME) if name.startswith("loss")} == {
        "loss", "loss/rank1", "loss/rank2", "loss/rank3",
    }  # fmt: skip
    wait_until(lambda: [two.believed(number) for number in (0, 1)] == ["COMPLETED"] * 2, "both stores")


@pytest.mark.parametrize(("what", "told"), [("kill", "killed by SIGKILL"), ("boom", "ValueError: boom")])
def test_a_rank_of_the_other_machine_fails(two: TwoMachines, what: str, told: str) -> None:
    """G7: every other rank loses its connections within milliseconds; the one that began is named."""
    two.start()
    two.trained()
    two.say("fail3", what)
    assert all(agent.wait() != 0 for agent in two.agents)
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
    wait_until(lambda: _round_of(two) == {"node0", "node1"}, "both nodes in the round")
    two.network.kill(0)
    assert two.agents[1].wait() != 0
    run = two.run()
    assert run["status"] == "FAILED"
    assert run["statusMetadata"]["reason"].startswith("node0 (host")
    assert run["config"]["pluto_dist"]["seat"]["epoch"] == 2


@pytest.mark.parametrize("machine", [0, 1])
def test_a_cut_link_fails_no_healthy_run(two: TwoMachines, machine: int) -> None:
    """G7: cut for longer than a lease; the job waits for its own packets and goes on."""
    two.start()
    two.trained()
    wait_until(lambda: _round_of(two) == {"node0", "node1"}, "both nodes in the round")
    two.network.cut(machine)
    wait_until(lambda: len(_present(two)) == 1, "the store to lose sight of it")
    two.network.restore(machine)
    two.say("end")
    assert [agent.wait() for agent in two.agents] == [0, 0]
    assert two.run()["status"] == "COMPLETED"


def test_the_store_has_no_quorum_at_the_end(two: TwoMachines) -> None:
    """The owner's machine reports alone, and says so; when the store is back it has that verdict."""
    two.start()
    two.trained()
    for member in two.cluster.members[:2]:
        member.signal(signal.SIGSTOP)
    two.say("end")
    assert [agent.wait() for agent in two.agents] == [0, 0]
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
    wait_until(lambda: _round_of(two) == {"node0", "node1"}, "both nodes in the round")
    two.say("fail2", "late")
    assert all(agent.wait() != 0 for agent in two.agents)
    assert "rank 2 (pid" in two.run()["statusMetadata"]["reason"]


def test_the_seat_stands_still(two: TwoMachines) -> None:
    """G7: its node is lost for the store and takes the job up again; nothing has failed, one node reports."""
    two.start()
    two.trained()
    wait_until(lambda: _round_of(two) == {"node0", "node1"}, "both nodes in the round")
    stopped = Pid(two.nodes[0].coordinator())
    stopped.signal(signal.SIGSTOP)
    wait_until(lambda: _run(two)["seat"] and _run(two)["epoch"] == 2, "the other node to take the seat")
    stopped.signal(signal.SIGCONT)
    stopped.close()
    two.say("end")
    assert [agent.wait() for agent in two.agents] == [0, 0]
    assert two.run()["status"] == "COMPLETED"
    assert two.server.missing(NAME) == []
    wait_until(lambda: [two.believed(number) for number in (0, 1)] == ["COMPLETED"] * 2, "both stores")


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
    wait_until(lambda: _round_of(two) == {"node0", "node1"}, "both nodes in the round")
    two.say("fail3", "after all")
    assert all(agent.wait() != 0 for agent in two.agents)
    assert two.run()["statusMetadata"]["reason"].endswith("node1) failed first: ValueError: after all")


def test_the_store_has_no_quorum_in_the_middle(two: TwoMachines) -> None:
    """Nobody waits for it; `ps` tells; what happens afterwards is told of all nodes as ever."""
    two.start()
    two.trained()
    wait_until(lambda: _round_of(two) == {"node0", "node1"}, "both nodes in the round")
    away = two.cluster.members[:2]
    for member in away:
        member.signal(signal.SIGSTOP)
    wait_until(lambda: "cannot be read" in _trouble(two), lambda: _trouble(two))
    before = two.last_step()
    wait_until(lambda: two.last_step() > before + 20, "training to go on")
    for member in away:
        member.signal(signal.SIGCONT)
    wait_until(lambda: not _trouble(two), lambda: _trouble(two))
    two.say("fail2", "kill")
    assert all(agent.wait() != 0 for agent in two.agents)
    assert two.run()["statusMetadata"]["reason"].startswith("rank 2 (pid")


def test_the_job_is_started_again_with_its_id(two: TwoMachines) -> None:
    """Both machines' ranks go on in the Run that failed, and its end is that of the last attempt."""
    two.start()
    two.trained()
    two.say("fail1", "boom")
    assert all(agent.wait() != 0 for agent in two.agents)
    first = two.run()
    assert first["status"] == "FAILED"
    (two.words / "fail1").unlink()
    for number in (1, 0):
        two.launch(number, port=29401, first=1_000_000)
    two.trained(since=2)
    wait_until(lambda: _run(two)["round"] == 2 and _round_of(two) == {"node0", "node1"}, "the second start")
    two.say("end")
    assert [agent.wait() for agent in two.agents[2:]] == [0, 0]
    wait_until(lambda: two.run()["status"] == "COMPLETED", "the second end")
    assert two.run()["id"] == first["id"]
    assert len(two.server.server.runs()) == 1


def test_nodes_join_and_leave(two: TwoMachines) -> None:
    """`--nnodes 1:2`: one node trains, a second one comes, and dies; the Run stays one and completes."""
    for node in two.nodes:
        node.set(TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    elastic = ("--nnodes", "1:2", "--max-restarts", "3")
    two.store()
    two.launch(0, *elastic)
    two.trained({"0", "1"})
    two.launch(1, *elastic)
    two.trained()
    wait_until(lambda: _round_of(two) == {"node0", "node1"}, "both nodes in the round")
    (listed,) = json.loads(two.nodes[0].cli("ps", "--json"))["shared_runs"]
    assert {process["rank"] for node in listed["nodes"] for process in node["processes"]} == {0, 1, 2, 3}
    said = len(two.agents[0].lines)
    two.network.kill(1)
    wait_until(lambda: _trained(two.agents[0].lines[said:]) == {"0", "1"}, "node 0 to train alone")
    two.say("end")
    assert two.agents[0].wait() == 0
    assert two.run()["status"] == "COMPLETED"
    assert len(two.server.server.runs()) == 1


def _folder(two: TwoMachines) -> dict[str, bytes]:
    from pluto_dist.cluster.etcd import EtcdStore
    from pluto_dist.core.values.engine import Listed

    store = EtcdStore(two.cluster.address("jobs"))
    try:
        found = store.list("jobs/v1/")
        return (
            {k.split("/", 4)[-1]: v.value for k, v in found.items.items()}
            if isinstance(found, Listed)
            else {}
        )
    finally:
        store.close()


def _run(two: TwoMachines) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_folder(two).get("run", b"{}"))
    return {"epoch": 0, "round": 0, "seat": None, "nodes": {}} | found


def _round_of(two: TwoMachines) -> set[str]:
    return {name for name, _ in _run(two)["nodes"].values()}


def _trouble(two: TwoMachines) -> str:
    """What `ps` on machine 0 says of the store, "" if it reads it."""
    return str(json.loads(two.nodes[0].cli("ps", "--json"))["cluster_trouble"])


def _trained(lines: Iterable[str]) -> set[str]:
    return {line.partition(":")[0] for line in lines if ":trained" in line}


def _present(two: TwoMachines) -> list[str]:
    return [key for key in _folder(two) if key.startswith("node/")]
