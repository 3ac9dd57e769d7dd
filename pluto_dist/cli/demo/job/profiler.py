"""Measures the machine's load until it is ended, or the process that started it is gone."""

from __future__ import annotations

import argparse
import itertools
import os
import time

import pluto_dist as pluto
from pluto_dist.cli.demo.job import ledger

EVERY_S = 0.02


def main() -> None:
    """Logs a point each 20 ms."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run_id")
    options = parser.parse_args()

    run = pluto.attach(options.run_id, label="profiler")
    parent = os.getppid()
    for step in itertools.count():
        if os.getppid() != parent:
            break
        point = {"profiler/load": os.getloadavg()[0]}
        run.log(point, step=step)
        ledger.note(run.lease_id, point, step)
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main()
