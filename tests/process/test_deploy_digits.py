"""The example on one machine does what it says: one Run of ranks, an evaluation and an uploader."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.process.harness import CHECKOUT, Node, Script, lease

pytest.importorskip("torch", reason="torch is not installed here: pip install torch==2.13.0")


def test_training_evaluation_and_upload_are_one_run(node: Node) -> None:
    """G1: the sidecars log beside the ranks, end after them and leave the status alone."""
    out = node.base / "out"
    example = str(CHECKOUT / "deploy/digits/run.sh")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {"PATH": path, "PLUTO_RUN_ID": "digits", "RANKS": "2", "OMP_NUM_THREADS": "1"}
    argv = ["/bin/sh", example, str(out), "--epochs", "2"]
    script = node.keep(Script("example", *node.spawn(argv, "example", env=env)))
    assert script.wait() == 0
    found = node.ended("digits")
    assert found["status"] == "COMPLETED"
    assert found["config"]["epochs"] == 2
    roles = {each["label"]: each["role"] for each in found["leases"] if each["label"] != "node"}
    assert roles == {"rank0": "owner", "rank1": "worker", "eval": "side", "uploader": "side"}
    names = [point.name for point in node.points("digits")]
    assert (names.count("eval/accuracy"), names.count("upload/bytes")) == (2, 2)
    shipped = sorted(path.read_bytes() for path in node.store.glob("runs/*/files/checkpoint/*.pt"))
    assert shipped == sorted(path.read_bytes() for path in out.glob("epoch*.pt"))
    assert len(shipped) == 2
    assert lease(found, label="eval")["end_reason"] == "closed"
