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
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from pluto_dist.cluster import wire
from pluto_dist.cluster.etcd import EtcdStore
from pluto_dist.core.rules.verdict import RANKING_WINDOW_S
from pluto_dist.core.values.cluster import RunDocument
from pluto_dist.core.values.engine import ANY, Joined, Listed, Written
from tests.bench.builds import Build
from tests.bench.effort import Effort
from tests.bench.nodes import BuildNode, a_node, served
from tests.bench.processes import Probe, cpu_s, probes, resident_mb
from tests.bench.table import Row
from tests.cluster.servers import Cluster, until

SETTLE_S = 4  # until the store has been joined and clocks were compared for a while
TTL_S, RENEW_S, STATE_S = 15, 5.0, 60.0
THREADS = 16
PAIRS = 5  # of the two things that are compared, in turns
OPEN_WAIT_S = 1.0
COMPACTED_S = 10  # `deploy/` has an hour; what happens within it happens here in so many seconds


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
        yield from _named(effort, build, cluster)
        yield from _take_over(effort, build, cluster)
        yield from _take_over_without_leader(build)
        yield from _crowd(effort, cluster)
        yield from _database(effort)
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)


def _added(effort: Effort, build: Build, url: str) -> Iterator[Row]:
    """`log()`, the first `init()` and the coordinator's memory, with a store and without."""
    log: list[tuple[float, float]] = []
    opened: list[tuple[float, float, float]] = []
    memory: list[tuple[float, float]] = []
    wait = {"PLUTO_DIST_OPEN_WAIT_S": f"{OPEN_WAIT_S:g}"}
    with served(build) as server:

        def one(
            name: str, address: str, records: int | None = None, **more: str
        ) -> tuple[float, float, float]:
            """On a node of its own: a coordinator takes up what those before it have left."""
            with a_node(build, **_server_of(server.node)) as node:
                return _one(node, effort, {"PLUTO_DIST_CLUSTER": address, **more}, name, records)

        for number in range(max(PAIRS, effort.starts)):
            with_store = one(f"with{number}", f"{url}/b{number}")
            without = one(f"without{number}", "off")
            away = one(f"away{number}", "etcd://127.0.0.1:1", 0, **wait)
            log.append((with_store[1], without[1]))
            opened.append((with_store[0], without[0], away[0]))
            memory.append((with_store[2], without[2]))
    ratio = statistics.median(mine for mine, _ in log) / statistics.median(none for _, none in log)
    yield Row("log() of 10 metrics, p50, with a cluster store against without", "x", ratio, goal=1.02)
    added = statistics.median(mine - none for mine, none, _ in opened)
    yield Row("first init(), added by the store", "s", added, goal=0.1)
    beyond = statistics.median(late - max(none, OPEN_WAIT_S) for _, none, late in opened)
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


@contextlib.contextmanager
def _job(
    nodes: tuple[BuildNode, BuildNode], cluster: Cluster, name: str
) -> Iterator[tuple[Probe, Probe, int]]:
    """A rank on each of two nodes that know each other, the owner's first; and the epoch of their seat."""
    store = EtcdStore(cluster.address("job"))
    for rank, node in enumerate(nodes):
        job = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "GROUP_RANK": str(rank)}
        node.set(
            PLUTO_RUN_ID=name, PLUTO_DIST_CLUSTER=f"{cluster.url}/job", **job,
            GROUP_WORLD_SIZE="2", LOCAL_WORLD_SIZE="1", TORCHELASTIC_RUN_ID=name,
        )  # fmt: skip
    ranks = [Probe("owner", name, node) for node in nodes]
    try:
        for each in ranks:
            each.answer()
        until(
            lambda: (seat := _seat(store, name)) is not None and len(seat.nodes) == 2,
            "both nodes in the round",
        )
        time.sleep(SETTLE_S)
        found = _seat(store, name)
        assert found is not None
        yield ranks[0], ranks[1], found.epoch
    finally:
        for each in ranks:
            each.close()
        for node in nodes:
            for pid in node.coordinators():
                _end(pid)
        store.close()


def _take_over(effort: Effort, build: Build, cluster: Cluster) -> Iterator[Row]:
    """From the SIGKILL of everything on node 0 to another node's seat in the store."""
    took = [_until_taken(build, cluster, f"take{number}") for number in range(min(effort.deaths, 3))]
    yield Row(
        "another node has the seat after SIGKILL of node 0, lease of 15 s", "s", max(took), goal=TTL_S + 1
    )


