"""What a cluster store adds, in turns with none; how soon another node has the seat; what 1,000 nodes ask.

One etcd member on loopback, as a job with `deploy/` has it. Nothing is measured where there is no etcd.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pluto_dist.cluster.etcd import EtcdStore
from pluto_dist.core.values.cluster import RunDocument
from pluto_dist.core.values.engine import ANY, Joined, Listed, Written
from tests.bench.builds import Build
from tests.bench.effort import Effort
from tests.bench.nodes import BuildNode, a_node, served
from tests.bench.processes import Probe, cpu_s, probes, resident_mb
from tests.bench.table import Row
from tests.cluster.servers import Cluster

SETTLE_S = 4  # until the store has been joined and clocks were compared for a while
TTL_S, RENEW_S, STATE_S = 15, 5.0, 60.0
THREADS = 16
PAIRS = 5  # of the two things that are compared, in turns


def rows(effort: Effort, build: Build) -> Iterator[Row]:
    """All of it, or a row that says why not."""
    folder = Path(tempfile.mkdtemp(prefix="pdbench", dir="/tmp"))
    try:
        cluster = Cluster(folder, 1)
    except pytest.skip.Exception:
        yield Row("cluster store: no etcd below .etcd, tests/run.sh gets it", "", 0.0)
        return
    try:
        cluster.start()
        cluster.wait()
        yield from _added(effort, build, cluster.url)
        yield from _take_over(effort, build, cluster)
        yield from _crowd(effort, cluster)
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)


def _added(effort: Effort, build: Build, url: str) -> Iterator[Row]:
    """`log()`, the first `init()` and the coordinator's memory, with a store and without."""
    log: list[tuple[float, float]] = []
    opened: list[tuple[float, float, float]] = []
    memory: list[tuple[float, float]] = []
    with served(build) as server:
        for number in range(max(PAIRS, effort.starts)):
            with_store = _one(
                server.node, effort, {"PLUTO_DIST_CLUSTER": f"{url}/b{number}"}, f"with{number}"
            )
            without = _one(server.node, effort, {"PLUTO_DIST_CLUSTER": "off"}, f"without{number}")
            away = {"PLUTO_DIST_CLUSTER": "etcd://127.0.0.1:1", "PLUTO_DIST_OPEN_WAIT_S": "1"}
            unreachable = _one(server.node, effort, away, f"away{number}", records=0)
            log.append((with_store[1], without[1]))
            opened.append((with_store[0], without[0], unreachable[0]))
            memory.append((with_store[2], without[2]))
    ratio = statistics.median(mine for mine, _ in log) / statistics.median(none for _, none in log)
    yield Row("log() of 10 metrics, p50, with a cluster store against without", "x", ratio, goal=1.02)
    added = statistics.median(mine - none for mine, none, _ in opened)
    yield Row("first init(), added by the store", "s", added, goal=0.1)
    beyond = statistics.median(away - none - 1.0 for _, none, away in opened)
    yield Row("first init(), added by one that is unreachable, beyond open_wait_s", "s", beyond)
    yield Row(
        "coordinator, memory added by the store", "MB", statistics.median(a - b for a, b in memory), goal=5
    )


def _one(
    node: BuildNode, effort: Effort, settings: dict[str, str], name: str, records: int | None = None
) -> tuple[float, float, float]:
    """Seconds of a cold `init()`, p50 of `log()` in microseconds, and the coordinator's megabytes."""
    node.set(PLUTO_RUN_ID=name, **settings)
    with probes(node, ["owner"], name) as (owner,):
        pid = node.coordinator()
        if records == 0:
            found = (owner.took_s, 0.0, 0.0)
        else:
            time.sleep(SETTLE_S)
            cost = statistics.median(owner.do("log", effort.records)[0] for _ in range(effort.rounds))
            found = (owner.took_s, cost, resident_mb(pid))
    _end(pid)
    return found


