"""Cost of a record on the trainer's side, and rate of cutting on the coordinator's.

Run: `python -m tests.bench.bench_spool`. Takes a few seconds.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from pluto_dist.spool.frames import encode_frame, scan
from pluto_dist.spool.reader import list_streams, next_range, read_cut
from pluto_dist.spool.writer import StreamWriter

PAYLOAD = b'{"time":1760000000000,"step":123,"data":{"train/loss":0.123456}}'.ljust(229, b" ") + b"\n"
RECORDS = 100_000


def percentile(samples: list[int], share: float) -> float:
    """In microseconds."""
    return sorted(samples)[int(len(samples) * share)] / 1000


def timed(call, argument) -> list[int]:
    """Nanoseconds of each call."""
    clock = time.perf_counter_ns
    samples = []
    for _ in range(RECORDS):
        begun = clock()
        call(argument)
        samples.append(clock() - begun)
    return samples


def bench_append(folder: str) -> None:
    """`append` beside a bare `os.write` of the same bytes, and beside nothing."""
    writer = StreamWriter(folder, "metrics")
    frame = encode_frame(PAYLOAD)
    fd = os.open(f"{folder}/bare", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    nothing = timed(len, frame)
    bare = timed(lambda data: os.write(fd, data), frame)
    append = timed(writer.append, PAYLOAD)
    os.close(fd)
    for name, samples in (("timer alone", nothing), ("os.write", bare), ("append", append)):
        p50, p99 = percentile(samples, 0.5), percentile(samples, 0.99)
        print(f"{name:12} p50 {p50:6.2f} µs   p99 {p99:6.2f} µs")
    beyond = percentile(append, 0.5) - percentile(bare, 0.5)
    print(f"append beyond the write: p50 {beyond:.2f} µs ({writer.dropped} dropped)")


def bench_scan() -> None:
    """Frames per second of the pure scan."""
    buffer = b"".join(encode_frame(PAYLOAD, sequence=n) for n in range(4000))
    rounds, begun = 50, time.perf_counter()
    found = sum(len(scan(buffer).lines) for _ in range(rounds))
    print(f"scan: {found / (time.perf_counter() - begun):,.0f} frames/s")


def bench_read(folder: str) -> None:
    """Records per second from the file, cut by cut, as the coordinator reads."""
    offsets: dict[int, int] = {}
    records, begun = 0, time.perf_counter()
    while (segment := next_range(list_streams(folder)["metrics"], offsets)) is not None:
        cut = read_cut(folder, "metrics", segment, offsets.get(segment, 0))
        offsets[segment] = cut.end
        records += len(cut.lines)
    print(f"read_cut: {records / (time.perf_counter() - begun):,.0f} records/s ({records} records)")


def main() -> None:
    """Prints all of it."""
    with tempfile.TemporaryDirectory(dir="/var/tmp" if Path("/var/tmp").is_dir() else None) as folder:
        bench_append(folder)
        bench_scan()
        bench_read(folder)


if __name__ == "__main__":
    main()
