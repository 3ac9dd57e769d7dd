"""From SIGKILL to the coordinator's note of the lease's end, and to the records of a new coordinator."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import statistics
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.bench.builds import Build
from tests.bench.effort import Effort
from tests.bench.nodes import BuildNode, a_node, served
from tests.bench.processes import WIDE, WIDE_BYTES, held, probes
from tests.bench.table import Row
from tests.process.harness import wait_until

LARGE_MIB = 1024


class Death(NamedTuple):
    """Milliseconds from SIGKILL until the coordinator knows, and until the kernel says so."""

    noticed: float
    kernel: float


def rows(effort: Effort, build: Build) -> Iterator[Row]:
    """Small processes, then large ones, whose memory the kernel takes apart first."""
    with a_node(build) as node:
        small = _noticed(node, "small", effort.deaths, 0)
        large = _noticed(node, "large", effort.large_deaths, LARGE_MIB)
    revived = [_revived_s(build, effort.killed_backlog_mb) for _ in range(effort.large_deaths)]
    after = max(0.0, large.noticed - large.kernel)  # the coordinator's times are whole milliseconds
    yield Row("death noticed, from SIGKILL on", "ms", small.noticed, goal=100)
    yield Row("death of a process of 1 GB: the kernel's part", "ms", large.kernel)
    yield Row("death of a process of 1 GB: noticed after that", "ms", after, goal=100)
    what = f"coordinator killed with {effort.killed_backlog_mb:,} MB of backlog: until records flow again"
    yield Row(what, "s", statistics.median(revived), goal=0.5)


def _noticed(node: BuildNode, run_id: str, count: int, mebibytes: int) -> Death:
    found = []
    with probes(node, ["owner"] + ["side"] * count, run_id) as (_, *sides):
        for side in sides:
            side.do("grow", mebibytes)
            with _pidfd(side.pid) as poller:
                killed_ms = time.time() * 1000
                side.kill()
                poller.poll(10_000)
                gone_ms = time.time() * 1000
            noticed_ms = _ended_at(node, run_id, side.pid)
            found.append(Death(noticed_ms - killed_ms, gone_ms - killed_ms))
    return Death(*(statistics.median(column) for column in zip(*found, strict=True)))


def _revived_s(build: Build, megabytes: int) -> float:
    """From SIGKILL until the sink sees the first record after it."""
    with served(build) as (node, sink, _), probes(node, ["owner"], "revived") as (writer,):
        writer.do("fill", 1, WIDE)
        wait_until(lambda: sink.stats().lines == 1, "the first record is there")
        pid = node.coordinator()
        with held(pid):
            writer.do("fill", megabytes * 1_000_000 // WIDE_BYTES, WIDE)
            sink.reset()
            killed_at = time.monotonic()
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: sink.stats().lines, "records flow again")
        return sink.stats().first_at - killed_at


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[select.poll]:
    """Polls for the end of a process."""
    descriptor = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    try:
        yield poller
    finally:
        os.close(descriptor)


def _ended_at(node: BuildNode, run_id: str, pid: int) -> float:
    def ended() -> list[Any]:
        leases = node.document(run_id)["leases"]
        return [lease["ended_at"] for lease in leases if lease["pid"] == pid and lease["ended_at"]]

    return float(wait_until(ended, f"the end of the lease of process {pid}")[0])
