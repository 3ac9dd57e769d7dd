"""The kernel of a notebook: its clean end is no finish."""

from __future__ import annotations

import pytest

from tests.process.harness import Node


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
        f"""
        import types
        sys.ps1 = "In : "
        module = sys.modules["IPython"] = types.ModuleType("IPython")
        module.get_ipython = lambda: types.SimpleNamespace(kernel=object())
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
