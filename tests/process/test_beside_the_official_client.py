"""An environment that has the official client too: it imports itself in every start of that interpreter."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from tests.official import OFFICIAL_PYTHON, needs_official_client
from tests.process.harness import CHECKOUT, Node, Script, wait_until
from tests.process.test_console import drains

pytestmark = needs_official_client


def mapped(pid: int) -> bool:
    """Whether a process has loaded numpy, which nothing of ours does there, and the official client does."""
    return "numpy" in Path(f"/proc/{pid}/maps").read_text()


def test_the_coordinator_and_helpers_start_without_it(node: Node) -> None:
    """It takes a good part of a second, and keeps 60 MB."""
    env = {"PYTHONPATH": f"{CHECKOUT}:{sysconfig.get_path('purelib')}"}
    _, *command = node.command(
        """
        run = pluto.init(run_id="beside", settings={"console": "fd"})
        tell("up")
        hear()
        """,
        "beside",
    )
    script = node.keep(Script("beside", *node.spawn([str(OFFICIAL_PYTHON), *command], "beside", env=env)))
    script.expect("up")
    helpers = [node.coordinator(), *wait_until(lambda: drains(node), "the drain of the console")]
    assert mapped(script.pid), "the hook is there"
    assert len(helpers) == 2
    assert not any(map(mapped, helpers))
    script.say()
    assert script.wait() == 0
    node.ended("beside")
