"""What `log()` of ten metrics costs with other trackers that keep records on this machine.

Each is installed in an environment of its own and measured in turn with this package, in the same run. They
do not all do the same job: what only appends to a file from this process promises less than a record that
survives it. Needs a package registry; nothing else leaves the machine.
"""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Iterator

from tests.bench.builds import HERE, Build, environment
from tests.bench.effort import Effort
from tests.bench.nodes import BuildNode, a_node
from tests.bench.processes import probes
from tests.bench.table import Row

PEER = "peer"  # title of their column
PACKAGES = {
    "wandb": "wandb",
    "neptune": "neptune-scale",
    "trackio": "trackio",
    "tensorboardX": "tensorboardX",
    "mlflow": "mlflow-skinny",
}


def rows(effort: Effort, build: Build) -> Iterator[Row]:
    """One row for each that can be installed; nothing of an older revision."""
    if not effort.peers:
        return
    for peer, package in PACKAGES.items():
        try:
            python = environment((package,))
        except subprocess.CalledProcessError:
            print(f"{package} cannot be installed here")
            continue
        version = subprocess.run(
            [python, "-c", f"import importlib.metadata as m; print(m.version({package!r}))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        with a_node(build) as node, a_node(HERE._replace(python=python)) as other:
            ours, theirs = _in_turn(node, other, peer, effort)
        yield Row(f"log() of 10 metrics, p50, beside {package} {version}", "us", ours, {PEER: theirs})


def _in_turn(node: BuildNode, other: BuildNode, peer: str, effort: Effort) -> tuple[float, float]:
    with probes(node, ["owner"], "peers") as (mine,), probes(other, [peer], "peers") as (theirs,):
        found = [
            (mine.do("log", effort.peer_records)[0], theirs.do("log", effort.peer_records)[0])
            for _ in range(effort.rounds)
        ]
    ours, peers = zip(*found, strict=True)
    return statistics.median(ours), statistics.median(peers)
