"""Import, first `init()` and `attach()`."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Iterator

from tests.bench.builds import Build
from tests.bench.effort import Effort
from tests.bench.nodes import a_node
from tests.bench.processes import PEERS, cpu_s, probes
from tests.bench.table import Row

MODULES = {"official": "pluto", "wandb": "wandb"}


def rows(effort: Effort, build: Build) -> Iterator[Row]:
    """All of it."""
    bare, ours = _interpreter_ms(build.python, build.path, ["pass", "import pluto_dist"], effort.starts * 3)
    peers = {
        peer: _interpreter_ms(python, "", [f"import {MODULES[peer]}"], 3)[0] - bare
        for peer, python in (PEERS.items() if effort.peers else ())
    }
    yield Row("import, beyond bare Python", "ms", ours - bare, peers, 80)
    cold, process, coordinator = _cold_ms(build, effort.starts)
    yield Row("first init(), coordinator cold", "ms", cold, goal=600)
    yield Row("first init(), coordinator cold: processor time of the script", "ms", process)
    yield Row("first init(), coordinator cold: processor time of the coordinator", "ms", coordinator)
    first, further = _warm_ms(build, effort.starts)
    yield Row("first attach() of a process, coordinator warm", "ms", first)
    yield Row("attach() to a warm coordinator", "ms", further, goal=5)


def _interpreter_ms(python: str, path: str, programs: list[str], times: int) -> list[float]:
    """Median for each program, taken in turns."""
    env = {**os.environ, "PYTHONPATH": path, "PLUTO_DISABLE_TELEMETRY": "1"}
    took: list[list[float]] = [[] for _ in programs]
    for _ in range(times):
        for samples, program in zip(took, programs, strict=True):
            begun = time.perf_counter()
            subprocess.run([python, "-c", program], check=True, env=env)
            samples.append((time.perf_counter() - begun) * 1000)
    return [statistics.median(samples) for samples in took]


def _cold_ms(build: Build, times: int) -> list[float]:
    """Until it returns; processor time of its process until then, and of the coordinator's start."""
    took = []
    for _ in range(times):
        with a_node(build) as node, probes(node, ["owner"], "cold") as (owner,):
            took.append((owner.took_s * 1000, owner.cpu_s * 1000, cpu_s(node.coordinator()) * 1000))
    return [statistics.median(column) for column in zip(*took, strict=True)]


def _warm_ms(build: Build, times: int) -> tuple[float, float]:
    """The first of a process, which loads what is needed, and those after it."""
    with a_node(build) as node, probes(node, ["owner"] + ["side"] * times, "warm") as (_, *sides):
        return (
            statistics.median(side.took_s for side in sides) * 1000,
            statistics.median(sides[0].do("attach", 20)),
        )
