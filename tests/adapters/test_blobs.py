"""Contents of logged files in the spool: snapshots, bounded, whole or not there."""

from __future__ import annotations

import hashlib
import os
import resource
import time
from pathlib import Path

import msgspec
import pytest

from pluto_dist.backend.local.files import place_of
from pluto_dist.backend.local.store import Store
from pluto_dist.spool import blobs as module
from pluto_dist.spool import sources
from pluto_dist.spool.batches import next_step
from pluto_dist.spool.blobs import Blobs, NoRoomError, NoSourceError, usage
from pluto_dist.spool.file_lines import FileLine, encode_line, located, read_line, remove_blobs, storable
from pluto_dist.spool.sources import ChangedError, source_of
from pluto_dist.spool.space import MIB, touch_live
from pluto_dist.spool.writer import StreamWriter

QUOTA = 1 << 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A lease's folder."""
    path = tmp_path / "spool" / "leases" / "a"
    path.mkdir(parents=True)
    return path


def blobs_in(folder: Path, quota: int = QUOTA, *, copy_up_to: int = MIB, durable: bool = False) -> Blobs:
    return Blobs(str(folder), str(folder.parent.parent), quota, copy_up_to=copy_up_to, durable=durable)


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


@pytest.mark.parametrize("size", [0, 1, MIB])
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


@pytest.fixture(params=["link", "reference"])
def large(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> tuple[Path, FileLine]:
    """A file that is too large to be copied, on a filesystem with links or on another one; and its line."""
    path = tmp_path / "large.pt"
    path.write_bytes(b"x" * 3000)
    blob = blobs_in(folder, QUOTA if request.param == "link" else 0, copy_up_to=1000).keep(str(path))
    assert (blob.linked, blob.source) == (request.param == "link", str(path))
    kept = line(blob.name, file_size=blob.size, source=blob.source, seen=blob.seen, linked=blob.linked)
    found = read_line(located([encode_line(kept)], str(folder))[0])
    assert found is not None
    return path, found


def test_a_large_file_is_not_copied_and_read_as_it_was(large: tuple[Path, FileLine]) -> None:
    """G4: whatever its size; only its reading takes time, and that is somebody else's."""
    path, kept = large
    assert b"".join(source_of(kept).pieces()) == path.read_bytes()
    assert b"".join(source_of(kept).pieces(2000, 10)) == b"x" * 10


def test_a_link_survives_deletion_and_replacement_and_a_reference_names_what_is_lost(
    large: tuple[Path, FileLine], tmp_path: Path
) -> None:
    """G3: `save()` to another name and `rename()`, as most programs write, and rotation of old files."""
    path, kept = large
    for do, told in ((lambda: (tmp_path / "new").rename(path), "was replaced"), (path.unlink, "was deleted")):
        (tmp_path / "new").write_bytes(b"y" * 3000)
        do()
        if kept.linked:
            assert b"".join(source_of(kept).pieces()) == b"x" * 3000
        else:
            with pytest.raises(ChangedError, match=f"{path} {told}.*files_copy"):
                source_of(kept).check()


def test_writing_into_a_large_file_is_noticed(large: tuple[Path, FileLine]) -> None:
    """G3: nobody has a whole content that was not logged."""
    path, kept = large
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))  # as a write does a tick later
    with pytest.raises(ChangedError, match="was written to"):
        source_of(kept).check()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    source_of(kept).check()
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(ChangedError, match="had 3,000 bytes when it was logged, and has 3,004"):
        b"".join(source_of(kept).pieces())


