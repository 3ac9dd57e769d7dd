"""All measurements in one table: `python -m tests.bench [--quick] [--json FILE] [--only NAME …]`.

Peers are measured where they are installed, in interpreters of their own: the official client as for the
tests, wandb with PLUTO_BENCH_WANDB_PYTHON. Nothing leaves the machine. Another load on it shows in all
figures: look at the load average, and at ratios.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import (
    bench_coordinator,
    bench_deaths,
    bench_delivery,
    bench_end,
    bench_log,
    bench_look,
    bench_start,
    bench_torchrun,
)
from tests.bench.effort import FULL, QUICK, Effort
from tests.bench.processes import PEERS
from tests.bench.table import Row, as_json, header, line

COLUMNS = (*PEERS, bench_look.BEFORE)
SECTIONS: dict[str, Callable[[Effort], Iterator[Row]]] = {
    "log": bench_log.rows,
    "start": bench_start.rows,
    "coordinator": bench_coordinator.rows,
    "deaths": bench_deaths.rows,
    "delivery": bench_delivery.rows,
    "end": bench_end.rows,
    "torchrun": bench_torchrun.rows,
    "look": bench_look.rows,
}


def main() -> None:
    """Measures, prints each row as soon as it is known."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, half a minute")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections")
    given = parser.parse_args()
    begun, load = time.monotonic(), os.getloadavg()
    print(f"load average before: {_three(load)}, {os.cpu_count()} cores")
    print(header(COLUMNS))
    rows = []
    for name in given.only:
        for row in SECTIONS[name](QUICK if given.quick else FULL):
            rows.append(row)
            print(line(row, COLUMNS), flush=True)
    print(f"load average after: {_three(os.getloadavg())}; {time.monotonic() - begun:.0f} s")
    if given.json:
        given.json.write_text(as_json(rows, load) + "\n")


def _three(load: tuple[float, float, float]) -> str:
    return " ".join(f"{value:.1f}" for value in load)


if __name__ == "__main__":
    main()
