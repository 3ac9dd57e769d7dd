"""Whatever comes over the socket: a clear refusal, nothing harmed, the others are served (G11)."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from pluto_dist.core.values.messages import (
    MAX_MESSAGE_BYTES,
    PROTOCOL,
    Answer,
    AskRun,
    AskStatus,
    ForceFinish,
    Message,
    Refusal,
    Sync,
    decode_reply,
    encode,
)
from tests.patience import PATIENCE_S
from tests.process.harness import Node, Script, wait_until


class Stranger:
    """Anybody of the same user who finds the socket."""

    def __init__(self, node: Node) -> None:
        self.lease_id = ""
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(f"ipc://{node.home}/run/coordinator.sock")

    def send(self, *frames: bytes | Message) -> None:
        """One message of any shape."""
        self.socket.send_multipart(
            [encode(frame) if isinstance(frame, Message) else frame for frame in frames]
        )

    def reply(self) -> object:
        """The next answer."""
        assert self.socket.poll(1000 * PATIENCE_S), "no answer"
        return decode_reply(self.socket.recv())

    def refusal(self, *frames: bytes | Message) -> tuple[str, str]:
        """What a message is refused with."""
        self.send(*frames)
        found = self.reply()
        assert isinstance(found, Refusal), found
        return found.error, found.message

    def close(self) -> None:
        """Hangs up."""
        self._context.destroy(linger=0)


@pytest.fixture
def owner(node: Node) -> Script:
    """A process that is served all the while."""
    return node.start("""
        run = pluto.init(run_id="served", quiet=True)
        tell("up", run.lease_id)
        while (tag := hear()):
            log(run, {"loss": 1.0})
            run.add_tags(tag)
            tell("tags", *run.tags)
    """)


@pytest.fixture
def stranger(node: Node, owner: Script) -> Iterator[Stranger]:
    made = Stranger(node)
    made.lease_id = owner.expect("up")
    yield made
    made.close()


def still_served(node: Node, owner: Script) -> None:
    """The owner gets through, and it is the same coordinator as before."""
    owner.say("after")
    assert owner.expect("tags") == "after"
    assert len(node.said("started")) == 1
    assert len(node.coordinators()) == 1


def sync(lease_id: str, folder: str, protocol: int = PROTOCOL) -> Sync:
    return Sync(protocol=protocol, lease_id=lease_id, folder=folder, entries=1)


GARBAGE = (
    b"",
    b"\xc1",
    b"GET / HTTP/1.1\r\n\r\n",
    os.urandom(1000),
    b"\x91" * 2000,
    msgspec.msgpack.encode({"t": "no_such_message"}),
    msgspec.msgpack.encode({"t": "sync", "lease_id": 5}),
    msgspec.msgpack.encode({"t": "sync", "protocol": "x" * 1000}),
    encode(AskStatus(request=1))[:-1],
)


def test_garbage_is_refused(node: Node, owner: Script, stranger: Stranger) -> None:
    """G11: the error says what was wrong, and the next message of the same peer is answered."""
    for payload in GARBAGE:
        error, message = stranger.refusal(payload)
        assert error == "ProtocolError", payload
        assert f"protocol {PROTOCOL}" in message
        stranger.send(AskStatus(request=7))
        assert isinstance(stranger.reply(), Answer)
    still_served(node, owner)


def test_messages_of_a_wrong_shape_or_size_are_refused(node: Node, owner: Script, stranger: Stranger) -> None:
    """G11: frames and bytes have a limit; far beyond it the connection is dropped without reading on."""
    assert "got 3" in stranger.refusal(b"a", b"b", b"c")[1]
    assert str(MAX_MESSAGE_BYTES) in stranger.refusal(b"x" * (MAX_MESSAGE_BYTES + 1))[1]
    before = resident_mb(node.coordinator())
    stranger.send(b"x" * (64 << 20))
    stranger.send(AskStatus(request=1))
    assert isinstance(stranger.reply(), Answer), "after a reconnect"
    assert resident_mb(node.coordinator()) - before < 40
    still_served(node, owner)


def test_another_protocol_version_is_refused_with_the_way_out(
    node: Node, owner: Script, stranger: Stranger
) -> None:
    """G11: a typed error for the client, nothing changed."""
    folder = node.home / "spool" / "leases" / ("a" * 24)
    folder.mkdir()
    error, message = stranger.refusal(sync("a" * 24, str(folder), protocol=99))
    assert error == "VersionMismatchError"
    assert "99" in message
    assert "pluto-dist coordinator stop" in message
    script = node.start(
        """
        import pluto_dist.client.link
        pluto_dist.client.link.PROTOCOL = 99
        try:
            pluto.init()
        except pluto.errors.VersionMismatchError as error:
            tell("refused", error)
    """,
        env={"PLUTO_DIST_REQUIRED": "1"},
    )
    assert "protocol 99" in script.expect("refused")
    assert script.wait() == 0
    still_served(node, owner)


FOREIGN: list[Callable[[Node, str], tuple[str, str]]] = [
    lambda node, own: (own, "/etc"),
    lambda node, own: (own, f"{node.home}/spool/leases/{own}/../../../.."),
    lambda node, own: (own, f"{node.home}/spool/leases/{'f' * 24}"),
    lambda node, own: ("../../../etc", f"{node.home}/spool/leases/../../../etc"),
    lambda node, own: ("..", f"{node.home}/spool/leases/.."),
    lambda node, own: (own + "\n", f"{node.home}/spool/leases/{own}\n"),
    lambda node, own: ("", f"{node.home}/spool/leases/"),
    lambda node, own: (own + "\0", f"{node.home}/spool/leases/{own}\0"),
    lambda node, own: ("f" * 24, f"{node.home}/spool/leases/{'f' * 24}"),
]


def test_a_folder_that_is_not_the_leases_own_is_refused(
    node: Node, owner: Script, stranger: Stranger
) -> None:
    """G11: no path from a message is ever followed; lease ids are hex and nothing else."""
    for named in FOREIGN:
        error, message = stranger.refusal(sync(*named(node, stranger.lease_id)))
        assert error == "ProtocolError", message
        assert "folder" in message
    still_served(node, owner)


def test_questions_about_what_is_not_there_are_answered_with_a_refusal(
    node: Node, owner: Script, stranger: Stranger
) -> None:
    """A person's typing error; and nobody ends a live Run by asking."""
    for name in ("nobody", "", "../../etc/passwd", "A" * 5000, "served\0", "-1"):
        error, _ = stranger.refusal(AskRun(request=3, run=name))
        assert error == "RunNotFoundError"
    error, message = stranger.refusal(ForceFinish(request=4, run="served", status="COMPLETED"))
    assert error == "OwnerExistsError"
    assert "--force" in message
    assert node.document("served")["status"] == "RUNNING"
    still_served(node, owner)


