"""Run by the official client's Python: prints its public surface as JSON; see `tests/official_surface.py`."""

from __future__ import annotations

import inspect
import json
import pkgutil
import re
from pathlib import Path
from typing import Any

import pluto
from pluto.op import Op

PACKAGE = Path(pluto.__file__).parent
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text() for path in PACKAGE.rglob("*.py")}
ERROR = re.compile(r"^class ([A-Z]\w*)\(\w*(?:Error|Exception)\w*\)", re.MULTILINE)
ATTRIBUTE = re.compile(r"^        self\.([a-z]\w*)\b.* = ", re.MULTILINE)
VARIABLE = re.compile(r"['\"]((?:PLUTO|MLOP)_[A-Z_]+)['\"]")
COMMAND = re.compile(r"add_parser\(\s*['\"](\w+)['\"]")


def arguments(function: Any, name: str) -> list[str]:
    """`name(argument)` for each, `name(**)` where it takes any."""
    found = [each for each in inspect.signature(function).parameters.values() if each.name != "self"]
    plain = [each.name for each in found if each.kind is not each.VAR_KEYWORD]
    return [f"{name}({each})" for each in plain] + [f"{name}(**)"] * (len(found) - len(plain))


def public(kind: type) -> list[tuple[str, Any]]:
    """What a class itself defines for its users."""
    return [(name, each) for name, each in vars(kind).items() if not name.startswith("_")]


def of_run() -> list[str]:
    """Methods with their arguments, properties, and attributes that its making sets."""
    names = ATTRIBUTE.findall(inspect.getsource(Op.__init__))
    for name, each in public(Op):
        if inspect.isfunction(each):
            names += [name, *arguments(each, name)]
        elif isinstance(each, property):
            names.append(name)
    return sorted({f"Run.{name}" for name in names})


def of_classes(classes: dict[str, type]) -> list[str]:
    """Arguments of their making, methods, properties."""
    made = [each for name, kind in classes.items() for each in arguments(kind.__init__, name)]
    return made + [
        f"{name}.{method}"
        for name, kind in classes.items()
        for method, each in public(kind)
        if inspect.isfunction(each) or isinstance(each, property)
    ]


def everywhere(pattern: re.Pattern[str]) -> list[str]:
    """What it finds in the whole package."""
    return sorted({found for text in SOURCES.values() for found in pattern.findall(text)})


def main() -> None:
    """Prints one line."""
    names = [*pluto.__all__, "log", "ops"]
    offered = {name: getattr(pluto, name) for name in names}
    compat = [each.name for each in pkgutil.iter_modules([str(PACKAGE / "compat")])]
    surface = {
        "Module": names,
        "Arguments": [
            argument
            for name, each in offered.items()
            if inspect.isfunction(each)
            for argument in arguments(each, name)
        ],
        "Run": of_run(),
        "Classes": of_classes({name: each for name, each in offered.items() if inspect.isclass(each)}),
        "Errors": [name for name in everywhere(ERROR) if not name.startswith("_")],
        "Settings": list(pluto.Settings.__annotations__),
        "Environment": everywhere(VARIABLE),
        "Commands": [f"pluto {name}" for name in COMMAND.findall(SOURCES["__main__.py"])],
        "Adapters": [f"pluto.compat.{name}" for name in compat if not name.startswith("_")]
        + ["pluto.migrate"] * (PACKAGE / "migrate").is_dir(),
    }
    print(json.dumps(surface))


if __name__ == "__main__":
    main()
