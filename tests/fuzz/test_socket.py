"""A real coordinator process and a stranger on its socket, while a real client is served."""

from __future__ import annotations

import atexit
import functools
import os
import random
import socket
from pathlib import Path

import msgspec
import zmq
from hypothesis import assume
from hypothesis import strategies as st

from pluto_dist.core.values.ids import Identity
from pluto_dist.core.values.messages import (
    PROTOCOL,
    AskStatus,
    ForceFinish,
    ForgetRun,
    StopCoordinator,
    Sync,
    encode,
)
from pluto_dist.spool.frames import encode_frame, segment_name
from tests.fuzz.budget import fuzz
from tests.fuzz.test_core import entries, opened, questions, syncs
from tests.fuzz.test_messages import edits, mutated, packable, packed, understood
from tests.fuzz.test_spool import OPENED
from tests.fuzz.values import as_json
from tests.patience import PATIENCE_S
from tests.process.harness import Node, Script, wait_until

MEMORY_MB = 40.0  # more than it may grow; SQLite, ZeroMQ and Python keep some of what they once had
ANSWERED = 7


class Served:
    """One coordinator for all examples, with a client that must be served after each.

    Attributes:
        pid: of the coordinator; another one would mean that this one fell.
    """

    def __init__(self) -> None:
        self.node = Node()
        self.client: Script = self.node.start("""
            run = pluto.init(run_id="served", quiet=True)
            tell("up")
            while (number := hear()):
                log(run, {"loss": float(number)})
                run.add_tags("t")
                tell("tags", *run.tags)
        """)
        self.client.expect("up")
        self.pid = self.node.coordinator()
        self.context = zmq.Context()
        self.asked = 0
        self.outside = self._outside()
        self.before_mb = 0.0

    def send(self, frames: list[bytes]) -> None:
        """One message of a new peer; then a plain question of the same one is answered."""
        with self.context.socket(zmq.DEALER) as peer:
            peer.setsockopt(zmq.LINGER, 0)
            peer.connect(f"ipc://{self.node.home}/run/coordinator.sock")
            peer.send_multipart(frames or [b""])
            peer.send(encode(AskStatus(request=ANSWERED)))
            while True:
                assert peer.poll(1000 * PATIENCE_S), "no answer"
                raw = msgspec.msgpack.decode(peer.recv())
                if raw["t"] == "answer" and raw["request"] == ANSWERED:
                    return

    def check(self) -> None:
        """The client is served by the same process, which says nothing of a fault."""
        self.asked += 1
        if self.asked % 20 == 1:  # a round trip through the client and the disk takes a while
            self.client.say(str(self.asked))
            assert self.client.expect("tags") == "t"
            assert "Traceback" not in self.node.log, self.node.log[-3000:]
            assert self.node.coordinators() == [self.pid]
            assert self._outside() == self.outside
            now_mb = self.memory_mb()
            self.before_mb = self.before_mb or now_mb
            assert now_mb < self.before_mb + MEMORY_MB

    def memory_mb(self) -> float:
        """Resident size of the coordinator."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def _outside(self) -> set[str]:
        """Files beside the node's own folders."""
        own = (str(self.node.home), str(self.node.store), str(self.node.ledger))
        return {str(path) for path in self.node.base.iterdir() if not str(path).startswith(own)}

    def close(self) -> None:
        """Everything ends."""
        self.context.destroy(linger=0)
        self.node.close()


@functools.cache
def served() -> Served:
    """Made when it is first needed, ended with the test process."""
    found = Served()
    atexit.register(found.close)
    return found


@fuzz(24, payload=packed, changes=edits, more=st.lists(st.binary(max_size=40), max_size=3))
def test_any_frames_are_answered_or_ignored(
    payload: bytes, changes: list[tuple[str, int, bytes]], more: list[bytes]
) -> None:
    """G11: random and damaged messages of any number of frames."""
    message = mutated(payload, changes)
    assume(
        not any(isinstance(found, StopCoordinator | ForceFinish | ForgetRun) for found in understood(message))
    )
    served().send([message, *more])
    served().check()


@fuzz(24, asked=(questions | syncs).filter(lambda raw: raw["t"] != "stop"))
def test_any_well_formed_message_is_answered_or_refused(asked: dict[str, object]) -> None:
    """G11: hostile values in messages of the right form."""
    served().send([msgspec.msgpack.encode(packable(asked))])
    served().check()


@fuzz(16, noise=st.binary(max_size=300), greets=st.booleans())
def test_bytes_that_are_no_zeromq_harm_nobody(noise: bytes, greets: bool) -> None:
    """G11: with or without the greeting of a ZeroMQ peer in front."""
    greeting = b"\xff" + b"\0" * 8 + b"\x7f\x03\x00NULL" + b"\0" * 48
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(f"{served().node.home}/run/coordinator.sock")
        raw.sendall(greeting * greets + noise)
    served().send([b"x"])
    served().check()


@fuzz(4, first=opened, others=st.lists(entries, max_size=4), seed=st.integers(0, 1 << 30))
def test_lease_folders_with_hostile_entries_harm_nobody(
    first: dict[str, object], others: list[dict[str, object]], seed: int
) -> None:
    """G11, G12: what a coordinator reads from disk does not end it; pids may be anybody's or nobody's."""
    node = served().node
    lease_id = random.Random(seed).randbytes(12).hex()
    folder = node.home / "spool" / "leases" / lease_id
    folder.mkdir(mode=0o700, exist_ok=True)
    lines = [as_json(first | {"target": {"mode": "local", "store": str(node.store)}}), *map(as_json, others)]
    frames = b"".join(encode_frame(line, sequence=number) for number, line in enumerate(lines))
    (folder / segment_name("lifecycle", 1)).write_bytes(frames)
    sync = Sync(protocol=PROTOCOL, lease_id=lease_id, folder=str(folder), entries=len(lines), request=1)
    served().send([encode(sync)])
    served().check()


def test_pids_that_nobody_can_have_are_refused_with_the_entry() -> None:
    """G12: such an entry once ended every coordinator that read it."""
    node = served().node
    folder = node.home / "spool" / "leases" / ("b" * 24)
    folder.mkdir(mode=0o700)
    line = msgspec.json.encode(msgspec.structs.replace(OPENED, identity=Identity("b", 1, 2**40, 1)))
    (folder / segment_name("lifecycle", 1)).write_bytes(encode_frame(line))
    sync = Sync(protocol=PROTOCOL, lease_id="b" * 24, folder=str(folder), entries=1, request=1)
    served().send([encode(sync)])
    wait_until(lambda: node.said("lifecycle_without_opening"), "the coordinator has read the entry")
    served().check()
