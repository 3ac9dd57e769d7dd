"""What torchrun does unexpectedly, and what is said of it here (G7, R10, R12)."""

from __future__ import annotations

import pytest

from tests.process.harness import Node, Pid, events, wait_until
from tests.process.torchjob import TorchJob

pytest.importorskip("torch", reason="torch is not installed here: pip install torch==2.13.0")

VICTIM = """
run = pluto.init(run_id="victim")
train(run, 4)
own = f"{__file__}.pid"
if RANK == 1:
    open(own, "w").write(str(os.getpid()))
meet()
if RANK == 1:
    os.kill(os.getpid(), signal.SIGKILL)
pid = open(own).read()
while open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z":
    time.sleep(0.01)
time.sleep(0.3)
sys.exit(1)
"""


def test_the_first_failure_is_not_the_one_that_torchrun_names(node: Node) -> None:
    """G7, R10: both ranks end between two looks of torchrun, which then names the lower one."""
    job = TorchJob(node, "victim", VICTIM, "--monitor-interval=5")
    assert job.wait() == 1
    failure = node.ended("victim")["verdict"]["first_failure"]
    assert (failure["rank"], failure["signal"]) == (1, "SIGKILL")


HELPED = """
import subprocess
run = pluto.init(run_id="helped")
say("ready")
meet()
if RANK == 1:
    helper = '''
from tests.process.stage import *
run = pluto.attach("helped", label="helper")
tell("9:helper", __import__("os").getpid())
__import__("threading").Event().wait()
'''
    subprocess.Popen([sys.executable, "-P", "-c", helper])
meet()
while not os.path.exists(f"{__file__}.go"):
    time.sleep(0.01)
if RANK == 1:
    os.kill(os.getpid(), signal.SIGKILL)
train_for_ever(run)
"""


def test_a_helper_of_a_rank_that_died_is_named(node: Node) -> None:
    """torchrun has no signal for it; its own line says that it is left over, and so does the Run."""
    node.constants({"pluto_dist.core.machine.settle.LEFT_AFTER_S": 0.0})
    node.set(PLUTO_DIST_HEARTBEAT_S="0.2")
    job = TorchJob(node, "helped", HELPED)
    ((_, pid),) = job.told("helper", 1)
    helper = Pid(pid)
    (node.base / "helped.py.go").touch()
    assert job.wait() == 1
    assert node.ended("helped")["verdict"]["first_failure"]["rank"] == 1
    wait_until(lambda: "is left over: Run" in job.agent.stderr, "the line of the helper")
    (told,) = events(node.document("helped"), "left_over")
    assert (told["label"], told["pid"], told["started_by"]) == ("helper", str(pid), "rank1")
    helper.signal(9)
    helper.close()


ALIKE = "run = pluto.init(project='alike'); say('ready', facts(run)); hear(); meet()"


def test_two_launches_with_one_id_that_torchrun_replaced_are_told(node: Node) -> None:
    """R12: on one node `--rdzv-id` is nobody's name. No zygote: the command line has to be torchrun's."""
    node.set(PLUTO_DIST_HEARTBEAT_S="0.2")
    jobs = [
        TorchJob(
            node, f"alike{number}", ALIKE, "--standalone", "--rdzv-id=job7", ranks=1, under=("/usr/bin/env",)
        )
        for number in range(2)
    ]
    runs = {facts["run_id"] for job in jobs for _, facts in job.told("ready")}
    assert len(runs) == 2
    for job in jobs:
        wait_until(lambda job=job: "both given --rdzv-id job7" in job.agent.stderr, "the line of an owner")
        job.agent.say()
        assert job.wait() == 0
