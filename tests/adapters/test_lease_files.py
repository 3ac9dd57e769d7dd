"""A process's own files: durability, and times that cleaners of temporary folders look at."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pluto_dist.client.lease_files import LeaseFiles, Wall
from pluto_dist.client.notices import WarnOnce
from pluto_dist.client.record import PointLog
from pluto_dist.coordinator import spools
from pluto_dist.core.values.lifecycle import Noted, encode_entry
from pluto_dist.errors import PlacesError
from pluto_dist.host.identity import boot_clock
from pluto_dist.host.liveness import LOCK_NAME


def files_at(spool: Path, *, durable: bool = False) -> LeaseFiles:
    return LeaseFiles(spool, segment_bytes=1 << 20, quota_bytes=None, durable=durable)


def test_machine_durability_syncs_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G3: with durability="machine" records are on the disk within about a second."""
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())), real(fd))
    )
    files = files_at(tmp_path, durable=True)
    files.metrics.append(b'{"time":1,"step":0,"data":{"a":1}}\n')
    files.sync_if_due(boot_clock())
    assert any("metrics-00000001" in name for name in synced)
    synced.clear()
    files.sync()
    assert not synced, "nothing new was written"


def test_process_durability_never_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default survives the death of processes, and costs no fsync."""
    monkeypatch.setattr(os, "fsync", lambda fd: pytest.fail("fsync"))
    files = files_at(tmp_path)
    files.metrics.append(b"x\n")
    files.sync_if_due(boot_clock())
    files.sync()


def test_no_record_is_taken_while_the_disk_refuses_the_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G3: without its opening entry nobody could say whose a record is, so it is a counted drop."""
    files = files_at(tmp_path)
    entry = Noted(at=1.0, wall_ms=1, text="the first entry")
    with monkeypatch.context() as full:
        full.setattr(files.lifecycle, "append", lambda payload: False)
        files.say(entry)
        assert not files.metrics.append(b"x\n")
    assert (files.dropped, files.trouble) == (1, "not opened")
    files.say_again()
    files.metrics._retry_at = 0.0  # the next try is due
    assert files.metrics.append(b"x\n")
    assert (files.dropped, files.trouble) == (1, "")


def test_machine_durability_refuses_memory() -> None:
    """A spool on tmpfs is gone with the power."""
    shared = Path("/dev/shm")
    if not shared.is_dir():
        pytest.skip("no /dev/shm")
    spool = shared / f"pd-{os.getpid()}"
    spool.mkdir(mode=0o700)
    try:
        with pytest.raises(PlacesError, match="durability='machine' needs a disk"):
            files_at(spool, durable=True)
    finally:
        for path in sorted(spool.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        spool.rmdir()


def test_times_of_a_living_lease_are_renewed(tmp_path: Path) -> None:
    """Live files are touched daily, against cleaners of temporary folders."""
    files = files_at(tmp_path)
    files.lifecycle.append(encode_entry(Noted(at=0.0, wall_ms=0, text="hello")))
    old = time.time() - 3 * 86_400
    lock = files.folder / "lease.lock"
    os.utime(lock, (old, old))
    list(spools.LeaseFolders(tmp_path).look(boot_clock()))
    assert lock.stat().st_mtime > old + 86_400


@pytest.mark.parametrize(
    ("age_s", "records", "stays"), [(60.0, False, False), (0.0, False, True), (60.0, True, True)]
)
def test_a_lease_of_which_the_disk_took_no_word_is_swept_when_its_process_is_gone(
    tmp_path: Path, age_s: float, records: bool, stays: bool
) -> None:
    """R13: the process was killed on a full disk; a coordinator that finds its empty folder removes it."""
    folder = tmp_path / "leases" / f"{1:024x}"
    folder.mkdir(parents=True)
    lock = folder / LOCK_NAME
    lock.touch()
    os.utime(lock, (time.time() - age_s,) * 2)
    if records:
        (folder / "metrics-00000001.spool").write_bytes(b"something")
    list(spools.LeaseFolders(tmp_path).scan(boot_clock()))
    assert folder.exists() == stays


def test_a_record_that_is_dropped_counts_once_although_its_names_were_not_declared(tmp_path: Path) -> None:
    """G4: people are told how many records are missing."""
    files = LeaseFiles(tmp_path, segment_bytes=1 << 20, quota_bytes=0)
    files.metrics.close()
    points = PointLog(files, Wall(), WarnOnce(), strict=False)
    for step in range(100):
        points.log({"loss": 1.0}, step, None)
    assert files.dropped == 100
