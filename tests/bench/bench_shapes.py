"""What `log()` costs for the values that scripts really pass, and beside the least that a record needs.

That is: JSON, a checksum and one `write()`, taken in turn with `log()` in the same process.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator

from tests.bench.builds import Build
from tests.bench.effort import Effort
from tests.bench.nodes import a_node
from tests.bench.processes import probes
from tests.bench.table import Row

WIDTHS = {1: None, 10: 1.6, 100: None}
SHAPES = {"numpy": "numpy scalars", "torch": "0-d tensors", "nested": "a dict in a dict", "new": "new names"}
TIMES = 3.0


def rows(effort: Effort, build: Build) -> Iterator[Row]:
    """Widths, then shapes; with this interpreter, which may have torch."""
    build = build._replace(python=sys.executable)
    with a_node(build) as node, probes(node, ["owner"], "shapes") as (writer,):
        for width, goal in WIDTHS.items():
            ours, least = writer.do("shape", "plain", width, effort.records)
            what = f"log() of {width} metric{'s' if width > 1 else ''}"
            yield Row(f"{what}, p50", "us", ours)
            yield Row(f"{what}, by JSON + checksum + write()", "x", ours / least, goal=goal)
        plain = ours if width == 10 else writer.do("shape", "plain", 10, effort.records)[0]
        for shape, named in SHAPES.items():
            if shape not in ("numpy", "torch") or importlib.util.find_spec(shape) is not None:
                ours, _ = writer.do("shape", shape, 10, effort.records // 5)
                yield Row(f"log() of 10 metrics, {named}, p50", "us", ours)
                yield Row(f"log() of 10 metrics, {named}, by plain floats", "x", ours / plain, goal=TIMES)
