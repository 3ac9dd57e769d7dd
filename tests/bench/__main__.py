"""All measurements in one table: `python -m tests.bench [--quick] [--json FILE] [--only NAME …]`.

Peers are measured where they are installed, in interpreters of their own: the official client as for the
tests, wandb with PLUTO_BENCH_WANDB_PYTHON, readers as `bench_read` says. Nothing leaves the machine. Another
load on it shows in all figures: look at the load average, and at ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

from tests.bench import (
    bench_cluster,
    bench_coordinator,
    bench_crowd,
    bench_deaths,
    bench_delivery,
    bench_end,
    bench_files,
    bench_hand_over,
    bench_log,
    bench_look,
    bench_peers,
    bench_read,
    bench_shapes,
    bench_start,
    bench_sweep,
    bench_torchrun,
    pairs,
)
from tests.bench.builds import HERE, both
from tests.bench.effort import FULL, QUICK, Effort
from tests.bench.pairs import Section
from tests.bench.processes import PEERS
from tests.bench.table import Row, as_json, header, line

SECTIONS: dict[str, Section] = {
    "log": bench_log.rows,
    "shapes": bench_shapes.rows,
    "start": bench_start.rows,
    "coordinator": bench_coordinator.rows,
    "crowd": bench_crowd.rows,
    "deaths": bench_deaths.rows,
    "delivery": bench_delivery.rows,
    "end": bench_end.rows,
    "files": bench_files.rows,
    "hand-over": bench_hand_over.rows,
    "cluster": bench_cluster.rows,
    "sweep": bench_sweep.rows,
    "torchrun": bench_torchrun.rows,
    "look": bench_look.rows,
    "peers": bench_peers.rows,
    "read": bench_read.rows,
}


def main() -> None:
    """Measures, prints each row as soon as it is known."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, half a minute")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections")
    parser.add_argument("--against", metavar="REV", help="an older revision, to be measured in turn")
    parser.add_argument("--pairs", type=int, default=5, help="how often, with --against")
    given = parser.parse_args()
    begun, load = time.monotonic(), os.getloadavg()
    print(f"load average before: {_three(load)}, {os.cpu_count()} cores")
    effort = QUICK if given.quick else FULL
    if given.against:
        text = _against(given.against, given.only, replace(effort, peers=False), given.pairs)
    else:
        text = as_json(_alone(given.only, effort), load)
    print(f"load average after: {_three(os.getloadavg())}; {time.monotonic() - begun:.0f} s")
    if given.json:
        given.json.write_text(text + "\n")


def _alone(sections: list[str], effort: Effort) -> list[Row]:
    columns = (*PEERS, *bench_read.PEERS, bench_peers.PEER)
    print(header(columns))
    rows = []
    for name in sections:
        for row in SECTIONS[name](effort, HERE):
            rows.append(row)
            print(line(row, columns), flush=True)
    return rows


def _against(revision: str, sections: list[str], effort: Effort, count: int) -> str:
    found = []
    with both(revision) as (here, there):
        for name in sections:
            figures = pairs.compared(SECTIONS[name], effort, here, there, count, _say)
            print(pairs.header(there))
            for each in figures:
                print(pairs.line(each), flush=True)
            found += figures
    return json.dumps({"against": revision, "rows": [asdict(each) for each in found]}, indent=1)


def _say(text: str) -> None:
    print(text, flush=True)


def _three(load: tuple[float, float, float]) -> str:
    return " ".join(f"{value:.1f}" for value in load)


if __name__ == "__main__":
    main()