def test_a_file_that_changes_while_it_is_read_gives_no_last_piece(
    large: tuple[Path, FileLine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """G3: what went out before is incomplete, and storage keeps nothing of an incomplete upload."""
    path, kept = large
    monkeypatch.setattr(sources, "PIECE", 1000)
    pieces = source_of(kept).pieces()
    assert len(next(pieces)) + len(next(pieces)) == 2000
    os.utime(path, ns=(1, 1))
    with pytest.raises(ChangedError, match=f"{path} was written to"):
        next(pieces)


def test_a_copy_that_the_machine_has_lost_in_part_is_not_taken_for_the_file(folder: Path) -> None:
    """G6: power is lost before the bytes are on the disk, but behind their line."""
    blob = blobs_in(folder).keep(b"x" * 3000)
    line = FileLine(blob.name, "f", "pt", "ckpt", 0, 1, blob.size)
    kept = read_line(located([encode_line(line)], str(folder))[0])
    assert kept is not None
    source_of(kept).check()
    os.truncate(kept.path, 0)
    for read in (source_of(kept).check, source_of(kept).sha256):
        with pytest.raises(ChangedError, match="has 0 of 3,000 bytes; the machine went down"):
            read()
    early = msgspec.structs.replace(kept, file_size=0)  # as early versions wrote it
    assert source_of(early).sha256() == hashlib.sha256(b"").hexdigest()


def test_a_symbolic_link_stands_for_what_it_meant_when_it_was_logged(folder: Path, tmp_path: Path) -> None:
    """`latest.pt` means another file an hour later."""
    (tmp_path / "one.pt").write_bytes(b"1" * 2000)
    (tmp_path / "latest.pt").symlink_to("one.pt")
    for quota in (QUOTA, 0):
        blob = blobs_in(folder, quota, copy_up_to=1000).keep(str(tmp_path / "latest.pt"))
        assert blob.source == str(tmp_path / "one.pt")
        assert not (folder / "blobs" / f"{blob.name}.link").is_symlink()


def test_cleaners_and_removal_leave_the_users_file_alone(folder: Path, tmp_path: Path) -> None:
    """A link is the user's file: its time is what tells whether it was changed."""
    path = tmp_path / "large.pt"
    path.write_bytes(b"x" * 3000)
    os.utime(path, (1, 1))
    blob = blobs_in(folder, copy_up_to=1000).keep(str(path))
    assert blob.linked
    writer = StreamWriter(str(folder), "files")
    writer.append(encode_line(line(blob.name, source=blob.source, seen=blob.seen, linked=True)))
    touch_live(str(folder), time.time())
    assert path.stat().st_mtime == 1
    remove_blobs(str(folder), "files", 1, 0, (folder / "files-00000001.spool").stat().st_size)
    assert found(folder) == []
    assert path.read_bytes() == b"x" * 3000


def test_a_file_that_is_written_while_it_is_copied_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    real = module._fill

    def fill(target: object, source: object) -> None:
        real(target, source)  # type: ignore[arg-type] # as it came
        path.write_bytes(b"longer")

    monkeypatch.setattr(module, "_fill", fill)
    assert blobs_in(folder).keep(str(path)).moved
    assert not blobs_in(folder).keep(b"bytes").moved


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


def test_files_of_sides_have_a_share_of_the_quota(folder: Path) -> None:
    """G4: the training's files have the rest; a file stays where it is, and content is dropped."""
    side = folder.parent / "b"
    side.mkdir()
    (side / "side").touch()
    blobs_in(folder).keep(b"x" * 800)
    root = str(folder.parent.parent)
    blobs = Blobs(str(side), root, 1000, sides_share=10)
    blobs.keep(b"x" * 60)
    with pytest.raises(
        NoRoomError, match=r"may take 100 \(sides_share: 10 % of files_quota\) and have 60 now"
    ):
        blobs.keep(b"x" * 41)
    assert usage(root, sides=True) == 60
    assert blobs_in(folder, 1000).keep(b"x" * 41).size == 41


def test_the_default_quota_is_a_tenth_of_what_is_free(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_free", lambda _: 5000)
    assert Blobs(str(folder), str(folder.parent.parent)).quota_bytes == 500


def test_a_disk_that_refuses_in_the_middle_keeps_no_part(folder: Path, tmp_path: Path, way: str) -> None:
    """G4: a limit on the size of files acts as a full disk does, after half of the copy.

    Bytes are nowhere else, so they are dropped; a file is still there, and is kept as a reference.
    """
    source = tmp_path / "large"
    source.write_bytes(b"x" * (2 << 20))
    blobs = blobs_in(folder, copy_up_to=1 << 30)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(NoRoomError, match="cannot take its"):
            blobs.keep(b"x" * (2 << 20))
        reference = blobs.keep(str(source))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found(folder) == []
    assert (reference.source, reference.linked, reference.size) == (str(source), False, 2 << 20)
    assert blobs.keep(str(source)).seen is None
    assert blobs.written == 2


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
    assert good == encode_line(line(f"/lease/blobs/{'0' * 32}", id="0" * 32))
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
    """Against cleaners of temporary folders."""
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
