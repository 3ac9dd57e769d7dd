"""The cluster store in memory keeps the contract, and its faults are those of a real one."""

from __future__ import annotations

import time

import pytest

from pluto_dist.cluster.interface import MARGIN_S
from pluto_dist.core.values.engine import (
    ABSENT,
    ANY,
    Absent,
    Changed,
    Conflict,
    Joined,
    LeaseLost,
    Listed,
    Refused,
    Reset,
    Unavailable,
    Versioned,
    Written,
)
from tests.cluster.contract import ClusterContract
from tests.cluster.memory import MemoryEngine, MemoryStore


class MemoryRig:
    """An engine whose time the test moves."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.engine = MemoryEngine(lambda: self.time)
        self.stores: dict[str, MemoryStore] = {}

    def store(self, node: str) -> MemoryStore:
        return self.stores.setdefault(node, MemoryStore(self.engine, node))

    def now(self) -> float:
        return self.time

    def end_lease(self, node: str) -> None:
        self.time += 60.0  # nobody renews

    def compact(self) -> None:
        self.engine.compact()


class TestMemory(ClusterContract):
    @pytest.fixture
    def rig(self) -> MemoryRig:
        return MemoryRig()


@pytest.fixture
def rig() -> MemoryRig:
    return MemoryRig()


def test_a_lost_answer_is_unknown_and_can_be_read_back(rig: MemoryRig):
    store = rig.store("a")
    rig.engine.lost_answers = 1
    assert store.write("k", b"mine", expect=ABSENT) == Unavailable("ReadTimeout", "unknown")
    found = store.read("k")
    assert isinstance(found, Versioned)
    assert store.write("k", b"mine", expect=ABSENT) == Conflict(found)


def test_a_change_without_quorum_may_come_later(rig: MemoryRig):
    """A put that was given up after half a second was applied when the quorum came back (seen)."""
    store = rig.store("a")
    rig.engine.lose_quorum()
    rig.engine.late = True
    assert store.write("k", b"1", expect=ABSENT) == Unavailable("etcdserver: request timed out", "unknown")
    assert isinstance(store.write("other", b"1", expect=ABSENT), Unavailable)
    rig.engine.regain_quorum()
    assert isinstance(store.read("k"), Versioned)
    assert store.read("other") == Absent()


def test_leases_have_their_full_time_after_a_change_of_the_leader(rig: MemoryRig):
    store = rig.store("a")
    store.join(10)
    store.write("k", b"1", expect=ANY, leased=True)
    rig.time += 9
    rig.engine.change_leader()
    rig.time += 9
    assert isinstance(store.read("k"), Versioned)
    rig.engine.lose_quorum()
    rig.time += 100
    rig.engine.regain_quorum()
    assert isinstance(store.read("k"), Versioned)
    rig.time += 10
    assert store.read("k") == Absent()


def test_a_leader_that_was_cut_off_confirms_what_it_does_not_prolong(rig: MemoryRig):
    """The margin of the self-fence is there for this."""
    store = rig.store("a")
    store.join(15)
    rig.time += 10
    rig.engine.confirming.add("a")
    renewed = store.renew()
    assert renewed == Joined(rig.time + 15 - MARGIN_S)
    rig.time += 5
    assert rig.store("b").read("k") == Absent()
    assert store.renew() == LeaseLost()


def test_leases_may_vanish_while_everybody_lives(rig: MemoryRig):
    store = rig.store("a")
    store.join(15)
    rig.engine.revoke_all()
    assert store.renew() == LeaseLost()


def test_a_full_engine_lets_those_who_are_in_stay_in(rig: MemoryRig):
    store = rig.store("a")
    store.join(15)
    made = store.write("k", b"1", expect=ANY)
    assert isinstance(made, Written)
    rig.engine.full = True
    refused = store.write("k", b"2", expect=ANY)
    assert isinstance(refused, Refused)
    assert refused.why == "space"
    assert isinstance(rig.store("b").join(15), Refused)
    assert isinstance(store.renew(), Joined)
    assert isinstance(store.write("k", None, expect=made.version), Written)


def test_an_emptied_engine_is_noticed_by_its_versions(rig: MemoryRig):
    store = rig.store("a")
    for number in range(5):
        store.write("k", b"%d" % number, expect=ANY)
    assert isinstance(store.list("k"), Listed)
    rig.engine.empty()
    assert isinstance(store.list("k"), Reset)
    assert isinstance(store.list("k"), Listed)


def test_a_node_that_is_cut_off_sees_nothing_and_its_watch_is_silent(rig: MemoryRig):
    store = rig.store("a")
    rig.engine.cut.add("a")
    assert isinstance(store.list(""), Unavailable)
    rig.store("b").write("k", b"1", expect=ANY)
    assert store.watch("", 0, 0.01) == Changed({}, 0)
    rig.engine.cut.clear()
    rig.engine.blind.add("a")
    assert isinstance(store.read("k"), Versioned)
    assert store.watch("", 0, 0.01) == Changed({}, 0)


def test_a_closed_store_ends_its_watches():
    engine = MemoryEngine(time.monotonic)
    store = MemoryStore(engine, "a")
    store.close()
    assert not isinstance(store.watch("", 0, 60.0), Changed)
