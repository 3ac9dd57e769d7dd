"""Who is at the other end of a loopback connection: the process that owns its socket.

A sender is a process. It shares the knowledge of the processes that started it, except of the emulator's own
process and those above it: they belong to the test. A request may name its sender with a header instead.
"""

import os
from functools import cache

import psutil  # type: ignore[import-untyped]

HEADER = "x-emulator-sender"


class SocketPeer:
    """The peer of one connection; the process is looked up when it is first asked for."""

    def __init__(self, peer_port: int, own_port: int) -> None:
        self._ports = (peer_port, own_port)
        self._process: psutil.Process | None = None
        self._sender: str | None = None

    def sender(self) -> str:
        """`pid <n>`, or `port <n>` when the process is gone or not ours to see."""
        if self._sender is None:
            self._process = _owner(*self._ports)
            self._sender = f"port {self._ports[0]}" if self._process is None else f"pid {self._process.pid}"
        return self._sender

    def forebears(self) -> frozenset[str]:
        """The processes above the sender, below the test."""
        self.sender()
        if self._process is None:
            return frozenset()
        try:
            above = self._process.parents()
        except psutil.Error:
            return frozenset()
        return frozenset(f"pid {process.pid}" for process in above if process.pid not in _test_processes())


class NamedPeer:
    """A sender that a request names itself."""

    def __init__(self, name: str) -> None:
        self._name = name

    def sender(self) -> str:
        """The name."""
        return self._name

    def forebears(self) -> frozenset[str]:
        """None."""
        return frozenset()


def _owner(peer_port: int, own_port: int) -> psutil.Process | None:
    try:
        for connection in psutil.net_connections("tcp"):
            ends = (connection.laddr, connection.raddr)
            if connection.pid and all(ends) and (ends[0].port, ends[1].port) == (peer_port, own_port):
                return psutil.Process(connection.pid)
    except psutil.Error:
        return None
    return None


@cache
def _test_processes() -> frozenset[int]:
    own = psutil.Process(os.getpid())
    return frozenset((own.pid, *(process.pid for process in own.parents())))
