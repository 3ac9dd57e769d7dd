"""The public surface of the official client, asked of the package that is installed for it.

Items are written as `docs/official-client.md` has them: `init(dir)` is an argument, `Run.log(step)` one of a
method, `Run.id` a property, `Histogram.to_dict` a method of a class; settings, variables, errors and commands
are their names.
"""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path

from tests.official import OFFICIAL_PYTHON

PROBE = Path(__file__).with_name("official_probe.py")


@cache
def surface() -> dict[str, list[str]]:
    """Its items by the headings of the document."""
    env = {"PLUTO_DISABLE_TELEMETRY": "1", "HOME": "/nonexistent", "PATH": "/usr/bin:/bin"}
    probe = [str(OFFICIAL_PYTHON), str(PROBE)]
    done = subprocess.run(probe, capture_output=True, text=True, check=True, env=env, cwd="/")
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found
