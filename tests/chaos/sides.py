"""`python -m tests.chaos.sides --mib 2048 --every 3`: the story of the sides with gigabytes, by the clock."""

from __future__ import annotations

import argparse
import sys
import time

from tests.pluto_server.client import ServerProcess
from tests.process.served import Served
from tests.process.sides_story import Size, Story

EACH_MIB = 32
SAMPLE_MIB = 8


def main() -> int:
    """Prints what it was like and what does not add up; 1 if there is such a thing."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.sides", description=__doc__)
    parser.add_argument("--mib", type=int, default=2048, help="of files in all")
    parser.add_argument(
        "--every", type=float, default=3.0, help="seconds between two deaths of the coordinator"
    )
    options = parser.parse_args()
    rounds = max(2, options.mib // (EACH_MIB + SAMPLE_MIB) // 2)
    began = killed = time.monotonic()

    def due(_: int) -> bool:
        nonlocal killed
        if (now := time.monotonic()) - killed < options.every:
            return False
        killed = now
        return True

    with ServerProcess() as server:
        served = Served(server)
        try:
            story = Story(served, Size(rounds, 2, EACH_MIB << 20, SAMPLE_MIB << 20), due, paced=False)
            findings = story.play()
            findings += [f"the server: {each}" for each in server.control.check()]
            print(f"{story.summary()}; {time.monotonic() - began:.0f} s")
            print("\n".join(f"FOUND {each}" for each in findings) or "all adds up")
            if findings:
                print(served.report())
        finally:
            served.close()
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
