"""The contract of the spool's file operations, for real files and for those in memory."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pluto_dist.spool.files import Files, RealFiles
from tests.simulation.memory_files import MemoryFiles


@pytest.fixture(params=["real", "memory"])
def files(request: pytest.FixtureRequest) -> Files:
    return RealFiles() if request.param == "real" else MemoryFiles()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "metrics-00000001.spool")


def test_writes_are_appended(files: Files, path: str) -> None:
    fd = files.create(path)
    assert [files.write(fd, b"one"), files.write(fd, b"two")] == [3, 3]
    assert files.read_at(path, 0, 100) == b"onetwo"
    assert files.read_at(path, 2, 3) == b"etw"
    assert files.read_at(path, 6, 3) == b""
    files.close(fd)


def test_create_refuses_a_name_that_is_taken(files: Files, path: str) -> None:
    fd = files.create(path)
    with pytest.raises(FileExistsError):
        files.create(path)
    files.close(fd)


def test_a_shut_number_refuses_writes(files: Files, path: str) -> None:
    fd = files.create(path)
    never_opened = files.open_shut()
    files.shut(fd)
    for number in (fd, never_opened):
        with pytest.raises(OSError, match="file descriptor") as refused:
            files.write(number, b"x")
        assert refused.value.errno == errno.EBADF
        files.close(number)
    assert files.sizes(str(Path(path).parent)) == {Path(path).name: 0}


def test_replace_keeps_the_number_and_changes_the_file(files: Files, path: str) -> None:
    fd = files.open_shut()
    assert files.replace(fd, files.create(path)) == fd
    assert files.replace(fd, files.create(path + "2")) == fd
    files.write(fd, b"second")
    assert (files.read_at(path, 0, 9), files.read_at(path + "2", 0, 9)) == (b"", b"second")
    files.close(fd)


def test_replace_takes_the_new_number_when_the_old_is_no_longer_ours(files: Files, path: str) -> None:
    """Daemonising code closes every descriptor; the number may be a foreign file's by now."""
    fd = files.open_shut()
    files.close(fd)
    new = files.create(path)
    assert files.replace(fd, new) == new
    files.write(new, b"x")
    files.close(new)


def test_a_file_is_being_written_until_its_descriptor_goes(files: Files, path: str) -> None:
    fd = files.create(path)
    assert files.being_written(path)
    assert not files.unlink_if(path, 0)
    files.shut(fd)
    assert not files.being_written(path)
    assert files.unlink_if(path, 0)
    files.close(fd)


def test_unlink_if_spares_a_file_of_another_size(files: Files, path: str) -> None:
    fd = files.create(path)
    files.write(fd, b"late")
    files.close(fd)
    assert not files.unlink_if(path, 3)
    assert files.unlink_if(path, 4)
    with pytest.raises(FileNotFoundError):
        files.unlink_if(path, 4)


def test_missing_things_are_empty_or_named(files: Files, path: str) -> None:
    nowhere = path + "/none"
    assert files.sizes(nowhere) == {}
    assert files.folders(nowhere) == []
    for operation in (
        lambda: files.read_at(path, 0, 1),
        lambda: files.sync(path),
        lambda: files.unlink(path),
    ):
        with pytest.raises(FileNotFoundError):
            operation()


def test_sync_takes_files_and_folders(files: Files, path: str) -> None:
    files.close(files.create(path))
    files.sync(path)
    files.sync(str(Path(path).parent))


def test_touch_renews_what_is_older(files: Files, path: str) -> None:
    files.close(files.create(path))
    assert not files.touch_older(path, before=0.0)
    assert files.touch_older(path, before=1e12)


# Real files only


def test_segments_are_private_append_only_and_not_inherited(path: str) -> None:
    """G11."""
    fd = RealFiles().create(path)
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert not os.get_inheritable(fd)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"a")
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"b")
    assert Path(path).read_bytes() == b"ab"
    os.close(fd)


