"""What the kernel says of who has a file open."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from pluto_dist.cli.upload import is_written


def test_a_file_is_written_until_its_last_writer_closes_it(tmp_path: Path) -> None:
    """A reader does no harm."""
    path = tmp_path / "f"
    with path.open("wb") as file:
        file.write(b"x")
        file.flush()
        assert is_written(str(path)) is True
    with path.open("rb"):
        assert is_written(str(path)) is False
    assert is_written(str(path)) is False


def test_where_there_are_no_leases_nothing_is_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS answers EINVAL, a file of somebody else EACCES."""
    path = tmp_path / "f"
    path.write_bytes(b"x")
    for number in (errno.EINVAL, errno.EACCES):

        def refuse(*_: object, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "fcntl", refuse)
        assert is_written(str(path)) is None
    monkeypatch.delattr(fcntl, "F_SETLEASE")
    assert is_written(str(path)) is None


def test_a_file_that_is_gone_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        is_written(str(tmp_path / "gone"))
