"""The first file that a coordinator runs; started by path, so it can decide where `pluto_dist` comes from.

The coordinator must run the very same package as the trainer, also from a plain checkout, and must not be
shadowed: a folder in PYTHONPATH goes before the standard library, so one `select.py` beside the package would
break it. Therefore the package is loaded from its own place, and other folders of the trainer's import path,
where the dependencies may be, are only appended.

Arguments: any number of `--import-path=FOLDER`, perhaps `--module=NAME` for another helper process of the
package, then those of the module. Only the standard library is imported here before the package is in place.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path

OPTION = "--import-path="
MODULE = "--module="


def load_package(folder: Path) -> None:
    """Makes `folder` the package `pluto_dist`, without putting its parent on the import path."""
    spec = importlib.util.spec_from_file_location(
        "pluto_dist", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is no package")
    package = importlib.util.module_from_spec(spec)
    sys.modules["pluto_dist"] = package
    spec.loader.exec_module(package)


def main() -> None:
    """Runs `pluto_dist.coordinator`, or another module of the package, with the rest of the arguments."""
    while len(sys.argv) > 1 and sys.argv[1].startswith(OPTION):
        folder = sys.argv.pop(1).removeprefix(OPTION)
        if folder not in sys.path:
            sys.path.append(folder)
    module = "pluto_dist.coordinator"
    if len(sys.argv) > 1 and sys.argv[1].startswith(MODULE):
        module = sys.argv.pop(1).removeprefix(MODULE)
    load_package(Path(__file__).parent.parent)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
