"""Trainings in a real SLURM of one node: the files of `deploy/slurm`, and what its signals reach.

Slow and heavy, so it is no part of the default suite: `python -m pytest -m field tests/field/test_slurm.py`.
Needs root, and Debian's packages of SLURM and munge, which are unpacked into `.slurm` if they are not there.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.field.slurm import Slurm, unpack
from tests.process.harness import CHECKOUT, Node, events, wait_until

pytestmark = pytest.mark.field

TRAIN = """
run = pluto.init(project="slurm", run_id=sys.argv[1] if sys.argv[1:] else None)
step = 0
while True:
    log(run, {"loss": 1 / (step + 1)}, step)
    step += 1
    if step == 3:
        open("training", "w").close()
    if run.preempted or os.path.exists("enough"):
        break
    time.sleep(0.05)
run.finish()
"""
LAUNCHED = "PLUTO_RUN_ID=in-slurm srun pluto-dist run --project slurm -- "


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    """One cluster for all tests, with processes tracked by control groups as most sites have it."""
    if os.geteuid() != 0:
        pytest.skip("slurmd runs as root")
    missing = unpack()
    if missing:
        pytest.skip(missing)
    folder = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))
    cluster = Slurm(folder, "cgroup" if Path("/sys/fs/cgroup").is_mount() else "linuxproc")
    yield cluster
    cluster.close()
    shutil.rmtree(folder, ignore_errors=True)


class Site:
    """A user's folder on the cluster: a node of the tests whose scripts run as jobs."""

    def __init__(self, node: Node, slurm: Slurm) -> None:
        self.node, self.slurm = node, slurm
        self.plain = " ".join(node.command(TRAIN, "train"))
        self.train = f"{self.plain} in-slurm"
        shutil.copytree(CHECKOUT / "deploy", node.base / "deploy")

    def submit(self, *options: str) -> str:
        """See `Slurm.submit`; a job has the environment of the node's scripts."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = self.node.env() | {"PATH": path, "RANKS": "2", "OMP_NUM_THREADS": "1"}
        return self.slurm.submit(*options, env=env, cwd=self.node.base)

    def batch(self, body: str, *options: str) -> str:
        """A job with this batch script; returns when it trains."""
        script = self.node.base / "job.sh"
        script.write_text(f"#!/bin/bash\n{body}\n")
        job = self.submit(*options, str(script))
        self.trains(job)
        return job

    def trains(self, job: str) -> None:
        """Waits until the script has logged."""
        wait_until((self.node.base / "training").exists, lambda: f"the training\n{self.report(job)}")

    def said(self, job: str) -> str:
        """What a job printed."""
        path = self.node.base / f"{job}.out"
        return path.read_text(errors="replace") if path.exists() else ""

    def ended(self, run: str = "in-slurm") -> dict[str, Any]:
        """The Run as somebody sees it who looks after the job; that settles it, if need be."""
        self.node.cli("show", run)
        return self.node.ended(run)

    def report(self, job: str) -> str:
        """For the message of a failed test."""
        return f"{self.slurm.facts(job)}\n{self.said(job)[-4000:]}\n{self.slurm.log()}"


@pytest.fixture
def site(slurm: Slurm) -> Iterator[Site]:
    """Of this test."""
    node = Node()
    yield Site(node, slurm)
    node.close()


@pytest.mark.parametrize("file", ["torchrun.sbatch", "launcher.sbatch"])
def test_a_step_that_ends_leaves_nothing_undelivered(site: Site, file: str) -> None:
    """R11: slurmstepd kills the coordinator with the step, so the status is out before."""
    pytest.importorskip("torch", reason="torch is not installed here: pip install torch==2.13.0")
    job = site.submit("--cpus-per-task=2", f"deploy/slurm/{file}", "--epochs", "2")
    assert site.slurm.ended(job) == "COMPLETED", site.report(job)
    (found,) = site.node.documents()
    assert (found["run_id"], found["status"], found["reported"]) == (f"slurm-{job}", "COMPLETED", True)
    assert not site.node.coordinators()
    assert found["pending"] == 0
    assert {point.value for point in site.node.points(found["run_id"]) if point.name == "epoch"} == {0.0, 1.0}


@pytest.mark.parametrize("file", ["torchrun.sbatch", "launcher.sbatch"])
def test_a_cancelled_torchrun_saves_and_is_terminated(site: Site, file: str) -> None:
    """R10: SLURM's SIGTERM reaches torchrun or the launcher, and the ranks through it."""
    pytest.importorskip("torch", reason="torch is not installed here: pip install torch==2.13.0")
    job = site.submit("--cpus-per-task=2", f"deploy/slurm/{file}", "--epochs", "100000")
    saved = site.node.base / "checkpoints" / "epoch0001.pt"
    wait_until(saved.exists, lambda: f"a checkpoint\n{site.report(job)}")
    site.slurm.run("scancel", job)
    assert site.slurm.ended(job) == "CANCELLED"
    found = site.ended(f"slurm-{job}")
    assert found["status"] == "TERMINATED", site.report(job)
    assert not site.node.lost(found["run_id"])


