"""Cuts behind cursors, over real files and over those in memory."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pluto_dist.core.rules.stream import delivered_segments
from pluto_dist.spool.files import Files, RealFiles
from pluto_dist.spool.frames import HEADER_BYTES, MAGIC, MAX_PAYLOAD, Cut, encode_frame, segment_name
from pluto_dist.spool.reader import PIECE_BYTES, ReadLimits, last_record, list_streams, next_range, read_cut
from pluto_dist.spool.space import remove, touch_live
from pluto_dist.spool.writer import Limits, StreamWriter
from tests.simulation.memory_files import MemoryDisk, MemoryFiles


@pytest.fixture(params=["real", "memory"])
def files(request: pytest.FixtureRequest) -> Files:
    return RealFiles() if request.param == "real" else MemoryFiles()


class Lease:
    """A lease's folder that is filled by hand."""

    def __init__(self, folder: str, files: Files) -> None:
        self.folder, self.files = folder, files
        self.open: dict[int, int] = {}

    def put(self, number: int, data: bytes) -> None:
        """Appends to a segment."""
        if number not in self.open:
            self.open[number] = self.files.create(f"{self.folder}/{segment_name('metrics', number)}")
        if data:
            self.files.write(self.open[number], data)

    def die(self) -> None:
        """The writer is gone."""
        for fd in self.open.values():
            self.files.close(fd)

    def segments(self) -> dict[int, int]:
        return list_streams(self.folder, self.files).get("metrics", {})

    def cut(self, number: int, offset: int = 0, limits: ReadLimits | None = None, final: bool = False) -> Cut:
        return read_cut(self.folder, "metrics", number, offset, limits, final=final, files=self.files)


@pytest.fixture
def lease(tmp_path: Path, files: Files) -> Lease:
    return Lease(str(tmp_path), files)


def frames(*lines: bytes) -> bytes:
    return b"".join(encode_frame(line, sequence=n) for n, line in enumerate(lines))


def drain(lease: Lease, limits: ReadLimits | None = None, final: bool = False) -> list[bytes]:
    """Delivers everything, as a coordinator does."""
    offsets: dict[int, int] = {}
    torn: dict[int, int] = {}
    lines: list[bytes] = []
    while True:
        segments = lease.segments()
        number = next_range(segments, offsets, torn)
        if number is None:
            return lines
        cut = lease.cut(number, offsets.get(number, 0), limits, final)
        if cut.torn and cut.end == cut.start:
            torn[number] = segments[number]
        offsets[number] = cut.end
        lines += cut.lines


# Which segment is next


def test_the_lowest_segment_with_something_to_read_is_next() -> None:
    assert next_range({}, {}) is None
    assert next_range({1: 0, 2: 0}, {}) is None
    assert next_range({1: 10, 2: 20}, {}) == 1
    assert next_range({1: 10, 2: 20}, {1: 10}) == 2
    assert next_range({1: 10, 2: 20}, {1: 10, 2: 20}) is None
    assert next_range({1: 10, 2: 20}, {1: 10, 2: 5}) == 2


def test_a_late_write_into_an_old_segment_is_next_again() -> None:
    """A write in flight during a rotation lands in the old segment."""
    assert next_range({1: 15, 2: 20, 3: 5}, {1: 10, 2: 20, 3: 5}) == 1


def test_a_torn_segment_holds_up_nobody_and_is_read_when_it_grew() -> None:
    assert next_range({1: 15, 2: 20}, {1: 10}, {1: 15}) == 2
    assert next_range({1: 15, 2: 20}, {1: 10, 2: 20}, {1: 15}) is None
    assert next_range({1: 16, 2: 20}, {1: 10}, {1: 15}) == 1


# Cuts


def test_a_cut_carries_lines_and_the_next_cursor(lease: Lease) -> None:
    lease.put(1, frames(b"a\n", b"b\n"))
    first = encode_frame(b"a\n")
    assert lease.cut(1).lines == (b"a\n", b"b\n")
    cut = lease.cut(1, offset=len(first))
    assert (cut.start, cut.lines) == (len(first), (b"b\n",))
    assert cut.end == lease.segments()[1]


