"""One process under measurement: `python probe.py CLIENT RUN_ID`, with any interpreter that has the client.

Clients: `owner`, `side` (this project), `official` (pluto-ml), and those of `OFFLINE`. It says how long
`init()` took and how much processor time, then obeys lines on stdin: the public methods of `Probe`, each with
its arguments. Each answer is one JSON line. It imports nothing of this repository but the client.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

METRICS = 10


def record(n: int, width: int = METRICS, prefix: str = "train") -> dict[str, float]:
    """Values as a training has them: all digits of a double."""
    return {f"{prefix}/metric{k}": math.sin(n + k) for k in range(width)}


def opened(client: str, run_id: str) -> Any:
    """The client's handle of a Run."""
    if client in ("owner", "side"):
        import pluto_dist

        if client == "owner":
            return pluto_dist.init(project="bench", run_id=run_id)
        return pluto_dist.attach(run_id, label=f"w{os.getpid()}")
    if client == "official":
        import pluto  # type: ignore[import-not-found] # of another interpreter

        # The console is off in the official client, as its own documentation advises for loops.
        return pluto.init(project="bench", name=run_id, settings={"disable_console": True})
    return OFFLINE[client](run_id)


def _wandb(run_id: str) -> Any:
    import wandb  # type: ignore[import-not-found] # of another interpreter, as those below

    return wandb.init(project="bench", mode="offline", settings=wandb.Settings(console="off"))


class Numbered:
    """A client whose `log` wants a step."""

    def __init__(self, log: Callable[[dict[str, float], int], object]) -> None:
        self._log = log
        self._step = 0

    def log(self, data: dict[str, float]) -> None:
        """One record."""
        self._step += 1
        self._log(data, self._step)


def _neptune(run_id: str) -> Any:
    from neptune_scale import Run  # type: ignore[import-not-found]

    run = Run(project="w/bench", run_id=run_id, mode="offline", enable_console_log_capture=False)
    return Numbered(lambda data, step: run.log_metrics(data=data, step=step))


def _trackio(run_id: str) -> Any:
    import trackio  # type: ignore[import-not-found]

    trackio.init(project="bench", name=run_id, embed=False)
    return trackio


def _tensorboard(run_id: str) -> Any:
    from tensorboardX import SummaryWriter  # type: ignore[import-not-found]

    writer = SummaryWriter(run_id)

    def log(data: dict[str, float], step: int) -> None:
        for name, value in data.items():
            writer.add_scalar(name, value, step)

    return Numbered(log)


def _mlflow(run_id: str) -> Any:
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # else it wants a database
    import mlflow  # type: ignore[import-not-found]

    mlflow.set_tracking_uri(f"file://{Path.cwd()}/{run_id}")
    mlflow.start_run()
    return Numbered(lambda data, step: mlflow.log_metrics(data, step=step))


OFFLINE: dict[str, Callable[[str], Any]] = {
    "wandb": _wandb,
    "neptune": _neptune,
    "trackio": _trackio,
    "tensorboardX": _tensorboard,
    "mlflow": _mlflow,
}
MODULES = {"official": "pluto", "neptune": "neptune_scale"}


def imported(client: str) -> None:
    """Not a part of how long `init()` takes."""
    __import__(MODULES.get(client, client if client in OFFLINE else "pluto_dist"))


