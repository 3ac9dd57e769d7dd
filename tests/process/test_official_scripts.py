"""Scripts as they are written for the official client: with that client, and with one line changed.

What the server has afterwards is compared; where the official client does something else, it is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.official import OFFICIAL_PYTHON, needs_official_client
from tests.patience import wait_until
from tests.pluto_server.client import Control, ServerProcess
from tests.process.harness import Node, Script
from tests.process.served import Served

SCRIPTS = Path(__file__).with_name("official_scripts")
QUIET = {"PLUTO_DISABLE_TELEMETRY": "1"}
ENDED = ("COMPLETED", "FAILED", "TERMINATED", "CANCELLED")


def ported(script: str) -> str:
    """The script with its import line changed, and nothing else."""
    text = (SCRIPTS / f"{script}.py").read_text()
    changed, count = re.subn(r"^import pluto$", "import pluto_dist as pluto", text, flags=re.MULTILINE)
    assert count == 1
    return changed


def ours(served: Served, script: str, env: Mapping[str, str] | None = None) -> Script:
    return served.start(ported(script), name=script, env=env)


def theirs(node: Node, server: ServerProcess, script: str, env: Mapping[str, str] | None = None) -> Script:
    """The official client, in its environment, with a folder of its own."""
    argv = [str(OFFICIAL_PYTHON), str(SCRIPTS / f"{script}.py")]
    all_env = {**server.env(), **QUIET, "HOME": str(node.base), "PYTHONPATH": "", **(env or {})}
    started: Script = node.keep(Script(script, *node.spawn(argv, script, env=all_env)))
    return started


def runs_of(server: Control) -> list[dict[str, Any]]:
    """All of its Runs, when they have ended."""

    def ended() -> list[dict[str, Any]] | None:
        found = server.runs()
        return found if found and all(run["status"] in ENDED for run in found) else None

    found = wait_until(ended, "the end of all Runs")
    assert isinstance(found, list)
    return sorted(found, key=lambda run: int(run["id"]))


def what_it_has(server: Control, run: Mapping[str, Any]) -> dict[str, Any]:
    """What its readers see of a Run, but for what each client chooses: automatic steps, system metrics."""
    points = server.metrics(run["id"])
    data = [(row["log_name"], row["data_type"].lower(), row["step"]) for row in server.data(run["id"])]
    files = [(row["log_name"], row["step"], row["caption"]) for row in server.files(run["id"])]
    return {
        "name": run["name"],
        "project": run["projectName"],
        "status": run["status"],
        "tags": run["tags"],
        "config": run["config"],
        "values": {
            name: [value for _, _, value in sorted(series)]
            for name, series in points.items()
            if not name.startswith("sys/")
        },
        "data": sorted(data),
        "files": sorted(files),
        "names": {name: kind for name, kind in run["logNames"].items() if not name.startswith("sys/")},
    }


@needs_official_client
def test_a_lifecycle(served: Served, node: Node) -> None:
    with ServerProcess() as server:
        script = theirs(node, server, "lifecycle", {"PYTHONHASHSEED": "0"})
        script.expect("ended")
        assert script.wait() == 0
        [official] = [what_it_has(server.control, run) for run in runs_of(server.control)]
    script = ours(served, "lifecycle")
    assert script.expect("opened").split()[1:3] == ["False", "LIF-1"]
    script.expect("ended")
    assert script.wait() == 0
    [found] = [what_it_has(served.server, run) for run in runs_of(served.server)]
    assert found == official


@needs_official_client
def test_resuming(served: Served, node: Node) -> None:
    told: list[list[str]] = []
    kept: list[list[dict[str, Any]]] = []
    with ServerProcess() as server:
        for control, script in (
            (server.control, theirs(node, server, "resume")),
            (served.server, ours(served, "resume")),
        ):
            words = ("first", "refused", "again", "number", "display", "new", "fork", "child")
            told.append([f"{word} {script.expect(word)}" for word in words])
            assert script.wait() == 0
            kept.append([what_it_has(control, run) for run in runs_of(control)])
    assert told[1] == told[0]
    assert kept[1] == kept[0]


def test_several_nodes_share_a_run(served: Served) -> None:
    """R12: the names have the node in them already and stay; the Run ends once, with the owner's node."""
    served.server.waive("6.3.10", text="heartbeats from * sources in turn*")
    nodes = [served, served.beside()]
    env = {"NUM_NODES": "2", "MASTER_ADDR": "127.0.0.1", "PLUTO_RUN_ID": "multi"}
    scripts = [ours(node, "multinode", env | {"RANK": str(rank)}) for rank, node in enumerate(nodes)]
    for script in scripts:
        script.expect("logged")
    for script in reversed(scripts):
        script.say()
        assert script.wait() == 0
    found = what_it_has(served.server, runs_of(served.server)[0])
    nodes[1].close()
    assert (found["name"], found["status"], found["config"]) == (
        "ddp-training",
        "COMPLETED",
        {"num_nodes": 2},
    )
    assert {name: len(values) for name, values in found["values"].items()} == {
        f"{name}/node{rank}": 5 for name in ("loss", "throughput") for rank in range(2)
    }
