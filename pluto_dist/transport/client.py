"""A process's end of the socket: a DEALER that forgets what it could not send.

Nothing of value travels here (the lifecycle stream on disk does), so the queue is short, nothing lingers, and
a socket whose peer has gone is simply replaced.
"""

from __future__ import annotations

import time
from pathlib import Path

import zmq

from pluto_dist.core.values.messages import Answer, Question, Refusal, Reply, Request, decode_reply, encode


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
