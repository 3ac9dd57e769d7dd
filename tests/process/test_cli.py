"""The command line against real Runs: what it shows is what happened, and reading starts nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.process.harness import Node, Script, lease, wait_until

RUN = [sys.executable, "-c", "from pluto_dist.cli.main import app; app(prog_name='pluto-dist')"]


def pluto_dist(node: Node, *arguments: str, code: int = 0) -> str:
    """Runs a command on the node; returns its stdout."""
    done = command(node, *arguments)
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def command(node: Node, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *arguments],
        env=node.env(),
        cwd=node.base,
        capture_output=True,
        text=True,
        check=False,
    )


def as_json(node: Node, *arguments: str, code: int = 0) -> Any:
    return json.loads(pluto_dist(node, *arguments, "--json", code=code))


OWNER = """
import pluto_dist as pluto
run = pluto.init(project="demo", run_id="mine", name="first", config={"lr": 0.1})
for n in range(20):
    run.log({"loss": n, "bad": float("nan")})
run.log({"note": "hello"}, step=30)
run.flush(NEVER_S)
print("ready", flush=True)
sys.stdin.readline()
run.finish()
print("done", flush=True)
"""


WATCHED = """
import pluto_dist.client.link as link
start = link.start_if_absent
def start_if_absent(*places, **more):
    found = start(*places, **more)
    tell("unanswered")
    return found
link.start_if_absent = start_if_absent
"""


def test_a_live_run_is_shown_from_the_coordinator(node: Node):
    """What runs, show, ps and status say of one live Run."""
    owner = node.start(OWNER, env={"PLUTO_DIST_CONSOLE": "off"})  # its lines would be records too
    owner.expect("ready")
    (listed,) = as_json(node, "runs")
    assert (listed["run_id"], listed["status"], listed["live"]) == ("mine", "RUNNING", True)
    shown = as_json(node, "show", "mine")
    assert "restore" not in shown
    assert shown["summary"]["loss"] == {"last": 19, "step": 19, "count": 20}
    assert shown["live"] is True
    attached = as_json(node, "ps")
    (process,) = attached["processes"]
    assert (process["role"], process["pid"], process["last_step"]) == ("owner", owner.pid, 30)
    assert process["written"] == process["delivered"] == 21
    assert attached["coordinator"] == node.coordinator() == as_json(node, "coordinator", "status")["pid"]
    owner.say()
    owner.expect("done")


def test_reading_starts_no_coordinator(node: Node):
    """Nobody is there: the store is read, and it stays quiet."""
    assert as_json(node, "runs") == []
    assert as_json(node, "ps")["running"] is False
    done = command(node, "show", "nothing")
    assert done.returncode == 1
    assert str(node.store) in done.stderr
    assert str(node.home) in done.stderr
    assert as_json(node, "coordinator", "status", code=3)["running"] is False
    assert node.coordinators() == []


def test_every_point_is_exported_while_the_coordinator_is_dead(node: Node):
    """G3: what is not delivered is read from the spool, and the summary is counted anew."""
    owner = node.start(
        """
        import pluto_dist as pluto
        run = pluto.init(run_id="mine")
        print("open", flush=True)
        sys.stdin.readline()
        for n in range(100):
            run.log({"loss": n, "odd": float("inf")})
        print("logged", flush=True)
        sys.stdin.readline()
        os._exit(0)
        """,
        env={"PLUTO_DIST_HEARTBEAT_S": "60"},
    )
    owner.expect("open")
    pluto_dist(node, "coordinator", "stop")
    owner.say()
    owner.expect("logged")
    lines = [json.loads(line) for line in pluto_dist(node, "export", "mine").splitlines()]
    assert [line["value"] for line in lines if line["name"] == "loss"] == list(range(100))
    assert {line["value"] for line in lines if line["name"] == "odd"} == {"Infinity"}
    shown = as_json(node, "show", "mine")
    assert shown["summary"]["loss"]["count"] == 100
    assert (shown["live"], shown["points"]) == (False, 200)
    assert "coordinator start" in shown["remark"]
    assert node.coordinators() == []
    owner.say()


def test_a_reader_that_goes_away_ends_the_export_quietly(node: Node):
    owner = node.start(
        """
        import pluto_dist as pluto
        with pluto.init(run_id="mine") as run:
            for n in range(20000):
                run.log({"loss": n})
        """
    )
    assert owner.wait() == 0
    exporter = subprocess.Popen(
        [*RUN, "export", "mine"],
        env=node.env(),
        cwd=node.base,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert exporter.stdout is not None
    assert exporter.stderr is not None
    exporter.stdout.readline()
    exporter.stdout.close()
    assert exporter.wait() == 0
    assert exporter.stderr.read() == b""
    exporter.stderr.close()


def test_a_stopped_coordinator_stays_stopped_until_somebody_waits_for_it(node: Node):
    """R3: heartbeats do not restart it; finish() does, and nothing is lost."""
    owner = node.start(WATCHED + OWNER, env={"PLUTO_DIST_HEARTBEAT_S": "0.1"})
    owner.expect("ready")
    pluto_dist(node, "coordinator", "stop")
    assert node.coordinators() == []
    for _ in range(2):  # times that it had no answer and might have started one
        owner.expect("unanswered")
        assert node.started() == []
    assert as_json(node, "coordinator", "status", code=3)["stopped"] is True
    owner.say()
    owner.expect("done")
    assert node.ended("mine")["status"] == "COMPLETED"
    assert as_json(node, "coordinator", "status")["stopped"] is False


def test_start_waits_for_an_answer_and_stop_for_the_end(node: Node):
    """R3."""
    assert as_json(node, "coordinator", "start")["running"] is True
    assert as_json(node, "coordinator", "start")["generation"] == 1
    assert as_json(node, "coordinator", "stop")["running"] is False
    assert node.coordinators() == []
    assert '"stopped"' in pluto_dist(node, "coordinator", "logs", "-n", "1")


def test_a_person_ends_a_run_only_by_force_while_its_owner_lives(node: Node):
    """G1: a take-over with a new epoch; the owner's own end changes nothing any more."""
    owner = node.start(OWNER)
    owner.expect("ready")
    refused = command(node, "finish", "mine", "--status", "FAILED")
    assert refused.returncode == 1
    assert f"pid {owner.pid}" in refused.stderr
    ended = as_json(node, "finish", "mine", "--status", "CANCELLED", "--force")
    assert (ended["status"], ended["epoch"]) == ("CANCELLED", 2)
    owner.say()
    owner.expect("done")
    assert node.ended("mine")["status"] == "CANCELLED"
    refused = command(node, "finish", "mine", "--status", "COMPLETED")
    assert refused.returncode == 2
    assert "ended as CANCELLED" in refused.stderr
    assert as_json(node, "finish", "mine", "--status", "CANCELLED")["epoch"] == 2


