"""First file of coordinators whose test has changed a constant of theirs; otherwise as `host/boot.py`.

A grace that must not run out on a slow machine, or that a test wants to end by itself, is a constant in the
coordinator's process. `Node.constants` names them; scripts that start a coordinator put this file in the
place of the real one.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path

REAL, CONSTANTS = "PLUTO_DIST_TEST_BOOT", "PLUTO_DIST_TEST_CONSTANTS"


def main() -> None:
    """Boots, and changes what is to be changed as soon as the package can be imported."""
    spec = importlib.util.spec_from_file_location("boot", os.environ[REAL])
    assert spec is not None
    assert spec.loader is not None
    boot = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(boot)
    if not any(argument.startswith(boot.MODULE) for argument in sys.argv):
        load = boot.load_package

        def load_package(folder: Path) -> None:
            load(folder)
            for name, value in json.loads(Path(os.environ[CONSTANTS]).read_text()).items():
                module, _, constant = name.rpartition(".")
                found = importlib.import_module(module)
                assert hasattr(found, constant), f"there is no {name} any more"
                setattr(found, constant, value)

        boot.load_package = load_package
    boot.main()


if __name__ == "__main__":
    main()
