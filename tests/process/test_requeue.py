"""Jobs that a scheduler starts again under the same number, with the real submitit (R5)."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.process.harness import Node, Script, events

pytest.importorskip("submitit", reason="pip install submitit")

# A training as submitit's documents show it: a callable with a `checkpoint`, pickled into the job's folder.
PICKLED = """
from submitit.core.utils import DelayedSubmission

class Training:
    def __init__(self, first=0):
        self.first = first

    def __call__(self):
        from tests.process.stage import hear, log, pluto, tell
        run = pluto.init(project="queue", run_id="train-77", config={"lr": 1})
        log(run, {"loss": 1.0}, self.first)
        tell("training", run.role, run.resumed)
        while (line := hear()) == "":  # a signal that submitit bypasses
            pass
        self.first += 1
        if line == "stop":
            import os, signal
            os.kill(os.getpid(), signal.SIGUSR2)
        run.finish()

    def checkpoint(self):
        return DelayedSubmission(Training(self.first))
"""
SUBMIT = """
import sys
from pathlib import Path
delayed = DelayedSubmission(Training())
delayed.set_timeout(60, 3)
delayed.dump(Path(sys.argv[1]))
"""
# The local executor starts the tasks itself; they talk through pipes of the file system.
LOCAL = """
import submitit
executor = submitit.LocalExecutor(folder="jobs")
executor.update_parameters(timeout_min=60)
class Local(Training):
    def __call__(self):
        from tests.process.stage import log, pluto
        run = pluto.init(project="queue", run_id="train-77")
        log(run, {"loss": 1.0}, self.first)
        self.first += 1
        if self.first == 1:
            import os, signal
            os.kill(os.getpid(), signal.SIGUSR2)
        run.finish()
        return run.resumed

    def checkpoint(self):
        return DelayedSubmission(Local(self.first))
job = executor.submit(Local())
tell("resumed", job.result())
"""


def slurm(node: Node, restarts: int) -> dict[str, str]:
    """Environment of a job step of one task; `scontrol` only says what it was asked for."""
    folder = node.base / "bin"
    folder.mkdir(exist_ok=True)
    scontrol = folder / "scontrol"
    scontrol.write_text('#!/bin/sh\necho "scontrol $*"\n')
    scontrol.chmod(0o755)
    env = {
        "PATH": f"{folder}:{node.env().get('PATH', '/usr/bin:/bin')}",
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_NTASKS": "1",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "node0",
        "SUBMITIT_EXECUTOR": "slurm",
    }
    return env | ({"SLURM_RESTART_COUNT": str(restarts)} if restarts else {})


def task(node: Node, folder: Path, restarts: int) -> Script:
    """What submitit's batch script starts by `srun`."""
    command = [sys.executable, "-u", "-m", "submitit.core._submit", str(folder)]
    script: Script = node.keep(
        Script("task", *node.spawn(command, f"task{restarts}", env=slurm(node, restarts)))
    )
    return script


@pytest.mark.parametrize("end", ["requeued by itself", "killed"])
@pytest.mark.parametrize("moved", [False, True], ids=["same_node", "another_node"])
def test_a_requeued_job_goes_on_in_its_run(node: Node, end: str, *, moved: bool) -> None:
    """R5, G7: the script names its Run and says no `resume`; on another node only the store is the same.

    A SIGTERM that the task did not follow says nothing about a training that came to its end.
    """
    folder = node.base / "jobs"
    folder.mkdir()
    pickled = node.start(PICKLED + SUBMIT, str(folder / "77_submitted.pkl"))
    assert pickled.wait() == 0
    first = task(node, folder, 0)
    assert first.expect("training") == "owner False"
    first.signal(signal.SIGTERM)  # which submitit bypasses, and the Run with it
    if end == "killed":
        first.kill()
    else:
        first.say("stop")
        assert first.expect("scontrol") == "requeue 77"
    assert first.wait() in (255, -9)
    left = node.ended("train-77")
    assert left["status"] in ("FAILED", "TERMINATED")
    if moved:
        node.kill_coordinator()
        node.set(PLUTO_DIST_HOME=str(node.base / "h2"))
    again = task(node, folder, 1)
    assert again.expect("training") == "owner True"
    again.signal(signal.SIGTERM)
    again.say("end")
    assert again.wait() == 0
    found = node.ended("train-77")
    assert (found["status"], found["id"]) == ("COMPLETED", left["id"])
    assert len(node.documents()) == 1
    assert {point.step for point in node.points("train-77")} == ({0} if end == "killed" else {0, 1})


def test_another_job_does_not_take_the_run_of_that_name(node: Node) -> None:
    """R5: `RunExistsError`, as before; a second program of the same start too."""
    body = "run = pluto.init(project='queue', run_id='mine'); sys.exit(3)"
    first = {"SLURM_JOB_ID": "77"}
    assert node.start(body, env=first).wait() == 3
    assert node.ended("mine")["status"] == "FAILED"
    for env in ({}, first, {"SLURM_JOB_ID": "78", "SLURM_RESTART_COUNT": "1"}):
        other = node.start(body, env=env)
        assert other.wait() == 1
        assert "RunExistsError" in other.stderr
    assert len(events(node.document("mine"), "reopened")) == 0
    assert node.start(body, env=first | {"SLURM_RESTART_COUNT": "1"}).wait() == 3
    assert len(events(node.ended("mine"), "reopened")) == 1


def test_submitits_local_executor_starts_its_task_again(node: Node) -> None:
    """R4, R5: the same task in another process, without a count."""
    script = node.start(PICKLED + LOCAL)
    assert script.expect("resumed") == "True"
    assert node.ended("train-77")["status"] == "COMPLETED"
    assert len(node.documents()) == 1
