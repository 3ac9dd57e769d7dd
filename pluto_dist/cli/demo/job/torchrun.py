"""Starts the ranks of a job on this machine, as `torchrun --nproc-per-node N` does, and waits for them.

If one fails, or on SIGTERM, the others get SIGTERM, and SIGKILL if that does not help.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pluto_dist.cli.demo.job import exchange

LOOK_S = 0.1
GRACE_S = 15.0  # a rank that gets SIGTERM still delivers what it has logged

Rank = subprocess.Popen[bytes]


def main() -> int:
    """Exit code 0 if all ranks ended well."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nproc-per-node", type=int, required=True)
    parser.add_argument("--log-dir", type=Path, required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    ranks: list[Rank] = []
    try:
        _start(ranks, options.nproc_per_node, options.command, options.log_dir)
        return _wait(ranks, options.log_dir)
    finally:
        _end(ranks)


def rank_variables(rank: int, world: int) -> dict[str, str]:
    """Variables that torchrun gives a rank, on one node and without restarts."""
    same = {"RANK": rank, "LOCAL_RANK": rank, "ROLE_RANK": rank, "GROUP_RANK": 0}
    sizes = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "ROLE_WORLD_SIZE": world, "GROUP_WORLD_SIZE": 1}
    counts = {"TORCHELASTIC_RESTART_COUNT": 0, "TORCHELASTIC_MAX_RESTARTS": 0}
    texts = {
        "ROLE_NAME": "default",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    return {name: str(value) for name, value in (same | sizes | counts | texts).items()}


def _start(ranks: list[Rank], world: int, command: Sequence[str], logs: Path) -> None:
    """Adds each rank as it starts: a signal may come between two of them."""
    for rank, sockets in enumerate(exchange.connect(world)):
        numbers = [each.fileno() for each in sockets]
        peers = {exchange.VARIABLE: ",".join(map(str, numbers))}
        env = {**os.environ, **rank_variables(rank, world), **peers}
        with _log(logs, rank).open("wb") as log:
            ranks.append(subprocess.Popen(command, env=env, pass_fds=numbers, stdout=log, stderr=log))
        for each in sockets:
            each.close()


def _wait(ranks: Sequence[Rank], logs: Path) -> int:
    while True:
        codes = [rank.poll() for rank in ranks]
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed:
            first = failed[0]
            why = last_line(_log(logs, first))
            print(f"rank {first} failed with code {codes[first]}: {why}", file=sys.stderr)  # noqa: T201
            return 1
        if None not in codes:
            return 0
        time.sleep(LOOK_S)


def last_line(log: Path) -> str:
    """The last line that says something."""
    lines = log.read_text(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _log(logs: Path, rank: int) -> Path:
    return logs / f"rank{rank}.log"


def _end(ranks: Sequence[Rank]) -> None:
    alive = [rank for rank in ranks if rank.poll() is None]
    for rank in alive:
        rank.terminate()
    deadline = time.monotonic() + GRACE_S
    for rank in alive:
        with contextlib.suppress(subprocess.TimeoutExpired):
            rank.wait(max(0.0, deadline - time.monotonic()))
        rank.kill()
        rank.wait()


if __name__ == "__main__":
    sys.exit(main())
