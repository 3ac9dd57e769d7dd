"""The rings (see `pluto_dist/__init__.py`): imports point inwards, and the heavy libraries stay outside."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import get_args

import pytest

import pluto_dist
from pluto_dist.core.values import effects, events

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
    "host": {*CORE, "spool", "transport"},
    "coordinator": {*CORE, "core.machine", "spool", "transport", "backend", "cluster", "host"},
    "client": {*CORE, "spool", "transport", "host"},
    "sync": {*CORE, "spool", "backend", "host"},
    "read": {*CORE, "spool", "transport", "backend", "cluster", "host"},
    "cli": {
        *CORE,
        "spool",
        "transport",
        "backend",
        "cluster",
        "host",
        "coordinator",
        "client",
        "sync",
        "read",
        "ui",
    },
    "ui": {*CORE, "spool", "backend", "read"},
    "integrations": {"host", "client"},
}

# What `import pluto_dist` and a trainer's `init()` must not load.
HEAVY = (
    "httpx",
    "sqlite3",
    "rich",
    "psutil",
    "numpy",
    "torch",
    "lightning",
    "transformers",
    "pyarrow",
    "pandas",
    "polars",
    "starlette",
    "uvicorn",
    "pluto_dist.read",
    "pluto_dist.ui",
)


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def ring_of(parts: Sequence[str]) -> str:
    """The room of a module: its folder, or the one of the three in `core`."""
    inner = ".".join(parts[:2])
    return inner if inner in ALLOWED else parts[0]


def imports_of(path: Path) -> set[str]:
    """Rooms of pluto_dist that a module imports, anywhere in it."""
    parts = (name.split(".") for name in imported(path))
    return {ring_of(part[1:]) for part in parts if part[0] == "pluto_dist" and len(part) > 1}


def module_of(path: Path) -> str:
    """Dotted name of a module."""
    return ".".join(("pluto_dist", *path.relative_to(PACKAGE).with_suffix("").parts))


def imported(path: Path) -> set[str]:
    """Dotted names that a module imports, anywhere in it: modules, and whatever is taken from them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_inwards(path: Path) -> None:
    """A ring knows only the rings inside it."""
    ring = ring_of(path.relative_to(PACKAGE).parts)
    allowed = ALLOWED[ring] | {ring, "errors", "secret", "__version__"}
    assert imports_of(path) <= allowed, f"{ring} imports {imports_of(path) - allowed}"


def test_no_module_imports_itself_in_a_circle() -> None:
    """Imports for a type checker and inside functions count too: a circle is one concept in two files."""
    names = {module_of(path): path for path in modules() if path.name != "__init__.py"}
    graph = {name: {found for found in imported(path) if found in names} for name, path in names.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_core_imports_at_the_top_of_a_module() -> None:
    """So the order of its modules is the order in which they may be read."""
    for path in (PACKAGE / "core").rglob("*.py"):
        tree = ast.parse(path.read_text())
        inner = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not [node.lineno for node in inner if node not in tree.body], path


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
    """None of httpx, sqlite3 and the command line's libraries."""
    assert loaded_by(statement, *HEAVY) == []


def loaded_by(statement: str, *names: str) -> list[str]:
    """Those of the modules that a fresh interpreter has after a statement, and not before it."""
    probe = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return sorted({*names} & {*done.stdout.split()})


def test_what_a_start_does_not_need_is_loaded_behind_it() -> None:
    """A script starts the coordinator before it loads the socket library; that does without OpenSSL."""
    script = "from pluto_dist.client import api, green, tasks; from pluto_dist.host import launch, settings"
    assert loaded_by(script, "zmq", "pluto_dist.client.run") == []
    late = ("hashlib", "tempfile", "shutil", "psutil", "pluto_dist.backend.pluto")
    assert loaded_by("import pluto_dist.coordinator.main", *late) == []


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_match_lets_a_value_through_in_silence(path: Path) -> None:
    """The last case takes what is left: `assert_never` where the union is closed, else what is meant.

    mypy finds the case that is missing (`exhaustive-match`); a value of another type, from a file of a newer
    version for instance, is an error here and not a thing that did not happen.
    """
    matches = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Match)]
    assert not [node.lineno for node in matches if not _takes_all(node.cases[-1])]


def _takes_all(case: ast.match_case) -> bool:
    return case.guard is None and isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None


def test_every_event_and_effect_is_in_its_union() -> None:
    """What the unions lack, no type checker would miss."""
    for module, union in ((events, events.Event), (effects, effects.Effect)):
        base = getattr(module, "_Event", None) or module._Effect
        assert set(base.__subclasses__()) == set(get_args(union))
