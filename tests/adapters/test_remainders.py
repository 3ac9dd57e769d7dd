"""Copies in the store of what a server has not taken: segments, and the files that their records name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pluto_dist.backend.local.files import place_of
from pluto_dist.backend.local.store import Store
from pluto_dist.coordinator import worker
from pluto_dist.core.values.effects import Copy, DropCopies, KeepCopies
from pluto_dist.spool.blobs import Blobs
from pluto_dist.spool.file_lines import FileLine, encode_line
from pluto_dist.spool.reader import list_streams
from pluto_dist.spool.writer import StreamWriter

RUN, LEASE = "key-000001", "a" * 24


class Lease:
    """A lease's folder with a files stream and a metrics stream."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "spool" / "leases" / LEASE
        self.folder.mkdir(parents=True)
        self.store = Store(root / ".pluto")
        self.blobs = Blobs(str(self.folder), str(root / "spool"), 1 << 30)
        self.files = StreamWriter(str(self.folder), "files")
        self.metrics = StreamWriter(str(self.folder), "metrics")

    def log(self, name: str, content: bytes) -> FileLine:
        blob = self.blobs.keep(content)
        line = FileLine(
            path=blob.name, file_name=f"f-{blob.name[:8]}", file_type="bin", log_name=name, step=0, time=0
        )
        self.files.append(encode_line(line))
        return line

    def keep(self, *streams: str) -> worker.CopiesKept:
        sizes = list_streams(str(self.folder))
        copies = [Copy(stream, n, 0, size) for stream in streams for n, size in sizes[stream].items()]
        return worker.keep(
            KeepCopies(
                run=RUN,
                store=str(self.store.root),
                lease_id=LEASE,
                folder=str(self.folder),
                copies=tuple(copies),
            )
        )

    def drop(self) -> worker.CopiesDropped:
        return worker.drop(
            DropCopies(run=RUN, store=str(self.store.root), lease_id=LEASE, segments=(("files", 1),))
        )

    def place(self, line: FileLine) -> Path:
        return place_of(self.store, RUN, line)


@pytest.fixture
def lease(tmp_path: Path) -> Lease:
    return Lease(tmp_path)


def test_files_go_into_the_store_with_their_lines_and_out_of_it_with_them(lease: Lease) -> None:
    """G3: no Run's only copy stays under a folder for temporary files."""
    one, two = lease.log("a/b", b"1" * 10_000), lease.log("c", b"2")
    for _ in range(2):
        assert lease.keep("files").error == ""
        assert (lease.place(one).read_bytes(), lease.place(two).read_bytes()) == (b"1" * 10_000, b"2")
    for _ in range(2):
        assert lease.drop().segments == (("files", 1),)
        assert not list(lease.store.run(RUN).rglob("*.part"))
        assert not (lease.store.run(RUN) / "files" / "a").exists()
        assert not list((lease.store.run(RUN) / "files").glob("**/f-*"))


def test_files_whose_lines_are_not_copied_wait_for_the_next_copy(lease: Lease) -> None:
    """What is in the store without a line would stay there for ever."""
    one = lease.log("m", b"1")
    end = list_streams(str(lease.folder))["files"][1]
    two = lease.log("m", b"2")
    worker.keep(
        KeepCopies(
            run=RUN,
            store=str(lease.store.root),
            lease_id=LEASE,
            folder=str(lease.folder),
            copies=(Copy("files", 1, 0, end),),
        )
    )
    assert lease.place(one).exists()
    assert not lease.place(two).exists()


def test_a_file_that_was_delivered_meanwhile_is_passed_over(lease: Lease) -> None:
    gone, there = lease.log("m", b"1"), lease.log("m", b"2")
    (lease.folder / "blobs" / gone.path).unlink()
    assert lease.keep("files").error == ""
    assert not lease.place(gone).exists()
    assert lease.place(there).read_bytes() == b"2"


def test_a_store_without_room_for_a_file_takes_records_all_the_same(lease: Lease) -> None:
    """G3: the records come first, and what is copied counts."""
    lease.metrics.append(b'{"time":1,"step":0,"data":{"a":1}}\n')
    lease.log("m", b"1")
    (lease.store.run(RUN)).mkdir(parents=True)
    (lease.store.run(RUN) / "files").write_text("in the way")
    kept = lease.keep("files", "metrics")
    assert [copy.stream for copy in kept.copies] == ["metrics"]
    assert kept.error


def test_a_line_that_names_no_blob_copies_nothing(lease: Lease) -> None:
    """G11"""
    secret = lease.folder.parent / "secret"
    secret.write_bytes(b"secret")
    for path in (str(secret), "../secret", "../../secret"):
        line = FileLine(path=path, file_name="f", file_type="bin", log_name="m", step=0, time=0)
        lease.files.append(encode_line(line))
    assert lease.keep("files").error == ""
    assert not list(lease.store.run(RUN).glob("files/**/*"))
