"""Two nodes, one server and a real etcd: one seat, one verdict of the evidence of both (G2, G7)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pluto_dist.cluster.etcd import EtcdStore
from pluto_dist.core.values.document import Document, read
from pluto_dist.core.values.engine import Listed
from tests.cluster.servers import Cluster
from tests.process.harness import wait_until
from tests.process.served import Served
from tests.process.test_nodes import TwoNodes

TTL_S = "8"  # the shortest: a test that loses a node waits for it


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("etcd"), 1)
    try:
        cluster.start()
        cluster.wait()
        yield cluster
    finally:
        cluster.close()


class Shared(TwoNodes):
    """Two nodes with a cluster store; each test has a prefix of its own."""

    def __init__(self, here: Served, cluster: Cluster, prefix: str) -> None:
        self._store = EtcdStore(cluster.address(prefix))
        self._prefix = prefix
        super().__init__(here)
        for node in self.nodes:
            node.set(PLUTO_DIST_CLUSTER=f"{cluster.url}/{prefix}", PLUTO_DIST_CLUSTER_TTL_S=TTL_S)

    def kept(self) -> dict[str, bytes]:
        """What the cluster store has of the Run."""
        found = self._store.list(f"{self._prefix}/v1/")
        assert isinstance(found, Listed)
        return {key.split("/", 4)[-1]: item.value for key, item in found.items.items()}

    def close(self) -> None:
        super().close()
        self._store.close()


@pytest.fixture
def two(served: Served, etcd: Cluster, tmp_path: Path) -> Iterator[Shared]:
    made = Shared(served, etcd, tmp_path.name)
    served.server.waive("6.3.10", text="heartbeats from * sources in turn*")
    served.server.waive("6.3.2")
    yield made
    made.close()


def test_two_nodes_end_with_one_verdict(served: Served, two: Shared) -> None:
    """G2, G7: the verdict is in the store before it is at the server, and is sent once."""
    two.start(0, 1, 2, 3)
    two.expect("logged")
    two.end(2, 3)
    two.end(0, 1)
    run = served.ended_remotely("torchrun-two-nodes")
    assert run["status"] == "COMPLETED"
    assert served.paths().count("/api/runs/status/update") == 1
    wait_until(lambda: b'"sent":true' in two.kept().get("run", b""), "the seat's last word")
    assert "verdict/1" in two.kept()
    assert len([key for key in two.kept() if key.startswith("end/1/")]) == 2


@pytest.mark.parametrize("end", ['raise ValueError("boom")', "os.kill(os.getpid(), 9)"])
def test_a_failure_on_the_other_node_is_the_verdict(served: Served, two: Shared, end: str) -> None:
    """G7: rank 3 of node 1 fails first; the owner on node 0 finishes well a moment later."""
    two.start(0, 1, 2)
    two.start(3, end=end)
    two.expect("logged")
    two.ranks[3].say()
    assert two.ranks[3].wait() != 0
    two.end(2)
    two.end(0, 1)
    run = served.ended_remotely("torchrun-two-nodes")
    assert run["status"] == "FAILED"
    reason = run["statusMetadata"]["reason"]
    assert "rank 3 (pid" in reason
    assert "node1) failed first" in reason


CHANGES = """for n in range(10):
        run.add_tags(f"r{os.environ['RANK']}-{n}")
        run.update_config({"r" + os.environ["RANK"]: {str(n): n}})
    run.finish()"""


def test_tags_and_config_of_both_nodes_meet_in_the_store(served: Served, two: Shared) -> None:
    """G9: four ranks change them at once; one node tells the server, and all is there before the end."""
    two.start(0, 1, 2, 3, end=CHANGES)
    two.expect("logged")
    wait_until(lambda: b'"node1"' in two.kept().get("run", b""), "node 1 in the round")
    for rank in range(4):
        two.ranks[rank].say()
    assert [two.ranks[rank].wait() for rank in range(4)] == [0] * 4
    run = served.ended_remotely("torchrun-two-nodes")
    assert {f"r{rank}-{number}" for rank in range(4) for number in range(10)} <= set(run["tags"])
    every = {str(number): number for number in range(10)}
    for rank in range(4):
        assert run["config"][f"r{rank}"] == every
    assert not [key for key in two.kept() if key.startswith("op/")]


def test_any_host_with_the_address_sees_all_nodes(served: Served, two: Shared, tmp_path: Path) -> None:
    """`ps` and `show` on a host that takes no part; and, without the address, what they do not know."""
    two.start(0, 1, 2, 3)
    two.expect("logged")
    wait_until(lambda: b'"node1"' in two.kept().get("run", b""), "node 1 in the round")
    login = {**two.nodes[1].env(), "PLUTO_DIST_HOME": str(tmp_path / "login"), "PLUTO_DIR": str(tmp_path)}
    there = json.loads(cli(["ps", "--json"], login).stdout)
    assert there["cluster"] is not None
    (run,) = there["shared_runs"]
    assert [(node["name"], node["present"]) for node in run["nodes"]] == [("node0", True), ("node1", True)]
    assert {process["rank"] for node in run["nodes"] for process in node["processes"]} == {0, 1, 2, 3}
    table = cli(["ps"], login).stdout
    assert "node1" in table
    assert "held" in table
    shown = json.loads(cli(["show", run["run_id"], "--json"], login).stdout)
    assert shown["shared"]["nodes"][0]["seat"]
    assert "nodes (start 1 of the job" in cli(["show", run["run_id"]], login).stdout
    own = cli(["show", run["run_id"]], {**two.nodes[0].env(), "PLUTO_DIST_CLUSTER": "off"}).stdout
    assert "PLUTO_DIST_CLUSTER is not set here" in own
    (live,) = json.loads(cli(["top", "--json"], two.nodes[0].env()).stdout)
    ranks = sorted(
        (each["rank"], each["health"]) for each in live["processes"]
    )  # in the order of their claims
    assert ranks == [(rank, "well") for rank in range(4)]
    away = cli(["ps"], {**login, "PLUTO_DIST_CLUSTER": "etcd://127.0.0.1:1/x"})
    assert (away.returncode, "cannot be read" in away.stderr) == (0, True)
    two.end(2, 3)
    two.end(0, 1)
    served.ended_remotely("torchrun-two-nodes")
    wait_until(lambda: not json.loads(cli(["ps", "--json"], login).stdout)["shared_runs"], "no Run under way")


def cli(arguments: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """One command on some host."""
    code = "from pluto_dist.cli.main import app; app()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, check=False
    )


LOCAL = 'mode="local"'


def documents(two: Shared) -> list[Document]:
    """The parts of the Run in the stores of both nodes, each store once."""
    stores = dict.fromkeys(Path(node.env().get("PLUTO_DIR", node.base)) / ".pluto" for node in two.nodes)
    paths = [path for store in stores for path in sorted(store.glob("runs/*/run.json"))]
    return [read(path.read_bytes()) for path in paths]


def all_ended(two: Shared) -> list[Document]:
    """The same, when both parts have the end."""
    wait_until(
        lambda: [each.status != "RUNNING" and each.reported for each in documents(two)] == [True, True],
        "the end in both parts",
    )
    return documents(two)


def synced(served: Served, two: Shared, number: int) -> dict[str, Any]:
    """`pluto-dist sync` on one host."""
    found = cli(["sync", "--json"], two.nodes[number].env())
    assert found.returncode == 0, found.stderr
    (result,) = json.loads(found.stdout)
    return dict(result)


@pytest.mark.parametrize("order", [(0, 1, 0, 1), (1, 0, 1, 0)])
def test_without_a_server_two_hosts_have_one_run_and_sync_makes_one(
    served: Served, two: Shared, tmp_path: Path, order: tuple[int, ...]
) -> None:
    """G2, G3, G7, R12: one id and one verdict in two stores; synced in any order, twice, one Run."""
    two.start(0, 1, 2, options=LOCAL)
    two.start(3, options=LOCAL, end='raise ValueError("boom")')
    two.expect("logged")
    two.ranks[3].say()
    assert two.ranks[3].wait() != 0
    two.end(2)
    two.end(0, 1)
    assert {tuple(told.split()[:3]) for told in two.expect("id", 0, 1, 2)} == {
        ("1", "PLU-1", "torchrun-two-nodes")
    }
    first, second = all_ended(two)
    assert first.verdict == second.verdict
    assert "rank 3 (pid" in (first.verdict.reason if first.verdict else "")
    assert (first.relay, second.relay, {first.part_of, second.part_of}) == ("", "node1", {first.key})

    for node in two.nodes:  # seen together: the folders of both hosts, copied into one
        shutil.copytree(node.base / ".pluto", tmp_path / "both" / ".pluto", dirs_exist_ok=True)
    there = {**served.env(), "PLUTO_DIST_HOME": str(tmp_path / "login"), "PLUTO_DIR": str(tmp_path / "both")}
    shown = json.loads(cli(["show", "PLU-1", "--json"], there).stdout)
    assert {name for name in shown["summary"] if name.startswith("loss")} == {
        "loss",
        *(f"loss/rank{rank}" for rank in (1, 2, 3)),
    }
    assert (shown["status"], len(json.loads(cli(["runs", "--json"], there).stdout))) == ("FAILED", 1)

    assert served.server.runs() == []
    served.server.waive("6.3.2")  # the part that comes second finds it ended
    states = [synced(served, two, number)["state"] for number in order]
    assert states == ["uploaded", "uploaded", "up to date", "up to date"]
    run = served.remote("torchrun-two-nodes")
    assert (run["status"], run["config"], run["tags"]) == ("FAILED", {"lr": 0}, ["t0", "t1"])
    assert "rank 3 (pid" in run["statusMetadata"]["reason"]
    assert served.paths().count("/api/runs/status/update") == 1
    assert [line for node in two.nodes for line in node.missing("torchrun-two-nodes")] == []
    lines = {row["message"]: row["line_number"] for row in served.server.logs(run["id"])}
    assert {f"[rank{rank}] a line of rank {rank}" for rank in range(4)} <= set(lines)


def test_two_hosts_may_share_one_store(served: Served, two: Shared, tmp_path: Path) -> None:
    """R12: each writes its own part there; every reader sees one Run, also while it goes on."""
    for node in two.nodes:
        node.set(PLUTO_DIR=str(tmp_path / "shared"))
    two.start(0, 1, 2, 3, options=LOCAL)
    two.expect("logged")
    wait_until(lambda: len(documents(two)) == 2, "both parts")
    for node in two.nodes:
        (live,) = json.loads(cli(["runs", "--json"], node.env()).stdout)
        assert (live["display_id"], live["status"]) == ("PLU-1", "RUNNING")
    two.end(2, 3)
    two.end(0, 1)
    all_ended(two)
    result = synced(served, two, 1)
    assert (result["state"], result["display_id"]) == ("uploaded", "PLU-1")
    run = served.remote("torchrun-two-nodes")
    assert run["status"] == "COMPLETED"
    assert [line for node in two.nodes for line in node.missing("torchrun-two-nodes")] == []
    assert synced(served, two, 0)["state"] == "up to date"


CONNECTION_LOST = 'raise ConnectionResetError("Connection closed by peer")'
"""What a rank raises when its peers are gone: c10d, NCCL and gloo do the like."""


def kill_node(two: Shared, number: int) -> None:
    """Everything of a node at once: ranks, launcher, coordinator."""
    coordinator = two.nodes[number].coordinator()
    for pid in (
        two.launchers[number].pid,
        *(two.ranks[rank].pid for rank in (2 * number, 2 * number + 1)),
        coordinator,
    ):
        os.kill(pid, signal.SIGKILL)


def test_another_node_reports_that_the_owners_node_was_lost(served: Served, two: Shared) -> None:
    """G7: node 0 with owner and seat dies whole; node 1 takes the seat and says what is true."""
    two.start(0, 1)
    two.start(2, 3, end=CONNECTION_LOST)
    two.expect("logged")
    wait_until(lambda: len([key for key in two.kept() if key.startswith("state/")]) == 2, "both nodes")
    wait_until(lambda: '"node1"' in two.kept()["run"].decode(), "node 1 in the round")
    kill_node(two, 0)
    for rank in (2, 3):
        two.ranks[rank].say()
    assert [two.ranks[rank].wait() != 0 for rank in (2, 3)] == [True, True]
    run = served.ended_remotely("torchrun-two-nodes")
    assert run["status"] == "FAILED"
    reason = run["statusMetadata"]["reason"]
    assert reason.startswith("node0 (host")
    assert "rank 0 (pid" in reason
    assert "rank 1 (pid" in reason
    assert served.paths().count("/api/runs/status/update") == 1
    assert run["config"]["pluto_dist"]["seat"]["epoch"] == 2


HANDS_OVER = """
    run = pluto.init(run_id="handed", quiet=True)
    tell("up")
    while hear() == "more":
        for step in range(5):
            run.checkpoint("s3://bucket/one.pt", step)
        tell("handed")
    run.finish()
