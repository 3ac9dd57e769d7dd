"""Files of one process: a blob and a line, or neither; what is left out is told and counted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import pluto_dist as pluto
from pluto_dist.client.lease_files import LeaseFiles, Wall
from pluto_dist.client.notices import WarnOnce
from pluto_dist.client.record import PointLog
from pluto_dist.core.values.ids import Job
from pluto_dist.errors import InvalidRecordError
from pluto_dist.spool.file_lines import FileLine, read_line
from pluto_dist.spool.frames import MAX_PAYLOAD
from pluto_dist.spool.reader import read_cut, records


@pytest.fixture
def files(tmp_path: Path) -> Iterator[LeaseFiles]:
    """A lease with room for a thousand bytes of files."""
    files = LeaseFiles(tmp_path, segment_bytes=1 << 20, quota_bytes=1 << 30, files_quota_bytes=1000)
    yield files
    files.close()
    files.release()


def log_of(files: LeaseFiles, *, strict: bool = False) -> PointLog:
    return PointLog(files, Wall(), WarnOnce(), strict=strict)


def lines(files: LeaseFiles) -> list[FileLine]:
    found = [read_line(line) for line in records(str(files.folder), "files", 1)]
    assert None not in found
    return [line for line in found if line is not None]


def blobs(files: LeaseFiles) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (files.folder / "blobs").glob("*")}


def test_each_file_has_a_blob_and_a_line_and_its_name_is_declared_once(files: LeaseFiles) -> None:
    """R7, G3"""
    log = log_of(files)
    log.log({"t": [pluto.Text("a", caption="c"), pluto.Text("b")]}, 3, 12.5)
    log.log({"t": pluto.Text("c")}, None, None)
    found, kept = lines(files), blobs(files)
    assert [kept[line.path] for line in found] == [b"a", b"b", b"c"]
    assert [(line.step, line.sample_index) for line in found] == [(3, 0), (3, 1), (4, 0)]
    first = found[0]
    assert (first.time, first.caption, first.file_size, first.log_type) == (12_500, "c", 1, "TEXT")
    assert read_cut(str(files.folder), "files", 1, 0).declared == {"t": "TEXT"}
    assert files.records == 3
    assert log.highest == 4


def test_a_file_that_cannot_be_had_is_left_out_and_its_neighbours_are_logged(
    files: LeaseFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = log_of(files)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            log.log(
                {"gone": pluto.File(tmp_path / "gone"), "none": pluto.Artifact(), "t": pluto.Text("x")},
                0,
                None,
            )
    assert log.rejected == 6
    assert len(lines(files)) == len(blobs(files)) == 3
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "No such file" in told[0]
    assert "add_file" in told[1]


def test_a_name_that_was_something_else_is_told_once_and_the_file_is_kept(
    files: LeaseFiles, caplog: pytest.LogCaptureFixture
) -> None:
    """The server registers a name once, with its first type."""
    log = log_of(files)
    log.log({"x": 1.0, "t": pluto.Text("a")}, 0, None)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            log.log({"x": pluto.Text("b"), "t": pluto.Text("c")}, 1, None)
    (told,) = (record.getMessage() for record in caplog.records)
    assert told.startswith("'x' was METRIC first and is TEXT now")
    assert [line.log_name for line in lines(files)] == ["t", "x", "t", "x", "t"]


def test_with_strict_it_is_an_error(files: LeaseFiles, tmp_path: Path) -> None:
    with pytest.raises(InvalidRecordError, match="No such file"):
        log_of(files, strict=True).log({"gone": pluto.File(tmp_path / "gone")}, 0, None)


def test_want_of_room_is_counted_and_never_raised(
    files: LeaseFiles, caplog: pytest.LogCaptureFixture
) -> None:
    """G4: also with `strict`, since nothing is wrong with the call."""
    log = log_of(files, strict=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            log.log({"large": pluto.Artifact(b"x" * 2000), "loss": 1.0}, 0, None)
    assert (log.attachments.dropped, log.rejected, files.records) == (2, 0, 2)
    assert [record.getMessage()[:35] for record in caplog.records] == ["'large' is dropped and counted: it "]
    assert blobs(files) == {}


def test_what_a_sharded_checkpoint_consists_of_is_one_artifact(files: LeaseFiles, tmp_path: Path) -> None:
    """torch.distributed.checkpoint: files of each rank, and a hidden one that has to be with them."""
    names = [".metadata", "__0_0.distcp", "__1_0.distcp"]
    folder = tmp_path / "step10"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"x")
    log_of(files).log({"ckpt": pluto.Artifact(folder)}, 0, None)
    (line,) = lines(files)
    assert [each.name for each in line.parts] == names


def test_a_folder_is_one_line_and_a_pattern_too(
    files: LeaseFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no file in it is told once."""
    folder = tmp_path / "step3.ckpt"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.pt").write_bytes(b"aa")
    (folder / "b.pt").write_bytes(b"b")
    (folder / "latest").symlink_to("gone")
    log = log_of(files)
    with caplog.at_level(logging.WARNING):
        for step in range(2):
            log.log({"ckpt": pluto.Artifact(folder), "part": pluto.Artifact(folder / "*.pt")}, step, None)
        log.log({"no": pluto.File(folder), "none": pluto.Artifact(tmp_path / "*.bin")}, 3, None)
    whole, part, *_ = found = lines(files)
    assert len(found) == 4
    assert [(each.name, each.size) for each in whole.parts] == [("b.pt", 1), ("sub/a.pt", 2)]
    assert (whole.file_size, whole.log_type, whole.file_name[:11]) == (
        3,
        "ARTIFACT",
        "step3-0-" + whole.path[:3],
    )
    assert [each.name for each in part.parts] == ["b.pt"]
    assert [record.getMessage().partition(":")[2][:60] for record in caplog.records] == [
        f" 1 of {str(folder)!r} are no files and were left out"[:60],
        " 'no' (File) was left out: "[:60] + f"{str(folder)!r} cannot be read"[: 60 - 27],
        " 'none' (Artifact) was left out: " + f"{str(tmp_path / '*.bin')!r}"[: 60 - 33],
    ]
    assert log.rejected == 2


