"""Checkpoint files: rank 0 writes them while others follow."""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

from pluto_dist.cli.demo.job.network import Network

DONE = "done"
LOOK_S = 0.05
PATIENCE_S = 600.0  # the wait for a training that has gone is bounded


def save(folder: Path, step: int, network: Network) -> None:
    """Writes one, whole or not at all."""
    unfinished = folder / "unfinished"
    unfinished.write_bytes(network.weights.tobytes())
    unfinished.rename(folder / f"step-{step:06}.weights")


def checksum(body: bytes) -> str:
    """Short, for people to compare."""
    return hashlib.sha256(body).hexdigest()[:16]


def load(path: Path) -> Network:
    """The network as it was saved."""
    weights = array("d")
    weights.frombytes(path.read_bytes())
    network = Network()
    network.weights = weights
    return network


def end(folder: Path) -> None:
    """Tells the followers that there will be no more."""
    (folder / DONE).touch()


def follow(folder: Path) -> Iterator[tuple[int, Path]]:
    """Step and path of each checkpoint, as they come, up to the last one.

    Raises:
        TimeoutError: for long there was neither another one nor an end.
    """
    seen: set[Path] = set()
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        done = (folder / DONE).exists()  # before looking: what is done has all its files
        for path in sorted(set(folder.glob("step-*.weights")) - seen):
            seen.add(path)
            deadline = time.monotonic() + PATIENCE_S
            yield int(path.stem.removeprefix("step-")), path
        if done:
            return
        time.sleep(LOOK_S)
    raise TimeoutError(f"no checkpoint and no end within {PATIENCE_S:g} s; checkpoints in {folder}")
