"""Many writers at a steady pace: what the coordinator needs for them, and how late a record comes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.bench_coordinator import HOLDERS
from tests.bench.builds import Build
from tests.bench.effort import Effort
from tests.bench.nodes import served
from tests.bench.processes import cpu_share, probes, reset_peak, resident_mb
from tests.bench.table import Row

HERTZ = 100
SETTLE_S = 3  # all names are known, and everything is loaded
MEMORY_MB, LATEST_S = 80, 2


def rows(effort: Effort, build: Build) -> Iterator[Row]:
    """Ten metrics a record, the same names in all of them, to a sink behind HTTP."""
    clients = ["owner"] + ["side"] * HOLDERS
    with served(build) as (node, sink, _), probes(node, clients, "crowd") as (_, *holders):
        pid = node.coordinator()
        for holder in holders:
            holder.do("attach", effort.writers // HOLDERS - 1)
        for holder in holders:
            holder.order("crowd", HERTZ, effort.crowd_s + SETTLE_S)
        time.sleep(SETTLE_S)
        reset_peak(pid)
        sink.reset()
        share = cpu_share(pid, effort.crowd_s)
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        for holder in holders:
            holder.answer()
        holders[0].do("rest", LATEST_S)
        stats, peak = sink.stats(), resident_mb(pid, "VmHWM")
    what = f"{effort.writers} writers at {HERTZ} records/s: coordinator's"
    yield Row(f"{what} peak", "MB", peak, goal=MEMORY_MB)
    yield Row(f"{what} open files", "", files)
    yield Row(f"{what} share of a core", "%", share * 100)
    yield Row(f"{what} slowest record", "s", max(stats.delays_ms) / 1000, goal=LATEST_S)