class Probe:
    """Carries out one order after the other."""

    def __init__(self, client: str, run_id: str) -> None:
        imported(client)
        self._client = client
        self._run_id = run_id
        begun, spent = time.perf_counter(), cpu_s()
        self._run = opened(client, run_id)
        self.took_s, self.cpu_s = time.perf_counter() - begun, cpu_s() - spent
        self._kept: list[Any] = []

    def log(self, count: str) -> list[float]:
        """Microseconds of each call, of records that were made before."""
        records = [record(n) for n in range(1000)]
        log, clock, samples = self._run.log, time.perf_counter_ns, []
        for n in range(int(count)):
            begun = clock()
            log(records[n % 1000])
            samples.append((clock() - begun) / 1000)
        return percentiles(samples)

    def shape(self, kind: str, width: str, count: str) -> list[float]:
        """Median microseconds of `log()` of such records and of the least that a record needs, in turn."""
        records = SHAPES[kind](int(width), int(count))
        plain = [record(n, int(width)) for n in range(int(count))]
        log, least, clock = self._run.log, least_writer(), time.perf_counter_ns
        ours, theirs = [], []
        for n, (passed, bare) in enumerate(zip(records, plain, strict=True)):
            begun = clock()
            log(passed)
            between = clock()
            least(n, bare)
            theirs.append((clock() - between) / 1000)
            ours.append((between - begun) / 1000)
        return [percentiles(ours)[0], percentiles(theirs)[0]]

    def pace(self, count: str, hertz: str) -> list[float]:
        """The same, with pauses between the calls."""
        records = [record(n) for n in range(1000)]
        samples, interval, due = [], 1 / float(hertz), time.perf_counter()
        for n in range(int(count)):
            due += interval
            time.sleep(max(0.0, due - time.perf_counter()))
            begun = time.perf_counter_ns()
            self._run.log(records[n % 1000])
            samples.append((time.perf_counter_ns() - begun) / 1000)
        return percentiles(samples)

    def fill(self, count: str, width: str, prefix: str = "train") -> int:
        """A backlog of so many records."""
        records = [record(n, int(width), prefix) for n in range(100)]
        for n in range(int(count)):
            self._run.log(records[n % 100])
        return int(count)

    def grow(self, mebibytes: str) -> int:
        """Memory that the kernel has to tear down."""
        held = bytearray(int(mebibytes) << 20)
        held[::4096] = b"x" * len(held[::4096])
        self._kept.append(held)
        return len(held)

    def rest(self, seconds: str) -> float:
        """Time for what is on its way."""
        time.sleep(float(seconds))
        return float(seconds)

    def attach(self, count: str) -> list[float]:
        """More leases of this process; milliseconds of each `attach()`."""
        import pluto_dist

        took = []
        for n in range(int(count)):
            begun = time.perf_counter()
            self._kept.append(pluto_dist.attach(self._run_id, label=f"w{os.getpid()}-{n}"))
            took.append((time.perf_counter() - begun) * 1000)
        return took

    def crowd(self, hertz: str, seconds: str) -> int:
        """Each Run of this process logs at a steady pace, all in turn; how many records that were."""
        runs, records = [self._run, *self._kept], [record(n) for n in range(100)]
        interval, due, count = 1 / float(hertz), time.perf_counter(), int(float(hertz) * float(seconds))
        for n in range(count):
            due += interval
            time.sleep(max(0.0, due - time.perf_counter()))
            for run in runs:
                run.log(records[n % 100])
        return count * len(runs)

    def sweep(self, count: str) -> list[list[float]]:
        """Runs one after the other; seconds of `init()`, of `finish()`, and of processor time."""
        import pluto_dist

        found = []
        for _ in range(int(count)):
            spent, begun = cpu_s(), time.perf_counter()
            run = pluto_dist.init(project="bench")
            opened = time.perf_counter()
            for n in range(10):
                run.log(record(n))
            logged = time.perf_counter()
            run.finish()
            found.append([opened - begun, time.perf_counter() - logged, cpu_s() - spent])
        return found

    def file(self, mebibytes: str, copied: str) -> float:
        """Milliseconds of `log()` of a sparse file, as it is or with a copy as before 0.2."""
        import pluto_dist

        path = f"large.{os.getpid()}.{mebibytes}.{copied}"
        with open(path, "wb") as file:  # noqa: PTH123 # no imports beside the client's
            file.truncate(int(mebibytes) << 20)
        artifact = pluto_dist.Artifact(path)
        self._run._lease.files.blobs._copy_up_to = 1 << 60 if int(copied) else 1 << 20
        begun = time.perf_counter_ns()
        self._run.log({"file": artifact})
        return (time.perf_counter_ns() - begun) / 1e6

    def folder(self, count: str) -> float:
        """Milliseconds of `log()` of a folder of so many small files."""
        import pluto_dist

        path = f"folder.{os.getpid()}.{count}"
        os.makedirs(path, exist_ok=True)  # noqa: PTH103 # no imports beside the client's
        for n in range(int(count)):
            with open(f"{path}/{n}", "wb") as file:  # noqa: PTH123 # as above
                file.write(b"x" * 5000)
        artifact = pluto_dist.Artifact(path)
        begun = time.perf_counter_ns()
        self._run.log({"folder": artifact})
        return (time.perf_counter_ns() - begun) / 1e6

    def hand(self, count: str, hertz: str) -> list[float]:
        """Hands checkpoints over, at a pace or (0) as fast as it goes; microseconds of each call."""
        path = f"checkpoint.{os.getpid()}"
        with open(path, "wb"):  # noqa: PTH123 # no imports beside the client's
            pass
        samples, interval, due = [], 1 / float(hertz) if float(hertz) else 0.0, time.perf_counter()
        for n in range(int(count)):
            due += interval
            time.sleep(max(0.0, due - time.perf_counter()) if interval else 0.0)
            begun = time.perf_counter_ns()
            self._run.checkpoint(path, n, at=time.time())
            samples.append((time.perf_counter_ns() - begun) / 1000)
        return percentiles(samples)

    def take(self, count: str) -> list[float]:
        """Milliseconds from `checkpoint()` to the loop, for the next so many."""
        samples = []
        for checkpoint in self._run.checkpoints():
            samples.append((time.time() - checkpoint.info["at"]) * 1000)
            checkpoint.done()
            if len(samples) == int(count):
                break
        return percentiles(samples)

    def take_latest(self) -> int:
        """Passes over all but the newest; its number."""
        for checkpoint in self._run.checkpoints(latest=True):
            checkpoint.done()
            return int(checkpoint.number)
        return 0

    def finish(self) -> float:
        """Seconds of the orderly end."""
        begun = time.perf_counter()
        self._run.finish()
        return time.perf_counter() - begun


