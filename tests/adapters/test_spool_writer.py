"""The writer's rules, over real files and over those in memory."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pluto_dist.errors import InvalidRecordError
from pluto_dist.spool.files import Files, RealFiles
from pluto_dist.spool.frames import (
    DECLARE,
    MAX_PAYLOAD,
    encode_declaration,
    parse_segment,
    segment_name,
    stream_kind,
    stream_pid,
)
from pluto_dist.spool.reader import list_streams, read_cut, writer_lives
from pluto_dist.spool.space import GIB, MIB, Space, default_quota, remove, usage
from pluto_dist.spool.writer import Limits, StreamWriter
from tests.simulation.memory_files import MemoryDisk, MemoryFiles

SMALL = Limits(segment_bytes=200)


class Spool:
    """A root with one lease, and a clock that stands still."""

    def __init__(self, root: Path, files: Files) -> None:
        self.files = files
        self.root = str(root)
        folder = root / "leases" / "a1"
        folder.mkdir(parents=True)
        self.folder = str(folder)
        self.now = 100.0
        self.pid = 4711

    def writer(
        self, limits: Limits = SMALL, stream: str = "metrics", space: Space | None = None
    ) -> StreamWriter:
        return StreamWriter(
            self.folder,
            stream,
            limits,
            space=space,
            files=self.files,
            clock=lambda: self.now,
            pid=lambda: self.pid,
        )

    def space(self, quota: int) -> Space:
        return Space(self.root, quota, 0, files=self.files, clock=lambda: self.now)

    def segments(self, stream: str = "metrics") -> dict[int, int]:
        return list_streams(self.folder, self.files).get(stream, {})

    def lines(self, stream: str = "metrics") -> list[bytes]:
        return [line for number in sorted(self.segments(stream)) for line in self.cut(number, stream).lines]

    def cut(self, number: int, stream: str = "metrics"):
        return read_cut(self.folder, stream, number, 0, final=True, files=self.files)


@pytest.fixture(params=["real", "memory"])
def spool(request: pytest.FixtureRequest, tmp_path: Path) -> Spool:
    return Spool(tmp_path, RealFiles() if request.param == "real" else MemoryFiles())


@pytest.fixture
def memory(tmp_path: Path) -> Spool:
    return Spool(tmp_path, MemoryFiles())


def disk_of(spool: Spool) -> MemoryDisk:
    assert isinstance(spool.files, MemoryFiles)
    return spool.files.disk


def records(count: int, first: int = 0) -> list[bytes]:
    return [b'{"n":%d}\n' % n for n in range(first, first + count)]


def test_records_come_back_in_order_over_many_segments(spool: Spool) -> None:
    writer = spool.writer()
    assert all(writer.append(line) for line in records(100))
    assert spool.lines() == records(100)
    assert (writer.written, writer.dropped, writer.trouble) == (100, 0, "")
    assert writer.segment == max(spool.segments()) > 5
    assert sorted(spool.segments()) == list(range(1, writer.segment + 1))


def test_nothing_is_created_before_the_first_record(spool: Spool) -> None:
    writer = spool.writer()
    assert (spool.segments(), writer.segment) == ({}, 0)
    writer.append(b"x\n")
    assert list(spool.segments()) == [1]


def test_declarations_go_the_same_way(spool: Spool) -> None:
    writer = spool.writer()
    writer.append(encode_declaration({"loss": "METRIC"}), DECLARE)
    writer.append(b"x\n")
    assert (spool.cut(1).declared, spool.cut(1).lines) == ({"loss": "METRIC"}, (b"x\n",))


def test_a_second_writer_takes_the_next_free_segment(spool: Spool) -> None:
    first, second = spool.writer(), spool.writer()
    first.append(b"1\n")
    second.append(b"2\n")
    first.append(b"3\n")
    assert (spool.cut(1).lines, spool.cut(2).lines) == ((b"1\n", b"3\n"), (b"2\n",))


def test_a_record_over_the_limit_is_refused_and_leaves_nothing(spool: Spool) -> None:
    writer = spool.writer(Limits())
    with pytest.raises(InvalidRecordError, match=str(MAX_PAYLOAD)):
        writer.append(bytes(MAX_PAYLOAD + 1))
    with pytest.raises(InvalidRecordError, match="0 bytes"):
        writer.append(b"")
    assert writer.append(b"x" * MAX_PAYLOAD)
    assert [len(line) for line in spool.lines()] == [MAX_PAYLOAD]


def test_records_after_close_are_dropped_and_counted(spool: Spool) -> None:
    writer = spool.writer()
    writer.append(b"x\n")
    writer.close()
    writer.close()
    assert [writer.append(b"y\n"), writer.append(b"z\n")] == [False, False]
    assert (writer.written, writer.dropped, writer.closed) == (1, 2, True)
    assert spool.lines() == [b"x\n"]
    assert not writer_lives(spool.folder, "metrics", spool.files)


def test_a_chain_lives_from_its_first_record_to_its_close(spool: Spool) -> None:
    writer = spool.writer()
    assert not writer_lives(spool.folder, "metrics", spool.files)
    for line in records(50):
        writer.append(line)
        assert writer_lives(spool.folder, "metrics", spool.files)
    writer.close()
    assert not writer_lives(spool.folder, "metrics", spool.files)


@pytest.mark.parametrize("operation", ["sizes", "create", "write", "replace", "shut", "unlink"])
@pytest.mark.parametrize("failing", ["", "write", "create"])
def test_an_append_in_the_middle_of_another_one_never_waits(
    memory: Spool, operation: str, failing: str
) -> None:
    """A signal handler logs at any point: at the first record, while rotating, in trouble."""
    disk = disk_of(memory)
    writer = memory.writer()
    accepted: list[bytes] = []

    def handler(now_in: str) -> None:
        if now_in == operation:
            disk.before = lambda _: None
            log(b"handler %d\n" % len(accepted))
            disk.before = handler

    def log(line: bytes) -> None:
        if writer.append(line):
            accepted.append(line)

    disk.before = handler
    for n in range(60):
        if n == 20 and failing:
            disk.failing[failing] = errno.ENOSPC
        if n == 40:
            disk.failing.clear()
            memory.now += 1.0
        log(b"main %d\n" % n)
    disk.before = lambda _: None
    log(b"end\n")
    assert sorted(memory.lines()) == sorted(accepted)
    assert (writer.written, writer.trouble) == (len(accepted), "")
    assert len(accepted) > 40


# Forks: `after_fork` is what the hook calls in the child


def test_a_child_writes_a_chain_of_its_own(spool: Spool) -> None:
    writer = spool.writer()
    writer.append(b"parent\n")
    writer.after_fork()
    assert (writer.stream, writer.written, writer.segment) == ("metrics.p4711", 0, 0)
    writer.append(b"child\n")
    assert (spool.lines("metrics"), spool.lines("metrics.p4711")) == ([b"parent\n"], [b"child\n"])


def test_a_grandchild_is_named_after_itself(spool: Spool) -> None:
    writer = spool.writer()
    writer.after_fork()
    spool.pid = 4712
    writer.after_fork()
    assert writer.stream == "metrics.p4712"


def test_a_reused_pid_goes_on_behind_its_predecessor(spool: Spool) -> None:
    for line in (b"first\n", b"second\n"):
        child = spool.writer()
        child.after_fork()
        child.append(line)
        child.close()
    assert spool.segments("metrics.p4711").keys() == {1, 2}
    assert spool.lines("metrics.p4711") == [b"first\n", b"second\n"]


def test_a_closed_writer_stays_closed_in_the_child(spool: Spool) -> None:
    writer = spool.writer()
    writer.close()
    writer.after_fork()
    assert not writer.append(b"x\n")


def test_a_childs_chain_cannot_be_asked_for(spool: Spool) -> None:
    with pytest.raises(ValueError, match="forked child"):
        spool.writer(stream="metrics.p12")
    with pytest.raises(ValueError, match="no stream"):
        spool.writer(stream="nonsense")


# Space


def test_over_quota_records_are_dropped_until_segments_go(spool: Spool) -> None:
    """G4: disk full, training goes on; and the writer recovers by itself."""
    writer = spool.writer(space=spool.space(quota=600))
    accepted = [line for line in records(100) if writer.append(line)]
    assert writer.trouble == "quota"
    assert writer.dropped == 100 - len(accepted) > 0
    assert spool.lines() == accepted
    assert 600 <= usage(spool.root, spool.files) <= 600 + SMALL.segment_bytes + 100

    for number, size in spool.segments().items():
        assert remove(spool.folder, "metrics", number, size, spool.files)
    assert not writer.append(b"too soon\n")
    spool.now += 1.0
    assert writer.append(b"again\n")
    assert (writer.trouble, spool.lines()) == ("", [b"again\n"])
    assert min(spool.segments()) > 1, "a removed segment's number has a cursor already"


def test_the_quota_is_looked_at_once_a_second_while_it_is_passed(memory: Spool) -> None:
    writer = memory.writer(space=memory.space(quota=0))
    looks: list[str] = []
    disk_of(memory).before = looks.append
    for _ in range(300):
        writer.append(b"x\n")
        memory.now += 0.01
    assert 1 <= looks.count("free_bytes") <= 4
    assert writer.dropped == 300


def test_the_filesystem_keeps_some_space_for_others(spool: Spool) -> None:
    space = Space(spool.root, GIB, 1 << 60, files=spool.files, clock=lambda: spool.now)
    writer = spool.writer(space=space)
    assert not writer.append(b"x\n")
    assert writer.trouble == "min_free"


def test_a_writer_without_a_quota_gets_through_when_others_do_not(spool: Spool) -> None:
    """R1: the lifecycle stream is the truth about the end."""
    full = spool.space(quota=0)
    assert not spool.writer(space=full).append(b"x\n")
    assert spool.writer(stream="lifecycle").append(b"finished\n")


def test_default_quota_is_a_tenth_of_what_is_free_and_two_gib_at_most() -> None:
    assert default_quota(100 * MIB) == 10 * MIB
    assert default_quota(100 * GIB) == 2 * GIB


def test_usage_counts_segments_of_all_leases_and_nothing_else(spool: Spool) -> None:
    spool.writer().append(b"x\n")
    other = Path(spool.root) / "leases" / "b2"
    other.mkdir()
    for name in ("lease.json", "data-00000001.spool"):
        fd = spool.files.create(str(other / name))
        spool.files.write(fd, bytes(1000))
        spool.files.close(fd)
    assert usage(spool.root, spool.files) == sum(spool.segments().values()) + 1000


def test_sides_together_have_a_share_and_leave_the_rest_to_the_training(spool: Spool) -> None:
    """G4: a sidecar that runs wild; the reason names limit and setting."""
    for lease, size in (("b2", 300), ("c3", 500)):
        folder = Path(spool.root) / "leases" / lease
        folder.mkdir()
        for name, bytes_ in (("metrics-00000001.spool", size), *((("side", 0),) if lease == "b2" else ())):
            fd = spool.files.create(str(folder / name))
            spool.files.write(fd, bytes(bytes_))
            spool.files.close(fd)

    def side(share: int) -> str:
        space = Space(spool.root, 1000, 0, sides_share=share, files=spool.files, clock=lambda: spool.now)
        return space.shortage()

    assert usage(spool.root, spool.files, sides=True) == 300
    assert side(31) == ""
    assert side(30) == (
        "sides have 300 bytes there, and sides_share allows all of them 300, 30 % of spool_quota"
    )
    assert spool.space(1000).shortage() == ""


# Trouble


def test_a_short_write_leaves_a_torn_tail_and_nothing_is_appended_behind_it(memory: Spool) -> None:
    """Seen: 22,144 of 30,000 bytes, then ENOSPC."""
    disk = disk_of(memory)
    writer = memory.writer(Limits())
    writer.append(b"good\n")
    disk.capacity = disk.used + 7
    assert not writer.append(b"does not fit\n")
    assert (writer.trouble, writer.dropped) == ("ENOSPC", 1)
    torn = memory.segments()[1]

    disk.capacity += MIB
    assert not writer.append(b"too soon\n")
    memory.now += 0.5
    assert writer.append(b"good again\n")
    assert memory.segments()[1] == torn
    assert memory.lines() == [b"good\n", b"good again\n"]
    assert (memory.cut(1).damaged, memory.cut(1).skipped) == (1, 7)
    assert (writer.trouble, writer.written, writer.dropped) == ("", 2, 2)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG])
def test_a_failing_disk_costs_counted_records_only(memory: Spool, code: int) -> None:
    """G4."""
    writer = memory.writer()
    writer.append(b"before\n")
    disk_of(memory).failing["write"] = code
    assert not any(writer.append(line) for line in records(10))
    assert (writer.trouble, writer.dropped) == (errno.errorcode[code], 10)
    disk_of(memory).failing.clear()
    memory.now += 0.5
    assert writer.append(b"after\n")
    assert memory.lines() == [b"before\n", b"after\n"]


def test_a_full_disk_is_tried_twice_a_second_and_collects_no_files(memory: Spool) -> None:
    disk = disk_of(memory)
    writer = memory.writer()
    writer.append(b"x\n")
    disk.failing["write"] = errno.ENOSPC
    tries: list[str] = []
    disk.before = tries.append
    for _ in range(1000):
        writer.append(b"x\n")
        memory.now += 0.01
    assert 18 <= tries.count("create") <= 21
    assert list(memory.segments()) == [1]


def test_a_record_whose_write_failed_goes_to_a_new_segment_if_that_works(memory: Spool) -> None:
    """A segment at the process's file size limit (EFBIG) is no reason to drop."""
    disk = disk_of(memory)
    writer = memory.writer()
    writer.append(b"1\n")
    disk.failing["write"] = errno.EFBIG
    disk.before = lambda operation: disk.failing.clear() if operation == "create" else None
    assert writer.append(b"2\n")
    assert (memory.cut(1).lines, memory.cut(2).lines) == ((b"1\n",), (b"2\n",))
    assert (writer.written, writer.dropped) == (2, 0)


