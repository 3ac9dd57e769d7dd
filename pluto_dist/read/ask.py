"""Questions to the coordinator of this node. Never starts one."""

from __future__ import annotations

import socket
import struct
import sys
from pathlib import Path

import msgspec

from pluto_dist.core.values.messages import Answer, Question, Refusal
from pluto_dist.errors import CoordinatorUnavailableError, from_wire

ANSWER_S = 5.0  # a busy coordinator answers within milliseconds; a stopped one (SIGSTOP) never
CONNECT_S = 1.0
_UCRED = struct.Struct("iII")  # pid, uid, gid
_MACOS_LEVEL, _MACOS_PEER_PID = 0, 2  # SOL_LOCAL, LOCAL_PEERPID


class Listener(msgspec.Struct, frozen=True):
    """The process that listens on the socket; `pid` is None if it is in another pid namespace."""

    pid: int | None


def listener(path: Path) -> Listener | None:
    """The process behind a socket, None if there is none; asked of the kernel, so nothing is waited for."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_S)
        try:
            probe.connect(str(path))
            return Listener(_peer_pid(probe))
        except (FileNotFoundError, ConnectionError):
            return None


def ask(path: Path, question: Question, timeout_s: float | None = None) -> bytes | None:
    """The answer, a JSON document; None if no coordinator listens there.

    Args:
        path: of the coordinator's socket.
        question: its request number is not 0.
        timeout_s: how long to wait for the answer, `ANSWER_S` by default.

    Raises:
        CoordinatorUnavailableError: a process listens but does not answer.
        PlutoDistError: the coordinator refused; the class says why.
    """
    found = listener(path)
    if found is None:
        return None
    timeout_s = ANSWER_S if timeout_s is None else timeout_s
    reply = _reply(path, question, timeout_s)
    if isinstance(reply, Refusal):
        raise from_wire(reply.error, reply.message)
    if reply is None:
        who = f" (pid {found.pid})" if found.pid else ""
        raise CoordinatorUnavailableError(
            f"the coordinator{who} at {path} did not answer within {timeout_s:g} s; `pluto-dist coordinator "
            "logs` may say why. Records are safe in the spool; if it hangs, kill it: the next one goes on"
        )
    return reply.body


def _reply(path: Path, question: Question, timeout_s: float) -> Answer | Refusal | None:
    from pluto_dist.transport.client import DealerClient

    client = DealerClient(path)
    try:
        return client.ask(question, timeout_s)
    finally:
        client.close()


def _peer_pid(connection: socket.socket) -> int | None:
    if sys.platform == "darwin":
        pid: int = connection.getsockopt(_MACOS_LEVEL, _MACOS_PEER_PID)
    else:
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid = _UCRED.unpack(found)[0]
    return pid or None
