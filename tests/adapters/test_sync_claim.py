"""One sync at a time for each Run; the store may be on a filesystem without locks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pluto_dist.core.values.backend import BackendRun, OpenRequest
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.sync import upload
from pluto_dist.sync.upload import STALE_S, SyncBusyError, SyncClaim
from tests.adapters.memory_backend import MemoryBackend
from tests.patience import PATIENCE_S


def hold(folder: Path) -> subprocess.Popen[bytes]:
    """A process that holds the claim until its stdin is closed."""
    program = "import sys; from pathlib import Path; from pluto_dist.sync.upload import SyncClaim\n"
    program += "with SyncClaim(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    held = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert held.stdout is not None
    assert held.stdout.readline() == b"held\n"
    return held


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def test_a_second_one_is_told_who_holds_it(tmp_path: Path) -> None:
    process = hold(tmp_path)
    with pytest.raises(SyncBusyError, match=f"pid {process.pid} on "), SyncClaim(tmp_path):
        pass
    end(process)


def test_it_is_free_when_its_holder_is_done(tmp_path: Path) -> None:
    process = hold(tmp_path)
    process.communicate()
    with SyncClaim(tmp_path):
        pass
    assert list((tmp_path / "sync").iterdir()) == []


def test_a_dead_holder_holds_nothing(tmp_path: Path) -> None:
    end(hold(tmp_path))
    with SyncClaim(tmp_path) as claim:
        claim.keep()
    assert list((tmp_path / "sync").iterdir()) == []


def test_a_silent_holder_loses_it_and_notices(tmp_path: Path) -> None:
    """It may be alive on another host; nobody can tell."""
    with SyncClaim(tmp_path) as silent:
        old = (tmp_path / "sync" / "claim").stat().st_mtime - STALE_S - 1
        os.utime(tmp_path / "sync" / "claim", (old, old))
        with SyncClaim(tmp_path):
            with pytest.raises(SyncBusyError, match="another one took over"):
                silent.keep()
            with pytest.raises(SyncBusyError):
                SyncClaim(tmp_path).__enter__()


def test_a_holder_that_lost_it_leaves_the_next_ones_alone(tmp_path: Path) -> None:
    first = SyncClaim(tmp_path)
    first.__enter__()
    (tmp_path / "sync" / "claim").unlink()
    with SyncClaim(tmp_path) as second:
        first.__exit__(None, None, None)
        second.keep()


def test_it_is_kept_while_one_request_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of many gigabytes; and whoever lost the claim goes on to its next request, which tells."""
    monkeypatch.setattr(upload, "BEAT_S", 0.01)
    backend, target = MemoryBackend(), Target("pluto", "/s")
    backend.open(OpenRequest(key="k", target=target, want="create", project="p", name="n", external_id="e"))
    run = BackendRun("k", target, 1, "p")
    enough, calls = threading.Event(), [0]

    def keep() -> None:
        calls[0] += 1
        if calls[0] == 3:
            enough.set()
        raise SyncBusyError("lost")

    with upload.Heart(backend, run, keep):
        assert enough.wait(PATIENCE_S)
    assert backend.runs[1].beats >= 3
