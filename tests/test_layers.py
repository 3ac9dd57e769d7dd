"""The rings (see `pluto_dist/__init__.py`): imports point inwards, and the heavy libraries stay outside."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import pluto_dist

PACKAGE = Path(pluto_dist.__file__).parent

# folder -> what it may import from this package. `errors` is open to all.
CORE = {"core.values", "core.rules"}
ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "core.values": set(),
    "core.rules": {"core.values"},
    "core.machine": CORE,
    "spool": {*CORE},
    "transport": {*CORE},
    "cluster": {*CORE},
    "backend": {*CORE, "spool"},
    "host": {*CORE, "spool", "transport", "cluster"},
    "coordinator": {*CORE, "core.machine", "spool", "transport", "backend", "cluster", "host"},
    "client": {*CORE, "spool", "transport", "host"},
    "sync": {*CORE, "spool", "backend", "host"},
    "cli": {*CORE, "spool", "transport", "backend", "cluster", "host", "coordinator", "client", "sync"},
    "integrations": {"host", "client"},
}

# What `import pluto_dist` and a trainer's `init()` must not load.
HEAVY = (
    "httpx",
    "sqlite3",
    "typer",
    "rich",
    "psutil",
    "numpy",
    "torch",
    "lightning",
    "transformers",
)


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def ring_of(parts: Sequence[str]) -> str:
    """The room of a module: its folder, or the one of the three in `core`."""
    inner = ".".join(parts[:2])
    return inner if inner in ALLOWED else parts[0]


def imports_of(path: Path) -> set[str]:
    """Rooms of pluto_dist that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "pluto_dist" and len(parts) > 1:
                found.add(ring_of(parts[1:]))
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_inwards(path: Path) -> None:
    """Design section 5: a ring knows only the rings inside it."""
    ring = ring_of(path.relative_to(PACKAGE).parts)
    allowed = ALLOWED[ring] | {ring, "errors", "secret", "__version__"}
    assert imports_of(path) <= allowed, f"{ring} imports {imports_of(path) - allowed}"


def test_the_core_imports_nothing_that_looks_at_the_world() -> None:
    """Ring 0 has no clock, socket, file, thread, environment, logger or randomness; ruff holds it too."""
    forbidden = {
        "time", "datetime", "os", "io", "pathlib", "socket", "zmq", "httpx", "threading", "asyncio",
        "subprocess", "signal", "random", "uuid", "secrets", "logging", "sqlite3", "pickle", "sys",
    }  # fmt: skip
    for path in (PACKAGE / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & forbidden, path.name
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.module.split(".")[0] not in forbidden, path.name


@pytest.mark.parametrize("statement", ["import pluto_dist", "import pluto_dist.client.run"])
def test_a_trainer_loads_no_heavy_library(statement: str) -> None:
    """Design section 5: none of httpx, sqlite3 and the command line's libraries."""
    probe = f"{statement}; import sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
