"""What capturing a printed line costs the printing thread: `python -m tests.bench.bench_console`."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pluto_dist.client.console.capture import StreamCapture
from pluto_dist.client.console.text import Recorder, redactor
from pluto_dist.client.lease_files import Wall
from pluto_dist.spool.writer import StreamWriter

LINES = 50_000
SECRETS = tuple(f"a-secret-value-{n:04}" for n in range(10))


def microseconds(say: Callable[[int], None]) -> tuple[float, float]:
    """p50 and p99 of one call."""
    times = []
    for n in range(LINES):
        start = time.perf_counter_ns()
        say(n)
        times.append((time.perf_counter_ns() - start) / 1000)
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def main() -> None:
    """Prints one row without and one with the capture."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stream = stack.enter_context(Path(os.devnull).open("w", buffering=1))

        def say(n: int) -> None:
            print("epoch", n, "loss 0.123 accuracy 0.987 in 12.3 s on 8 devices, still going", file=stream)

        plain = microseconds(say)
        writer, wall, redact = StreamWriter(folder, "console"), Wall(), redactor(SECRETS)
        capture = StreamCapture(stream, lambda: Recorder("stderr", writer.append, wall.ms, redact))
        capture.start()
        captured = microseconds(say)
        capture.stop()
        writer.close()
    print(f"print of a line      p50 {plain[0]:6.2f} µs   p99 {plain[1]:6.2f} µs")
    print(f"captured             p50 {captured[0]:6.2f} µs   p99 {captured[1]:6.2f} µs")


if __name__ == "__main__":
    main()
