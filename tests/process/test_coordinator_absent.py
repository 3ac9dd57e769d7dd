"""No coordinator can be had: training goes on, and the next one does what the dead processes wanted."""

from __future__ import annotations

import fcntl
import os

from tests.process.harness import Node, Script

OWNER = """
    import pluto_dist.client.lease
    pluto_dist.client.lease.UNANSWERED_S = 0.5
    {prepare}
    tell("start")
    run = pluto.init(run_id="lonely", name="kept on disk", tags=["a"], config={{"lr": 0.1}}, quiet=True)
    for step in range(50):
        run.log({{"loss": 1 / (step + 1)}}, step)
        account(run.lease_id, {{"loss": 1 / (step + 1)}}, step)
    run.add_tags("b")
    tell("logged")
    {end}
"""
NO_PYTHON = "sys.executable = '/nowhere/python'"


def attach(node: Node) -> Script:
    """A process that can start a coordinator."""
    other = node.start('tell("up", pluto.attach("lonely", timeout_s=NEVER_S).status)', name="late")
    other.expect("up")
    return other


def test_a_run_without_any_coordinator_is_made_whole_by_the_next_one(node: Node) -> None:
    """G3, G12: init, log, tags and finish are on disk; nothing hangs and nothing raises."""
    script = node.start(OWNER.format(prepare=NO_PYTHON, end="run.finish()"), name="owner")
    assert script.wait() == 0
    assert not node.coordinators()
    assert "kept on disk until a coordinator can be started" in script.stderr
    assert "will be carried out later" in script.stderr
    attach(node).wait()
    found = node.ended("lonely")
    assert (found["status"], found["name"], found["config"]) == ("COMPLETED", "kept on disk", {"lr": 0.1})
    assert sorted(found["tags"]) == ["a", "b"]
    assert not node.lost("lonely")
    assert found["points"] == len(node.points("lonely")) == 50


def test_a_failure_without_any_coordinator_is_not_forgotten(node: Node) -> None:
    """R1, R9: the evidence waits in the lifecycle stream."""
    script = node.start(OWNER.format(prepare=NO_PYTHON, end="raise OSError('no more money')"), name="owner")
    assert script.wait() == 1
    attach(node).wait()
    found = node.ended("lonely")
    assert found["status"] == "FAILED"
    assert found["verdict"]["first_failure"]["message"] == "no more money"
    assert not node.lost("lonely")


def test_a_process_that_vanishes_without_any_coordinator_is_noticed_later(node: Node) -> None:
    """G7: the next coordinator that sees the files reports."""
    script = node.start(OWNER.format(prepare=NO_PYTHON, end="os.kill(os.getpid(), 9)"), name="owner")
    assert script.wait() == -9
    attach(node).wait()
    found = node.ended("lonely")
    assert found["status"] == "FAILED"
    assert not node.lost("lonely")


def test_a_lock_that_somebody_holds_without_serving_stops_no_training(node: Node) -> None:
    """G4, G12: starts come to nothing, and the first free lock lets everything through."""
    runtime = node.home / "run"
    runtime.mkdir(mode=0o700, parents=True)
    held = os.open(runtime / "coordinator.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    script = node.start(OWNER.format(prepare="", end="hear(); run.finish()"), name="owner")
    script.expect("logged")
    assert "no coordinator answered within 0.5 s" in script.stderr
    os.close(held)
    script.say()
    assert script.wait() == 0
    assert node.ended("lonely")["status"] == "COMPLETED"
    assert not node.lost("lonely")


def test_required_makes_a_missing_coordinator_a_typed_error(node: Node) -> None:
    """R13: PLUTO_DIST_REQUIRED=1; the text has the reason and the log."""
    body = """
        sys.executable = "/nowhere/python"
        try:
            pluto.init()
        except pluto.errors.CoordinatorUnavailableError as error:
            tell("refused", str(error).replace(chr(10), " "))
    """
    script = node.start(body, env={"PLUTO_DIST_REQUIRED": "1"})
    assert "/nowhere/python" in script.expect("refused")
    assert script.wait() == 0


def test_a_machine_that_could_not_start_one_is_asked_again(node: Node) -> None:
    """G12: the thread goes on trying after a failed start; no call of the user's is needed."""
    body = """
        good, sys.executable = sys.executable, "/nowhere/python"
        run = pluto.init(run_id="lonely", quiet=True)
        log(run, {"loss": 1.0}, 0)
        sys.executable = good
        from tests.process.harness import wait_until
        wait_until(lambda: run.display_id is not None, "a coordinator answers")
        tell("status", run.status)
    """
    script = node.start(body)
    assert script.expect("status") == "RUNNING"
    assert script.wait() == 0
    assert node.ended("lonely")["status"] == "COMPLETED"
