"""Alerts with a real coordinator and the emulator: sent once, whoever dies."""

from __future__ import annotations

import json
import os
import signal

from tests.process.harness import Node, wait_until
from tests.process.served import Served


def sent(served: Served) -> list[dict[str, object]]:
    """What the server was asked to tell people."""
    rows = [row for row in served.server.requests() if row["path"] == "/api/runs/alert"]
    return [json.loads(row["body"])["alert"] for row in rows]


def test_an_alert_reaches_the_server_once_and_before_the_status(served: Served) -> None:
    """R11: it is the last thing that the script says; and of one title one a minute."""
    script = served.start("""
        import logging
        logging.basicConfig(format="%(levelname)s %(message)s", level="INFO")
        run = pluto.init(run_id="alerted", quiet=True)
        run.alert(title="loss", text="is NaN", level="ERROR", email=False)
        run.alert("is NaN again", "loss", "ERROR")
        pluto.alert("see https://x", title="done", url="https://hook")
        run.finish()
    """)
    assert script.wait() == 0
    assert served.ended("alerted")["status"] == "COMPLETED"
    found = {each["title"]: each for each in sent(served)}
    assert len(sent(served)) == 2
    assert (found["loss"]["body"], found["loss"]["level"], found["loss"]["email"]) == (
        "is NaN",
        "ERROR",
        False,
    )
    assert (found["done"]["level"], found["done"]["email"]) == ("INFO", True)
    lines = script.stderr.splitlines()
    assert "ERROR loss: is NaN" in lines
    assert len([line for line in lines if "more than one a minute" in line]) == 1
    assert len([line for line in lines if "no webhook" in line]) == 1


def test_one_that_no_coordinator_has_seen_is_sent_by_the_next(served: Served) -> None:
    """G12: it is on disk when `alert()` returns."""
    script = served.start("""
        run = pluto.init(run_id="alerted", quiet=True)
        tell("up"); hear()
        run.alert("at night", "down"); tell("said"); hear()
        run.finish()
    """)
    script.expect("up")
    os.kill(served.coordinator(), signal.SIGSTOP)
    script.say()
    script.expect("said")
    served.kill_coordinator()
    wait_until(lambda: sent(served), "the alert")
    script.say()
    assert script.wait() == 0
    assert served.ended("alerted")["status"] == "COMPLETED"
    assert [each["body"] for each in sent(served)] == ["at night"]


def test_without_a_server_show_has_it(node: Node) -> None:
    script = node.start("""
        run = pluto.init(run_id="alerted", quiet=True)
        run.alert("is NaN", title="loss", level="WARNING")
    """)
    assert script.wait() == 0
    (event,) = [each for each in node.ended("alerted")["events"] if each["name"] == "alert"]
    assert (event["detail"]["title"], event["detail"]["message"]) == ("loss", "is NaN")
    assert "alert  title=loss  message=is NaN  level=WARNING" in node.cli("show", "alerted")
