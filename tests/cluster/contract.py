"""What every cluster store has to keep, in memory and real: the rules of the core rest on nothing else."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import pytest

from pluto_dist.core.values.engine import (
    ABSENT,
    ANY,
    MARGIN_S,
    Absent,
    Changed,
    ClusterStore,
    Conflict,
    Gone,
    GuardFailed,
    Joined,
    LeaseLost,
    Left,
    Listed,
    Refused,
    Versioned,
    Written,
)

TTL_S = 60  # of leases that must not run out in a test, however busy the machine is
_numbers = itertools.count()


class Rig(Protocol):
    """An engine and what can be done to it."""

    def store(self, node: str) -> ClusterStore:
        """A node's access."""
        ...

    def now(self) -> float:
        """The clock by which leases are valid."""
        ...

    def end_lease(self, node: str) -> None:
        """The engine ends a node's lease although it was renewed."""
        ...

    def compact(self) -> None:
        """Old changes are forgotten."""
        ...


def version(found: object) -> int:
    assert isinstance(found, Written), found
    return found.version


class ClusterContract:
    """Inherit, and give a fixture `rig`. Each test has a folder of keys of its own."""

    @pytest.fixture
    def at(self) -> str:
        return f"test/contract-{next(_numbers)}/"

    def test_a_key_is_made_once(self, rig: Rig, at: str) -> None:
        """G2: of all that make a key, one does; the others get what it holds."""
        nodes = [rig.store(f"n{number}") for number in range(8)]
        with ThreadPoolExecutor(8) as pool:
            done = list(
                pool.map(
                    lambda pair: pair[1].write(f"{at}k", b"%d" % pair[0], expect=ABSENT), enumerate(nodes)
                )
            )
        winners = [number for number, result in enumerate(done) if isinstance(result, Written)]
        assert len(winners) == 1
        held = nodes[0].read(f"{at}k")
        assert isinstance(held, Versioned)
        assert held.value == b"%d" % winners[0]
        assert [result for result in done if not isinstance(result, Written)] == [Conflict(held)] * 7

    def test_a_write_on_a_wrong_version_fails(self, rig: Rig, at: str) -> None:
        """A condition that is misspelt is none for etcd: then this would succeed."""
        store = rig.store("n0")
        first = version(store.write(f"{at}k", b"1", expect=ABSENT))
        second = version(store.write(f"{at}k", b"2", expect=first))
        assert second > first
        for wrong in (first, second + 1000, ABSENT):
            assert store.write(f"{at}k", b"3", expect=wrong) == Conflict(Versioned(b"2", second))
        assert store.write(f"{at}none", b"3", expect=first) == Conflict(Absent())
        assert isinstance(store.write(f"{at}k", b"4", expect=ANY), Written)

    def test_a_write_while_another_key_has_a_version(self, rig: Rig, at: str) -> None:
        """The fence: what a seat writes is not written any more when the seat is another's."""
        store = rig.store("n0")
        seat = version(store.write(f"{at}run", b"mine", expect=ABSENT))
        assert isinstance(store.write(f"{at}a", b"1", expect=ABSENT, while_=(f"{at}run", seat)), Written)
        version(rig.store("n1").write(f"{at}run", b"theirs", expect=seat))
        assert store.write(f"{at}b", b"1", expect=ABSENT, while_=(f"{at}run", seat)) == GuardFailed()
        assert store.write(f"{at}b", b"1", expect=ANY, while_=(f"{at}run", seat)) == GuardFailed()
        assert store.read(f"{at}b") == Absent()
        assert store.write(f"{at}b", b"1", expect=ABSENT, while_=(f"{at}never", ABSENT)) != GuardFailed()

    def test_a_write_while_a_node_is_not_there(self, rig: Rig, at: str) -> None:
        """A seat is taken over only from a node whose presence is gone."""
        old, new = rig.store("n0"), rig.store("n1")
        assert isinstance(old.join(TTL_S), Joined)
        run = version(old.write(f"{at}run", b"n0", expect=ABSENT))
        version(old.write(f"{at}node/n0", b"{}", expect=ANY, leased=True))
        taken = new.write(f"{at}run", b"n1", expect=run, dead=f"{at}node/n0")
        assert taken == GuardFailed()
        rig.end_lease("n0")
        assert isinstance(new.write(f"{at}run", b"n1", expect=run, dead=f"{at}node/n0"), Written)

    def test_leased_keys_go_with_the_lease_and_others_stay(self, rig: Rig, at: str) -> None:
        """Evidence outlives its node; presence does not."""
        node, reader = rig.store("n0"), rig.store("n1")
        before = rig.now()
        joined = node.join(TTL_S)
        assert isinstance(joined, Joined)
        assert before + TTL_S - MARGIN_S <= joined.valid_until <= rig.now() + TTL_S - MARGIN_S
        version(node.write(f"{at}node", b"1", expect=ANY, leased=True))
        version(node.write(f"{at}evidence", b"1", expect=ABSENT))
        rig.end_lease("n0")
        assert (reader.read(f"{at}node"), node.renew()) == (Absent(), LeaseLost())
        assert isinstance(reader.read(f"{at}evidence"), Versioned)
        assert node.write(f"{at}node", b"1", expect=ANY, leased=True) == GuardFailed()
        assert isinstance(node.join(TTL_S), Joined)
        version(node.write(f"{at}node", b"2", expect=ANY, leased=True))

    def test_a_renewal_counts_from_its_sending(self, rig: Rig, at: str) -> None:
        """The self-fence: an answer that took long is worth less."""
        node = rig.store("n0")
        node.join(TTL_S)
        before = rig.now()
        renewed = node.renew()
        assert isinstance(renewed, Joined)
        assert before + TTL_S - MARGIN_S <= renewed.valid_until <= rig.now() + TTL_S - MARGIN_S

    def test_leaving_is_seen_at_once(self, rig: Rig, at: str) -> None:
        node = rig.store("n0")
        node.join(TTL_S)
        version(node.write(f"{at}node", b"1", expect=ANY, leased=True))
        assert node.leave() == Left()
        assert rig.store("n1").read(f"{at}node") == Absent()
        assert node.renew() == LeaseLost()
        assert node.leave() == Left()

    def test_without_a_lease_nothing_is_written_under_one(self, rig: Rig, at: str) -> None:
        assert rig.store("n0").write(f"{at}k", b"1", expect=ANY, leased=True) == GuardFailed()
        assert rig.store("n0").renew() == LeaseLost()

    def test_a_list_has_the_folder_and_nothing_beside_it(self, rig: Rig, at: str) -> None:
        store = rig.store("n0")
        for name in ("a", "b/c", "b/d"):
            version(store.write(at + name, name.encode(), expect=ABSENT))
        version(store.write(at.removesuffix("/") + "0", b"beside", expect=ANY))
        found = store.list(at)
        assert isinstance(found, Listed)
        assert {key: item.value for key, item in found.items.items()} == {
            f"{at}{name}": name.encode() for name in ("a", "b/c", "b/d")
        }
        assert max(item.version for item in found.items.values()) <= found.as_of

    def test_a_watch_goes_on_where_the_list_ended(self, rig: Rig, at: str) -> None:
        store, other = rig.store("n0"), rig.store("n1")
        version(store.write(f"{at}old", b"0", expect=ABSENT))
        listed = store.list(at)
        assert isinstance(listed, Listed)
        version(other.write(f"{at}new", b"1", expect=ABSENT))
        version(other.write(f"{at}old", None, expect=ANY))
        seen: dict[str, bytes | None] = {}
        as_of = listed.as_of
        while len(seen) < 2:
            found = store.watch(at, as_of, 30.0)
            assert isinstance(found, Changed)
            assert found.as_of >= as_of
            as_of = found.as_of
            seen |= {key: item.value if item is not None else None for key, item in found.items.items()}
        assert seen == {f"{at}new": b"1", f"{at}old": None}

    def test_a_watch_wakes_for_what_comes_later(self, rig: Rig, at: str) -> None:
        store, other = rig.store("n0"), rig.store("n1")
        listed = store.list(at)
        assert isinstance(listed, Listed)
        timer = threading.Timer(0.2, lambda: other.write(f"{at}k", b"1", expect=ABSENT))
        timer.start()
        found = store.watch(at, listed.as_of, 30.0)
        timer.join()
        assert isinstance(found, Changed)
        assert list(found.items) == [f"{at}k"]
        version(other.write(f"{at}k", b"2", expect=ANY))
        again = store.watch(at, found.as_of, 30.0)  # the stream was kept
        assert isinstance(again, Changed)
        assert [item and item.value for item in again.items.values()] == [b"2"]

    def test_a_quiet_watch_comes_back_empty(self, rig: Rig, at: str) -> None:
        """A watch does not tell when it is blind, so the caller lists from time to time."""
        store = rig.store("n0")
        listed = store.list(at)
        assert isinstance(listed, Listed)
        version(store.write("beside/k", b"1", expect=ANY))
        found = store.watch(at, listed.as_of, 0.3)
        assert isinstance(found, Changed)
        assert not found.items

    def test_a_watch_from_before_a_compaction_says_so(self, rig: Rig, at: str) -> None:
        store = rig.store("n0")
        listed = store.list(at)
        assert isinstance(listed, Listed)
        for number in range(3):
            version(store.write(f"{at}k", b"%d" % number, expect=ANY))
        rig.compact()
        assert store.watch(at, listed.as_of, 30.0) == Gone()

    def test_a_delete_under_a_condition(self, rig: Rig, at: str) -> None:
        store = rig.store("n0")
        made = version(store.write(f"{at}k", b"1", expect=ABSENT))
        assert isinstance(store.write(f"{at}k", None, expect=made + 1000), Conflict)
        assert isinstance(store.write(f"{at}k", None, expect=made), Written)
        assert store.read(f"{at}k") == Absent()

    def test_what_is_too_large_is_refused_before_it_is_sent(self, rig: Rig, at: str) -> None:
        found = rig.store("n0").write(f"{at}k", b"x" * ((1 << 20) + 1), expect=ANY)
        assert isinstance(found, Refused)
        assert found.why == "size"

    def test_an_empty_value_is_a_value(self, rig: Rig, at: str) -> None:
        store = rig.store("n0")
        made = version(store.write(f"{at}k", b"", expect=ABSENT))
        assert store.read(f"{at}k") == Versioned(b"", made)

    def test_a_hundred_appends_at_once_lose_none(self, rig: Rig, at: str) -> None:
        """Changes of what is shared are appended, not written over each other."""
        stores = [rig.store(f"n{number}") for number in range(4)]

        def append(number: int) -> object:
            return stores[number % 4].write(f"{at}op/{number:03}", b"%d" % number, expect=ABSENT)

        with ThreadPoolExecutor(8) as pool:
            assert all(isinstance(done, Written) for done in pool.map(append, range(100)))
        found = stores[0].list(f"{at}op/")
        assert isinstance(found, Listed)
        assert [item.value for item in found.items.values()] == [b"%d" % number for number in range(100)]

    def test_values_that_expire_keep_their_content_until_then(self, rig: Rig, at: str) -> None:
        store = rig.store("n0")
        keys = tuple(f"{at}{number}" for number in range(300))  # more than one transaction takes
        for key in keys:
            version(store.write(key, b"1", expect=ABSENT))
        assert isinstance(store.expire(keys, 3600), Written)
        found = store.list(at)
        assert isinstance(found, Listed)
        assert len(found.items) == 300
        assert not isinstance(store.expire((f"{at}missing",), 3600), Written)