def test_cuts_respect_limits_and_join_without_gaps(lease: Lease) -> None:
    lines = [b"%d\n" % n for n in range(100)]
    lease.put(1, frames(*lines))
    by_frames = lease.cut(1, limits=ReadLimits(frames=7))
    by_bytes = lease.cut(1, limits=ReadLimits(bytes=100))
    assert len(by_frames.lines) == 7
    assert by_bytes.end <= 100
    assert not by_bytes.torn
    assert drain(lease, ReadLimits(frames=7)) == drain(lease, ReadLimits(bytes=100)) == lines


@pytest.mark.parametrize("size", [100, 30_000, PIECE_BYTES - HEADER_BYTES, PIECE_BYTES, 250_000])
@pytest.mark.parametrize("damage", [0, 1, 200_000])
def test_a_cut_of_many_pieces_is_what_one_read_would_find(lease: Lease, size: int, damage: int) -> None:
    """Whatever is cut by the end of a piece, frames and damage, belongs together."""
    lines = [b"%05d" % n + b"x" * size + b"\n" for n in range(900_000 // size)]
    half = len(lines) // 2
    lease.put(1, frames(*lines[:half]) + b"\xf8" * damage + frames(*lines[half:]))
    cut = lease.cut(1, limits=ReadLimits(bytes=10 << 20, frames=10_000))
    assert list(cut.lines) == lines
    assert cut.skipped == damage
    assert cut.end == lease.segments()[1]
    assert drain(lease, ReadLimits(bytes=150_000)) == lines


@pytest.mark.parametrize("behind", [b"", frames(b"behind\n")])
def test_a_frame_larger_than_the_limit_gets_through(lease: Lease, behind: bytes) -> None:
    large = b"x" * 5000
    lease.put(1, frames(large) + behind)
    cut = lease.cut(1, limits=ReadLimits(bytes=1))
    assert (cut.lines, cut.torn) == ((large,), False)


def test_a_cut_never_reads_much_more_than_a_frame_may_have(tmp_path: Path) -> None:
    """A damaged length costs 8 MiB of memory at most."""
    files = MemoryFiles()
    lease = Lease(str(tmp_path), files)
    header = bytearray(frames(b"x\n")[:HEADER_BYTES])
    header[8:12] = MAX_PAYLOAD.to_bytes(4, "little")
    lease.put(1, bytes(header) + bytes(3 * MAX_PAYLOAD))
    asked: list[int] = []
    read = files.read_at
    files.read_at = lambda path, offset, count: asked.append(count) or read(path, offset, count)  # type: ignore[method-assign,func-returns-value]
    assert lease.cut(1).skipped >= MAX_PAYLOAD
    assert max(asked) <= MAX_PAYLOAD + HEADER_BYTES + 1


@pytest.mark.parametrize("size", range(1, len(frames(b"late\n"))))
def test_a_torn_tail_waits_and_is_then_delivered(lease: Lease, size: int) -> None:
    late = frames(b"late\n")
    lease.put(1, frames(b"a\n") + late[:size])
    cut = lease.cut(1)
    assert (cut.lines, cut.torn, cut.damaged) == ((b"a\n",), True, 0)
    assert lease.cut(1, cut.end).end == cut.end
    lease.put(1, late[size:])
    assert lease.cut(1, cut.end).lines == (b"late\n",)


def test_a_torn_tail_of_a_dead_writer_is_given_up_and_counted(lease: Lease) -> None:
    lease.put(1, frames(b"a\n") + frames(b"torn\n")[:-2])
    lease.put(2, frames(b"b\n"))
    assert drain(lease) == [b"a\n", b"b\n"]
    cut = lease.cut(1, final=True)
    assert (cut.end, cut.damaged, cut.torn) == (lease.segments()[1], 1, False)


def test_final_applies_to_the_end_of_the_segment_only(lease: Lease) -> None:
    """A frame that the limit cuts off is whole in the file."""
    lines = [b"x" * 50 + b"%d\n" % n for n in range(50)]
    lease.put(1, frames(*lines) + MAGIC)
    for limit in range(1, 200, 7):
        assert drain(lease, ReadLimits(bytes=limit), final=True) == lines


def test_a_missing_segment_is_an_error(lease: Lease) -> None:
    with pytest.raises(FileNotFoundError):
        lease.cut(1)


def test_streams_are_listed_with_children_and_without_foreign_files(lease: Lease) -> None:
    for name in ("metrics-00000001.spool", "metrics.p12-00000003.spool", "lease.json", "data-1.spool"):
        lease.files.close(lease.files.create(f"{lease.folder}/{name}"))
    assert list_streams(lease.folder, lease.files) == {"metrics": {1: 0}, "metrics.p12": {3: 0}}


def test_a_link_named_like_a_segment_is_not_followed(tmp_path: Path) -> None:
    """G11."""
    (tmp_path / "elsewhere").write_bytes(frames(b"planted\n"))
    (tmp_path / "metrics-00000001.spool").symlink_to(tmp_path / "elsewhere")
    assert list_streams(str(tmp_path)) == {}
    with pytest.raises(OSError, match="symbolic links"):
        read_cut(str(tmp_path), "metrics", 1, 0)


# The last record


def test_the_last_record_is_that_of_the_newest_segment_that_has_one(lease: Lease) -> None:
    assert last_record(lease.folder, "metrics", lease.files) is None
    lease.put(1, frames(b"a\n", b"b\n"))
    lease.put(2, frames(b"c\n", b"d\n") + frames(b"torn\n")[:9])
    lease.put(3, b"")
    assert last_record(lease.folder, "metrics", lease.files) == b"d\n"


@pytest.mark.parametrize("size", [10, 64 * 1024, 3 * 1024 * 1024, MAX_PAYLOAD])
def test_the_last_record_is_found_whatever_its_size(lease: Lease, size: int) -> None:
    last = b"z" * size
    lease.put(1, frames(*[b"y" * 1000] * 300, last))
    assert last_record(lease.folder, "metrics", lease.files) == last


def test_the_last_record_costs_a_tail_and_not_the_segment(tmp_path: Path) -> None:
    files = MemoryFiles()
    lease = Lease(str(tmp_path), files)
    lease.put(1, frames(*[b"y" * 1000] * 3000))
    read: list[int] = []
    real = files.read_at
    files.read_at = lambda path, offset, count: read.append(count) or real(path, offset, count)  # type: ignore[method-assign,func-returns-value]
    assert last_record(lease.folder, "metrics", files) == b"y" * 1000
    assert sum(read) <= 100_000


# Retention


def removable(segments: dict[int, int], offsets: dict[int, int], keep: int = 2) -> list[int]:
    """What the coordinator would remove."""
    return [number for number, _ in delivered_segments(offsets, segments, frozenset(), keep)]


def test_delivered_segments_may_go_but_for_the_newest() -> None:
    segments = dict.fromkeys(range(1, 201), 100)
    assert removable(segments, segments) == list(range(1, 199))
    assert removable(segments, segments, keep=0) == list(range(1, 201))


def test_a_segment_stays_until_its_cursor_is_its_size() -> None:
    """G3: also when it is an old one into which a late write came."""
    segments = {1: 100, 2: 100, 3: 0, 4: 100, 5: 100, 6: 100}
    assert removable(segments, {1: 100, 2: 99, 4: 100, 5: 100}) == [1, 3, 4]
    assert removable(segments, {1: 100, 2: 99, 5: 100}, keep=0) == [1, 3, 5]


def test_removing_looks_at_the_size_once_more(lease: Lease) -> None:
    """G3: a late write came between the look and the deletion."""
    lease.put(1, frames(b"a\n"))
    size = lease.segments()[1]
    lease.put(1, frames(b"late\n"))
    lease.die()
    assert not remove(lease.folder, "metrics", 1, size, lease.files)
    assert drain(lease) == [b"a\n", b"late\n"]
    assert remove(lease.folder, "metrics", 1, lease.segments()[1], lease.files)
    assert remove(lease.folder, "metrics", 1, 0, lease.files), "it is gone already"


def test_a_segment_that_a_process_still_writes_is_not_removed(lease: Lease) -> None:
    """G3: a forked child may outlive the lease's process."""
    lease.put(1, frames(b"a\n"))
    assert not remove(lease.folder, "metrics", 1, lease.segments()[1], lease.files)
    lease.die()
    assert remove(lease.folder, "metrics", 1, lease.segments()[1], lease.files)


def test_two_hundred_segments_are_delivered_and_removed_while_written(files: Files, tmp_path: Path) -> None:
    folder = str(tmp_path)
    lease = Lease(folder, files)
    writer = StreamWriter(folder, "metrics", Limits(segment_bytes=64), files=files)
    offsets: dict[int, int] = {}
    lines: list[bytes] = []
    sent: list[bytes] = []
    while writer.segment < 200:
        sent.append(b"%d\n" % len(sent))
        writer.append(sent[-1])
        segments = lease.segments()
        while (number := next_range(segments, offsets)) is not None:
            cut = lease.cut(number, offsets.get(number, 0))
            offsets[number] = cut.end
            lines += cut.lines
        for number in removable(segments, offsets):
            assert remove(folder, "metrics", number, segments[number], files)
        assert len(lease.segments()) <= 3
    assert lines == sent


def test_quiet_files_are_touched_once_a_day(tmp_path: Path) -> None:
    segment = tmp_path / "metrics-00000001.spool"
    segment.write_bytes(b"")
    now = segment.stat().st_mtime
    assert touch_live(str(tmp_path), now + 3600) == 0
    assert touch_live(str(tmp_path), now + 90_000) == 2
    assert touch_live(str(tmp_path / "gone"), now) == 0


# A whole life in memory


@given(
    st.integers(0, 2**32), st.lists(st.sampled_from(["log", "log", "log", "fill", "free", "deliver", "wait"]))
)
def test_what_was_accepted_is_delivered_once_whatever_the_disk_does(seed: int, story: list[str]) -> None:
    """G3, G4: with a disk that fills up at any byte, and a reader that removes what it has delivered."""
    random = Random(seed)
    disk = MemoryDisk(capacity=2000)
    files = MemoryFiles(disk)
    lease = Lease("/lease", files)
    now = [0.0]
    writer = StreamWriter("/lease", "metrics", Limits(150), files=files, clock=lambda: now[0])
    offsets: dict[int, int] = {}
    accepted: list[bytes] = []
    delivered: list[bytes] = []

    def deliver(final: bool) -> None:
        torn: dict[int, int] = {}
        while (number := next_range(segments := lease.segments(), offsets, torn)) is not None:
            cut = lease.cut(number, offsets.get(number, 0), final=final)
            if cut.torn and cut.end == cut.start:
                torn[number] = segments[number]
            offsets[number] = cut.end
            delivered.extend(cut.lines)
        for number in removable(segments, offsets, keep=0 if final else 2):
            remove("/lease", "metrics", number, segments[number], files)

    for number, act in enumerate(story):
        if act == "log":
            line = b"%d%s\n" % (number, b"." * random.randrange(80))
            if writer.append(line):
                accepted.append(line)
        elif act == "fill":
            disk.capacity = disk.used + random.randrange(60)
        elif act == "free":
            disk.capacity = disk.used + 2000
        elif act == "deliver":
            deliver(final=False)
        else:
            now[0] += 0.5
    files.die()
    deliver(final=True)
    assert delivered == accepted
    assert lease.segments() == {}
    assert (writer.written, writer.dropped) == (len(accepted), story.count("log") - len(accepted))
