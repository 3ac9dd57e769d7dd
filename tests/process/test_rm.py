"""`pluto-dist rm`: what goes, what stays, and which Runs it refuses."""

from __future__ import annotations

import json
from pathlib import Path

from tests.process.harness import Node, wait_until
from tests.process.served import Served

TWO = """
for name in ("one", "two"):
    run = pluto.init(run_id=name, project="p")
    open("same.pt", "wb").write(b"s" * 2_000_000)
    open("own.pt", "wb").write(name.encode() * 1_000_000)
    run.log({"same": pluto.Artifact("same.pt"), "own": pluto.Artifact("own.pt"), "loss": 1.0}, step=1)
    run.finish()
"""

LIVES = """
run = pluto.init(run_id="lives", project="p")
tell("READY")
sys.stdin.readline()
run.finish()
"""


def listed(node: Node) -> list[tuple[str, int, str]]:
    return [(each["run_id"], each["id"], each["status"]) for each in json.loads(node.cli("runs", "--json"))]


def deleted(node: Node, run: str) -> str:
    """It is refused as long as its last records are on their way."""

    def told() -> str:
        try:
            return node.cli("rm", run, "--yes", "--json")
        except AssertionError:
            return ""

    return wait_until(told, "its delivery")


def test_a_run_goes_with_what_only_it_has(node: Node) -> None:
    """A content that another Run has stays; its number is not given again, its id is free."""
    assert node.start(TWO).wait() == 0
    node.ended("one")
    node.ended("two")
    wait_until(lambda: len(list(node.store.glob("objects/*/*"))) == 3, "contents")
    key = node.document("two")["key"]
    assert "--yes deletes it" in node.cli("rm", "two", code=2)
    told = node.cli("rm", "two", "--dry-run")
    assert "Run P-2 (project p, COMPLETED, 3 points)" in told
    assert [name for name, *_ in listed(node)] == ["one", "two"]
    gone = json.loads(deleted(node, "two"))
    assert (gone["key"], gone["deleted"]) == (key, True)
    assert gone["bytes"] >= 5_000_000
    assert not (node.store / "runs" / key).exists()
    assert len(list(node.store.glob("objects/*/*"))) == 2
    to = node.store.parent / "back"
    assert "its checksum fits" in node.cli("download", "one", "same", "--to", str(to))
    assert "no Run 'two'" in node.cli("rm", "two", "--yes", code=1)
    again = TWO.replace('("one", "two")', '("two",)')
    assert node.start(again).wait() == 0
    node.ended("two")
    assert listed(node) == [("one", 1, "COMPLETED"), ("two", 3, "COMPLETED")]
    node.cli("coordinator", "stop")
    deleted(node, "two")
    assert listed(node) == [("one", 1, "COMPLETED")]


def test_a_living_run_is_refused(node: Node) -> None:
    """G1: and the Run does not notice."""
    script = node.start(LIVES)
    script.expect("READY")
    told = node.cli("rm", "lives", "--yes", "--force", code=1)
    assert "has live processes: owner (pid" in told
    script.say("go")
    assert script.wait() == 0
    node.ended("lives")


def test_what_a_server_has_not_taken_goes_by_force_alone_and_does_not_come_back(served: Served) -> None:
    """G3: nobody loses records by a slip; what is deleted stays deleted, over coordinators."""
    served.cut_off()
    env = {"PLUTO_DIST_OPEN_WAIT_S": "0", "PLUTO_DIST_EXIT_WAIT_S": "1"}
    assert served.start(TWO, env=env).wait() == 0
    wait_until(lambda: [status for *_, status in listed(served)] == ["COMPLETED"] * 2, "both")
    assert "its server has not taken yet" in served.cli("rm", "one", "--yes", code=1)
    served.cli("rm", "one", "--yes", "--force")
    assert [name for name, *_ in listed(served)] == ["two"]
    served.cli("coordinator", "stop")
    streams = [path for path in served.store.glob("runs/*/streams/*/*") if path.is_file()]
    if streams:  # copied when the coordinator stopped
        assert "`pluto-dist sync` uploads them" in served.cli("rm", "two", "--yes", code=1)
    served.cli("coordinator", "start")
    assert [name for name, *_ in listed(served)] == ["two"]
    leases = {path.name for path in Path(served.home, "spool", "leases").iterdir()}
    assert leases <= {lease["lease_id"] for lease in served.document("two")["leases"]}