def _take_over_without_leader(build: Build) -> Iterator[Row]:
    """The same, while the engine's leader is killed as well."""
    with tempfile.TemporaryDirectory(prefix="pdbench", dir="/tmp") as folder:
        cluster = Cluster(Path(folder), 3)
        try:
            cluster.start()
            cluster.wait()
            took = _until_taken(build, cluster, "leaderless", also=lambda: cluster.leader().kill())
        finally:
            cluster.close()
    yield Row("the same, with the engine's leader killed, too", "s", took, goal=2 * TTL_S + 3)


def _until_taken(build: Build, cluster: Cluster, name: str, also: Callable[[], None] = lambda: None) -> float:
    store = EtcdStore(cluster.address("job"))
    with (
        served(build) as here,
        a_node(build, **_server_of(here.node)) as there,
        _job((here.node, there), cluster, name) as (owner, _, epoch),
    ):
        begun = time.monotonic()
        owner.kill()
        _end(here.node.coordinator())
        also()
        while (now := _seat(store, name)) is None or now.epoch == epoch:
            time.sleep(0.02)
        took = time.monotonic() - begun
    store.close()
    return took


def _named(effort: Effort, build: Build, cluster: Cluster) -> Iterator[Row]:
    """From the SIGKILL of a rank of the other node to its name at the server, without R10's window."""
    took = []
    for number in range(min(effort.deaths, 3)):
        with (
            served(build) as here,
            a_node(build, **_server_of(here.node)) as there,
            _job((here.node, there), cluster, f"named{number}") as (owner, worker, _),
        ):
            begun = time.monotonic()
            worker.kill()
            owner.kill()
            while (run := here.server.runs()[0])["status"] == "RUNNING":
                time.sleep(0.02)
            took.append(time.monotonic() - begun - RANKING_WINDOW_S)
            reason = run["statusMetadata"]["reason"]
            assert "rank 1" in reason, reason
    yield Row("a rank of another node is named at the server, behind R10's 2 s", "s", max(took), goal=1)


def _server_of(node: BuildNode) -> dict[str, str]:
    """Where a node's Runs go, so that another one's go there too."""
    return {name: value for name, value in node.env().items() if name.startswith(("PLUTO_URL", "PLUTO_API"))}


def _seat(store: EtcdStore, name: str) -> RunDocument | None:
    found = store.list("job/v1/")
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


def _database(effort: Effort) -> Iterator[Row]:
    """Whether the member's database stops growing, with the compaction that `deploy/` sets, in less time.

    Periodic compaction keeps one to two of its periods. Documents are written as fast as the member takes
    them, so a period of ten seconds holds as many changes as a longer one at the pace of a job.
    """
    options = ("--auto-compaction-mode=periodic", f"--auto-compaction-retention={COMPACTED_S}s")
    with tempfile.TemporaryDirectory(prefix="pdbench", dir="/tmp") as folder:
        cluster = Cluster(Path(folder), 1, extra=options)
        try:
            cluster.start()
            cluster.wait()
            sizes, written = _sizes(cluster, effort.compactions * COMPACTED_S, effort.cluster_nodes)
        finally:
            cluster.close()
    half = len(sizes) // 2
    most = max(sizes) / 1e6
    yield Row(f"{written:,} documents of 1 kB, compacted: the database's most", "MB", most)
    yield Row("that, by its most in the first half", "x", max(sizes) / max(sizes[:half]), goal=1.1)


def _sizes(cluster: Cluster, seconds: float, nodes: int) -> tuple[list[int], int]:
    """The database's bytes each half second, and how many documents were written meanwhile."""
    end, written = time.monotonic() + seconds, [0] * THREADS

    def write(thread: int) -> None:
        store = EtcdStore(cluster.address("full"))
        while time.monotonic() < end:
            key = f"full/v1/p/r/state/{(written[thread] * THREADS + thread) % nodes}"
            value = os.urandom(500).hex().encode()
            written[thread] += isinstance(store.write(key, value, expect=ANY), Written)
        store.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    sizes, store = [], EtcdStore(cluster.address("full"))
    while time.monotonic() < end:
        time.sleep(0.5)
        found = store.status(cluster.address().members[0])
        sizes += [int(found.dbSize)] if isinstance(found, wire.Status) else []
    store.close()
    for thread in threads:
        thread.join()
    return sizes, sum(written)
