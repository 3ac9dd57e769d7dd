"""The official client lives in an environment of its own.

It hooks itself into every start of the interpreter that it is installed for (0.25 s each), which would slow
down and colour everything that is measured and tested here.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

OFFICIAL_PYTHON = Path(
    os.environ.get(
        "PLUTO_OFFICIAL_PYTHON", Path(__file__).parent.parent / ".venv-official" / "bin" / "python"
    )
)


def official_parameters(module: str, name: str) -> list[str]:
    """The constructor's parameters, as its source has them: importing it would import a framework."""
    (source,) = OFFICIAL_PYTHON.parents[1].glob(f"lib/python3*/site-packages/{module}.py")
    (found,) = (
        node
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == name
    )
    (init,) = (node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    given = init.args
    named = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return [each.arg for each in named if each is not None][1:]


needs_official_client = pytest.mark.skipif(
    not OFFICIAL_PYTHON.exists(),
    reason=f"the official client (pluto-ml) is not installed for {OFFICIAL_PYTHON}",
)
