"""One reader under measurement: `python reading_probe.py CLIENT write|read FOLDER RECORDS`.

Clients: `pluto_dist` (reads only), `tensorboard`, `trackio`; each with an interpreter that has it. All hold
the same records of ten values, made of the same numbers. The answer is one JSON line. What is timed is the
processor time of finding the Run and reading one series of it whole, as steps and values in memory; loading
the library is not.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

NAMES = ["loss", *(f"train/metric{n}" for n in range(1, 10))]
Values = tuple[list[int], list[float]]


def records(count: int) -> Iterator[dict[str, float]]:
    """As `bench_look.make_store` writes them."""
    rng = random.Random(1)
    for _ in range(count):
        yield {name: rng.random() for name in NAMES}


def write_tensorboard(folder: str, count: int) -> None:
    """An event for each value, as PyTorch's SummaryWriter does."""
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-not-found] # of another one
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-not-found]
    from tensorboard.summary.writer.event_file_writer import EventFileWriter  # type: ignore[import-not-found]

    writer = EventFileWriter(folder)
    for step, record in enumerate(records(count)):
        for name, value in record.items():
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
            writer.add_event(Event(wall_time=float(step), step=step, summary=summary))
    writer.close()


def write_trackio(folder: str, count: int) -> None:
    """A row for each record, as its `log()` does."""
    os.environ["TRACKIO_DIR"] = folder
    from trackio.sqlite_storage import SQLiteStorage  # type: ignore[import-not-found] # of another one

    SQLiteStorage.bulk_log("bench", "run", list(records(count)), steps=list(range(count)))


def tensorboard(folder: str) -> Callable[[], Values]:
    """With its event reader, all points kept."""
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-not-found]
        SCALARS,
        EventAccumulator,
    )

    def read() -> Values:
        found = EventAccumulator(folder, size_guidance={SCALARS: 0})
        found.Reload()
        events = found.Scalars("loss")
        return [event.step for event in events], [event.value for event in events]

    return read


def trackio(folder: str) -> Callable[[], Values]:
    """With the call of its own that reads one series."""
    os.environ["TRACKIO_DIR"] = folder
    from trackio.sqlite_storage import SQLiteStorage  # type: ignore[import-not-found] # of another one

    def read() -> Values:
        rows = SQLiteStorage.get_metric_values("bench", "run", "loss")
        return [row["step"] for row in rows], [row["value"] for row in rows]

    return read


def pluto_dist(folder: str) -> Callable[[], Values]:
    """As a notebook does."""
    from pluto_dist import read as reader

    def read() -> Values:
        (curve,) = reader.run("1", folder, settle=False).series("loss").curves()
        return curve.steps.tolist(), curve.values.tolist()

    return read


def main() -> None:
    """Obeys one order."""
    client, order, folder, count = sys.argv[1:5]
    here: dict[str, Any] = globals()
    if order == "write":
        here[f"write_{client}"](folder, int(count))
        return
    read = here[client](folder)
    begun = time.process_time()
    steps, values = read()
    took = time.process_time() - begun
    assert steps == list(range(int(count))), f"{client} has other steps"
    name = client.replace("_", "-")
    print(json.dumps({"cpu_s": took, "sum": sum(values), "version": version(name)}))


if __name__ == "__main__":
    main()
