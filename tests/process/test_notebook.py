"""The kernel of a notebook: its clean end is no finish."""

from __future__ import annotations

import pytest

from tests.process.harness import Node

KERNEL = """
import types
sys.ps1 = "In : "
module = sys.modules["IPython"] = types.ModuleType("IPython")
module.get_ipython = lambda: types.SimpleNamespace(kernel=object())
"""


@pytest.mark.parametrize(
    ("cell", "status"),
    [
        ("pass", "TERMINATED"),
        ("sys.exit(0)", "TERMINATED"),
        ("run.finish()", "COMPLETED"),
    ],
)
def test_a_notebooks_clean_restart_is_a_stop_and_only_finish_completes(
    node: Node, cell: str, status: str
) -> None:
    """G7: a kernel that is shut down runs its exit hooks and exits with 0, whatever its cells did."""
    script = node.start(
        KERNEL
        + f"""
run = pluto.init(run_id="kernel")
log(run, {{"loss": 1.0}}, 0)
try:
    {cell}
except SystemExit:
    pass
"""
    )
    assert script.wait() == 0
    found = node.ended("kernel")
    assert (found["status"], found["points"]) == (status, 1)
    assert ("kernel ended" in found["verdict"]["reason"]) == (status == "TERMINATED")
    assert ("kernel ended" in script.stderr) == (status == "TERMINATED")


def test_trials_at_once_in_a_notebook_do_not_end_each_other(node: Node) -> None:
    """R5: threads and forked children; an `attach()` ends nothing either, the next cell ends what is left."""
    script = node.start(
        KERNEL
        + """
import multiprocessing as mp
from concurrent.futures import ThreadPoolExecutor
def trial(n):
    run = pluto.init(name=f"t{n}")
    together.wait()
    log(run, {"loss": float(n)}, 0)
    together.wait()
    run.finish()
def child():
    log(pluto.init(name="child"), {"loss": 1.0}, 0)
first = pluto.init(name="first", run_id="first")
pluto.attach("first", label="looks").close()
tell(first.status)
first.finish()
together = threading.Barrier(2)
with ThreadPoolExecutor(2) as pool: list(pool.map(trial, range(2)))
process = mp.get_context("fork").Process(target=child)
process.start(); process.join()
cell = pluto.init(name="cell")
last = pluto.init(name="last")
tell("cell", cell.status)
"""
    )
    script.expect("RUNNING")
    assert script.expect("cell") == "COMPLETED"
    assert script.wait() == 0
    status = {name: node.ended(name)["status"] for name in ("first", "t0", "t1", "child", "cell", "last")}
    assert status == dict.fromkeys(status, "COMPLETED") | {"last": "TERMINATED"}
    assert script.stderr.count("a new Run starts in this notebook") == 1
    assert not any(node.lost(name) for name in status)
