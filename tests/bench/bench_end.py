"""Light load, and the end of a Run: how soon it is there."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import NamedTuple

from tests.bench.builds import Build
from tests.bench.effort import Effort
from tests.bench.nodes import Served, a_node, served
from tests.bench.processes import PEERS, probes
from tests.bench.table import Row

LIGHT_HZ = 20


class Times(NamedTuple):
    """Seconds."""

    delay: float
    slowest: float
    finish: float


def rows(effort: Effort, build: Build) -> Iterator[Row]:
    """This project, then the official client, to the same sink."""
    count = effort.last_records
    with served(build) as server:
        ours = _served(server, "owner", effort)
    peers: dict[str, Times] = {}
    if effort.peers and "official" in PEERS:
        with served(build) as server:
            peers["official"] = _served(server, "official", effort)
    delays = {peer: times.delay for peer, times in peers.items()}
    yield Row("log() to server under light load, median", "s", ours.delay, delays)
    slowest = {peer: times.slowest for peer, times in peers.items()}
    yield Row("log() to server under light load, slowest", "s", ours.slowest, slowest, 1.5)
    ends = {peer: times.finish for peer, times in peers.items()}
    yield Row(f"finish() after {count:,} records, sink", "s", ours.finish, ends, 0.5)
    yield Row(f"finish() after {count:,} records, store", "s", _local(build, count, effort.rounds), goal=0.5)
    rates = {peer: count / times.finish for peer, times in peers.items()}
    yield Row("records a second while finish() waits", "records/s", count / ours.finish, rates, None, True)


def _served(server: Served, client: str, effort: Effort) -> Times:
    with probes(server.node, [client], "end") as (process,):
        process.do("pace", int(effort.light_s * LIGHT_HZ), LIGHT_HZ)
        process.do("rest", 2)
        delays = [delay / 1000 for delay in server.sink.stats().delays_ms]
        process.do("fill", effort.last_records, 10)
        return Times(statistics.median(delays), max(delays), process.do("finish"))


def _local(build: Build, count: int, rounds: int) -> float:
    took = []
    with a_node(build) as node:
        for number in range(rounds):
            with probes(node, ["owner"], f"end{number}") as (owner,):
                owner.do("fill", count, 10)
                took.append(owner.do("finish"))
    return statistics.median(took)
