"""The writer among threads, signals, forks and real full disks."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pluto_dist.spool.frames import encode_frame
from pluto_dist.spool.reader import list_streams, next_range, read_cut, writer_lives
from pluto_dist.spool.writer import Limits, StreamWriter
from tests.patience import PATIENCE_S


def read_all(folder: str, stream: str = "metrics") -> list[bytes]:
    """Every line; a damaged place fails the test."""
    lines: list[bytes] = []
    for number, size in sorted(list_streams(folder).get(stream, {}).items()):
        offset = 0
        while offset < size:
            cut = read_cut(folder, stream, number, offset)
            assert (cut.damaged, cut.torn) == (0, False), (stream, number, offset)
            lines += cut.lines
            offset = cut.end
    return lines


def of_writer(lines: list[bytes], name: bytes) -> list[int]:
    return [int(line.split()[1]) for line in lines if line.split()[0] == name]


def run_threads(targets: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def in_child(act: Callable[[], bool]) -> None:
    """Runs `act` in a forked child, which must find it true."""
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            code = 0 if act() else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


# Threads


def test_threads_that_append_while_rotating_lose_and_tear_nothing(tmp_path: Path) -> None:
    """G3."""
    writer = StreamWriter(str(tmp_path), "metrics", Limits(segment_bytes=4096))
    count, names = 1500, [b"thread%d" % n for n in range(8)]

    def log(name: bytes) -> None:
        for n in range(count):
            assert writer.append(b"%s %d %s\n" % (name, n, b"." * (n % 90)))

    run_threads([lambda name=name: log(name) for name in names])
    lines = read_all(str(tmp_path))
    assert len(lines) == 8 * count == writer.written
    for name in names:
        assert sorted(of_writer(lines, name)) == list(range(count))
    assert len(list_streams(str(tmp_path))["metrics"]) > 10


def test_a_reader_that_follows_threads_finds_every_record_once(tmp_path: Path) -> None:
    """G3: frames in flight look torn for a moment, and late writes land in old segments."""
    folder = str(tmp_path)
    writer = StreamWriter(folder, "metrics", Limits(segment_bytes=20_000))
    done = threading.Event()
    lines: list[bytes] = []
    offsets: dict[int, int] = {}
    torn: dict[int, int] = {}

    def follow() -> None:
        while True:
            last = done.is_set()
            segments = list_streams(folder).get("metrics", {})
            while (number := next_range(segments, offsets, torn)) is not None:
                cut = read_cut(folder, "metrics", number, offsets.get(number, 0))
                if cut.torn and cut.end == cut.start:
                    torn[number] = segments[number]
                assert cut.damaged == 0
                offsets[number] = cut.end
                lines.extend(cut.lines)
            if last:
                return

    def log(name: int) -> None:
        for n in range(600):
            writer.append(b"%d %d %s\n" % (name, n, b"x" * (n * 37 % 9000)))

    reader = threading.Thread(target=follow)
    reader.start()
    run_threads([lambda name=name: log(name) for name in range(4)])
    done.set()
    reader.join(PATIENCE_S)
    assert len(lines) == len(set(lines)) == 2400 == writer.written


def test_threads_that_meet_at_the_first_record_lose_nothing(tmp_path: Path) -> None:
    """Several may open a segment; each record is in exactly one."""
    for round_ in range(20):
        folder = tmp_path / str(round_)
        folder.mkdir()
        writer = StreamWriter(str(folder), "metrics")
        gate = threading.Barrier(8)

        def log(name: int, writer: StreamWriter = writer, gate: threading.Barrier = gate) -> None:
            gate.wait(PATIENCE_S)
            for n in range(5):
                assert writer.append(b"%d %d\n" % (name, n))

        run_threads([lambda name=name: log(name) for name in range(8)])
        lines = read_all(str(folder))
        assert len(lines) == len(set(lines)) == 40
        assert writer_lives(str(folder), "metrics")


def test_close_among_threads_writes_into_no_foreign_file(tmp_path: Path) -> None:
    """A number that is given back while a thread is about to write gets foreign bytes: seen."""
    for round_ in range(10):
        folder = tmp_path / str(round_)
        folder.mkdir()
        writer = StreamWriter(str(folder), "metrics", Limits(segment_bytes=500))
        begun = threading.Barrier(5)
        accepted: list[bytes] = []

        def log(
            name: int,
            writer: StreamWriter = writer,
            begun: threading.Barrier = begun,
            kept: list[bytes] = accepted,
        ) -> None:
            begun.wait(PATIENCE_S)
            n = 0
            while writer.append(line := b"%d %d\n" % (name, n)):
                kept.append(line)
                n += 1

        def close(
            writer: StreamWriter = writer, begun: threading.Barrier = begun, folder: Path = folder
        ) -> None:
            begun.wait(PATIENCE_S)
            while writer.written < 50:
                os.sched_yield()
            writer.close()
            for n in range(20):
                with (folder / f"foreign{n}").open("wb"):
                    pass

        run_threads([*(lambda name=name: log(name) for name in range(4)), close])
        assert sorted(read_all(str(folder))) == sorted(accepted)
        assert all((folder / f"foreign{n}").read_bytes() == b"" for n in range(20))


# Signals


def test_a_signal_handler_may_append_in_the_middle_of_an_append(tmp_path: Path) -> None:
    """G4: no plain lock around the write; neither deadlock nor loss, also while rotating."""
    writer = StreamWriter(str(tmp_path), "metrics", Limits(segment_bytes=1500))
    fired = 0

    def on_alarm(signum: int, frame: object) -> None:
        nonlocal fired
        assert writer.append(b"handler %d\n" % fired)
        fired += 1
        if fired < 1500:  # the last one arms none: an alarm after the loop would be taken for the suite's own
            signal.setitimer(signal.ITIMER_REAL, 0.0001)  # only now: a stalled disk would nest handlers

    before = signal.signal(signal.SIGALRM, on_alarm)
    deadline, _ = signal.setitimer(signal.ITIMER_REAL, 0.0001)
    count = 0
    try:
        while fired < 1500:
            assert writer.append(b"main %d\n" % count)
            count += 1
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, deadline)
    lines = read_all(str(tmp_path))
    assert sorted(of_writer(lines, b"main")) == list(range(count))
    assert sorted(of_writer(lines, b"handler")) == list(range(fired))
    assert writer.written == count + fired


# Forks


def test_a_forked_child_opens_its_own_chain_and_leaves_the_parents_alone(tmp_path: Path) -> None:
    folder = str(tmp_path)
    writer = StreamWriter(folder, "metrics")
    writer.append(b"parent 0\n")
    parents = (tmp_path / "metrics-00000001.spool").read_bytes()
    in_child(lambda: writer.append(b"child 0\n") and writer.append(b"child 1\n") and writer.written == 2)
    assert (tmp_path / "metrics-00000001.spool").read_bytes() == parents
    writer.append(b"parent 1\n")
    assert read_all(folder) == [b"parent 0\n", b"parent 1\n"]
    (child,) = list_streams(folder).keys() - {"metrics"}
    assert child.startswith("metrics.p")
    assert read_all(folder, child) == [b"child 0\n", b"child 1\n"]
    assert not writer_lives(folder, child)


def test_a_child_that_closes_does_not_close_the_parents_stream(tmp_path: Path) -> None:
    writer = StreamWriter(str(tmp_path), "metrics")
    writer.append(b"0\n")

    def close() -> bool:
        writer.close()
        return not writer.append(b"x\n")

    in_child(close)
    assert writer.append(b"1\n")
    assert read_all(str(tmp_path)) == [b"0\n", b"1\n"]


def test_a_living_child_does_not_keep_the_parents_chain_alive(tmp_path: Path) -> None:
    """Nor does the parent keep the child's: each lock ends with its own process."""
    folder = str(tmp_path)
    writer = StreamWriter(folder, "metrics")
    writer.append(b"0\n")

    def child_alone() -> bool:
        writer.append(b"child\n")
        return writer_lives(folder, writer.stream)

    in_child(child_alone)
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    writer.close()
    assert not writer_lives(folder, "metrics")
    os.write(go[1], b"x")
    os.waitpid(pid, 0)
    for end in (*ready, *go):
        os.close(end)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forking_among_appending_threads_tears_nothing(tmp_path: Path) -> None:
    folder = str(tmp_path)
    writer = StreamWriter(folder, "metrics", Limits(segment_bytes=2000))
    stop = threading.Event()
    counts = [0, 0, 0]

    def log(name: int) -> None:
        while not stop.is_set():
            assert writer.append(b"%d %d\n" % (name, counts[name]))
            counts[name] += 1

    threads = [threading.Thread(target=log, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            in_child(lambda: all(writer.append(b"child %d\n" % n) for n in range(200)))
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
    lines = read_all(folder)
    for name, count in enumerate(counts):
        assert sorted(of_writer(lines, b"%d" % name)) == list(range(count))
    children = list_streams(folder).keys() - {"metrics"}
    for child in children:
        assert of_writer(read_all(folder, child), b"child") == list(range(200))
    assert len(children) == 20


def _log_in_pool_worker(writer: StreamWriter) -> None:
    for n in range(10):
        writer.append(b"%d %d\n" % (os.getpid(), n))


def test_processes_forked_by_multiprocessing_have_chains_of_their_own(tmp_path: Path) -> None:
    writer = StreamWriter(str(tmp_path), "metrics")
    writer.append(b"parent 0\n")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_log_in_pool_worker, args=(writer,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
        assert of_writer(read_all(str(tmp_path), f"metrics.p{process.pid}"), b"%d" % process.pid) == list(
            range(10)
        )
    assert read_all(str(tmp_path)) == [b"parent 0\n"]


def test_a_writer_survives_code_that_closes_all_descriptors(tmp_path: Path) -> None:
    """Daemonising code does it."""
    writer = StreamWriter(str(tmp_path), "metrics")
    writer.append(b"0\n")

    def closed() -> bool:
        os.closerange(3, 256)
        return writer.append(b"1\n") and writer.append(b"2\n")

    in_child(closed)
    (child,) = list_streams(str(tmp_path)).keys() - {"metrics"}
    assert read_all(str(tmp_path), child) == [b"1\n", b"2\n"]


def test_the_number_is_given_back_when_the_writer_goes(tmp_path: Path) -> None:
    """A sweep makes a thousand Runs in one process."""
    before = os.dup(0)
    os.close(before)
    for n in range(50):
        writer = StreamWriter(str(tmp_path), "metrics")
        writer.append(b"%d\n" % n)
        writer.close()
    after = os.dup(0)
    os.close(after)
    assert after <= before + 3, "the lowest free number tells how many are taken"


def test_records_survive_sigkill(tmp_path: Path) -> None:
    """G3."""
    program = (
        "import os, signal, sys; from pluto_dist.spool.writer import Limits, StreamWriter; "
        "writer = StreamWriter(sys.argv[1], 'metrics', Limits(segment_bytes=1000)); "
        "all(writer.append(b'%d\\n' % n) for n in range(1000)) and os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert read_all(str(tmp_path)) == [b"%d\n" % n for n in range(1000)]
    assert not writer_lives(str(tmp_path), "metrics")


# Real full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """One MiB of tmpfs."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs to be had here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_real_full_disk_costs_counted_records_and_ends_by_itself(small_disk: Path) -> None:
    """G4."""
    folder, now = str(small_disk), [0.0]
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(500_000))
    writer = StreamWriter(folder, "metrics", clock=lambda: now[0])
    lines = [b"%d %s\n" % (n, b"x" * 29_990) for n in range(40)]
    accepted = [line for line in lines if writer.append(line)]
    assert 10 < len(accepted) < 40
    assert (writer.trouble, writer.dropped) == ("ENOSPC", 40 - len(accepted))

    ballast.unlink()
    now[0] = 0.5
    assert writer.append(b"again\n")
    found: list[bytes] = []
    damaged = 0
    for number in sorted(list_streams(folder)["metrics"]):
        cut = read_cut(folder, "metrics", number, 0, final=True)
        damaged += cut.damaged
        found += cut.lines
    assert found == [*accepted, b"again\n"]
    assert damaged == 1, "the torn tail stays where it is"
    assert (writer.trouble, writer.segment > 1) == ("", True)


def test_the_limit_on_file_sizes_costs_no_record(tmp_path: Path) -> None:
    """`ulimit -f`: a short write, then EFBIG; a new segment takes the record."""

    def limited() -> bool:
        writer = StreamWriter(str(tmp_path), "metrics")
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        return all(writer.append(b"x" * 999 + b"\n") for _ in range(50)) and writer.segment > 4

    in_child(limited)
    found = 0
    for number in list_streams(str(tmp_path))["metrics"]:
        found += len(read_cut(str(tmp_path), "metrics", number, 0, final=True).lines)
    assert found == 50


def test_a_late_write_into_a_segment_that_was_read_is_found(tmp_path: Path) -> None:
    """A write in flight during a rotation lands in the old segment, behind its cursor."""
    folder = str(tmp_path)
    writer = StreamWriter(folder, "metrics", Limits(segment_bytes=100))
    writer.append(b"a" * 50 + b"\n")
    late = os.open(tmp_path / "metrics-00000001.spool", os.O_WRONLY | os.O_APPEND)
    writer.append(b"b" * 50 + b"\n")
    writer.append(b"c\n")
    offsets = {n: read_cut(folder, "metrics", n, 0).end for n in (1, 2)}
    assert next_range(list_streams(folder)["metrics"], offsets) is None
    os.write(late, encode_frame(b"late\n"))
    os.close(late)
    assert next_range(list_streams(folder)["metrics"], offsets) == 1
    assert read_cut(folder, "metrics", 1, offsets[1]).lines == (b"late\n",)
