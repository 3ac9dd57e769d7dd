"""What holds for all tests: nobody's environment, names that stay, what takes long first."""

from __future__ import annotations

import signal
from pathlib import Path

import hypothesis
import pytest

from tests import nobody

nobody.become()  # here, because test modules read the environment when they are imported

for ignored in (signal.SIGINT, signal.SIGHUP):  # by nohup or a shell's background; children would inherit it
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, signal.default_int_handler if ignored is signal.SIGINT else signal.SIG_DFL)

hypothesis.settings.register_profile("busy", deadline=None)  # a busy machine takes a second for anything
hypothesis.settings.load_profile("busy")

LONGEST = (
    "test_nodes_store",
    "test_nodes_network",
    "test_torchrun",
    "test_lightning",
    "test_transformers",
    "test_chaos",
    "test_server_chaos",
)


def pytest_unconfigure() -> None:
    """The last thing that a session does."""
    nobody.leave()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first, so that no worker is left alone with it in the end.

    All workers have to find the same tests, so a name must not hold where an object is in memory.
    """
    moving = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if moving:
        raise pytest.UsageError(
            f"names of tests that change from process to process: {moving[:3]}; give ids="
        )

    def turn(item: pytest.Item) -> int:
        name = Path(item.path).name
        return 0 if name.startswith(LONGEST) else 1 if "process" in Path(item.path).parts else 2

    items.sort(key=turn)
