"""Checkpoints of sharded trainings: every rank gives what it has, and the parts are one artifact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.process.harness import Node, wait_until
from tests.process.served import Served
from tests.process.torchjob import GLOO, TorchJob

pytest.importorskip("torch", reason="torch is not installed here: pip install torch==2.13.0")

SHARED = """
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

def state():
    whole = torch.arange(64, dtype=torch.float32).reshape(8, 8)
    return {"weight": distribute_tensor(whole, init_device_mesh("cpu", (WORLD,)), [Shard(0)])}

run = pluto.init(run_id="job", project="p", settings={"rank_metrics": "rank0"})
dcp.save(state(), checkpoint_id="step1")
with open(f"own-{RANK}.pt", "wb") as file: file.write(b"%d" % RANK * 2_000_000)
run.log({"whole": pluto.Artifact("step1", shards="node")}, step=1)
run.log({"ckpt": pluto.Artifact(f"step1/__{RANK}_*", shards="rank")}, step=1)
run.log({"ckpt": pluto.Artifact(f"own-{RANK}.pt", shards="rank")}, step=2)
if RANK == 0: run.log({"ckpt": pluto.Artifact("own-0.pt", shards="rank")}, step=3)
meet()
leave()
"""

LOAD = """
import sys, torch, torch.distributed.checkpoint as dcp
state = {"weight": torch.zeros(8, 8)}
dcp.load(state, checkpoint_id=sys.argv[1])
assert torch.equal(state["weight"], torch.arange(64, dtype=torch.float32).reshape(8, 8))
"""


def check(node: Node, run: str, to: Path, *at: str) -> None:
    listed = json.loads(node.cli("artifacts", run, *at, "--json"))
    found = {(each["name"], each["step"]): each for each in listed}
    assert sorted(found) == [("ckpt", 1), ("ckpt", 2), ("ckpt", 3), ("whole", 1)]
    names = {key: [file["name"] for file in each["files"]] for key, each in found.items()}
    assert names["whole", 1] == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    assert names["ckpt", 1] == ["__0_0.distcp", "__1_0.distcp"]
    assert names["ckpt", 2] == ["own-0.pt", "own-1.pt"]
    assert [each["lacks"] for each in listed] == [[], [], ["rank 1"], []]
    node.cli("download", run, "ckpt", *at, "--to", str(to))  # the last one that is whole
    for rank in (0, 1):
        assert (to / "ckpt-2" / f"own-{rank}.pt").read_bytes() == b"%d" % rank * 2_000_000
    assert "step 3 lacks rank 1; nothing was written" in node.cli(
        "download", run, "ckpt", "--step", "3", *at, "--to", str(to), code=1
    )
    told = json.loads(node.cli("download", run, "whole", *at, "--to", str(to), "--json"))
    loading = node.start(LOAD, told["path"], name="load")
    assert loading.wait() == 0, loading.stderr


def test_without_a_server_what_ranks_gave_is_one_artifact(node: Node) -> None:
    """R7, G3: whichever rank's coordinator, spool or store has it; a real DCP checkpoint loads again."""
    assert TorchJob(node, "job", SHARED, train=GLOO).wait() == 0
    node.ended("job")
    wait_until(
        lambda: all(each["sha256"] for each in json.loads(node.cli("artifacts", "job", "--json"))), "lists"
    )
    check(node, "job", node.store.parent / "back")
    assert "artifact ckpt: 3, the last of step 3, 2.0 MB, lacks rank 1" in node.cli("show", "job")


def test_from_a_server_it_comes_back_on_another_machine(served: Served) -> None:
    """By the manifests of the shares, which say of how many they are."""
    assert TorchJob(served, "job", SHARED, train=GLOO).wait() == 0
    run = served.ended_remotely("job")
    wait_until(lambda: len(served.server.objects()) == 14, "all objects")
    elsewhere = served.store.parent / "elsewhere"
    at = ("--dir", str(elsewhere), "--home", str(elsewhere / "home"))
    check(served, run["displayId"], elsewhere / "back", *at)
    assert "its artifacts: ckpt, whole" in served.cli("download", run["displayId"], "none", *at, code=1)
