"""System metrics of real Runs, over the death of their coordinator."""

from __future__ import annotations

import subprocess
import sys

from tests.process.harness import Node, wait_until

OFTEN = {"PLUTO_DIST_SYSTEM_METRICS_S": "1", "PLUTO_DIST_HEARTBEAT_S": "0.5"}


def test_system_metrics_of_the_node_arrive_in_the_store_and_in_the_export(node: Node) -> None:
    """G3, G10, G12: once per node, steps go on over the death of the coordinator, no process and no point."""
    script = node.start(
        'run = pluto.init(run_id="watched"); log(run, {"loss": 1.0}, 0); tell("ready"); hear()', env=OFTEN
    )
    script.expect("ready")
    wait_until(lambda: "sys/memory.used" in names(node), "a first sample")
    node.kill_coordinator()
    before = len(steps(node))
    wait_until(lambda: len(steps(node)) > before, "samples after the coordinator's death")
    script.say()
    assert script.wait() == 0
    found = node.ended("watched")
    assert found["status"] == "COMPLETED"
    assert found["points"] == 1
    assert steps(node) == list(range(len(steps(node))))
    assert names(node) >= {"loss", "sys/cpu.percentage.0", "sys/disk.used", "sys/network.bytes_sent"}
    assert not node.lost("watched")
    assert "sys/memory.used" in exported(node, "watched")


def names(node: Node) -> set[str]:
    return {point.name for point in node.points("watched")}


def steps(node: Node) -> list[int]:
    return [point.step for point in node.points("watched") if point.name == "sys/memory.used"]


def exported(node: Node, run: str) -> str:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from pluto_dist.cli.main import app; app()",
            "export",
            run,
        ],
        env=node.env(),
        cwd=node.base,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
