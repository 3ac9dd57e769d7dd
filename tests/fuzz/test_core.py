"""The coordinator's mind, asked and told by somebody whose messages are well-formed and mean harm.

Everything goes through the product's decoders first; what they refuse never reaches the core. What they take
must not raise, must not break an invariant of `tests/core/invariants.py`, must be encodable on its way
out and readable after a restart, and the job beside it ends as if nobody had been there.
"""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from pluto_dist.core.values import effects as do
from pluto_dist.core.values import events as on
from pluto_dist.core.values.lifecycle import Claim, LifecycleEntry, decode_entry
from pluto_dist.core.values.messages import (
    PROTOCOL,
    ForceFinish,
    ForgetRun,
    Question,
    StopCoordinator,
    Sync,
    decode_request,
    encode,
)
from tests.core.processes import LOCAL, PLUTO, Process
from tests.core.spool import Spool
from tests.core.world import World
from tests.fuzz.budget import fuzz
from tests.fuzz.test_messages import packable
from tests.fuzz.values import as_json, integers, kinds_of, texts, wire

OTHERS = [kind for kind in kinds_of(LifecycleEntry) if kind is not Claim]
targets = st.sampled_from([msgspec.to_builtins(target) for target in (LOCAL, PLUTO)]) | wire(type(LOCAL))
opened = wire(Claim, protocol=st.sampled_from([PROTOCOL] * 9 + [2]), target=targets)
entries = st.one_of([wire(kind) for kind in OTHERS]) | opened
stories = st.tuples(st.one_of(opened, opened, opened, entries), st.lists(entries, max_size=6))
QUIET = [kind for kind in kinds_of(Question) if kind not in (StopCoordinator, ForceFinish, ForgetRun)]
questions = st.one_of([wire(kind) for kind in QUIET]) | wire(ForceFinish, force=False)
syncs = wire(Sync, protocol=st.sampled_from([PROTOCOL, PROTOCOL, -1, 2**63 - 1]))


class Hostile:
    """A process that writes what it likes into a lease folder of its own.

    Args:
        world: where.
        number: which of several; lease ids of the world's own processes are apart.
    """

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.process: Process = world.process(f"hostile{number}")
        lease_id = f"f{number:015x}"
        self.spool = Spool(lease_id, f"/spool/{lease_id}", self.process.name)
        self.process.spools.append(self.spool)
        world.owners[lease_id] = self.process

    def write(self, entry: Any) -> None:
        """One entry, whether it can be read or not, and a nudge."""
        self.spool.entries.append(decode_entry(as_json(entry)))
        self.world.spools[self.spool.lease_id] = self.spool
        self.world.hear(self.spool)


def checked_world() -> World:
    """A world in which every reply is put on the wire."""
    world = World()
    world.observers.append(_on_the_wire)
    return world


def _on_the_wire(effect: do.Effect) -> None:
    if isinstance(effect, do.Send):
        encode(effect.reply)


def healthy(world: World) -> Process:
    """A job that only wants to train."""
    job = world.launch("healthy", ranks=2)
    owner, worker = job.start()
    owner.init("healthy").log(loss=1.0)
    worker.init("healthy").log(loss=2.0)
    return owner


def ends_well(world: World, owner: Process) -> None:
    """The job's end is its own; a coordinator that starts anew reads everything that was kept."""
    owner.log(loss=3.0)
    world.wait(1.0)
    world.restart()
    for process in world.processes:
        if process.job.rank is not None and process.alive:
            process.finish().exit(0)
    for process in world.processes:
        if process.alive:
            process.exit(0)
    world.wait(30.0)
    run = world.run("healthy")
    foreign = [lease for lease in world.book.leases_of(run.key) if lease.lease_id.startswith("f")]
    assert run.ended
    assert run.reported
    if not any(lease.role != "side" for lease in foreign):
        assert run.status == "COMPLETED", (run.verdict, foreign)
    for spool in owner.spools:
        assert spool.lease_id not in world.spools or world.lease(owner).removed or world.book.cursors


@fuzz(24, told=st.lists(stories, min_size=1, max_size=2))
def test_hostile_lifecycle_entries_harm_nobody(told: list[tuple[Any, list[Any]]]) -> None:
    """G11, G1, G2: whatever one process writes about itself, the others' Runs go on and end well."""
    world = checked_world()
    owner = healthy(world)
    for number, (first, others) in enumerate(told):
        hostile = Hostile(world, number)
        for entry in (first, *others):
            hostile.write(entry)
        hostile.spool.log({"loss": 1.0}, 0)
        world.wait(0.5)
    ends_well(world, owner)


@fuzz(60, asked=st.lists(questions | syncs, min_size=1, max_size=8))
def test_hostile_questions_harm_nobody(asked: list[Any]) -> None:
    """G11: each is answered or ignored; without force no status changes."""
    world = checked_world()
    owner = healthy(world)
    for raw in asked:
        try:
            message = decode_request(msgspec.msgpack.encode(packable(raw)))
        except ValueError:
            continue
        if isinstance(message, Sync):
            world._handle(on.Synced(peer=b"stranger", message=message))
            world.settle()
        else:
            world.ask(message)
    ends_well(world, owner)


@fuzz(24, run=texts, number=integers, lease=texts, folder=texts)
def test_messages_about_leases_that_are_not_there_harm_nobody(
    run: str, number: int, lease: str, folder: str
) -> None:
    """G11: events about what nobody knows are no reason to fall."""
    world = checked_world()
    owner = healthy(world)
    size = max(0, number)
    strangers = [
        on.LifecycleRead(lease_id=lease, folder=folder, entries=()),
        on.StreamsSeen(lease_id=lease, sizes={"metrics": {1: size}}, final=True),
        on.ProcessDied(lease_id=lease, alive_until=float(size), signal=run),
        on.LeaseReleased(lease_id=lease),
        on.FenceFound(lease_id=lease, fences={run: (size, size)}),
        on.NamesFound(target=run, lease_id=lease, stream=folder, names={run: "METRIC"}),
        on.LivenessChecked(claim=run, lease_id=lease),
        on.CopiesKept(run=run, lease_id=lease, copies=()),
        on.CopiesDropped(run=run, lease_id=lease, segments=()),
        on.UploadsRead(run=run, uploaded=None),
        on.DocumentWritten(run=run, revision=number),
    ]
    for event in strangers:
        world._handle(event)
        world.settle()
    ends_well(world, owner)