def test_links_and_special_files_are_neither_listed_nor_read(tmp_path: Path) -> None:
    """G11: no symlink tricks."""
    files = RealFiles()
    (tmp_path / "target").write_bytes(b"secret")
    link, pipe, folder = (str(tmp_path / name) for name in ("link", "pipe", "folder"))
    Path(link).symlink_to(tmp_path / "target")
    os.mkfifo(pipe)
    Path(folder).mkdir()
    (tmp_path / "linked_folder").symlink_to(folder)
    assert files.sizes(str(tmp_path)) == {"target": 6}
    assert files.folders(str(tmp_path)) == ["folder"]
    with pytest.raises(OSError, match="symbolic links"):
        files.read_at(link, 0, 1)
    with pytest.raises(PermissionError):
        files.read_at(pipe, 0, 1)
    with pytest.raises(OSError, match="symbolic links"):
        files.unlink_if(link, 6)


def test_create_does_not_follow_a_planted_link(tmp_path: Path) -> None:
    """G11."""
    (tmp_path / "planted").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        RealFiles().create(str(tmp_path / "planted"))
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a file of somebody else")
def test_files_of_others_are_neither_listed_nor_read(path: str) -> None:
    """G11: no squatting tricks."""
    Path(path).write_bytes(b"planted")
    os.chown(path, 12345, -1)
    assert RealFiles().sizes(str(Path(path).parent)) == {}
    with pytest.raises(PermissionError):
        RealFiles().read_at(path, 0, 1)


def test_descriptors_stay_clear_of_standard_streams(tmp_path: Path) -> None:
    """In a daemon 0 to 2 are free, and whoever prints would print into the spool."""
    program = (
        "import os; from pluto_dist.spool.files import RealFiles; os.closerange(0, 3); "
        f"files = RealFiles(); numbers = files.open_shut(), files.create({str(tmp_path / 'a')!r}); "
        "os._exit(0 if min(numbers) > 2 else 1)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_foreign_descriptor_on_a_lost_number_is_left_alone(path: str, tmp_path: Path) -> None:
    files = RealFiles()
    fd = files.create(path)
    os.close(fd)
    foreign = os.open(tmp_path / "foreign", os.O_WRONLY | os.O_CREAT)
    assert foreign == fd
    files.shut(fd)
    files.close(fd)
    new = files.create(path + "2")
    assert files.replace(fd, new) == new
    assert os.write(foreign, b"still mine") == 10
    os.close(foreign)
    files.close(new)


def test_a_number_is_forgotten_before_another_thread_can_get_it(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = RealFiles()
    first, close, reused = files.create(path), os.close, []

    def close_and_lose_the_processor(fd: int) -> None:
        close(fd)
        monkeypatch.undo()
        reused.append(files.create(path + "2"))

    monkeypatch.setattr(os, "close", close_and_lose_the_processor)
    files.close(first)
    assert reused == [first]
    files.shut(first)
    with pytest.raises(OSError, match="file descriptor"):
        files.write(first, b"x")
    files.close(first)


def test_the_mark_of_writing_ends_with_the_process(path: str) -> None:
    program = (
        "import os, signal, sys; from pluto_dist.spool.files import RealFiles; "
        "RealFiles().create(sys.argv[1]); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert RealFiles().being_written(path)
        process.kill()
        process.wait()
        assert not RealFiles().being_written(path)


def test_what_refuses_writes_never_takes_the_place_of_a_writer(tmp_path: Path) -> None:
    """After code that has closed all descriptors the new refusing one may get the number of a writer."""
    files, names = RealFiles(), [str(tmp_path / f"{number}") for number in range(3)]
    writer = files.create(names[0])
    files.shut(writer)
    os.closerange(writer, writer + 8)
    files.open_shut()
    files.shut(writer)
    assert files.replace(writer, files.create(names[1])) == writer
    other = files.create(names[2])
    files.shut(other)
    files.write(writer, b"mine")
    with pytest.raises(OSError, match="file descriptor"):
        files.write(other, b"nobody's")
    assert [Path(name).read_bytes() for name in names] == [b"", b"mine", b""]


def test_a_shut_number_that_became_a_foreign_file_is_left_alone(tmp_path: Path) -> None:
    """A daemon opens the null device for its standard streams; no number of ours refers to it."""
    files = RealFiles()
    fd = files.open_shut()
    os.close(fd)
    foreign = os.open(os.devnull, os.O_RDWR)
    if foreign != fd:
        os.dup2(foreign, fd)
    new = files.create(str(tmp_path / "new"))
    assert files.replace(fd, new) == new
    assert os.write(fd, b"theirs") == 6
    assert (tmp_path / "new").read_bytes() == b""