def test_no_blob_stays_without_its_line(files: LeaseFiles) -> None:
    """Neither behind the end, nor where the line is too long."""
    log = log_of(files)
    log.log({"i": pluto.Image(b"x", annotations="y" * (MAX_PAYLOAD + 1))}, 0, None)
    assert log.rejected == 1
    files.files.close()
    log.log({"t": pluto.Text("x")}, 1, None)
    assert files.files.dropped == 2  # with the declaration of its name
    assert blobs(files) == {}


def test_ranks_give_shares_of_one_artifact_each_under_a_name_of_its_own(
    files: LeaseFiles, tmp_path: Path
) -> None:
    """R7: the name of the whole is nobody's; a rank without files has a share all the same."""
    (tmp_path / "__1_0.distcp").write_bytes(b"mine")
    log = log_of(files)
    log.job = Job(key="k", rank=1, world_size=2, local_rank=1, nodes=1)
    log.log({"ckpt": pluto.Artifact(tmp_path / "__1_*", shards="rank"), "loss": 1.0}, 5, None)
    log.log({"ckpt": pluto.Artifact(tmp_path / "__7_*", shards="rank")}, 6, None)
    log.log({"one": pluto.Artifact(tmp_path / "__1_0.distcp", shards="rank")}, 7, None)
    log.log({"folder": pluto.Artifact(tmp_path, shards="node")}, 8, None)  # its first rank gives it
    found = lines(files)
    assert [(line.log_name, line.step, [part.name for part in line.parts]) for line in found] == [
        ("ckpt/rank1", 5, ["__1_0.distcp"]),
        ("ckpt/rank1", 6, []),
        ("one/rank1", 7, ["__1_0.distcp"]),
    ]
    assert all(line.shard and (line.shard.number, line.shard.of) == (1, 2) for line in found)
    assert read_cut(str(files.folder), "files", 1, 0).declared == dict.fromkeys(
        ("ckpt/rank1", "one/rank1"), "ARTIFACT"
    )
    log.log({"gone": pluto.Artifact(tmp_path / "gone.pt", shards="rank")}, 9, None)
    log.log(
        {"bytes": pluto.Artifact(b"x", shards="rank"), "word": pluto.Artifact("x", shards="all")}, 9, None
    )
    assert len(lines(files)) == 3
    assert log.rejected == 3


def test_with_strict_a_share_of_nobody_knows_how_many_is_an_error(files: LeaseFiles, tmp_path: Path) -> None:
    log = log_of(files, strict=True)
    log.job = Job(key="k", rank=1)
    with pytest.raises(InvalidRecordError, match="WORLD_SIZE"):
        log.log({"ckpt": pluto.Artifact(tmp_path, shards="rank")}, 5, None)
