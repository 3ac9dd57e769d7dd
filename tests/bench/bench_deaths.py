"""From SIGKILL to the coordinator's note of the lease's end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

from tests.bench.effort import Effort
from tests.bench.nodes import a_node
from tests.bench.processes import probes
from tests.bench.table import Row
from tests.process.harness import Node, wait_until

LARGE_MIB = 1024


def rows(effort: Effort) -> Iterator[Row]:
    """Small processes, then large ones."""
    with a_node() as node:
        yield Row("death noticed", "ms", _noticed_ms(node, "small", effort.deaths, 0), goal=100)
        name = "death of a process of 1 GB noticed"
        yield Row(name, "ms", _noticed_ms(node, "large", max(1, effort.deaths // 3), LARGE_MIB), goal=100)


def _noticed_ms(node: Node, run_id: str, count: int, mebibytes: int) -> float:
    took = []
    with probes(node, ["owner"] + ["side"] * count, run_id) as (_, *sides):
        for side in sides:
            side.do("grow", mebibytes)
            killed_ms = time.time() * 1000
            side.kill()
            took.append(_ended_at(node, run_id, side.pid) - killed_ms)
    return statistics.median(took)


def _ended_at(node: Node, run_id: str, pid: int) -> float:
    def ended() -> list[Any]:
        leases = node.document(run_id)["leases"]
        return [lease["ended_at"] for lease in leases if lease["pid"] == pid and lease["ended_at"]]

    return float(wait_until(ended, f"the end of the lease of process {pid}")[0])