def test_a_run_that_only_the_store_knows_is_taken_up_and_ended(node: Node):
    """G1: runtime and spool are gone, as after a reboot of another host; a coordinator is started for it."""
    owner = node.start(OWNER)
    owner.expect("ready")
    wait_until(lambda: node.document("mine")["points"] >= 41, "the store knows all points")
    owner.kill()
    node.kill_coordinator()
    node.home.rename(node.base / "gone")
    refused = command(node, "finish", "mine", "--status", "FAILED")
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    ended = as_json(node, "finish", "mine", "--status", "FAILED", "--force")
    assert ended["status"] == "FAILED"
    stored = node.ended("mine")
    node.kill_coordinator()
    node.home.rename(node.base / "gone-too")
    refused = command(node, "finish", "mine", "--status", "COMPLETED")
    assert refused.returncode == 2
    assert "ended as FAILED" in refused.stderr
    assert stored["status"] == "FAILED"
    assert stored["verdict"]["reason"] == "ended by a person with finish --force"
    assert lease(stored, label="finish")["end_reason"] in ("closed", "superseded")


def test_logs_go_on_until_somebody_interrupts(node: Node):
    follower = node.keep(Script("logs", *node.spawn([*RUN, "coordinator", "logs", "-f"], "logs")))
    pluto_dist(node, "coordinator", "start")
    assert '"started"' in follower.expect('{"time":')
    follower.signal(signal.SIGINT)
    assert follower.wait() == 130
    assert "Traceback" not in follower.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--run-id", "", "--", "true"], "setting run_id = '' from option --run-id"),
        (["run", "--name", "x" * 256, "--", "true"], "the limit is 255"),
        (["sync"], "`pluto-dist sync` needs an API key"),
    ],
)
def test_an_error_names_what_was_typed(node: Node, arguments: list[str], says: str):
    """Not `init(settings={…})`, which nobody has written."""
    done = command(node, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "init(" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"), [(["show"], 2), (["export", "x", "--format", "xml"], 2), (["nonsense"], 2)]
)
def test_a_wrong_call_has_exit_code_2(node: Node, arguments: list[str], code: int):
    assert command(node, *arguments).returncode == code
