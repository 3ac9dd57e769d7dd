"""Warnings in the output of a job say whose they are and what follows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LOGS = """
from pathlib import Path
from pluto_dist.client.lease_files import LeaseFiles, Wall
from pluto_dist.client.notices import WarnOnce
from pluto_dist.client.record import PointLog
{setup}
files = LeaseFiles(Path({spool!r}), segment_bytes=1 << 20, quota_bytes=None)
PointLog(files, Wall(), WarnOnce(), strict=False).log({{"a": None}}, 0, None)
"""


def stderr(spool: Path, setup: str = "") -> str:
    probe = [sys.executable, "-c", LOGS.format(setup=setup, spool=str(spool))]
    return subprocess.run(probe, capture_output=True, text=True, check=True).stderr.strip()


def test_without_logging_set_up_a_warning_names_its_sender(tmp_path: Path) -> None:
    """Nobody else says where the line comes from."""
    assert stderr(tmp_path).startswith("pluto_dist: log(): 'a' (NoneType) was left out: ")


def test_a_handler_of_the_script_names_it_itself(tmp_path: Path) -> None:
    """No sender twice."""
    text = stderr(tmp_path, "import logging; logging.basicConfig(format='%(name)s! %(message)s')")
    assert text.startswith("pluto_dist! log(): 'a' (NoneType) was left out: ")
