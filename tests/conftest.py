"""No test sees a login, a key or a server of the person who runs it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

for ignored in (signal.SIGINT, signal.SIGHUP):  # by nohup or a shell's background; children would inherit it
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, signal.default_int_handler if ignored is signal.SIGINT else signal.SIG_DFL)

OURS = ("PLUTO_", "MLOP_")
LONGEST = ("test_torchrun", "test_lightning", "test_transformers", "test_chaos", "test_server_chaos")
FOR_TESTS = ("PLUTO_DIST_EXAMPLES", "PLUTO_DIST_REWRITE", "PLUTO_OFFICIAL_PYTHON")


@pytest.fixture(scope="session", autouse=True)
def nobodys_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stored logins and key files are looked for in an empty folder; variables of ours are unset."""
    with pytest.MonkeyPatch.context() as patch:
        empty = tmp_path_factory.mktemp("nobody")
        for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
            patch.setenv(name, str(empty))
        for name in [name for name in os.environ if name.startswith(OURS) and name not in FOR_TESTS]:
            patch.delenv(name)
        yield


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
