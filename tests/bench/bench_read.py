"""Reading one series of a Run, beside TensorBoard's event reader and trackio's database, same data.

Others are measured where PLUTO_BENCH_TENSORBOARD_PYTHON and PLUTO_BENCH_TRACKIO_PYTHON name an interpreter
that has them. Nobody has read the Run before: `first`; `again` has the columns that the first reader kept.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.bench_look import make_store
from tests.bench.builds import Build
from tests.bench.effort import Effort
from tests.bench.reading_probe import records
from tests.bench.table import Row

PROBE = Path(__file__).with_name("reading_probe.py")
PEERS: dict[str, str] = {
    name: python
    for name in ("tensorboard", "trackio")
    if (python := os.environ.get(f"PLUTO_BENCH_{name.upper()}_PYTHON", "")) and Path(python).exists()
}
TIMES = 10  # faster than either


def rows(effort: Effort, build: Build) -> Iterator[Row]:
    """First and again; the others have nothing that makes a second time different."""
    count = effort.read_records
    with tempfile.TemporaryDirectory(prefix="pd") as name:
        base = Path(name)
        peers = dict(_peers(effort, base)) if effort.peers else {}
        goal = min(peers.values()) / TIMES if peers else None
        what = f"reading one of ten series of {count:,} points"
        first = []
        for number in range(effort.rounds):
            make_store(base / f"s{number}", 1, count)
            first.append(_read(build.python, "pluto_dist", base / f"s{number}", count, build.path))
        yield Row(f"{what}, first time", "ms CPU", statistics.median(first), peers, goal)
        store = base / "s0"
        again = [_read(build.python, "pluto_dist", store, count, build.path) for _ in range(effort.rounds)]
        yield Row(f"{what}, again", "ms CPU", statistics.median(again), peers, goal)


def _peers(effort: Effort, base: Path) -> Iterator[tuple[str, float]]:
    for name, python in PEERS.items():
        folder = base / name
        folder.mkdir()
        _order(python, name, "write", folder, effort.read_records, "")
        took = [_read(python, name, folder, effort.read_records, "") for _ in range(effort.rounds)]
        yield name, statistics.median(took)


def _read(python: str, client: str, folder: Path, count: int, path: str) -> float:
    """Milliseconds of processor time; the values are those that were written."""
    found = json.loads(_order(python, client, "read", folder, count, path))
    assert math.isclose(found["sum"], _sum(count), rel_tol=1e-6), (client, found)  # TensorBoard has 32 bits
    return 1000 * float(found["cpu_s"])


def _order(python: str, client: str, order: str, folder: Path, count: int, path: str) -> str:
    env = {**os.environ, "PYTHONPATH": path, "HOME": str(folder)}
    argv = [python, "-P", str(PROBE), client, order, str(folder), str(count)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _sum(count: int) -> float:
    return sum(record["loss"] for record in records(count))
