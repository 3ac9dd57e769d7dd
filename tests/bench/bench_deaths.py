"""From SIGKILL to the coordinator's note of the lease's end."""

from __future__ import annotations

import contextlib
import os
import select
import statistics
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.bench.effort import Effort
from tests.bench.nodes import a_node
from tests.bench.processes import probes
from tests.bench.table import Row
from tests.process.harness import Node, wait_until

LARGE_MIB = 1024


class Death(NamedTuple):
    """Milliseconds from SIGKILL until the coordinator knows, and until the kernel says so."""

    noticed: float
    kernel: float


def rows(effort: Effort) -> Iterator[Row]:
    """Small processes, then large ones, whose memory the kernel takes apart first."""
    with a_node() as node:
        small = _noticed(node, "small", effort.deaths, 0)
        large = _noticed(node, "large", effort.large_deaths, LARGE_MIB)
    after = max(0.0, large.noticed - large.kernel)  # the coordinator's times are whole milliseconds
    yield Row("death noticed, from SIGKILL on", "ms", small.noticed, goal=100)
    yield Row("death of a process of 1 GB: the kernel's part", "ms", large.kernel)
    yield Row("death of a process of 1 GB: noticed after that", "ms", after, goal=100)


def _noticed(node: Node, run_id: str, count: int, mebibytes: int) -> Death:
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


def _ended_at(node: Node, run_id: str, pid: int) -> float:
    def ended() -> list[Any]:
        leases = node.document(run_id)["leases"]
        return [lease["ended_at"] for lease in leases if lease["pid"] == pid and lease["ended_at"]]

    return float(wait_until(ended, f"the end of the lease of process {pid}")[0])
