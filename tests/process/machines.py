"""Two machines of two ranks each that run one job under torchrun, three etcd members, one server.

Machines are network namespaces on one bridge.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pluto_dist.cluster.etcd import EtcdStore
from pluto_dist.core.values.engine import Listed
from tests.cluster.network import Network
from tests.cluster.servers import Cluster
from tests.process.harness import Script, wait_until
from tests.process.served import Served

pytest.importorskip("torch")

NAME = "two-machines"
TRAIN = """
    RANK = int(os.environ["RANK"])
    run = pluto.init(config={"width": 4})
    here, go, going = os.environ["PD_TEST_WORDS"], 20, True
    def told(word):
        return os.path.exists(os.path.join(here, word))
    begin()
    def step(number):
        log(run, {"loss": together() / 4 + RANK}, number)
    for number in range(20):
        step(number)
    tell(f"{RANK}:trained", run.run_id)
    while going:
        step(go)
        go += 1
        time.sleep(0.05)
        if told(f"fail{RANK}"):
            what = open(os.path.join(here, f"fail{RANK}")).read()
            begin_to_fail()
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError(what)
        going = all_go_on(not told("end"))
    end()
    run.finish()
"""
# Ranks that need each other in each step, as in real training. They all leave in the same step: a word may
# come between two ranks' looks for it.
GLOO = """
    import torch, torch.distributed as dist
    def begin():
        dist.init_process_group("gloo")
    def together():
        loss = torch.rand(1)
        dist.all_reduce(loss)
        return float(loss)
    def all_go_on(here):
        going = torch.tensor([float(here)])
        dist.all_reduce(going, dist.ReduceOp.MIN)
        return bool(going.item())
    def begin_to_fail():
        pass
    def end():
        dist.barrier()
        dist.destroy_process_group()
"""
# Ranks that only learn of each other's deaths: importing torch is most of what a rank costs, and a story
# about the store does not ask how ranks lose their peers.
ALONE = """
    import random
    begin = end = lambda: None
    together = random.random
    def begin_to_fail():
        with open(os.path.join(here, "failing"), "x") as file:
            file.write(str(os.getpid()))
    def all_go_on(here_too):
        if not told("failing"):
            return here_too
        peer = open(os.path.join(here, "failing")).read()
        while peer and os.path.exists(f"/proc/{peer}"): time.sleep(0.01)
        raise ConnectionError("a peer is gone")
"""


class TwoMachines:
    """Two machines that run one job."""

    name = NAME

    def __init__(self, served: Served, folder: Path, ranks: str) -> None:
        self.ranks = ranks
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

    def launch(self, number: int, *more: str, port: int = 29400) -> Script:
        """torchrun on one machine; the first one holds the rendezvous.

        Args:
            number: which machine.
            more: arguments of torchrun; they win over those that stand here.
            port: of the rendezvous.
        """
        node = self.nodes[number]
        node.set(
            PLUTO_DIST_CLUSTER=self.cluster.url + "/jobs",
            PLUTO_DIST_CLUSTER_TTL_S="8",
            PLUTO_RUN_ID=NAME,
            PD_TEST_WORDS=str(self.words),
            GLOO_SOCKET_IFNAME="eth0",
        )
        name = f"agent{len(self.agents)}"
        command = [
            *self.network.inside(number), sys.executable, "-P", "-m", "torch.distributed.run",
            "--nnodes", "2", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-id", NAME,
            "--rdzv-endpoint", f"{self.network.addresses[0]}:{port}",
            "--local-addr", self.network.addresses[number],
            "--rdzv-conf", f"is_host={number == 0},last_call_timeout=5",
            *more, *node.command(self.ranks + TRAIN, "train")[2:],
        ]  # fmt: skip
        agent: Script = node.keep(Script(name, *node.spawn(command, name)))
        self.agents.append(agent)
        return agent

    def say(self, word: str, content: str = "") -> None:
        """A word to all ranks."""
        path = self.words / f".{word}"
        path.write_text(content)
        path.rename(self.words / word)

    def take_back(self, word: str) -> None:
        """The word, and what a rank wrote down when it heard it."""
        for name in (word, "failing"):
            (self.words / name).unlink(missing_ok=True)

    def trained(self, ranks: AbstractSet[str] = frozenset("0123"), *, since: int = 0) -> None:
        """These ranks have trained for a while, under the agents after the first `since` ones."""

        def said() -> set[str]:
            return trained_in(line for agent in self.agents[since:] for line in agent.lines)

        wait_until(lambda: said() == ranks, "all ranks to train")

    def last_step(self) -> int:
        """The newest step that machine 0 has of rank 0."""
        (run,) = self.nodes[0].documents()
        return max(int(lease["last_step"] or 0) for lease in run["leases"])

    def kept(self) -> dict[str, bytes]:
        """What the store has of the Run."""
        store = EtcdStore(self.cluster.address("jobs"))
        try:
            found = store.list("jobs/v1/")
        finally:
            store.close()
        items = found.items if isinstance(found, Listed) else {}
        return {key.split("/", 4)[-1]: item.value for key, item in items.items()}

    def document(self) -> dict[str, Any]:
        """The run document, with something in place of what is not there yet."""
        found: dict[str, Any] = json.loads(self.kept().get("run", b"{}"))
        return {"epoch": 0, "round": 0, "seat": None, "nodes": {}} | found

    def met(self) -> None:
        """Waits until both nodes are in the round."""
        both = {"node0", "node1"}
        wait_until(
            lambda: {name for name, _ in self.document()["nodes"].values()} == both, "both nodes to meet"
        )

    def present(self) -> list[str]:
        """Nodes that the store sees."""
        return [key for key in self.kept() if key.startswith("node/")]

    def trouble(self) -> str:
        """What `ps` on machine 0 says of the store, "" if it reads it."""
        return str(json.loads(self.nodes[0].cli("ps", "--json"))["cluster_trouble"])

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


def two_machines(served: Served, folder: Path, ranks: str = GLOO) -> Iterator[TwoMachines]:
    """For a fixture: two machines, and what the nodes of one job do at the server is no defect.

    Args:
        served: the first node and its server.
        folder: for what belongs to neither node.
        ranks: `GLOO` or `ALONE`.
    """
    served.server.waive("6.3.10", text="heartbeats from * sources in turn*")
    served.server.waive("6.3.2")
    made = TwoMachines(served, folder, ranks)
    yield made
    made.close()


def trained_in(lines: Iterable[str]) -> set[str]:
    """Ranks that have said so."""
    return {line.partition(":")[0] for line in lines if ":trained" in line}
