"""Measures the machine's load until somebody ends it."""

from __future__ import annotations

import argparse
import os
import time

import pluto_dist as pluto
from pluto_dist.cli.demo.job import ledger

EVERY_S = 0.02
LONGEST_S = 120.0  # it does not outlive a demo that has gone


def main() -> None:
    """Logs a point each 20 ms."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run_id")
    options = parser.parse_args()

    run = pluto.attach(options.run_id, label="profiler")
    for step in range(round(LONGEST_S / EVERY_S)):
        point = {"profiler/load": os.getloadavg()[0]}
        run.log(point, step=step)
        ledger.note(run.lease_id, point, step)
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main()
