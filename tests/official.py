"""The official client lives in an environment of its own.

It hooks itself into every start of the interpreter that it is installed for (0.25 s each), which would slow
down and colour everything that is measured and tested here.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

OFFICIAL_PYTHON = Path(
    os.environ.get(
        "PLUTO_OFFICIAL_PYTHON", Path(__file__).parent.parent / ".venv-official" / "bin" / "python"
    )
)

needs_official_client = pytest.mark.skipif(
    not OFFICIAL_PYTHON.exists(),
    reason=f"the official client (pluto-ml) is not installed for {OFFICIAL_PYTHON}",
)
