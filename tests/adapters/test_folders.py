"""Folders and patterns as one artifact: which files, kept how, in no time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pluto_dist.spool import blobs as module
from pluto_dist.spool import sources
from pluto_dist.spool.blobs import Blobs
from pluto_dist.spool.file_lines import FileLine, encode_line, located, read_line, remove_blobs
from pluto_dist.spool.sources import Found, NoSourceError, found_in, is_many, sources_of
from pluto_dist.spool.writer import StreamWriter


@pytest.fixture(autouse=True)
def _as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIME_S", 1e9)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """What four ranks have written."""
    root = tmp_path / "step 3"
    (root / "optimizer").mkdir(parents=True)
    for rank in range(2):
        (root / f"rank{rank}.pt").write_bytes(b"%d" % rank * 2000)
        (root / "optimizer" / f"rank{rank}.pt").write_bytes(b"o%d" % rank * 10)
    return root


def names(found: tuple[Found, ...]) -> list[str]:
    return [file.name for file in found]


def test_a_folder_is_all_its_files_and_a_pattern_those_that_fit(checkpoint: Path, tmp_path: Path) -> None:
    found, left_out = found_in(str(checkpoint))
    assert names(found) == ["optimizer/rank0.pt", "optimizer/rank1.pt", "rank0.pt", "rank1.pt"]
    assert left_out == ()
    assert names(found_in(str(checkpoint / "rank*.pt"))[0]) == ["rank0.pt", "rank1.pt"]
    assert names(found_in(str(checkpoint / "**" / "*0.pt"))[0]) == ["optimizer/rank0.pt", "rank0.pt"]
    assert names(found_in(f"{tmp_path}/step*/rank0.pt")[0]) == ["step 3/rank0.pt"]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "model[1].pt").write_bytes(b"x")
    assert not is_many(str(tmp_path / "model[1].pt"))
    assert is_many(str(tmp_path / "model*"))
    assert is_many(str(tmp_path))
    assert not is_many(str(tmp_path / "missing"))


def test_links_to_files_are_followed_and_what_is_no_file_is_named(checkpoint: Path, tmp_path: Path) -> None:
    """A link to a folder could lead anywhere, and round in circles."""
    os.mkfifo(checkpoint / "pipe")
    (checkpoint / "again").symlink_to(checkpoint)
    (checkpoint / "nowhere").symlink_to("gone")
    (tmp_path / "shared.pt").write_bytes(b"s")
    (checkpoint / "shared.pt").symlink_to("../shared.pt")
    found, left_out = found_in(str(checkpoint))
    assert {file.name: file.path for file in found}["shared.pt"] == str(tmp_path / "shared.pt")
    assert sorted(left_out) == ["again", "nowhere", "pipe"]


def test_what_cannot_be_one_artifact_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoSourceError, match="has no file: is it the right place"):
        found_in(str(tmp_path / "empty"))
    with pytest.raises(NoSourceError, match="has no file"):
        found_in(str(tmp_path / "*.pt"))
    (tmp_path / "empty" / "to").symlink_to("nowhere")
    with pytest.raises(NoSourceError, match="only 'to', which is no file"):
        found_in(str(tmp_path / "empty"))
    monkeypatch.setattr(sources, "MOST_FILES", 2)
    for number in range(3):
        (tmp_path / f"{number}").write_bytes(b"")
    with pytest.raises(NoSourceError, match="more than 2 files; pack them"):
        found_in(str(tmp_path))


def kept_in(lease: Path, source: Path, **more: int) -> FileLine:
    blobs = Blobs(str(lease), str(lease.parent.parent), **{"quota_bytes": 1 << 30, "copy_up_to": 100} | more)
    parts = blobs.keep_all(found_in(str(source))[0])
    line = FileLine("0" * 32, "step-3", "", "ckpt", 3, 4, parts=parts)
    found = read_line(located([encode_line(line)], str(lease))[0])
    assert found is not None
    return found


@pytest.fixture
def lease(tmp_path: Path) -> Path:
    path = tmp_path / "spool" / "leases" / "a"
    path.mkdir(parents=True)
    return path


def test_small_files_are_copied_and_large_ones_linked(checkpoint: Path, lease: Path) -> None:
    line = kept_in(lease, checkpoint)
    assert [part.linked for part in line.parts] == [False, False, True, True]
    (checkpoint / "optimizer" / "rank0.pt").write_bytes(b"else")
    (checkpoint / "rank0.pt").unlink()
    contents = [b"".join(source.pieces()) for source in sources_of(line)]
    assert contents == [b"o0" * 10, b"o1" * 10, b"0" * 2000, b"1" * 2000]


@pytest.mark.parametrize("short", ["room", "time", "few files"])
def test_without_room_or_time_there_are_references(
    checkpoint: Path, lease: Path, short: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G4: a folder of thousands of files does not hold up the training either."""
    if short == "time":
        monkeypatch.setattr(module, "TIME_S", -1.0)
    if short == "few files":
        monkeypatch.setattr(module, "KEPT_FILES", 3)
    line = kept_in(lease, checkpoint, quota_bytes=1000 if short == "room" else 1 << 30)
    assert not (lease / "blobs").exists()
    assert [part.path for part in line.parts] == [part.source for part in line.parts]
    assert [source.size for source in sources_of(line)] == [20, 20, 2000, 2000]


def test_copies_of_a_folder_have_one_bound_together(checkpoint: Path, lease: Path) -> None:
    line = kept_in(lease, checkpoint, copy_up_to=30)
    assert [part.linked for part in line.parts] == [False, True, True, True]


def test_a_folder_that_cannot_be_kept_whole_leaves_nothing(checkpoint: Path, lease: Path) -> None:
    blobs = Blobs(str(lease), str(lease.parent.parent), 1 << 30, copy_up_to=100)
    found, _ = found_in(str(checkpoint))
    (checkpoint / "rank1.pt").unlink()
    with pytest.raises(NoSourceError, match=r"rank1\.pt' cannot be read"):
        blobs.keep_all(found)
    assert list((lease / "blobs").iterdir()) == []


def test_the_blobs_of_a_folder_go_with_its_line(checkpoint: Path, lease: Path) -> None:
    blobs = Blobs(str(lease), str(lease.parent.parent), 1 << 30, copy_up_to=100)
    parts = blobs.keep_all(found_in(str(checkpoint))[0])
    writer = StreamWriter(str(lease), "files")
    writer.append(encode_line(FileLine("0" * 32, "s", "", "ckpt", 3, 4, parts=parts)))
    (lease / "blobs" / f"{'0' * 32}.sent").write_bytes(b"")
    remove_blobs(str(lease), "files", 1, 0, (lease / "files-00000001.spool").stat().st_size)
    assert list((lease / "blobs").iterdir()) == []
    assert len(found_in(str(checkpoint))[0]) == 4
