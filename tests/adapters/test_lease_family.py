"""Who may still write into a lease's folder: the holder's forked children, and no other program (G3)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pluto_dist.host.liveness import LeaseProbe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the two kinds of lock are one")

HOLDER = """
import os, subprocess, sys
from pathlib import Path
from pluto_dist.host.liveness import LeaseLock
lock = LeaseLock(Path(sys.argv[1]))
quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], **quiet)
if os.fork():
    os._exit(0)
print(stranger.pid, flush=True)
sys.stdin.readline()
os._exit(0)
"""


def test_a_forked_child_is_family_and_a_program_that_was_started_is_not(tmp_path: Path) -> None:
    lock = tmp_path / "lease.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        stranger = int(holder.stdout.readline())
        holder.wait()
        probe = LeaseProbe(lock)
        assert (probe.state(), probe.has_family()) == ("free", True)
        holder.stdin.write(b"\n")
        holder.stdin.flush()
        holder.stdout.read()  # ends with the child
        assert not probe.has_family()
        probe.close()
        os.kill(stranger, signal.SIGKILL)


def test_a_folder_without_a_lock_file_has_no_family(tmp_path: Path) -> None:
    probe = LeaseProbe(tmp_path / "lease.lock")
    assert not probe.has_family()
    probe.close()
