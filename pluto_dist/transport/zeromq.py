"""Both ends of the socket between processes and their coordinator: DEALERs on a ROUTER's ipc path.

Nothing of value travels here (the lifecycle stream on disk does). So the process's queue is short, nothing
lingers, and a socket whose peer has gone is simply replaced. At the coordinator only messages that decode go
further; every other one is answered with a `Refusal` and counted, and a peer that is gone is no error.
Binding happens under the coordinator's lock: a second bind on an ipc path would take it over silently.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import zmq

from pluto_dist.core.values.messages import (
    MAX_MESSAGE_BYTES,
    Answer,
    Question,
    Refusal,
    Reply,
    Request,
    decode_reply,
    decode_request,
    encode,
)


class DealerClient:
    """Connects to a coordinator's socket path; usable from one thread.

    Args:
        path: of the socket file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 64)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 20)
        self._breaks = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.socket.connect(f"ipc://{path}")

    @property
    def sockets(self) -> tuple[zmq.Socket[bytes], ...]:
        """What can be read when there is a reply, or when the connection has broken."""
        return self.socket, self._breaks

    def broke(self) -> bool:
        """Whether the connection has broken since the last call: its coordinator is gone."""
        broken = False
        while self._breaks.poll(0):
            self._breaks.recv_multipart(zmq.DONTWAIT)
            broken = True
        return broken

    def send(self, request: Request) -> bool:
        """Queues a request; False if the queue is full."""
        try:
            self.socket.send(encode(request), zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def receive(self) -> Reply | None:
        """The next reply that can be read, None if there is none now."""
        while True:
            try:
                payload = self.socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                return None
            try:
                return decode_reply(payload)
            except ValueError:
                continue  # a newer coordinator's message; the next view says the same in our words

    def wait(self, timeout_s: float) -> Reply | None:
        """The next reply, waiting for it at most so long."""
        if self.socket.poll(max(0, int(timeout_s * 1000))):
            return self.receive()
        return None

    def ask(self, question: Question, timeout_s: float) -> Answer | Refusal | None:
        """Sends a question and waits for its answer or refusal; None after the timeout."""
        self.send(question)
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            reply = self.wait(left)
            if isinstance(reply, Answer | Refusal) and reply.request in (question.request, 0):
                return reply
        return None

    def close(self) -> None:
        """Drops the connection at once."""
        self._context.destroy(linger=0)


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
