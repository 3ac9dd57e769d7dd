"""What the server has made of what it was told is read back; where it differs, people are told (G7, G9)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pluto_dist.core.machine.beats import POLL_S
from tests.patience import PATIENCE_S
from tests.process.harness import Script, wait_until
from tests.process.served import Served

OPENED = """
    run = pluto.init(run_id="mine", tags=["a"])
    tell("ready")
    hear()
    run.finish()
"""


def last_line(script: Script) -> str:
    """Lets a Run end; the last line of its owner."""
    script.say()
    assert script.wait() == 0
    return script.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("wanted", ["COMPLETED", "TERMINATED", "CANCELLED"])
def test_a_person_may_end_a_failed_run_otherwise(served: Served, wanted: str) -> None:
    """G1: a lower severity needs the Run to be resumed first; what is printed was read back."""
    assert served.start('run = pluto.init(run_id="mine"); raise ValueError("by mistake")').wait() == 1
    assert served.ended_remotely("mine")["status"] == "FAILED"
    told = served.cli("finish", "mine", "--status", wanted, "--force")
    assert told.strip() == f"Run PLU-1 is {wanted} (epoch 2), at the server too"
    assert served.remote("mine")["status"] == wanted
    assert served.document("mine")["server_status"] is None


def test_what_somebody_else_has_said_of_a_run_is_told_everywhere(served: Served) -> None:
    """G7: the server keeps a higher severity and answers 200 all the same."""
    for kind in ("6.3.2", "6.3.5", "6.3.10"):  # the job goes on after an end that it did not make
        served.server.waive(kind)
    script = served.start(OPENED)
    script.expect("ready")
    served.server.set_status(served.remote("mine")["id"], "FAILED")
    wait_until(lambda: served.document("mine")["server_status"] == "FAILED", "a heartbeat's answer")
    assert "COMPLETED, 0 points; but the server says FAILED; http" in last_line(script)
    assert served.remote("mine")["status"] == "FAILED"
    assert "but      the server says FAILED" in served.cli("show", "mine")
    assert "COMPLETED (server: FAILED)" in served.cli("runs")
    assert json.loads(served.cli("runs", "--json"))[0]["server_status"] == "FAILED"
    served.cli("finish", "mine", "--status", "COMPLETED", "--force")
    assert served.remote("mine")["status"] == "COMPLETED"
    assert "server" not in served.cli("runs")


def test_a_run_that_was_deleted_on_the_page_is_told(served: Served) -> None:
    """G7: no address of a page that is gone."""
    served.server.waive("6.3.1")
    script = served.start(OPENED)
    script.expect("ready")
    served.server.delete(served.remote("mine")["id"])
    last = last_line(script)
    assert "but the server refuses the" in last
    assert "Run not found" in last
    assert "http" not in last
    assert "Run not found" in served.cli("show", "mine")
    assert "COMPLETED (refused by the server)" in served.cli("runs")


def test_a_tag_too_many_is_told_and_not_believed_in(served: Served) -> None:
    """G9"""
    script = served.start("""
        run = pluto.init(run_id="mine", tags=["a"])
        tell("ready")
        hear()
        run.add_tags("one too many")
        while "one too many" in run.tags:
            time.sleep(0.01)
        tell("tags", run.tags)
        hear()
        run.remove_tags("page0")
        run.finish()
    """)
    script.expect("ready")
    pages = [f"page{number}" for number in range(49)]
    served.server.set_tags(served.remote("mine")["id"], ["a", *pages])
    script.say()
    assert "one too many" not in script.expect("tags")
    refused = wait_until(lambda: served.document("mine")["refusals"].get("tags"), "the refusal in the store")
    assert "51 tags" in refused
    assert last_line(script).count("the server") == 0  # the next change of tags was taken
    assert served.remote("mine")["tags"] == ["a", *pages[1:]]


def test_a_started_coordinator_gets_the_key(served: Served) -> None:
    """G12: what a machine's sudden end has left is delivered by `coordinator start`, with the key at hand."""
    script = served.start(
        """
        run = pluto.init(run_id="mine")
        log(run, {"loss": 1.0}, 0)
        tell("ready")
        hear()
    """,
    )
    script.expect("ready")
    served.cut_off()
    script.kill()
    served.kill_coordinator()
    served.back()
    told = served.cli("coordinator", "start")
    assert "API key     handed over, from " in told
    assert served.ended_remotely("mine")["status"] == "FAILED"
    assert served.missing("mine") == []


def test_without_a_key_nothing_is_said_of_one(served: Served) -> None:
    command = [sys.executable, "-c", "from pluto_dist.cli.main import app; app()", "coordinator", "start"]
    env = {name: value for name, value in served.env().items() if name != "PLUTO_API_KEY"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert "API key" not in done.stdout


def test_a_cancel_is_noticed_while_training(served: Served) -> None:
    """One heartbeat of the node in four seconds is the poll."""
    served.server.waive("6.3.2")
    script = served.start("""
        run = pluto.init(run_id="mine")
        tell("ready")
        while not run.cancelled:
            time.sleep(0.01)
        tell("cancelled")
    """)
    script.expect("ready")
    run_id = served.remote("mine")["id"]
    before = len(served.paths())
    served.server.cancel(run_id)
    script.expect("cancelled")
    assert served.too_often("/api/runs/trigger", POLL_S, before) == 0
    assert script.wait() == 0
