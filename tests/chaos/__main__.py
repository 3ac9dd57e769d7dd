"""`python -m tests.chaos --for SECONDS [--seed N]`: plays one schedule; 1 if something does not add up."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from tests.chaos.checks import Checks
from tests.chaos.driver import played


def main() -> int:
    """Prints the seed first, so that it is known whatever happens."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--for", dest="seconds", type=float, default=60.0, help="how long faults go on")
    parser.add_argument("--seed", type=int, default=None, help="of the schedule; by default a new one")
    parser.add_argument("--keep", type=Path, default=None, help="file for the story of a play with findings")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    print(f"seed {seed}, {options.seconds:g} s", flush=True)
    with played(seed, options.seconds) as play:
        checks = Checks(play)
        findings = checks.findings()
        print(f"did: {dict(sorted(play.done.items()))}")
        print(f"saw: {checks.counts()}")
        for finding in findings:
            print(f"FOUND {finding}")
        if findings and options.keep is not None:
            options.keep.write_text(play.served.report())
    print("all adds up" if not findings else f"{len(findings)} findings; seed {seed}")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
