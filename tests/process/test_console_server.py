"""Console lines and system metrics of a job at a Pluto server: one global order, who speaks, no defect."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pluto_server.server import PlutoServer
from tests.pluto_server.talk import Client
from tests.process.harness import Node, wait_until


@pytest.fixture
def server() -> Iterator[PlutoServer]:
    with PlutoServer() as running:
        yield running


def test_the_lines_of_two_ranks_are_one_order_and_name_their_ranks(node: Node, server: PlutoServer) -> None:
    """Numbers are disjoint; the official client's are per process and per stream."""
    launcher = node.launcher(2)
    body = """
        run = pluto.init(project="consoles")
        for n in range(50):
            print("line", n)
            print("WARNING: careful", n, file=sys.stderr)
        tell_json("ready", facts(run))
        hear()
    """
    env = server.env() | {"PLUTO_DIST_SYSTEM_METRICS_S": "1"}
    ranks = [launcher.rank(n, body, env=env) for n in range(2)]
    run = ranks[0].expect_json("ready")["id"]
    ranks[1].expect("ready")
    client = Client(server.urls)

    def lines() -> list[dict[str, object]]:
        found: list[dict[str, object]] = client.read(f"logs?runId={run}&projectName=consoles&limit=1000")[
            "logs"
        ]
        return found if len(found) >= 200 else []

    found = wait_until(lines, "two hundred lines at the server")
    wait_until(
        lambda: "sys/memory.used" in str(client.read(f"details/{run}")), "system metrics at the server"
    )
    for rank in ranks:
        rank.say()
    assert [rank.wait() for rank in ranks] == [0, 0]
    numbers = [line["lineNumber"] for line in found]
    assert len(set(numbers)) == len(numbers) == 200
    for rank in range(2):
        mine = [line for line in found if str(line["message"]).startswith(f"[rank{rank}] ")]
        printed = [line["message"] for line in mine if line["logType"] == "PRINT"]
        assert printed == [f"[rank{rank}] line {n}" for n in range(50)]
        assert sum(line["logType"] == "WARNING" for line in mine) == 50
    assert server.operator.defects() == []
