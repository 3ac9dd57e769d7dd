"""The coordinator at rest: memory and processor time, and what one more lease costs it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from tests.bench.builds import Build
from tests.bench.effort import Effort
from tests.bench.nodes import a_node, served
from tests.bench.processes import cpu_s, cpu_share, probes, resident_mb
from tests.bench.table import Row

SIDES = 7
LAST = 20
HOLDERS = 8  # processes that hold many leases each


def rows(effort: Effort, build: Build) -> Iterator[Row]:
    """With 8 leases in both modes, then with many."""
    with a_node(build) as node, probes(node, ["owner"] + ["side"] * SIDES, "rest"):
        pid = node.coordinator()
        time.sleep(1.0)  # the start is over
        share = cpu_share(pid, effort.idle_s)
        yield Row("coordinator with 8 idle leases, resident", "MB", resident_mb(pid), goal=60)
        yield Row("coordinator with 8 idle leases, of a core", "%", share * 100, goal=0.5)
    with served(build) as server, probes(server.node, ["owner"] + ["side"] * SIDES, "rest"):
        pid = server.node.coordinator()
        yield Row("the same with a server, resident", "MB", resident_mb(pid), goal=60)
    for count in effort.leases:
        yield from _many(count, effort, build)


def _many(count: int, effort: Effort, build: Build) -> Iterator[Row]:
    with a_node(build) as node, probes(node, ["owner"] + ["side"] * HOLDERS, f"many{count}") as (_, *holders):
        pid = node.coordinator()
        time.sleep(0.5)
        before = resident_mb(pid)
        took: list[float] = []
        for holder in holders:
            took += holder.do("attach", (count - len(holders)) // len(holders))
        spent = cpu_s(pid)
        last = holders[0].do("attach", LAST)
        spent = (cpu_s(pid) - spent) / LAST
        time.sleep(2.0)  # all is said
        share = cpu_share(pid, effort.idle_s / 2)
        grown = (resident_mb(pid) - before) * 1000 / len(took)
    yield Row(f"a lease of {count}: memory", "kB", grown)
    yield Row(f"a lease of {count}: processor time, of a core", "%", share * 100 / count)
    yield Row(f"a lease of {count}: attach(), median of the last", "ms", statistics.median(last))
    yield Row(f"a lease of {count}: attach(), processor time of the coordinator", "ms", spent * 1000)