"""
SHARES = """
    run = pluto.attach("handed", label=sys.argv[1], timeout_s=60, quiet=True)
    tell("up")
    for checkpoint in run.checkpoints(group="evals"):
        tell("took", checkpoint.number)
        if hear() == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
    tell("over")
"""


def test_evals_on_two_nodes_share_what_a_trainer_hands_over(
    served: Served, etcd: Cluster, tmp_path: Path
) -> None:
    """G13, R14: one is killed with an item, the other node's takes it; coordinators are killed meanwhile."""
    there = served.beside()
    try:
        for node in (served, there):
            cluster = f"{etcd.url}/{tmp_path.name}"
            node.set(PLUTO_DIST_CLUSTER=cluster, PLUTO_DIST_CLUSTER_TTL_S=TTL_S, PLUTO_DIST_HEARTBEAT_S="0.2")
        trainer = served.start(HANDS_OVER, name="trainer")
        trainer.expect("up")
        evals = [node.start(SHARES, name, name=name) for node, name in ((served, "here"), (there, "there"))]
        for each in evals:
            each.expect("up")
        trainer.say("more")
        trainer.expect("handed")
        here, away = evals
        took = [int(each.expect("took")) for each in evals]
        assert sorted(took) == [1, 2]
        there.kill_coordinator()
        here.say("crash")
        served.kill_coordinator()
        left_behind = took[0]
        trainer.say("more")
        trainer.expect("handed")
        got = [took[1]]
        trainer.say("end")
        while len(got) < 10:
            away.say()
            got.append(int(away.expect("took")))
        away.say()
        away.expect("over")
        assert (trainer.wait(), away.wait()) == (0, 0)
        assert sorted(got) == list(range(1, 11)), "all that the dead one had not done"
        in_order = [number for number in got if number != left_behind]
        assert in_order == sorted(in_order)
        assert served.ended_remotely("handed")["status"] == "COMPLETED"
    finally:
        there.close()
