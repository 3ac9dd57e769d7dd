"""From `checkpoint()` to the loop of an eval, and what the ten-thousandth costs beside the first."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.builds import Build
from tests.bench.effort import Effort
from tests.bench.nodes import a_node
from tests.bench.processes import Probe, cpu_s, probes, resident_mb
from tests.bench.table import Row

HERTZ = 20


def rows(effort: Effort, build: Build) -> Iterator[Row]:
    """One trainer, one eval that keeps up; no earlier version could do it."""
    if not effort.peers:
        return
    with a_node(build) as node, probes(node, ["owner", "side"], "handed") as (trainer, side):
        pid = node.coordinator()
        _paced(trainer, side, HERTZ)  # the first ones load what is needed
        called, came = _paced(trainer, side, effort.handed)
        first_ms = _cost_ms(pid, trainer, side, effort.handed)
        before = resident_mb(pid)
        trainer.do("hand", effort.handed_before, 0)
        side.do("take_latest")
        grown = resident_mb(pid) - before
        last_ms = _cost_ms(pid, trainer, side, effort.handed)
    yield Row("checkpoint(), median", "µs", called[0])
    yield Row("checkpoint(), p99", "µs", called[1])
    yield Row("from checkpoint() to the eval's loop, median", "ms", came[0])
    yield Row("from checkpoint() to the eval's loop, p99", "ms", came[1], goal=50)
    yield Row("one handed over: processor time of the coordinator", "ms", first_ms)
    yield Row(f"the same behind {effort.handed_before:,} others, times", "", last_ms / first_ms, goal=1.2)
    yield Row(f"{effort.handed_before:,} handed over: memory of the coordinator", "MB", grown)


def _paced(trainer: Probe, side: Probe, count: int) -> tuple[list[float], list[float]]:
    """Percentiles of the call, and of the way to the loop."""
    side.order("take", count)
    trainer.order("hand", count, HERTZ)
    return trainer.answer(), side.answer()


def _cost_ms(pid: int, trainer: Probe, side: Probe, count: int) -> float:
    spent = cpu_s(pid)
    _paced(trainer, side, count)
    return (cpu_s(pid) - spent) * 1000 / count