def test_a_rotation_that_finds_no_descriptor_goes_on_in_the_old_segment(memory: Spool) -> None:
    writer = memory.writer()
    writer.append(b"1\n")
    disk_of(memory).failing["create"] = errno.EMFILE
    assert all(writer.append(line) for line in records(100))
    assert list(memory.segments()) == [1]
    assert (writer.dropped, writer.trouble) == (0, "")


def test_a_missing_folder_is_trouble_and_not_an_exception(spool: Spool) -> None:
    """G4: log() never raises for the machine's sake."""
    if isinstance(spool.files, MemoryFiles):
        disk_of(spool).failing["create"] = errno.ENOENT
    else:
        Path(spool.folder).rmdir()
    writer = spool.writer(space=spool.space(GIB))
    assert not writer.append(b"x\n")
    assert writer.trouble == "ENOENT"


def test_the_root_that_cannot_be_read_is_trouble_and_not_an_exception(memory: Spool) -> None:
    space = memory.space(GIB)
    disk_of(memory).failing["folders"] = errno.EACCES
    assert memory.writer(space=space).append(b"x\n")


# Names


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("metrics-00000001.spool", ("metrics", 1)),
        ("lifecycle-12345678.spool", ("lifecycle", 12345678)),
        ("data.p4711-00000002.spool", ("data.p4711", 2)),
        ("metrics-1.spool", None),
        ("metrics-000000001.spool", None),
        ("metrics.p0-00000001.spool", None),
        ("other-00000001.spool", None),
        ("metrics-00000001.spool.tmp", None),
        ("metrics-0000000\u0661.spool", None),
        ("metrics-00000001.spool\n", None),
    ],
)
def test_only_exact_names_are_segments(name: str, parsed: tuple[str, int] | None) -> None:
    assert parse_segment(name) == parsed
    if parsed:
        assert segment_name(*parsed) == name


def test_a_streams_name_tells_kind_and_child() -> None:
    assert (stream_kind("data.p12"), stream_pid("data.p12")) == ("data", 12)
    assert (stream_kind("data"), stream_pid("data")) == ("data", None)
