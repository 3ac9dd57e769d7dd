"""`__del__` may run when the globals of its module are None: it uses none of them."""

from __future__ import annotations

import ast
import builtins
import dis
import importlib
from pathlib import Path
from types import FunctionType

import pytest

import pluto_dist

PACKAGE = Path(pluto_dist.__file__).parent


def finalisers() -> list[tuple[str, str]]:
    """Module and class of every `__del__` in the package."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in ast.iter_child_nodes(node) if isinstance(each, ast.FunctionDef)]
            if isinstance(node, ast.ClassDef) and "__del__" in names:
                module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
                found.append((module, node.name))
    return found


def test_there_are_finalisers_to_look_at() -> None:
    assert len(finalisers()) >= 2


@pytest.mark.parametrize(("module", "name"), finalisers())
def test_a_finaliser_uses_no_global_and_does_nothing_at_the_end(module: str, name: str) -> None:
    """What it calls may use globals, so first it asks whether the interpreter ends."""
    kind = getattr(importlib.import_module(module), name)
    finaliser = kind.__del__
    assert isinstance(finaliser, FunctionType)
    used = {each.argval for each in dis.get_instructions(finaliser) if each.opname == "LOAD_GLOBAL"}
    assert used <= set(dir(builtins)), f"{name}.__del__ uses {used}"
    untouched = object.__new__(kind)  # any attribute that it asked for would be an AttributeError
    finaliser(untouched, is_finalizing=lambda: True)
