"""The coordinator of this node, for a command: asked, which starts none, and started where one is needed."""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from pathlib import Path

import msgspec

from pluto_dist.core.values.messages import Answer, AskStatus, HandOverKey, Question, Refusal
from pluto_dist.errors import CoordinatorUnavailableError, from_wire
from pluto_dist.host import launch
from pluto_dist.host.launch import start_if_absent
from pluto_dist.host.places import Places
from pluto_dist.host.settings import Settings, as_option, load

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
    from pluto_dist.transport.zeromq import DealerClient

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


START_S = 60.0  # usually 0.4 s; cold disk caches, a machine with much else to do
POLL_S = 0.02
BUSY_S = 20.0  # one that listens and has much else to do answers within this time; a stopped one never


def ensure_running(places: Places, settings: Settings) -> bool:
    """Returns when a coordinator answers; whether it had to be started.

    Raises:
        CoordinatorUnavailableError: none could be started, or it does not answer.
    """
    launch.clear(places)
    if _answers(places):
        return False
    deadline = time.monotonic() + START_S
    while not _answers(places):
        if time.monotonic() > deadline:
            raise CoordinatorUnavailableError(
                f"no coordinator within {START_S:g} s; the end of its log {places.log}:\n{_tail(places)}",
                log=str(places.log),
            )
        start_if_absent(places, os.environ, idle_exit_s=settings.idle_exit_s, needed=True)
        time.sleep(POLL_S)
    return True


def _answers(places: Places) -> bool:
    """Whether there is one that answers."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            return ask(places.socket, AskStatus(request=1)) is not None
        except CoordinatorUnavailableError:
            if time.monotonic() > deadline:
                raise


def hand_over_key(places: Places) -> str:
    """Gives the coordinator the API key of this environment, for Runs whose processes are gone.

    Returns:
        The source of the key, "" without one.

    Raises:
        SettingError: the key cannot be used.
    """
    settings = load(os.environ, {"mode": "auto"}, source=as_option)
    if settings.api_key is None or settings.mode != "pluto":
        return ""
    ask(places.socket, HandOverKey(request=1, key=settings.api_key.reveal()))
    return settings.key_source


def _tail(places: Places) -> str:
    try:
        return places.log.read_text(errors="replace")[-1000:]
    except OSError as error:
        return f"({error})"
