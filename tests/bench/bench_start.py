"""Import, first `init()` and `attach()`."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.bench.effort import Effort
from tests.bench.nodes import a_node
from tests.bench.processes import PEERS, probes
from tests.bench.table import Row
from tests.process.harness import CHECKOUT

MODULES = {"official": "pluto", "wandb": "wandb"}


def rows(effort: Effort) -> Iterator[Row]:
    """All of it."""
    bare, ours = _interpreter_ms(sys.executable, ["pass", "import pluto_dist"], effort.starts * 3)
    peers = {
        peer: _interpreter_ms(python, [f"import {MODULES[peer]}"], 3)[0] - bare
        for peer, python in PEERS.items()
    }
    yield Row("import, beyond bare Python", "ms", ours - bare, peers, 80)
    yield Row("first init(), coordinator cold", "ms", _cold_ms(effort.starts), goal=600)
    first, further = _warm_ms(effort.starts)
    yield Row("first attach() of a process, coordinator warm", "ms", first)
    yield Row("attach() to a warm coordinator", "ms", further, goal=5)


def _interpreter_ms(python: str, programs: list[str], times: int) -> list[float]:
    """Median for each program, taken in turns."""
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PLUTO_DISABLE_TELEMETRY": "1"}
    took: list[list[float]] = [[] for _ in programs]
    for _ in range(times):
        for samples, program in zip(took, programs, strict=True):
            begun = time.perf_counter()
            subprocess.run([python, "-c", program], check=True, env=env)
            samples.append((time.perf_counter() - begun) * 1000)
    return [statistics.median(samples) for samples in took]


def _cold_ms(times: int) -> float:
    took = []
    for _ in range(times):
        with a_node() as node, probes(node, ["owner"], "cold") as (owner,):
            took.append(owner.took_s * 1000)
    return statistics.median(took)


def _warm_ms(times: int) -> tuple[float, float]:
    """The first of a process, which loads what is needed, and those after it."""
    with a_node() as node, probes(node, ["owner"] + ["side"] * times, "warm") as (_, *sides):
        return (
            statistics.median(side.took_s for side in sides) * 1000,
            statistics.median(sides[0].do("attach", 20)),
        )
