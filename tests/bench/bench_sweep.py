"""Many Runs, one after the other, in one process: a sweep."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from tests.bench.builds import Build
from tests.bench.effort import Effort
from tests.bench.nodes import a_node
from tests.bench.processes import cpu_s, probes, resident_mb
from tests.bench.table import Row

EDGE = 20  # Runs at the beginning, and at the end, of which the median counts
FLAT = 1.25


def rows(effort: Effort, build: Build) -> Iterator[Row]:
    """What a Run takes, and whether the last ones take as much as the first."""
    with a_node(build) as node, probes(node, ["owner"], "sweep") as (process,):
        pid = node.coordinator()
        process.do("sweep", 5)  # all is loaded
        before, memory = cpu_s(pid), resident_mb(pid)
        found = process.do("sweep", effort.sweep)
        spent = (cpu_s(pid) - before) / effort.sweep
        grown = resident_mb(pid) - memory
    inits, finishes, cpus = ([run[n] * 1000 for run in found] for n in range(3))
    yield Row("a Run of a sweep: init()", "ms", statistics.median(inits))
    yield Row("a Run of a sweep: finish()", "ms", statistics.median(finishes))
    yield Row("a Run of a sweep: processor time of the script", "ms", statistics.median(cpus))
    yield Row("a Run of a sweep: processor time of the coordinator", "ms", spent * 1000)
    yield Row("a Run of a sweep: memory of the coordinator", "kB", grown * 1000 / effort.sweep)
    flat = statistics.median(cpus[-EDGE:]) / statistics.median(cpus[:EDGE])
    yield Row(f"the last of {effort.sweep} Runs by the first, processor time", "x", flat, goal=FLAT)
