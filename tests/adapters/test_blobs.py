"""Contents of logged files in the spool: snapshots, bounded, whole or not there."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest

from pluto_dist.backend.local.files import place_of
from pluto_dist.backend.local.store import Store
from pluto_dist.spool import blobs as module
from pluto_dist.spool.batches import next_step
from pluto_dist.spool.blobs import Blobs, NoRoomError, NoSourceError, usage
from pluto_dist.spool.file_lines import FileLine, encode_line, located, read_line, remove_blobs, storable
from pluto_dist.spool.retention import touch_live
from pluto_dist.spool.writer import StreamWriter

QUOTA = 1 << 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A lease's folder."""
    path = tmp_path / "spool" / "leases" / "a"
    path.mkdir(parents=True)
    return path


def blobs_in(folder: Path, quota: int = QUOTA, *, durable: bool = False) -> Blobs:
    return Blobs(str(folder), str(folder.parent.parent), quota, durable=durable)


def found(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in (folder / "blobs").glob("*"))


@pytest.fixture(params=["kernel", "loop"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Copied by the kernel, or where it cannot."""
    if request.param == "loop":

        def refuse(*_: object) -> int:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "copy_file_range", refuse)
    return str(request.param)


@pytest.mark.parametrize("size", [0, 1, (3 << 20) + 7])
def test_a_kept_file_is_as_it_was_whatever_becomes_of_it(
    folder: Path, tmp_path: Path, way: str, size: int
) -> None:
    """G3: rewritten in place, truncated, deleted."""
    content = os.urandom(size)
    source = tmp_path / "model.pt"
    source.write_bytes(content)
    blobs = blobs_in(folder)
    first, second = blobs.keep(str(source)), blobs.keep(str(source))
    with source.open("r+b") as file:
        file.write(b"else")
    source.unlink()
    assert (first.size, second.size) == (size, size)
    assert first.name != second.name
    assert found(folder) == [content, content]
    assert [path.stat().st_mode & 0o777 for path in (folder / "blobs").iterdir()] == [0o600, 0o600]
    assert (folder / "blobs").stat().st_mode & 0o777 == 0o700


def test_bytes_are_kept_as_they_are(folder: Path) -> None:
    """G3"""
    assert blobs_in(folder).keep(b"abc").size == 3
    assert found(folder) == [b"abc"]


def test_what_is_no_readable_file_is_told_and_never_waited_for(folder: Path, tmp_path: Path) -> None:
    """G4: a named pipe without a writer would hold up the training."""
    os.mkfifo(tmp_path / "pipe")
    blobs = blobs_in(folder)
    for name in ("pipe", "missing", "."):
        with pytest.raises(NoSourceError, match="cannot be read"):
            blobs.keep(str(tmp_path / name))
    assert not (folder / "blobs").exists()


def test_the_quota_counts_all_leases_and_says_value_limit_and_way_out(folder: Path) -> None:
    """G4: a file larger than the whole is never promised a later time."""
    other = folder.parent / "b"
    other.mkdir()
    blobs_in(other).keep(b"x" * 700)
    blobs = blobs_in(folder, 1000)
    blobs.keep(b"x" * 300)
    with pytest.raises(
        NoRoomError, match=r"has 1 bytes; .* may take 1,000 and have 1,000 now.*files_quota"
    ) as e:
        blobs.keep(b"x")
    assert "when others are delivered" in str(e.value)
    with pytest.raises(NoRoomError, match="has 1,001 bytes") as e:
        blobs.keep(b"x" * 1001)
    assert "when others are delivered" not in str(e.value)
    assert usage(str(folder.parent.parent)) == 1000


def test_the_default_quota_is_a_tenth_of_what_is_free(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_free", lambda _: 5000)
    assert Blobs(str(folder), str(folder.parent.parent)).quota_bytes == 500


def test_a_disk_that_refuses_in_the_middle_keeps_no_part(folder: Path, tmp_path: Path, way: str) -> None:
    """G4: a limit on the size of files acts as a full disk does, after half of the copy."""
    source = tmp_path / "large"
    source.write_bytes(b"x" * (2 << 20))
    blobs = blobs_in(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        for large in (str(source), b"x" * (2 << 20)):
            with pytest.raises(NoRoomError, match="cannot take its"):
                blobs.keep(large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found(folder) == []
    assert blobs.keep(str(source)).size == 2 << 20
    assert blobs.written == 1


def test_a_source_that_fails_while_it_is_read_is_no_want_of_room(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale handle of a network filesystem, say."""
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)

    def fail(_: object) -> bytes:
        raise module._SourceError(116, "Stale file handle")

    monkeypatch.setattr(module, "_read", fail)
    (tmp_path / "f").write_bytes(b"x")
    with pytest.raises(NoSourceError, match="Stale file handle"):
        blobs_in(folder).keep(str(tmp_path / "f"))
    assert found(folder) == []


def line(path: str = "0" * 32, **more: object) -> FileLine:
    fields = {"path": path, "file_name": "f", "file_type": "t", "log_name": "m", "step": 4, "time": 5}
    return FileLine(**(fields | more))  # type: ignore[arg-type] # a test's own fields


def test_lines_get_the_place_of_their_blob_and_no_other(folder: Path) -> None:
    """G11: a line cannot name a file of somebody else, or one outside of its lease."""
    (good,) = located([encode_line(line())], "/lease")
    assert good == encode_line(line(f"/lease/blobs/{'0' * 32}"))
    for path in ("/etc/passwd", "../x", "", "0" * 31, "0" * 32 + "/..", "A" * 32):
        (bad,) = located([encode_line(line(path))], "/lease")
        assert read_line(bad) == line("")
    assert located([b"garbage\n"], "/lease") == (b"garbage\n",)


def test_blobs_of_delivered_records_are_removed_and_nothing_else(folder: Path) -> None:
    """G11: a record cannot have a file removed that is no blob of its lease."""
    blobs, writer = blobs_in(folder), StreamWriter(str(folder), "files")
    (folder / "precious").write_bytes(b"precious")
    kept = [blobs.keep(b"%d" % number) for number in range(3)]
    ends = []
    for path in (kept[0].name, "../precious", str(folder / "precious"), kept[1].name, kept[2].name):
        writer.append(encode_line(line(path)))
        ends.append((folder / "files-00000001.spool").stat().st_size)
    writer.append(b"garbage\n")
    for _ in range(2):
        remove_blobs(str(folder), "files", 1, 0, ends[2])
        assert found(folder) == [b"1", b"2"]
    remove_blobs(str(folder), "files", 1, ends[2], ends[3])
    assert found(folder) == [b"2"]
    remove_blobs(str(folder), "files", 7, 0, 999)  # that segment is gone
    assert (folder / "precious").exists()


def test_blobs_of_a_living_lease_are_kept_young(folder: Path) -> None:
    """Design section 7: cleaners of temporary folders."""
    blob = blobs_in(folder).keep(b"x")
    path = folder / "blobs" / blob.name
    os.utime(path, (1, 1))
    touch_live(str(folder), time.time())
    assert path.stat().st_mtime > 1


def test_the_step_of_a_file_counts_for_the_next_automatic_step(folder: Path) -> None:
    writer = StreamWriter(str(folder), "files")
    writer.append(encode_line(line(step=41)))
    assert next_step(str(folder)) == 42


def test_durable_blobs_are_synced_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G3, durability="machine": the blob before its line; one that is delivered meanwhile is no trouble."""
    synced: list[str] = []
    real = module._sync
    monkeypatch.setattr(module, "_sync", lambda path: (synced.append(path.name), real(path)))
    blobs = blobs_in(folder, durable=True)
    gone, stays = blobs.keep(b"a"), blobs.keep(b"b")
    (folder / "blobs" / gone.name).unlink()
    blobs.sync()
    blobs.sync()
    assert synced.count(stays.name) == 1
    assert synced.index(stays.name) < synced.index("blobs")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("media/a.b", "media/a.b"),
        ("/image/nice", "%/image/nice"),
        ("train//x", "train/%/x"),
        ("val/", "val/%"),
        ("a/../b/.", "a/%2E%2E/b/%2E"),
    ],
)
def test_a_name_as_a_path_stays_below_its_folder(name: str, path: str, tmp_path: Path) -> None:
    """G11: whatever a script calls a file, it is kept among the files of its Run."""
    line = FileLine(path="/x", file_name="f", file_type="txt", log_name=name, step=0, time=0)
    assert storable(name) == path
    place = place_of(Store(tmp_path), "key", line)
    assert place.relative_to(tmp_path / "runs" / "key" / "files") == Path(path, "f")
    assert place.resolve() == place
