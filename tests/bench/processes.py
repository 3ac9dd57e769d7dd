"""Probes and the coordinator as the kernel sees them: answers, memory, processor time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.nodes import BuildNode
from tests.official import OFFICIAL_PYTHON

WIDE = 100  # metrics of a record in a large backlog
WIDE_BYTES = 3_700
PROBE = Path(__file__).with_name("probe.py")
WANDB_PYTHON = os.environ.get("PLUTO_BENCH_WANDB_PYTHON", "")
PEERS: dict[str, str] = {
    name: python
    for name, python in (("official", str(OFFICIAL_PYTHON)), ("wandb", WANDB_PYTHON))
    if python and Path(python).exists()
}


class Probe:
    """A process that runs `probe.py`. Orders may be given to many before the first answer is awaited.

    Attributes:
        pid: of the process.
        took_s, cpu_s: seconds of its `init()` or `attach()`, and of the processor in it.
    """

    def __init__(
        self, client: str, run_id: str, node: BuildNode, env: Mapping[str, str] | None = None
    ) -> None:
        folder = node.base
        with (folder / "probe.err").open("ab") as errors:
            self._process = subprocess.Popen(
                [PEERS.get(client, node.build.python), "-P", str(PROBE), client, run_id],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(node) | dict(env or {}),
                cwd=folder,
            )
        self._errors = folder / "probe.err"
        self.pid = self._process.pid
        self.took_s = self.cpu_s = 0.0

    def order(self, *words: object) -> None:
        """Says what to do."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """What came of it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the probe ended: {self._errors.read_text(errors='replace')[-2000:]}")
        return json.loads(line)

    def do(self, *words: object) -> Any:
        """Both."""
        self.order(*words)
        return self.answer()

    def kill(self) -> None:
        """SIGKILL, by pid."""
        self._process.kill()

    def close(self) -> None:
        """Ends it without ceremony."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def ranks(node: BuildNode, count: int, run_id: str, **settings: str) -> Iterator[list[Probe]]:
    """So many ranks of one job, of which this process is the launcher; all have opened their Run."""
    started: list[Probe] = []
    try:
        for rank in range(count):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            master = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
            started.append(Probe("owner", run_id, node, place | master | settings))
        for probe in started:
            probe.took_s, probe.cpu_s = probe.answer()
        yield started
    finally:
        for probe in started:
            probe.close()


@contextlib.contextmanager
def probes(node: BuildNode, clients: Sequence[str], run_id: str) -> Iterator[list[Probe]]:
    """Started one behind the other, since the first one makes the Run; all have opened it."""
    started: list[Probe] = []
    try:
        for client in clients:
            started.append(Probe(client, run_id, node))
            started[-1].took_s, started[-1].cpu_s = started[-1].answer()
        yield started
    finally:
        for probe in started:
            probe.close()


def environment(node: BuildNode) -> dict[str, str]:
    """Of a probe: compiled modules are kept, as where people install the package."""
    own = {"PLUTO_DISABLE_TELEMETRY": "1", "WANDB_DIR": str(node.base), "HOME": str(node.base)}
    return {**node.env(), **own, "PYTHONDONTWRITEBYTECODE": "", "PLUTO_DIST_QUIET": "1"}


@contextlib.contextmanager
def held(pid: int) -> Iterator[None]:
    """A process stands still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def cpu_s(pid: int) -> float:
    """Processor time of all threads that live; to the nanosecond, unlike /proc/<pid>/stat."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def resident_mb(pid: int, line: str = "VmRSS") -> float:
    """Resident megabytes; with `VmHWM` their peak."""
    for text in Path(f"/proc/{pid}/status").read_text().splitlines():
        if text.startswith(line + ":"):
            return int(text.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no {line}")


def reset_peak(pid: int) -> None:
    """The peak is counted from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_share(pid: int, seconds: float) -> float:
    """Share of one core that the process takes over a while."""
    before, begun = cpu_s(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_s(pid) - before) / (time.monotonic() - begun)
