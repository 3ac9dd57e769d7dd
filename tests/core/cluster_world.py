"""Several nodes with clocks of their own, one server and one cluster store, in memory and in one time.

Time moves in small steps for all nodes alike; each node's clock has an offset and a drift. What the store and
the server hold is looked at after each step, so a broken guarantee is found at the step that broke it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from pluto_dist.core.values.backend import StatusReport
from pluto_dist.core.values.cluster import Presence, RunDocument, StoredVerdict
from pluto_dist.core.values.effects import Control
from pluto_dist.core.values.engine import ClusterAddress, Versioned, WriteResult
from pluto_dist.core.values.ids import Job
from pluto_dist.core.values.lifecycle import Target
from tests.adapters.memory_backend import StoredRun
from tests.cluster.memory import MemoryEngine, MemoryStore
from tests.core.builders import job
from tests.core.processes import PLUTO, Process
from tests.core.server import StoreServer
from tests.core.world import World

ADDRESS = ClusterAddress(members=("http://memory",), prefix="p", ttl_s=15)
FOLDER = "p/v1/demo/x/"
STEP_S = 0.1
THAWED_S = 0.7
LONG_S, LONG_STEP_S = 100.0, 0.5  # who waits for so long waits for rest
MOST_WRITES = 500  # of one node within one instant
OFFSETS = (0.0, 5_000.0, -3_000.0, 77_777.0)
DRIFTS = (1.0, 1.0001, 0.9999, 1.0)


class SeenEngine(MemoryEngine):
    """An engine that shows each change of a key before it is made."""

    before_put: Callable[[str, bytes | None], None] = staticmethod(lambda _key, _value: None)

    def put(self, key: str, value: bytes | None, lease: int) -> int:
        self.before_put(key, value)
        return super().put(key, value, lease)


class CountedStore(MemoryStore):
    """A store that is asked for changes without end by nobody who is well."""

    _asked = (0.0, 0)

    def write(self, key: str, value: bytes | None, **conditions: Any) -> WriteResult:
        at, count = self._asked
        self._asked = (self._clock(), count + 1 if at == self._clock() else 0)
        assert count < MOST_WRITES, f"{self._node} writes {key} without end"
        return super().write(key, value, **conditions)


class ClusterWorld:
    """Some nodes with two ranks each; `local`: no server, and a store on each.

    Attributes:
        time: of the store, and of whoever looks on.
        frozen: nodes whose coordinators do nothing (SIGSTOP, a machine that is suspended).
        dead: nodes that are gone.
        seats: who had the seat in each epoch; verdicts: what was stored for each round.
    """

    def __init__(
        self, size: int = 2, *, address: ClusterAddress | None = ADDRESS, local: bool = False
    ) -> None:
        self.time = 1_000.0
        self.address = address
        self.engine = SeenEngine(lambda: self.time)
        self.engine.before_put = self._check_take_over
        self.nodes: list[World] = []
        for number in range(size):
            store = CountedStore(self.engine, f"n{number}", lambda number=number: self._clock(number))
            world = World(
                Target("local", f"/store-{number}") if local else PLUTO,
                leases=1000 * number,
                node=f"n{number}",
                cluster=store,
                now=self._clock(number),
                boot=f"boot-{number}",
            )
            world.said_to_server = lambda effect, node=f"n{number}", world=world: self._said(
                effect, node, world.generation
            )
            self.nodes.append(world)
        for world in self.nodes:
            world.server = StoreServer() if local else self.nodes[0].server
        self.server = self.nodes[0].server
        self.ranks: dict[int, Process] = {}
        self.agents: dict[str, Process] = {}
        self.frozen: set[int] = set()
        self.dead: set[int] = set()
        self.seats: dict[int, tuple[str, int]] = {}
        self.verdicts: dict[int, StoredVerdict] = {}
        self.leases_were_revoked = False

    def start(self, *ranks: int, attempt: int = 0, key: str = "launch", **fields: Any) -> list[Process]:
        """Ranks call init() with an id from their environment."""
        started, max_restarts = [], fields.pop("max_restarts", 0)
        nodes, launch = fields.pop("nodes", len(self.nodes)), fields.pop("launch", key)
        for rank in ranks:
            number = rank // 2
            agent = f"{key}-{number}"
            if agent not in self.agents:
                self.agents[agent] = self.nodes[number].process(agent)
            place: Job = job(
                rank,
                key=agent,
                local_rank=rank % 2,
                node_rank=number,
                nodes=nodes,
                world_size=2 * nodes,
                launch=launch,
                attempt=attempt,
                launcher=self.agents[agent].identity,
                max_restarts=max_restarts,
            )
            self.ranks[rank] = self.nodes[number].process(f"rank{rank}", place)
            started.append(self.ranks[rank].init(**self.claim, **fields))
        return started

    @property
    def claim(self) -> dict[str, Any]:
        """What a rank says of the Run and of the store."""
        return {"env": "x", "cluster": self.address, "topics_at": self.address}

    def side(self, number: int, label: str = "eval") -> Process:
        """A process that attaches on a node."""
        return self.nodes[number].process(label).attach("x", label=label, topics_at=self.address)

    def wait(self, seconds: float) -> None:
        """Time passes everywhere; a frozen node's clock goes on, and nobody there looks at it."""
        end = self.time + seconds
        step_s = STEP_S if seconds <= LONG_S else LONG_STEP_S
        while self.time < end - 1e-9:
            self.time = min(end, self.time + step_s)
            self.engine.turn()
            for number, world in enumerate(self.nodes):
                if number in self.dead or number in self.frozen:
                    continue
                if self._clock(number) - world.now > THAWED_S:  # it was frozen: its deadlines are all over
                    world.now = self._clock(number)
                    world.tick()
                world.wait(max(0.0, self._clock(number) - world.now))
            self.check()

    def kill_node(self, number: int) -> None:
        """Everything of a node at once."""
        self.dead.add(number)
        self.nodes[number].kill()
        for rank in (2 * number, 2 * number + 1):
            if rank in self.ranks and self.ranks[rank].alive:
                self.ranks[rank].status = (None, "SIGKILL")

    def revive_node(self, number: int) -> None:
        """The node's coordinator starts again, after everything on the node was killed."""
        self.dead.discard(number)
        self.nodes[number].now = self._clock(number)
        self.nodes[number].start(hello=False)
        self.give_keys()

    def cut(self, number: int) -> None:
        """The node does not reach the cluster store."""
        self.engine.cut.add(f"n{number}")

    def revoke(self) -> None:
        """The engine ends all leases before their time, so its promise about the seat is broken."""
        self.leases_were_revoked = True
        self.engine.revoke_all()

    def mend(self) -> None:
        """All nodes reach it, and the server."""
        self.engine.cut.clear()
        for world in self.nodes:
            world.cut_off = False

    def give_keys(self) -> None:
        """Every coordinator has the API key."""
        for number, world in enumerate(self.nodes):
            if number not in self.dead:
                world.give_key(world.target)
                world.settle()

    # --- what there is --------------------------------------------------------------------------------------

    @property
    def document(self) -> RunDocument:
        found = self.engine.get(FOLDER + "run")
        assert isinstance(found, Versioned)
        return msgspec.json.decode(found.value, type=RunDocument)

    @property
    def run(self) -> StoredRun:
        return self.server.only()

    def seat(self) -> str:
        """The node that has the seat."""
        return self.document.seat.node if self.document.seat is not None else ""

    def present(self) -> set[str]:
        """Nodes that hold a lease."""
        return {key.rpartition("/")[2] for key in self.engine.all(FOLDER + "node/")}

    def statuses(self) -> list[str]:
        """Terminal statuses that the server took, in order."""
        return [report.status for report in self.run.reports]

    def reason(self) -> str:
        """Why the Run ended, as the server was told."""
        metadata = self.run.reports[-1].metadata if self.run.reports else b""
        return str(msgspec.json.decode(metadata)["reason"]) if metadata else ""

    def check(self) -> None:
        """One seat per epoch, one verdict per round, and epochs that only rise."""
        found = self.engine.get(FOLDER + "run")
        if isinstance(found, Versioned):
            document = msgspec.json.decode(found.value, type=RunDocument)
            if document.seat is not None:
                seat = (document.seat.node, document.seat.generation)
                assert self.seats.setdefault(document.epoch, seat) == seat, (
                    f"two seats in epoch {document.epoch}"
                )
            if self.seats:
                assert document.epoch >= max(self.seats), "the epoch fell"
        for key, value in self.engine.all(FOLDER + "verdict/").items():
            stored = msgspec.json.decode(value.value, type=StoredVerdict)
            number = int(key.rpartition("/")[2])
            assert self.verdicts.setdefault(number, stored) == stored, f"two verdicts in round {number}"

    def _check_take_over(self, key: str, value: bytes | None) -> None:
        """A seat is taken from a node that is absent or cannot open the Run, or by a next start's owner."""
        found = self.engine.get(FOLDER + "run")
        if key != FOLDER + "run" or value is None or not isinstance(found, Versioned):
            return
        before = msgspec.json.decode(found.value, type=RunDocument).seat
        after = msgspec.json.decode(value, type=RunDocument).seat
        if before is None or after is None or before.node == after.node:
            return
        there = self.engine.get(f"{FOLDER}node/{before.node}")
        presence = msgspec.json.decode(there.value, type=Presence) if isinstance(there, Versioned) else None
        present = presence is not None and presence.generation <= before.generation
        restarted = any(run.attempt > 0 for world in self.nodes for run in world.book.runs)
        opens = not before.owns and after.owns
        assert not present or restarted or opens, f"{after} has taken the seat from {before}, which is there"

    def _said(self, effect: Control, node: str, generation: int) -> None:
        """What only the seat may say: by it, while nobody else can have it; a status after it was stored."""
        fence, found = effect.fence, self.engine.get(FOLDER + "run")
        if fence is None or not isinstance(found, Versioned):
            return
        self.check()
        document = msgspec.json.decode(found.value, type=RunDocument)
        seat = document.seat
        if fence.not_after is not None and not self.leases_were_revoked:
            assert seat is not None, f"{node} spoke and nobody has the seat"
            assert (seat.node, seat.generation) == (node, generation), (
                f"{node} spoke and {seat.node} has the seat"
            )
        report = effect.request if isinstance(effect.request, StatusReport) else None
        if report is not None and not report.force and fence.not_after is not None:
            stored = self.verdicts.get(document.round)
            assert stored is not None, f"{node} has sent {report.status}, and no verdict is stored"
            assert stored.verdict.status == report.status, f"{node} has sent {report.status}: {stored}"

    def _clock(self, number: int) -> float:
        return 100_000.0 + OFFSETS[number] + DRIFTS[number] * (self.time - 1_000.0)
