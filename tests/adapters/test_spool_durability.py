"""`durability="machine"`: power loss takes nothing that a group sync has passed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pluto_dist.errors import PlacesError
from pluto_dist.host.places import Mount, require_durable
from pluto_dist.spool.reader import list_streams, read_cut
from pluto_dist.spool.writer import GroupSync, Limits, StreamWriter
from tests.simulation.memory_files import MemoryDisk, MemoryFiles


def read_all(disk: MemoryDisk) -> list[bytes]:
    files = MemoryFiles(disk)
    segments = list_streams("/lease", files).get("metrics", {})
    return [
        line
        for n in sorted(segments)
        for line in read_cut("/lease", "metrics", n, 0, final=True, files=files).lines
    ]


@given(st.integers(0, 2**32), st.integers(0, 40), st.integers(0, 40))
def test_power_loss_takes_only_what_was_not_synced(seed: int, before: int, after: int) -> None:
    """G3, machine: the rest is a prefix of every segment; a torn tail is skipped."""
    disk = MemoryDisk()
    files = MemoryFiles(disk)
    writer = StreamWriter("/lease", "metrics", Limits(segment_bytes=120), files=files)
    group = GroupSync([writer])
    lines = [b"%d\n" % n for n in range(before + after)]
    for line in lines[:before]:
        writer.append(line)
    assert group.sync_if_due(0.0)
    for line in lines[before:]:
        writer.append(line)
    files.die()
    disk.power_loss(Random(seed))
    kept = read_all(disk)
    assert kept[:before] == lines[:before]
    assert set(kept) <= set(lines)


def test_without_a_sync_power_loss_may_take_everything() -> None:
    """The limit of the default durability, and the proof that the simulated loss bites."""
    disk = MemoryDisk()
    files = MemoryFiles(disk)
    writer = StreamWriter("/lease", "metrics", files=files)
    for n in range(100):
        writer.append(b"%d\n" % n)
    files.die()
    disk.power_loss(Random(1))
    assert len(read_all(disk)) < 100


def test_a_write_in_flight_during_a_rotation_is_synced_with_the_next_group() -> None:
    disk = MemoryDisk()
    files = MemoryFiles(disk)
    writer = StreamWriter("/lease", "metrics", Limits(segment_bytes=30), files=files)
    writer.append(b"fills the segment, so that the next one begins\n")
    writer.sync()
    old = disk.files["/lease/metrics-00000001.spool"]
    old.data += b"in flight"
    writer.sync()
    assert old.synced == len(old.data)


def test_syncs_are_due_once_an_interval_and_spare_quiet_streams() -> None:
    disk = MemoryDisk()
    files = MemoryFiles(disk)
    busy, quiet = (StreamWriter("/lease", stream, files=files) for stream in ("metrics", "data"))
    group = GroupSync([busy, quiet], interval_s=2.0)
    synced: list[str] = []
    disk.before = synced.append
    busy.append(b"x\n")
    synced.clear()
    assert [group.sync_if_due(now) for now in (10.0, 11.0, 11.9, 12.0)] == [True, False, False, True]
    assert group.due_at == 14.0
    assert synced.count("sync") == 2, "the folder and one segment, once"


def test_a_failed_sync_is_named_and_repeated() -> None:
    disk = MemoryDisk()
    files = MemoryFiles(disk)
    writer = StreamWriter("/lease", "metrics", files=files)
    group = GroupSync([writer])
    writer.append(b"x\n")
    disk.failing["sync"] = errno.EIO
    group.sync()
    assert group.trouble == os.strerror(errno.EIO)
    disk.failing.clear()
    group.sync()
    assert group.trouble == ""
    assert disk.files["/lease/metrics-00000001.spool"].synced > 0


def test_sync_passes_over_segments_that_were_delivered_and_removed(tmp_path: Path) -> None:
    writer = StreamWriter(str(tmp_path), "metrics", Limits(segment_bytes=10))
    for _ in range(5):
        writer.append(b"0123456789\n")
    (tmp_path / "metrics-00000002.spool").unlink()
    writer.sync()


def test_a_folder_in_memory_is_refused(tmp_path: Path) -> None:
    root = Mount("/", "ext4")
    require_durable(tmp_path, [root])
    with pytest.raises(PlacesError, match="tmpfs") as refused:
        require_durable(tmp_path, [root, Mount(str(tmp_path.resolve()), "tmpfs")])
    assert refused.value.fields == {"folder": str(tmp_path), "filesystem": "tmpfs"}


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm here")
def test_shared_memory_is_refused() -> None:
    with pytest.raises(PlacesError, match="lost with the machine"):
        require_durable(Path("/dev/shm"))
