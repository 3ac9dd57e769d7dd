"""The launcher of the ranks, as `torchrun`, and what they average their gradients by, as `torch.distributed`.

If a rank fails, or on SIGTERM, the others get SIGTERM, and SIGKILL if that does not help. Rank 0 adds what
the others send, over pipes from the launcher: an `all_reduce`, as plainly as it can be done. A peer's death
is an `EOFError` or `ConnectionError` in the others.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from array import array
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

VARIABLE = "DEMO_PEERS"  # descriptors: of rank 0 to all others, of the others to rank 0


class Peers:
    """The other ranks.

    Args:
        root: whether this is rank 0.
        connections: to all others, or to rank 0.
    """

    def __init__(self, *, root: bool, connections: Sequence[Connection]) -> None:
        self._root = root
        self._connections = connections

    @classmethod
    def from_env(cls) -> Peers:
        """The peers to which the launcher has connected this rank."""
        numbers = [int(text) for text in os.environ[VARIABLE].split(",") if text]
        return cls(root=os.environ["RANK"] == "0", connections=[Connection(number) for number in numbers])

    def mean(self, values: array[float]) -> array[float]:
        """The mean of what all ranks hand in, the same on every rank to the last bit."""
        if not self._root:
            self._connections[0].send_bytes(values)
            return _received(self._connections[0])
        everybody = [values, *map(_received, self._connections)]
        mean = array("d", (sum(column) / len(everybody) for column in zip(*everybody, strict=True)))
        for connection in self._connections:
            connection.send_bytes(mean)
        return mean

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank; all ranks get the same answer."""
        return self.mean(array("d", [flag]))[0] > 0


def connect(world: int) -> list[list[socket.socket]]:
    """Sockets that each rank inherits from the launcher."""
    pairs = [socket.socketpair() for _ in range(world - 1)]
    return [[ours for ours, _ in pairs], *([theirs] for _, theirs in pairs)]


def _received(connection: Connection) -> array[float]:
    values = array("d")
    values.frombytes(connection.recv_bytes())
    return values


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
    for rank, sockets in enumerate(connect(world)):
        numbers = [each.fileno() for each in sockets]
        peers = {VARIABLE: ",".join(map(str, numbers))}
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
