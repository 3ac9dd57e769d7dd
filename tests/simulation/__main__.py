"""`python -m tests.simulation --seed N [--steps M] [-v]`, or `--for SECONDS` for a long run."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter

from tests.simulation.plan import Plan, make_plan
from tests.simulation.shrink import shrink
from tests.simulation.world import World

SHOWN_LINES = 120


def main() -> int:
    """One seed, or many; 1 if a guarantee does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--steps", type=int, help="stop after so many steps")
    parser.add_argument("--for", dest="seconds", type=float, help="run seeds one after the other")
    parser.add_argument("--first", type=int, default=None, help="seed to begin with; by default the time")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    parser.add_argument("--shrink", action="store_true", help="make a failing plan smaller")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the transcript in any case")
    options = parser.parse_args()
    if options.seed is not None:
        return _one(make_plan(options.seed), options)
    first = options.first if options.first is not None else int(time.time()) * 1000
    return _many(first, options.seconds or 60.0, keep_going=options.keep_going)


def _one(plan: Plan, options: argparse.Namespace) -> int:
    world, error = attempt(plan, options.steps)
    if error is not None and options.shrink:
        plan = shrink(plan, error)
        world, error = attempt(plan)
    print("\n".join(plan.describe()))
    lines = world.transcript if options.verbose else world.transcript[-SHOWN_LINES:]
    if options.verbose or error is not None:
        print("\n".join(lines))
    if error is not None:
        print(error)
    print(f"{world.steps} steps, {dict(world.counts)}")
    return int(error is not None)


def _many(first: int, seconds: float, *, keep_going: bool) -> int:
    started = told = time.monotonic()
    steps, runs, failed = 0, 0, 0
    faults: Counter[str] = Counter()
    while time.monotonic() < started + seconds:
        world, error = attempt(make_plan(first + runs))
        runs, steps = runs + 1, steps + world.steps
        faults += world.counts
        if error is not None:
            failed += 1
            print(f"seed {first + runs - 1} fails: {error.strip().splitlines()[-1]}", flush=True)
            if not keep_going:
                print(f"replay: python -m tests.simulation --seed {first + runs - 1} --shrink")
                return 1
        if time.monotonic() > told + 30:
            told = time.monotonic()
            print(summary(runs, steps, faults, told - started), flush=True)
    print(summary(runs, steps, faults, time.monotonic() - started))
    return int(failed > 0)


def attempt(plan: Plan, steps: int | None = None) -> tuple[World, str | None]:
    """The world after the plan, and what went wrong."""
    world = World(plan)
    try:
        world.run(steps)
    except Exception:  # noqa: BLE001 # any fault of the code under test is a finding
        return world, traceback.format_exc()
    return world, None


def summary(runs: int, steps: int, faults: Counter[str], seconds: float) -> str:
    """One line."""
    listed = ", ".join(f"{name} {count}" for name, count in sorted(faults.items()))
    rate = steps / max(seconds, 0.001)
    return f"{runs} runs, {steps} steps ({rate:.0f}/s), {sum(faults.values())} faults: {listed}"


if __name__ == "__main__":
    sys.exit(main())
