"""G7: a Run whose processes are all dead is never called RUNNING by who looks at it."""

from __future__ import annotations

import pytest

from tests.process.harness import Node
from tests.process.test_cli import as_json, command, pluto_dist

OWNER = """
import pluto_dist as pluto
run = pluto.init(project="demo", run_id="mine")
run.log({"loss": 1.0}, step=3)
print("the last words of the training", flush=True)
run.flush(NEVER_S)
print("ready", flush=True)
sys.stdin.readline()
"""


def killed_together(node: Node) -> None:
    """Coordinator and writer, as by an OOM killer or a cgroup's end."""
    owner = node.start(OWNER)
    owner.expect("ready")
    node.kill_coordinator()
    owner.kill()
    owner.wait()


@pytest.mark.parametrize("looking", [("show", "mine"), ("runs",), ("ps",)])
def test_looking_settles_a_run_whose_processes_died_with_the_coordinator(
    node: Node, looking: tuple[str, ...]
):
    killed_together(node)
    said = pluto_dist(node, *looking)
    assert "RUNNING" not in said
    (listed,) = as_json(node, "runs")
    assert (listed["status"], listed["standing"]) == ("FAILED", "ended")


def test_where_no_coordinator_may_be_started_it_is_said_that_the_run_is_not_judged(node: Node):
    """R3: `coordinator stop` is respected; a person sees that nothing lives."""
    owner = node.start(OWNER, env={"PLUTO_DIST_HEARTBEAT_S": "60"})
    owner.expect("ready")
    pluto_dist(node, "coordinator", "stop")
    owner.kill()
    owner.wait()
    done = command(node, "show", "mine")
    assert "RUNNING" not in done.stdout
    assert "its processes are gone, not yet judged" in done.stdout
    assert "coordinator start" in done.stdout
    shown = as_json(node, "show", "mine")
    assert shown["standing"] == "gone"
    assert "its processes are gone; not yet judged" in shown["remark"]
    assert "gone, not yet judged" in pluto_dist(node, "runs")
    assert node.coordinators() == []


def test_a_run_whose_process_lives_is_running_although_no_coordinator_is_there(node: Node):
    owner = node.start(OWNER, env={"PLUTO_DIST_HEARTBEAT_S": "60"})
    owner.expect("ready")
    pluto_dist(node, "coordinator", "stop")
    assert as_json(node, "show", "mine")["standing"] == "running"
    assert "RUNNING" in pluto_dist(node, "runs")


def test_show_has_the_last_console_lines_of_who_failed_first(node: Node):
    killed_together(node)
    said = pluto_dist(node, "show", "mine")
    head, _, tail = said.partition("the last lines of its console:")
    assert "verdict: FAILED" in head
    assert "| the last words of the training" in tail
    assert tail.index("the last words") < tail.index("processes")
