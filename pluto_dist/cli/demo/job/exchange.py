"""The average of all ranks' gradients: rank 0 adds what the others send, over pipes from the launcher.

What `torch.distributed.all_reduce` does, as plainly as it can be done. A peer's death is an `EOFError` or
`ConnectionError` in the others.
"""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection

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
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Peers:
        """The peers to which the launcher has connected this rank."""
        numbers = [int(text) for text in env[VARIABLE].split(",") if text]
        return cls(root=env["RANK"] == "0", connections=[Connection(number) for number in numbers])

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
