"""A backlog of eight writers on its way: rate, processor time, memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from tests.bench.builds import Build
from tests.bench.effort import Effort
from tests.bench.nodes import BuildNode, a_node, served
from tests.bench.processes import (
    WIDE,
    WIDE_BYTES,
    Probe,
    cpu_s,
    held,
    probes,
    ranks,
    reset_peak,
    resident_mb,
)
from tests.bench.table import Row
from tests.process.harness import wait_until

WRITERS = ["owner"] + ["side"] * 7
GOAL = 50_000
FLAT = 1.25
REDUCED = 2.0  # each value is read once more, and its part of six statistics worked out
SEEN_MB_S = 80  # a second of watching for so much


class Drain(NamedTuple):
    """What a backlog's delivery took."""

    records_s: float
    cpu_s_per_million: float


def rows(effort: Effort, build: Build) -> Iterator[Row]:
    """To a sink behind HTTP, to the store, and a large one."""
    for names, apart in (("own names", True), ("same names", False)):
        drain = _to_sink(build, effort.backlog, apart=apart)
        what = f"delivery to a sink, 8 writers, {names}"
        yield Row(what, "records/s", drain.records_s, goal=GOAL, more_is_better=True)
        yield Row(f"{what}, CPU for a million", "s", drain.cpu_s_per_million)
    drain = _to_store(build, effort.backlog)
    what = "delivery to the store, 8 writers"
    yield Row(what, "records/s", drain.records_s, goal=GOAL, more_is_better=True)
    yield Row(f"{what}, CPU for a million", "s", drain.cpu_s_per_million)
    yield from _as_one(build, effort)
    if effort.large_backlog_mb:
        yield from _memory(build, effort.large_backlog_mb)


def _as_one(build: Build, effort: Effort) -> Iterator[Row]:
    """What all ranks log as one series (R7): read and reduced here, so that less is sent."""
    for count in effort.ranks:
        records = effort.backlog * 8 // count
        each, drain = _of_ranks(build, count, records, "auto"), _of_ranks(build, count, records, "reduce")
        what = f"{count} ranks as one series"
        yield Row(f"{what}, their records", "records/s", drain.records_s, goal=GOAL, more_is_better=True)
        ratio = drain.cpu_s_per_million / each.cpu_s_per_million
        yield Row(f"{what}, CPU beside a series each", "x", ratio, goal=REDUCED)


def _of_ranks(build: Build, count: int, backlog: int, mode: str) -> Drain:
    one = {"PLUTO_DIST_RANK_METRICS": mode}
    with served(build) as (node, sink, _), ranks(node, count, "drain", **one) as writers:
        lines = 1 if mode == "reduce" else count  # of a step
        _fill(writers, 1, apart=False)
        wait_until(lambda: sink.stats().lines >= lines, "the first step is there")
        with held(node.coordinator()):
            _fill(writers, backlog, apart=False)
            sink.reset()
        return _drained(node, count * backlog, lambda: sink.stats().lines >= lines * backlog)


def _memory(build: Build, large: int) -> Iterator[Row]:
    small = large // 5
    few, many = _peak_mb(build, small), _peak_mb(build, large)
    yield Row(f"coordinator's peak with {small:,} MB of backlog", "MB", few)
    yield Row(f"coordinator's peak with {large:,} MB of backlog", "MB", many)
    yield Row("five times the backlog, peak", "x", many / few, goal=FLAT)


def _to_sink(build: Build, backlog: int, *, apart: bool) -> Drain:
    records = len(WRITERS) * backlog
    with served(build) as (node, sink, _), probes(node, WRITERS, "drain") as writers:
        _fill(writers, 1, apart=apart)  # the names are known, as in the middle of a training
        wait_until(lambda: sink.stats().lines == len(WRITERS), "the first records are there")
        with held(node.coordinator()):
            _fill(writers, backlog, apart=apart)
            sink.reset()
        drain = _drained(node, records, lambda: sink.stats().lines >= records)
        stats = sink.stats()
    rate = (stats.lines - stats.first_lines) / (stats.last_at - stats.first_at)
    return drain._replace(records_s=rate)


def _to_store(build: Build, backlog: int) -> Drain:
    with a_node(build) as node, probes(node, WRITERS, "drain") as writers:
        with held(node.coordinator()):
            _fill(writers, backlog, apart=True)
        records = len(WRITERS) * backlog
        return _drained(node, records, lambda: _delivered(node) >= records)


def _peak_mb(build: Build, megabytes: int) -> float:
    """While a backlog is delivered."""
    with served(build) as (node, _, _), probes(node, WRITERS, "memory") as writers:
        pid = node.coordinator()
        with held(pid):
            _fill(writers, megabytes * 1_000_000 // (len(WRITERS) * WIDE_BYTES), apart=True, width=WIDE)
        reset_peak(pid)
        time.sleep(megabytes / SEEN_MB_S)
        return resident_mb(pid, "VmHWM")


def _fill(writers: Sequence[Probe], count: int, *, apart: bool, width: int = 10) -> None:
    for number, writer in enumerate(writers):
        writer.order("fill", count, width, f"train{number}" if apart else "train")
    for writer in writers:
        writer.answer()


def _drained(node: BuildNode, records: int, done: Callable[[], bool]) -> Drain:
    pid = node.coordinator()
    begun, before = time.monotonic(), cpu_s(pid)
    wait_until(done, "all records are delivered")
    took = time.monotonic() - begun
    return Drain(records / took, (cpu_s(pid) - before) / records * 1e6)


def _delivered(node: BuildNode) -> int:
    """What the coordinator says; the document in the store is not written for records alone."""
    shown = json.loads(node.tell("show", "drain", "--json"))
    return sum(lease["delivered"] for lease in shown["leases"])