def nested(n: int, width: int) -> dict[str, Any]:
    """Values in a dict of their own."""
    return {"train": record(n, width, "loss")}


def numpy_scalars(width: int, count: int) -> list[dict[str, Any]]:
    """As a mean over an array has them."""
    import numpy as np

    return [{name: np.float32(value) for name, value in record(n, width).items()} for n in range(count)]


def tensors(width: int, count: int) -> list[dict[str, Any]]:
    """As a loss has them."""
    import torch

    return [{name: torch.tensor(value) for name, value in record(n, width).items()} for n in range(count)]


SHAPES: dict[str, Callable[[int, int], list[dict[str, Any]]]] = {
    "plain": lambda width, count: [record(n, width) for n in range(count)],
    "nested": lambda width, count: [nested(n, width) for n in range(count)],
    "new": lambda width, count: [record(n, width, f"new{n}") for n in range(count)],
    "numpy": numpy_scalars,
    "torch": tensors,
}


def least_writer() -> Callable[[int, dict[str, float]], object]:
    """JSON, a checksum and one `write()`."""
    import struct
    import zlib

    import msgspec

    encode, pack, crc32 = msgspec.json.Encoder().encode, struct.Struct("<III").pack, zlib.crc32
    fd = os.open(f"least.{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def least(n: int, values: dict[str, float]) -> None:
        line = encode({"time": 1760000000000, "step": n, "data": values}) + b"\n"
        os.write(fd, pack(n, len(line), crc32(line)) + line)

    return least


def cpu_s() -> float:
    """Processor time of this process and of children that it has waited for."""
    return time.process_time() + sum(os.times()[2:4])


def percentiles(samples: list[float]) -> list[float]:
    """p50 and p99."""
    ordered = sorted(samples)
    return [ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]]


def main(client: str, run_id: str) -> None:
    """Obeys until the end of stdin; what is not delivered then is of no interest."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a client's own lines are no answers
    probe = Probe(client, run_id)
    answers.write(json.dumps([probe.took_s, probe.cpu_s]) + "\n")
    for line in sys.stdin:
        name, *arguments = line.split()
        order: Callable[..., Any] = getattr(probe, name)
        answers.write(json.dumps(order(*arguments)) + "\n")
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
