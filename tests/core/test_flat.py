"""What one event costs the coordinator grows neither with the leases of its Run nor with Runs that are over.

The cost is counted in calls of Python functions, which is the same on every machine. `tests.bench` shows the
time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import pluto_dist.core.machine
from pluto_dist.core.machine.views import SPREAD_S
from pluto_dist.core.rules import verdict
from pluto_dist.core.values import events as on
from pluto_dist.core.values.book import Table
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.core.values.messages import PROTOCOL, Sync
from pluto_dist.core.values.records import Lease, Run
from tests.core.processes import LOCAL, PLUTO, Process
from tests.core.world import World

FEW, MANY = 1, 256
MACHINE = Path(pluto_dist.core.machine.__file__).parent
ON_ITS_OWN_TIME = ("forget_old",)  # not at each event
AT_MOST = 1.5


class Counted(World):
    """A world in which the coordinator's calls are counted, and no others."""

    def cost(self, act: Callable[[], object]) -> int:
        """Calls of the core while `act` happens."""
        handle, counted = self.core.handle, 0

        def count(frame: FrameType, event: str, _: object) -> None:
            nonlocal counted
            counted += event == "call" and "pluto_dist" in frame.f_code.co_filename

        def counting(*args: object) -> object:
            sys.setprofile(count)
            try:
                return handle(*args)  # type: ignore[arg-type] # passed on as they came
            finally:
                sys.setprofile(None)

        self.core.handle = counting  # type: ignore[method-assign, assignment]
        try:
            act()
        finally:
            del self.core.handle
        return counted


class Calm(Counted):
    """One Run with an owner and sides."""

    def __init__(self, leases: int) -> None:
        super().__init__()
        self.owner = self.process("train").init("r")
        self.sides = [self.process(f"e{n}").attach("r", label=f"e{n}") for n in range(leases - 1)]
        self.wait(5)


def heartbeat(world: World, process: Process) -> None:
    spool = process.spool
    message = Sync(
        protocol=PROTOCOL,
        lease_id=spool.lease_id,
        folder=spool.folder,
        entries=len(spool.entries),
        request=0,
    )
    world._handle(on.Synced(peer=spool.lease_id.encode(), message=message))
    world.settle()


ACTS: dict[str, Callable[[Calm], object]] = {
    "heartbeat": lambda world: heartbeat(world, world.owner),
    "tag change": lambda world: world.owner.add_tags("x"),
    "config change": lambda world: world.owner.update_config(lr=1),
}


@pytest.mark.parametrize("what", ACTS)
def test_the_cost_is_the_same_beside_one_lease_and_beside_many(what: str) -> None:
    """A node of 256 processes is one of 256 times the messages, not of 65,536 times."""
    costs = {}
    for leases in (FEW, MANY):
        world = Calm(leases)
        costs[leases] = world.cost(lambda: ACTS[what](world))  # noqa: B023 # called at once
    assert 0 < costs[MANY] <= AT_MOST * costs[FEW], costs


def test_a_run_of_a_sweep_costs_the_same_behind_one_run_and_behind_many() -> None:
    """Runs that are over are remembered for a day; only what is asked for them looks at them."""
    costs = {}
    for runs in (FEW, MANY):
        world = Counted()
        for number in range(runs):
            trial(world, f"r{number}")
        costs[runs] = world.cost(lambda: trial(world, "last"))  # noqa: B023 # called at once
    assert 0 < costs[MANY] <= AT_MOST * costs[FEW], costs


@pytest.mark.parametrize("target", [PLUTO, LOCAL], ids=["server", "store"])
def test_a_run_of_a_sweep_has_no_table_looked_through(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs and leases of a day are thousands: they are found by what is asked for, in an index."""
    world = World(target)
    for number in range(3):
        trial(world, f"r{number}")
    whole = Table.__iter__
    scans: list[str] = []

    def looked_through(table: Table[Any]) -> Iterator[Any]:
        caller = sys._getframe(1).f_code
        if caller.co_filename.startswith(str(MACHINE)) and caller.co_name not in ON_ITS_OWN_TIME:
            scans.append(f"{table.name} by {caller.co_name}")
        return whole(table)

    monkeypatch.setattr(Table, "__iter__", looked_through)
    trial(world, "another")
    assert scans == []


def trial(world: World, name: str) -> None:
    """A Run from its start to its end, and a moment of rest."""
    world.process(name).init().finish().exit()
    world.wait(2)


def test_the_same_facts_are_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of the coordinator that ask for a Run's phase in one event share the answer."""
    judged: list[tuple[Run, tuple[Lease, ...], float]] = []

    def assess(run: Run, members: tuple[Lease, ...], now: float) -> verdict.Assessment:
        judged.append((run, members, now))
        return original(run, members, now)

    original = verdict.assess
    monkeypatch.setattr(verdict, "assess", assess)
    world = World()
    world.process("train").init("r").finish().exit()
    world.wait(10)
    assert judged
    assert len({(id(run), tuple(map(id, members)), now) for run, members, now in judged}) == len(judged)


def test_tags_of_many_reach_all_others_together() -> None:
    """G9: everybody has them a moment later, in one message each."""
    world = Calm(16)
    for number, side in enumerate(world.sides):
        side.add_tags(f"t{number}")
    sent: list[str] = []
    world.observers.append(lambda effect: sent.append(type(effect).__name__))
    world.wait(SPREAD_S)
    everybody = [world.owner, *world.sides]
    expected = world.run().tags
    assert len(expected) == len(world.sides)
    assert all(each.view.run is not None and each.view.run.tags == expected for each in everybody)
    assert sent.count("Send") <= len(everybody)
