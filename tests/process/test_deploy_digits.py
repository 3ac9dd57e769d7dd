"""The example on one machine does what it says: one Run of ranks, an evaluation and an uploader."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.process.harness import CHECKOUT, Node, Script

pytest.importorskip("torch", reason="torch is not installed here: pip install torch==2.13.0")

# The example's training with one addition: rank 1 is killed in the second epoch of the first attempt.
DIES = """
import os, signal
import trained

class Dies(trained.DistributedSampler):
    def set_epoch(self, epoch):
        if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"], epoch) == ("1", "0", 1):
            os.kill(os.getpid(), signal.SIGKILL)
        super().set_epoch(epoch)

trained.DistributedSampler = Dies
trained.main()
"""


def test_training_evaluation_and_upload_are_one_run_also_over_a_restart(node: Node) -> None:
    """G1, R10: the sidecars log beside the ranks, end after them and leave the status alone.

    Gloo finds its peers in the second attempt too, and the training goes on at its checkpoint.
    """
    example, out = node.base / "digits", node.base / "out"
    shutil.copytree(CHECKOUT / "deploy/digits", example)
    (example / "train.py").rename(example / "trained.py")
    (example / "train.py").write_text(DIES)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {"PATH": path, "PLUTO_RUN_ID": "digits", "RANKS": "3", "OMP_NUM_THREADS": "1"}
    argv = ["/bin/sh", str(example / "run.sh"), str(out), "--epochs", "2"]
    script = node.keep(Script("example", *node.spawn(argv, "example", env=env)))
    assert script.wait() == 0
    found = node.ended("digits")
    assert (found["status"], found["attempt"]) == ("COMPLETED", 1)
    assert found["config"]["epochs"] == 2
    (before,) = found["attempts"]
    assert (before["first_failure"]["rank"], before["first_failure"]["signal"]) == (1, "SIGKILL")
    roles = {each["label"]: each["role"] for each in found["leases"] if each["label"] != "node"}
    ranks = {"rank0": "owner", "rank1": "worker", "rank2": "worker"}
    assert roles == {**ranks, "eval": "side", "uploader": "side"}
    points = node.points("digits")
    assert {point.value for point in points if point.name == "epoch"} == {0.0, 1.0}
    names = [point.name for point in points]
    assert names.count("eval/accuracy") == 2
    shipped = sorted(path.read_bytes() for path in node.store.glob("runs/*/files/checkpoint/*.pt"))
    assert shipped == sorted(path.read_bytes() for path in out.glob("epoch*.pt"))
    assert len(shipped) == 2
    assert {each["end_reason"] for each in found["leases"] if each["label"] == "eval"} == {"closed"}
