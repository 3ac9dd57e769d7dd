"""Waiting where gevent or eventlet have made threads out of greenlets.

Their threads share one thread of the system: what blocks in C blocks all of them, and a wait for the link's
answer never ends. Their `select.select` lets the others run. Then the link speaks when the script waits or
sleeps, and not while it computes; `log()` needs no link, so nothing is lost meanwhile.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pluto_dist.errors import MachineError

if TYPE_CHECKING:
    import zmq


def threads_are_green() -> bool:
    """Whether gevent or eventlet has replaced the threads of this process.

    Raises:
        MachineError: and has not replaced what waits, so no thread would ever run beside another.
    """
    green = _patched("threading", "thread")
    if green and not _patched("select", "select"):
        raise MachineError(
            "threads are greenlets here (gevent or eventlet), and `select` is not patched with them: patch "
            "both (monkey.patch_all()), or leave threads alone (monkey.patch_all(thread=False))"
        )
    return green


def wait_readable(files: Iterable[int], timeout_s: float | None) -> list[int]:
    """Waits until one of the descriptors can be read; the others of a green process run meanwhile.

    Returns:
        Those that can be read, or are at their end.
    """
    if threads_are_green():
        return select.select(tuple(files), (), (), timeout_s)[0]
    poller = select.poll()
    for fd in files:
        poller.register(fd, select.POLLIN)
    return [fd for fd, _ in poller.poll(None if timeout_s is None else timeout_s * 1000)]


def wait_for_message(sockets: Iterable[zmq.Socket[bytes]], fd: int, timeout_s: float) -> bool:
    """Waits until a socket has a message or the descriptor can be read; whether that one can."""
    import zmq

    if threads_are_green():
        descriptors = [fd]
        for socket in sockets:
            if int(socket.get(zmq.EVENTS)) & zmq.POLLIN:  # its descriptor tells only of what is new
                timeout_s = 0.0
            descriptors.append(int(socket.get(zmq.FD)))
        readable, _, _ = select.select(descriptors, (), (), timeout_s)
        return fd in readable
    poller = zmq.Poller()
    for socket in sockets:
        poller.register(socket, zmq.POLLIN)
    poller.register(fd, zmq.POLLIN)
    return any(ready == fd for ready, _ in poller.poll(int(timeout_s * 1000) + 1))


def _patched(of_gevent: str, of_eventlet: str) -> bool:
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    return bool(
        (gevent is not None and gevent.is_module_patched(of_gevent))
        or (eventlet is not None and eventlet.is_monkey_patched(of_eventlet))
    )