@pytest.mark.parametrize(
    "body", ["srun {train}", "srun bash -c 'exec {train}'", "exec {train}", LAUNCHED + "{plain}"]
)
def test_scancel_reaches_the_process_of_a_task(site: Site, body: str) -> None:
    """R9, R10: the training saves by itself, and ends TERMINATED."""
    job = site.batch(body.format(train=site.train, plain=site.plain))
    site.slurm.run("scancel", job)
    assert site.slurm.ended(job) == "CANCELLED"
    found = site.ended()
    assert (found["status"], found["pending"]) == ("TERMINATED", 0), site.report(job)
    assert not site.node.lost("in-slurm")
    assert "the process of this SLURM task" not in site.said(job)


@pytest.mark.parametrize("body", ["srun bash -c '{train}; true'", "{train}; true"], ids=["srun", "batch"])
def test_a_shell_in_between_keeps_the_signal_and_is_named(site: Site, body: str) -> None:
    """R9: one line at `init()`, and `doctor`; nothing that was logged is lost all the same (G3)."""
    doctor = f"{Path(sys.executable).parent}/pluto-dist doctor > doctor.out; "
    job = site.batch(body.format(train=f"{doctor}{site.train}"))
    assert "the process of this SLURM task" in site.said(job)
    assert "slurm_task" in (site.node.base / "doctor.out").read_text()
    site.slurm.run("scancel", job)
    assert site.slurm.ended(job) == "CANCELLED"
    found = site.ended()
    assert found["status"] == "FAILED", site.report(job)
    assert not site.node.lost("in-slurm")


def test_the_launcher_helps_also_above_a_shell(site: Site) -> None:
    """R11: the Run is the launcher's, which gets the signal."""
    job = site.batch(f"{LAUNCHED} bash -c '{site.plain}; true'")
    site.slurm.run("scancel", job)
    assert site.slurm.ended(job) == "CANCELLED"
    found = site.ended()
    assert found["status"] == "TERMINATED", site.report(job)
    assert not site.node.lost(found["run_id"])


def test_a_time_limit_is_a_request_to_stop(site: Site) -> None:
    """R10: after a minute, the shortest that SLURM knows."""
    job = site.batch(f"srun {site.train}", "--time=1")
    assert site.slurm.ended(job) == "TIMEOUT"
    found = site.ended()
    assert found["status"] == "TERMINATED", site.report(job)
    assert not site.node.lost("in-slurm")


def test_a_requeued_job_goes_on_in_its_run(site: Site) -> None:
    """R5: the script names its Run and says no `resume`; SLURM starts it again after two minutes or so."""
    job = site.batch(f"srun {site.train}", "--requeue", "--open-mode=append")
    site.slurm.run("scontrol", "requeue", job)
    wait_until(lambda: site.slurm.facts(job)["Restarts"] == "1", lambda: site.report(job))
    (site.node.base / "enough").touch()
    assert site.slurm.ended(job) == "COMPLETED", site.report(job)
    (found,) = site.node.documents()
    assert (found["status"], found["epoch"]) == ("COMPLETED", 2)
    assert len(events(found, "reopened")) == 1
    assert not site.node.lost("in-slurm")
