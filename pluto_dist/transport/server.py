"""The coordinator's end of the socket: a ROUTER on an ipc path.

Only messages that decode go further; every other one is answered with a `Refusal` and counted. A peer that is
gone is no error. Binding happens under the coordinator's lock: a second bind on an ipc path would take it
over silently.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import zmq

from pluto_dist.core.values.messages import MAX_MESSAGE_BYTES, Refusal, Reply, Request, decode_request, encode

ENVELOPE_FRAMES = 2  # peer, message
BURST = 256  # messages taken before the caller gets a turn


class RouterServer:
    """Receives requests, sends replies; never blocks.

    Args:
        path: of the socket file; its folder is private.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 200)
        self.socket.setsockopt(zmq.MAXMSGSIZE, 16 * MAX_MESSAGE_BYTES)
        self.socket.setsockopt(zmq.SNDHWM, 1000)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.refused = 0
        for left in (path, self._aside):
            left.unlink(missing_ok=True)
        self.socket.bind(f"ipc://{path}")
        path.chmod(0o600)

    def receive(self) -> Iterator[tuple[bytes, Request]]:
        """Requests that have arrived with their peers, up to a burst."""
        for _ in range(BURST):
            try:
                frames = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            request = self._read(frames)
            if request is not None:
                yield frames[0], request

    def send(self, peer: bytes, reply: Reply) -> bool:
        """Hands a reply over; False for a peer that is gone or does not read."""
        try:
            self.socket.send_multipart([peer, encode(reply)], zmq.DONTWAIT)
        except (zmq.Again, zmq.ZMQError) as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return False
            raise
        return True

    def withdraw(self, wait_s: float) -> bool:
        """Leaves if no message is on its way: moves the path aside, for no new client to find it, and waits.

        Returns:
            False if a message came after all; the path is back, and no client has noticed anything.
        """
        self._path.rename(self._aside)
        if self.socket.poll(int(wait_s * 1000)):
            self._aside.rename(self._path)
            return False
        self._aside.unlink()
        return True

    def close(self, *, unlink: bool) -> None:
        """Stops; the path is removed only if it is still ours."""
        if unlink:
            self._path.unlink(missing_ok=True)
        self._context.destroy(linger=200)

    @property
    def _aside(self) -> Path:
        return self._path.with_name(self._path.name + ".leaving")

    def _read(self, frames: list[bytes]) -> Request | None:
        peer, problem = frames[0], f"a message has {ENVELOPE_FRAMES - 1} frame, got {len(frames) - 1}"
        if len(frames) == ENVELOPE_FRAMES:
            try:
                return decode_request(frames[1])
            except ValueError as error:
                problem = str(error)
        self.refused += 1
        self.send(peer, Refusal(request=0, error="ProtocolError", message=problem))
        return None
