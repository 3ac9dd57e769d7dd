"""A real torchrun of 8 ranks: `init()` across them, what `log()` adds to a step and `finish()` to the end.

What such a job takes to end is mostly torch leaving the interpreters, and varies by seconds on a busy
machine. What we add to the end is taken with two ranks that do without torch, beside the same job without us.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Iterator

from tests.bench.builds import Build
from tests.bench.effort import Effort
from tests.bench.nodes import a_node, served
from tests.bench.table import Row
from tests.process.harness import Node
from tests.process.torchjob import GLOO, TorchJob

RANKS = 8
STEP_S = 0.01  # 100 steps a second
BODY = """
begun = time.perf_counter()
run = pluto.init()
inited = time.perf_counter() - begun
values = {f"m{n}": 1.0 / (n + 1) for n in range(10)}
spent, cpu = [], time.process_time()
for n in range(STEPS):
    begun = time.perf_counter()
    run.log(values, n)
    spent.append(time.perf_counter() - begun)
    time.sleep(max(0.0, STEP_S - spent[-1]))
say("measured", [inited, spent])
dist.barrier()
begun = time.perf_counter()
run.finish()
say("finished", time.perf_counter() - begun)
leave()
"""

START = """
run = pluto.init()
train(run, 4)
meet()
"""
ENDS = {
    "success": "cause(); run.finish(); leave()\n",
    "SIGKILL of a rank": "if RANK == 1: cause(); os.kill(os.getpid(), 9)\ntrain_for_ever(run)\n",
    "SIGTERM to torchrun": "if RANK == 0: cause(); os.kill(os.getppid(), 15)\ntrain_for_ever(run)\n",
}


def rows(effort: Effort, build: Build) -> Iterator[Row]:
    """Nothing where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return
    steps = 200 if effort.rounds == 1 else 1000
    body = f"STEPS, STEP_S = {steps}, {STEP_S}\n" + BODY
    with a_node(build) as node:
        job = TorchJob(node, "ranks", body, ranks=RANKS, train=GLOO)
        measured = dict(job.told("measured"))
        finished = [second for _, second in job.told("finished")]
        job.wait()
        inits = [measured[rank][0] * 1e3 for rank in range(RANKS)]
        spent = sorted(second for _, all_of_rank in measured.values() for second in all_of_rank)
    yield Row("init() on rank 0 of 8, cold coordinator", "ms", inits[0], goal=600)
    yield Row("init() on the other ranks, median", "ms", statistics.median(inits[1:]))
    yield Row("init() on the other ranks, slowest", "ms", max(inits[1:]))
    yield Row("log() in a step, 8 ranks at 100 steps/s, p50", "µs", spent[len(spent) // 2] * 1e6)
    yield Row("log() in a step, p99", "µs", spent[len(spent) * 99 // 100] * 1e6)
    added = 100 * statistics.fmean(spent) / STEP_S
    yield Row("log() in a step, share of the step", "%", added, goal=1)
    yield Row("finish() of the first rank to leave", "ms", min(finished) * 1e3)
    yield Row("finish() of the last one, everything delivered", "ms", max(finished) * 1e3, goal=500)
    with served(build) as (node, _, _):
        for name, end in ENDS.items():
            added = _added_s(node, name.replace(" ", "_"), START + end, effort.rounds)
            yield Row(f"torchrun's end with a server, added: {name}", "s", added, goal=0.5)


def _added_s(node: Node, name: str, body: str, rounds: int) -> float:
    """From the cause to torchrun's exit: the least with us, less the least without."""
    took: dict[bool, list[float]] = {False: [], True: []}
    for number in range(rounds):
        for plain, times in took.items():
            job = TorchJob(node, f"{name}{number}{plain}", body, without_pluto=plain)
            job.told("cause", 1)
            begun = time.perf_counter()
            job.wait()
            times.append(time.perf_counter() - begun)
    return min(took[False]) - min(took[True])