def test_a_flood_holds_nobody_up(node: Node, owner: Script, stranger: Stranger) -> None:
    """G11: peers take turns; who floods and does not read gets no answers, and that is all."""
    over, sent = threading.Event(), [0]

    def flood() -> None:
        while not over.is_set():
            with contextlib.suppress(zmq.Again):
                stranger.socket.send(b"x" * 200, zmq.DONTWAIT)
                sent[0] += 1

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:  # a peer whose turn comes only when there is nothing else would wait for ever
        wait_until(lambda: sent[0] > 1000, "a flood")
        for _ in range(10):
            owner.say("after")
            assert owner.expect("tags") == "after"
    finally:
        over.set()
        flooding.join()
    still_served(node, owner)
    print(f"{sent[0]} messages")


def test_bytes_that_are_no_zeromq_harm_nobody(node: Node, owner: Script, stranger: Stranger) -> None:
    """G11: a raw connection, silent or talking nonsense, open or hung up."""
    raw = []
    for payload in (b"", b"\0" * 5, os.urandom(500), b"\xff\0\0\0\0\0\0\0\1\x7f" + b"\3" * 100):
        talk = socket.socket(socket.AF_UNIX)
        talk.connect(f"{node.home}/run/coordinator.sock")
        talk.sendall(payload)
        raw.append(talk)
    still_served(node, owner)
    for talk in raw:
        talk.close()
    stranger.send(AskStatus(request=1))
    assert isinstance(stranger.reply(), Answer)
    wait_until(lambda: node.points("served"), "its point")


def resident_mb(pid: int) -> float:
    """Resident size."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
