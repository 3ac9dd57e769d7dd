"""What `log()` of ten metrics costs the caller, beside other clients, and what it takes on the disk."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from tests.bench.builds import Build
from tests.bench.effort import Effort
from tests.bench.nodes import BuildNode, Served, a_node, served
from tests.bench.processes import PEERS, Probe, held, probes
from tests.bench.table import Row

WRITERS = 8
PACE_HZ = 1000
HOUR_RECORDS = 3600 * PACE_HZ
PEER_RECORDS = 3000  # they keep what is not delivered in memory
P50_US, P99_US = 5, 25
TIMES = {"official": 8, "wandb": 20}
CROWD = frozenset({"official"})  # eight at once are measured of these only: their starts take long

Cost = tuple[float, float]  # p50 and p99 in microseconds


class PeerCost(NamedTuple):
    """What another client's `log()` costs."""

    steady: Cost
    paced: Cost


def rows(effort: Effort, build: Build) -> Iterator[Row]:
    """One process and eight at once; alone and while the coordinator delivers."""
    with a_node(build) as node, served(build) as server:
        yield from _cost(node, server, 1, effort)
        yield from _cost(node, server, WRITERS, effort)
        yield Row("disk for an hour of 1,000 x 10 metrics a second", "GB", _disk_gb(node))


def _cost(node: BuildNode, server: Served, count: int, effort: Effort) -> Iterator[Row]:
    who = f"log() of 10 metrics, {'one process' if count == 1 else f'{count} processes'}"
    peers = PEERS if effort.peers else {}
    crowd = CROWD if effort.crowd_of_peers else frozenset()
    theirs = {peer: _peer(server, peer, count, effort) for peer in peers if count == 1 or peer in crowd}
    with probes(node, ["owner"] + ["side"] * (count - 1), f"log{count}") as writers:
        with held(node.coordinator()):
            alone = _rounds(writers, effort.rounds, "log", effort.records)
        delivering = _rounds(writers, effort.rounds, "log", effort.records)
        paced = _rounds(writers, 1, "pace", effort.paced, PACE_HZ)
    yield from _rows(who, alone, {peer: found.steady for peer, found in theirs.items()}, count == 1)
    yield from _rows(f"{who}, while delivering", delivering, {}, count == 1)
    yield from _rows(f"{who}, 1 kHz", paced, {peer: found.paced for peer, found in theirs.items()})


def _rows(who: str, ours: Cost, peers: dict[str, Cost], goals: bool = False) -> Iterator[Row]:
    p50 = Row(f"{who}, p50", "us", ours[0], {peer: cost[0] for peer, cost in peers.items()})
    p99 = Row(f"{who}, p99", "us", ours[1], {peer: cost[1] for peer, cost in peers.items()})
    yield replace(p50, goal=P50_US) if goals else p50
    yield replace(p99, goal=P99_US) if goals else p99
    for peer in peers if goals else ():
        yield Row(f"p50, times faster than {peer}", "x", p50.ratio(peer) or 0, {}, TIMES[peer], True)


def _peer(server: Served, peer: str, count: int, effort: Effort) -> PeerCost:
    with probes(server.node, [peer] * count, f"log{count}") as writers:
        steady = _rounds(writers, effort.rounds, "log", PEER_RECORDS)
        return PeerCost(steady, _rounds(writers, 1, "pace", effort.paced, PACE_HZ))


def _rounds(writers: Sequence[Probe], rounds: int, *order: object) -> Cost:
    """Medians over rounds and writers."""
    found: list[Cost] = []
    for _ in range(rounds):
        for writer in writers:
            writer.order(*order)
        found += [tuple(writer.answer()) for writer in writers]
    return _median(p50 for p50, _ in found), _median(p99 for _, p99 in found)


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _disk_gb(node: BuildNode) -> float:
    with probes(node, ["owner"], "disk") as (writer,), held(node.coordinator()):
        lease = max((node.home / "spool" / "leases").iterdir(), key=lambda folder: folder.stat().st_mtime)
        writer.do("fill", 1000, 10)
        taken = sum(segment.stat().st_size for segment in lease.glob("metrics-*"))
    return taken / 1000 * HOUR_RECORDS / 1e9
