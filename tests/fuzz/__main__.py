"""`python -m tests.fuzz --for SECONDS [--seed N] [--only WORD]`: all properties, until the time is over."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from pathlib import Path

import hypothesis

from tests.fuzz.budget import PLAYED, TARGETS, Target

TIMES_MORE = 5  # examples of one property in a round, compared with the test suite


def main() -> int:
    """Rounds over all properties; 1 if one of them does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--for", dest="seconds", type=float, default=60.0, help="how long; default 60")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first round")
    parser.add_argument("--only", default="", help="properties whose name holds this word")
    options = parser.parse_args()
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(f"tests.fuzz.{path.stem}")
    targets = [target for target in TARGETS if options.only in target.name]
    failed = _play(targets, options.seed, time.monotonic() + options.seconds)
    for target in targets:
        print(f"{PLAYED[target.name]:>9} {target.name}{'  FAILED' if target.name in failed else ''}")
    print(f"{sum(PLAYED.values())} examples, {len(failed)} of {len(targets)} properties failed")
    return int(bool(failed))


def _play(targets: list[Target], seed: int, until: float) -> set[str]:
    failed: set[str] = set()
    while time.monotonic() < until and len(failed) < len(targets):
        print(f"round with --seed {seed}", flush=True)
        for target in targets:
            if target.name in failed or time.monotonic() >= until:
                continue
            try:
                hypothesis.seed(seed)(target.test(target.examples * TIMES_MORE, remember=False))()
            except Exception:  # noqa: BLE001 # the others still have their turn
                failed.add(target.name)
                print(f"{target.name} fails with --seed {seed}\n{traceback.format_exc()}", flush=True)
        seed += 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
