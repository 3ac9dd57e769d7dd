"""The scripts in `findings` have the form that its README promises; by hand only, because they install."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

FINDINGS = Path(__file__).parents[1] / "findings"
SCRIPTS = sorted(path for path in FINDINGS.glob("*.sh") if path.name != "setup.sh")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_finding_says_what_was_expected_and_what_is_seen(path: Path) -> None:
    text = path.read_text()
    assert os.access(path, os.X_OK)
    assert subprocess.run(["sh", "-n", path], check=False).returncode == 0
    assert text.startswith("#!/bin/sh\n# ")
    assert '. "$(dirname "$0")/setup.sh"\n' in text
    for needed in ("echo 'expected:  ", "changed ", "seen "):
        assert needed in text
    pinned = re.findall(r"^environment (.+)$", text, re.MULTILINE)
    assert all("==" in packages.split()[0] for packages in pinned)
    assert "pluto_dist" not in text  # it is about others


def test_the_table_has_all_of_them() -> None:
    listed = re.findall(r"^\| `([\w-]+\.sh)`", (FINDINGS / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == [path.name for path in SCRIPTS]
