"""Large files: what `log()` of one costs, and what its upload costs the coordinator and the training."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from tests.bench.builds import Build
from tests.bench.effort import Effort
from tests.bench.nodes import Served, served
from tests.bench.processes import Probe, held, probes, reset_peak, resident_mb
from tests.bench.table import Row

SMALL_MB = 10
LOG_MS = 10.0
FILES = 1000
FLAT = 1.1


def rows(effort: Effort, build: Build) -> Iterator[Row]:
    """One process that logs files and records; no earlier version could do it."""
    if not effort.peers:
        return
    large = effort.file_mb
    with served(build) as node_and_sink, probes(node_and_sink.node, ["owner"], "files") as (writer,):
        pid = node_and_sink.node.coordinator()
        with held(pid):
            writer.do("file", SMALL_MB, 0)  # the first one loads what is needed
            quick = statistics.median(writer.do("file", large, 0) for _ in range(effort.rounds))
            copied = writer.do("file", large, 1)
            folder = statistics.median(writer.do("folder", FILES) for _ in range(effort.rounds))
        yield Row(f"log() of a file of {large} MiB", "ms", quick, goal=LOG_MS)
        yield Row("the same with a copy, as before", "ms", copied)
        yield Row(f"log() of a folder of {FILES:,} files", "ms", folder, goal=LOG_MS)
        yield from _uploads(node_and_sink, writer, pid, effort)


def _uploads(served: Served, writer: Probe, pid: int, effort: Effort) -> Iterator[Row]:
    _drained(served)
    small_mb = _peak_mb(served, writer, pid, SMALL_MB)
    large_mb = _peak_mb(served, writer, pid, effort.file_mb)
    yield Row("upload, peak memory of the coordinator", "MB", large_mb)
    yield Row(f"the same, beside that of {SMALL_MB} MiB", "times", large_mb / small_mb, goal=FLAT)
    alone = statistics.median(writer.do("pace", effort.paced, 1000)[1] for _ in range(effort.rounds))
    beside = []
    for _ in range(effort.rounds):
        writer.do("file", effort.file_mb, 0)
        beside.append(writer.do("pace", effort.paced, 1000)[1])
    _drained(served)
    yield Row("log() of 10 metrics beside an upload, p99", "us", statistics.median(beside))
    yield Row("the same, beside that without one", "times", statistics.median(beside) / alone, goal=FLAT)


def _peak_mb(served: Served, writer: Probe, pid: int, mebibytes: int) -> float:
    reset_peak(pid)
    served.sink.reset()
    writer.do("file", mebibytes, 0)
    while served.sink.stats().put_bytes < mebibytes << 20:
        time.sleep(0.1)
    return resident_mb(pid, "VmHWM")


def _drained(served: Served) -> None:
    """Nothing comes any more."""
    before = -1
    while before != (now := served.sink.stats().put_bytes):
        before = now
        time.sleep(2.0)