def _end(pid: int) -> None:
    """The coordinator is gone, so that the next start is a cold one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        while True:
            os.kill(pid, 0)
            time.sleep(0.02)


def _take_over(effort: Effort, build: Build, cluster: Cluster) -> Iterator[Row]:
    """From the SIGKILL of everything on node 0 to another node's seat in the store."""
    took = []
    store = EtcdStore(cluster.address("take"))
    with served(build) as here, a_node(build, **_server_of(here.node)) as there:
        for number in range(min(effort.deaths, 3)):
            name = f"take{number}"
            nodes = (here.node, there)
            for rank, node in enumerate(nodes):
                job = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "GROUP_RANK": str(rank)}
                node.set(
                    PLUTO_RUN_ID=name, PLUTO_DIST_CLUSTER=f"{cluster.url}/take", **job,
                    GROUP_WORLD_SIZE="2", LOCAL_WORLD_SIZE="1", TORCHELASTIC_RUN_ID=name,
                )  # fmt: skip
            owner = Probe("owner", name, here.node)
            owner.answer()
            worker = Probe("owner", name, there)
            worker.answer()
            before = _seat(store, name)
            while before is None or len(before.nodes) < 2:
                time.sleep(0.1)
                before = _seat(store, name)
            time.sleep(SETTLE_S)
            coordinators = [node.coordinator() for node in nodes]
            begun = time.monotonic()
            owner.kill()
            _end(coordinators[0])
            while (now := _seat(store, name)) is None or now.epoch == before.epoch:
                time.sleep(0.02)
            took.append(time.monotonic() - begun)
            worker.close()
            owner.close()
            _end(coordinators[1])
    store.close()
    yield Row("another node has the seat after SIGKILL of node 0, lease of 15 s", "s", max(took), goal=16)


def _server_of(node: BuildNode) -> dict[str, str]:
    """Where a node's Runs go, so that another one's go there too."""
    return {name: value for name, value in node.env().items() if name.startswith(("PLUTO_URL", "PLUTO_API"))}


def _seat(store: EtcdStore, name: str) -> RunDocument | None:
    found = store.list("take/v1/")
    for key, value in found.items.items() if isinstance(found, Listed) else ():
        if key.endswith(f"/{name}/run"):
            return msgspec.json.decode(value.value, type=RunDocument)
    return None


def _crowd(effort: Effort, cluster: Cluster) -> Iterator[Row]:
    """What a thousand nodes ask for in peace: a renewal each 5 s, their own document each minute."""
    count = effort.cluster_nodes
    stores = [EtcdStore(cluster.address("crowd")) for _ in range(count)]
    asked, bad = [0] * THREADS, [0] * THREADS
    end = threading.Event()

    def serve(thread: int) -> None:
        mine = stores[thread::THREADS]
        due = [time.monotonic() + RENEW_S * index / len(mine) for index in range(len(mine))]
        shown = [0.0] * len(mine)
        for store in mine:
            bad[thread] += not isinstance(store.join(TTL_S), Joined)
        while not end.is_set():
            index = min(range(len(mine)), key=due.__getitem__)
            if end.wait(max(0.0, due[index] - time.monotonic())):
                return
            due[index] += RENEW_S
            asked[thread] += 1
            bad[thread] += not isinstance(mine[index].renew(), Joined)
            if time.monotonic() > shown[index] + STATE_S:
                key = f"crowd/v1/p/r/state/{thread}-{index}"
                shown[index] = time.monotonic() - STATE_S * (index / len(mine) if not shown[index] else 0)
                asked[thread] += 1
                bad[thread] += not isinstance(mine[index].write(key, b"x" * 1000, expect=ANY), Written)

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    time.sleep(3 * RENEW_S)  # all have joined, and told of themselves once
    pid, begun, sent = cluster.members[0].pid, time.monotonic(), sum(asked)
    before = cpu_s(pid)
    time.sleep(effort.idle_s * 3)
    took = time.monotonic() - begun
    rate, share = (sum(asked) - sent) / took, (cpu_s(pid) - before) / took
    end.set()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    nodes = f"{count:,} nodes"
    yield Row(f"{nodes}: requests a second", "", rate, goal=250 * count / 1000)
    yield Row(f"{nodes}: share of a core of the member", "", share, goal=0.5)
    yield Row(f"{nodes}: requests that failed", "", float(sum(bad)), goal=0)
