"""Everything of the job is killed when its last process has ended, and its local folders go (G3, G5, R11).

That is what the end of a SLURM step with a private tmp does. What is in the store then has to be whole.
"""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from tests.process.harness import Node, lease, wait_until

POINTS = 2000


def end_everything(node: Node) -> None:
    """SIGKILL to the coordinator in the very moment, then no runtime and no spool any more."""
    for pid in node.coordinators():
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(node.home)


@pytest.mark.parametrize(
    ("ending", "code", "status"),
    [
        ("run.finish()", 0, "COMPLETED"),
        ("", 0, "COMPLETED"),
        ("sys.exit(0)", 0, "COMPLETED"),
        ("sys.exit(3)", 3, "FAILED"),
        ("raise RuntimeError('no')", 1, "FAILED"),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", -signal.SIGTERM, "TERMINATED"),
        ("run.finish(code=2)", 0, "TERMINATED"),
    ],
)
def test_a_finished_run_is_whole_in_the_store(node: Node, ending: str, code: int, status: str) -> None:
    """G3, G5, R11: status, every point, config and tags, however the last one left."""
    script = node.start(f"""
        run = pluto.init(run_id="last", config={{"lr": 0.5}}, tags=["a"], quiet=True)
        for step in range({POINTS}):
            run.log({{"loss": float(step)}}, step)
            account(run.lease_id, {{"loss": float(step)}}, step)
        run.add_tags("b")
        {ending}
    """)
    assert script.wait() == code
    end_everything(node)
    found = node.document("last")
    assert found["status"] == found["verdict"]["status"] == status
    assert (found["config"], found["tags"]) == ({"lr": 0.5}, ["a", "b"])
    assert found["points"] == len(node.points("last")) == POINTS
    assert found["pending"] == 0
    assert not node.lost("last")


def test_a_job_of_three_ranks_is_whole_in_the_store(node: Node) -> None:
    """R11: the owner leaves first and waits for nobody; whoever is last waits for everything."""
    launcher = node.launcher(3)
    body = f"""
        run = pluto.init(run_id="job", quiet=True)
        for step in range({POINTS // 4}):
            log(run, {{f"loss{{run.role}}": float(step)}}, step)
        tell("logged")
        hear()
    """
    ranks = [launcher.rank(number, body) for number in range(3)]
    for rank in ranks:
        rank.expect("logged")
    for rank in ranks:
        rank.say()
        assert rank.wait() == 0
    end_everything(node)
    found = node.document("job")
    assert found["status"] == "COMPLETED"
    assert len(node.points("job")) == 3 * (POINTS // 4)
    assert not node.lost("job")


def test_what_a_side_wrote_is_in_the_store_when_the_owner_has_left(node: Node) -> None:
    """R11: the last one out is the last chance for those that left before it, too."""
    owner = node.start('run = pluto.init(run_id="both", quiet=True); tell("up"); hear(); run.finish()')
    owner.expect("up")
    side = node.start("""
        run = pluto.attach("both", label="eval")
        for step in range(500):
            log(run, {"accuracy": float(step)}, step)
    """)
    assert side.wait() == 0
    owner.say()
    assert owner.wait() == 0
    end_everything(node)
    found = node.document("both")
    assert (found["status"], found["points"]) == ("COMPLETED", 500)
    assert lease(found, label="eval")["delivered"] == 500
    assert not node.lost("both")


def test_an_exit_code_that_is_known_later_replaces_what_was_expected(node: Node) -> None:
    """R9: `raise SystemExit` says its code to the kernel alone; with a coordinator alive it counts."""
    script = node.start("""
        run = pluto.init(run_id="late", quiet=True)
        log(run, {"loss": 1.0}, 0)
        raise SystemExit(4)
    """)
    assert script.wait() == 4
    found = node.ended("late")
    assert found["status"] == "FAILED"
    assert found["verdict"]["first_failure"]["exit_code"] == 4


def test_a_store_that_outlives_its_node_is_taken_up_by_another(node: Node) -> None:
    """G2, section 7: resume on a fresh node finds ids, steps and points, and goes on behind them."""
    script = node.start("""
        run = pluto.init(run_id="moved", quiet=True)
        for _ in range(10):
            run.log({"loss": 1.0})
        run.finish()
        tell("id", run.id)
    """)
    number = script.expect("id")
    assert script.wait() == 0
    end_everything(node)
    again = node.start("""
        run = pluto.init(run_id="moved", resume=True, quiet=True)
        tell("resumed", run.id, run.resumed, run.next_step)
        run.log({"loss": 2.0})
    """)
    assert again.expect("resumed") == f"{number} True 10"
    assert again.wait() == 0
    wait_until(lambda: node.document("moved")["points"] == 11, "both parts")
    assert node.ended("moved")["status"] == "COMPLETED"
    assert [point.step for point in node.points("moved") if point.value == 2.0] == [10]
