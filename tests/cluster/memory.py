"""A cluster store in memory, with the faults of a real one as knobs: for tests, and for whole histories.

`MemoryEngine` is the cluster; each node has its own `MemoryStore`. The engine has no clock of its own.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable

import msgspec

from pluto_dist.core.values.engine import (
    ABSENT,
    ANY,
    MARGIN_S,
    Absent,
    Blind,
    Changed,
    Conflict,
    Gone,
    GuardFailed,
    Joined,
    JoinResult,
    LeaseLost,
    LeaveResult,
    Left,
    Listed,
    ListResult,
    ReadResult,
    Refused,
    RenewResult,
    Reset,
    Unavailable,
    Versioned,
    WatchResult,
    WriteResult,
    Written,
)

LARGEST = 1 << 20
FROZEN_S = 3600.0  # no leader is frozen for so long and goes on


class _Lease(msgspec.Struct):
    ttl_s: float
    ends_at: float


class MemoryEngine:
    """All values and leases.

    Args:
        clock: seconds; leases run by it.

    Attributes:
        quorum: without it nothing is read or written, and leases do not run out.
        refuses: every request gets this answer, if there is one (no login, no permission, gateway off).
        full: no value and no lease can be added; what is there can be read, renewed and deleted.
        lost_answers: so many of the next changes are carried out without an answer.
        late: the next change without quorum is carried out when the quorum is back.
        cut: nodes that do not reach the engine.
        confirming: nodes that reach a leader that was cut off: it confirms leases and does not prolong them.
        blind: nodes whose watches are silent.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.quorum = True
        self.refuses: Refused | None = None
        self.full = False
        self.lost_answers = 0
        self.late = False
        self.cut: set[str] = set()
        self.confirming: set[str] = set()
        self.blind: set[str] = set()
        self.revision = 1
        self._compacted = 0
        self._keys: dict[str, tuple[Versioned, int]] = {}
        self._log: list[tuple[int, str, Versioned | None]] = []
        self._leases: dict[int, _Lease] = {}
        self._last_lease = 0
        self._put_off: list[Callable[[], object]] = []
        self._stopped_at: float | None = None
        self.changed = threading.Condition(threading.RLock())

    # --- what can happen to it --------------------------------------------------------------------------

    def lose_quorum(self) -> None:
        """Takes a majority of the members away."""
        self.turn()
        self.quorum, self._stopped_at = False, self.clock()

    def regain_quorum(self) -> None:
        """Elects a leader again: all leases get their full time, and what was put off is carried out."""
        with self.changed:
            self.quorum, self._stopped_at = True, None
            self.change_leader()
            put_off, self._put_off = self._put_off, []
            for change in put_off:
                change()

    def change_leader(self) -> None:
        """Every lease gets its full time anew."""
        for lease in self._leases.values():
            lease.ends_at = self.clock() + lease.ttl_s

    def revoke_all(self) -> None:
        """A leader that was frozen ends leases that were renewed elsewhere meanwhile."""
        with self.changed:
            for number, lease in tuple(self._leases.items()):
                if lease.ttl_s < FROZEN_S:
                    self.end_lease(number)

    def empty(self) -> None:
        """Everything is lost, versions begin anew."""
        with self.changed:
            self._keys.clear()
            self._leases.clear()
            self._log.clear()
            self.revision, self._compacted = 1, 0
            self.changed.notify_all()

    def compact(self) -> None:
        """Forgets all changes until now; the values stay."""
        self._compacted = self.revision
        self._log.clear()

    # --- what stores ask of it --------------------------------------------------------------------------

    def turn(self) -> None:
        """Ends the leases whose time has come; only a leader does that."""
        if not self.quorum:
            return
        now = self.clock()
        for number, lease in tuple(self._leases.items()):
            if lease.ends_at <= now:
                self.end_lease(number)

    def trouble(self, node: str) -> Unavailable | Refused | None:
        """The reason why this node gets no answer, None if it gets one."""
        self.turn()
        if node in self.cut:
            return Unavailable("ConnectTimeout")
        if self.refuses is not None:
            return self.refuses
        return None if self.quorum else Unavailable("etcdserver: request timed out")

    def lease_of(self, number: int) -> _Lease | None:
        """A lease that has not ended."""
        return self._leases.get(number)

    def add_lease(self, ttl_s: float) -> int:
        """A new lease."""
        self._last_lease += 1
        self._leases[self._last_lease] = _Lease(ttl_s, self.clock() + ttl_s)
        return self._last_lease

    def end_lease(self, number: int) -> None:
        """Ends a lease; its keys go with it."""
        self._leases.pop(number, None)
        for key in [key for key, (_, lease) in self._keys.items() if lease == number]:
            self.put(key, None, 0)

    def get(self, key: str) -> Versioned | Absent:
        """The newest value."""
        found = self._keys.get(key)
        return found[0] if found is not None else Absent()

    def all(self, prefix: str) -> dict[str, Versioned]:
        """Values of all keys below a prefix."""
        return {key: found for key, (found, _) in sorted(self._keys.items()) if key.startswith(prefix)}

    def put(self, key: str, value: bytes | None, lease: int) -> int:
        """Changes one key; the new revision."""
        with self.changed:
            if value is None:
                if self._keys.pop(key, None) is None:
                    return self.revision
                self.revision += 1
                self._log.append((self.revision, key, None))
            else:
                self.revision += 1
                found = Versioned(value, self.revision)
                self._keys[key] = (found, lease)
                self._log.append((self.revision, key, found))
            self.changed.notify_all()
            return self.revision

    def put_off(self, change: Callable[[], object]) -> None:
        """Keeps a change for the time when there is a quorum."""
        self._put_off.append(change)

    def tie(self, keys: tuple[str, ...], lease: int) -> bool:
        """Ties keys to a lease; False if one is missing."""
        if any(key not in self._keys for key in keys):
            return False
        for key in keys:
            self.put(key, self._keys[key][0].value, lease)
        return True

    def since(self, prefix: str, as_of: int) -> dict[str, Versioned | None] | None:
        """Changes after a revision, None if they are forgotten."""
        if as_of < self._compacted:
            return None
        first = bisect_right(self._log, as_of, key=lambda change: change[0])
        return {key: found for _, key, found in self._log[first:] if key.startswith(prefix)}


class MemoryStore:
    """One node's access to the engine.

    Args:
        engine: shared by all nodes.
        node: name of this one, for the faults.
        clock: CLOCK_BOOTTIME of this node; the engine's by default.
    """

    def __init__(self, engine: MemoryEngine, node: str, clock: Callable[[], float] | None = None) -> None:
        self._engine = engine
        self._node = node
        self._clock = clock or engine.clock
        self._lease = 0
        self._seen = 0
        self._closed = False

    def join(self, ttl_s: int) -> JoinResult:
        with self._engine.changed:
            trouble = self._trouble(adds=True)
            if trouble is not None:
                return trouble
            self._lease = self._engine.add_lease(ttl_s)
            return Joined(self._clock() + ttl_s - MARGIN_S)

    def renew(self) -> RenewResult:
        with self._engine.changed:
            lease = self._engine.lease_of(self._lease)
            if self._node in self._engine.confirming and lease is not None:
                return Joined(self._clock() + lease.ttl_s - MARGIN_S)
            trouble = self._trouble()
            if trouble is not None:
                return trouble
            lease = self._engine.lease_of(self._lease)
            if lease is None:
                return LeaseLost()
            lease.ends_at = self._engine.clock() + lease.ttl_s
            return Joined(self._clock() + lease.ttl_s - MARGIN_S)

    def leave(self) -> LeaveResult:
        with self._engine.changed:
            trouble = self._trouble()
            if trouble is not None:
                return trouble
            self._engine.end_lease(self._lease)
            self._lease = 0
            return Left()

    def read(self, key: str) -> ReadResult:
        with self._engine.changed:
            return self._trouble() or self._engine.get(key)

    def list(self, prefix: str) -> ListResult:
        with self._engine.changed:
            trouble = self._trouble()
            if trouble is not None:
                return trouble
            before, self._seen = self._seen, self._engine.revision
            if self._seen < before:
                return Reset(self._seen)
            return Listed(self._engine.all(prefix), self._seen)

    def watch(self, prefix: str, as_of: int, quiet_s: float) -> WatchResult:
        with self._engine.changed:
            self._engine.changed.wait_for(
                lambda: self._closed or self.peek(prefix, as_of) is not None, quiet_s
            )
            if self._closed:
                return Blind("closed")
            return self.peek(prefix, as_of) or Changed({}, as_of)

    def peek(self, prefix: str, as_of: int) -> WatchResult | None:
        """What a watch reports now, None for nothing."""
        trouble = self._trouble()
        if isinstance(trouble, Refused):
            return trouble
        if trouble is not None or self._node in self._engine.blind:
            return None  # a watch without quorum, or through a black hole, is silent
        found = self._engine.since(prefix, as_of)
        if found is None:
            return Gone()
        return Changed(found, self._engine.revision) if found else None

    def write(
        self,
        key: str,
        value: bytes | None,
        *,
        expect: int,
        while_: tuple[str, int] | None = None,
        dead: str | None = None,
        leased: bool = False,
    ) -> WriteResult:

        def change() -> WriteResult:
            return self._apply(key, value, expect, while_, dead, leased)

        with self._engine.changed:
            if value is not None and len(value) > LARGEST:
                return Refused("size", f"a value of {len(value)} bytes for {key}; the limit is {LARGEST}")
            trouble = self._trouble(adds=value is not None)
            if trouble is not None:
                if (
                    self._engine.late
                    and isinstance(trouble, Unavailable)
                    and self._node not in self._engine.cut
                ):
                    self._engine.late = False
                    self._engine.put_off(change)
                    return Unavailable(trouble.reason, "unknown")
                return trouble
            done = change()
            if self._engine.lost_answers > 0:
                self._engine.lost_answers -= 1
                return Unavailable("ReadTimeout", "unknown")
            return done

    def expire(self, keys: tuple[str, ...], after_s: int) -> WriteResult:
        with self._engine.changed:
            trouble = self._trouble(adds=True)
            if trouble is not None:
                return trouble
            tied = self._engine.tie(keys, self._engine.add_lease(after_s))
            return Written(self._engine.revision) if tied else GuardFailed()

    def interrupt(self) -> None:
        self.close()

    def close(self) -> None:
        with self._engine.changed:
            self._closed = True
            self._engine.changed.notify_all()

    def _trouble(self, *, adds: bool = False) -> Unavailable | Refused | None:
        trouble = self._engine.trouble(self._node)
        if trouble is None and adds and self._engine.full:
            return Refused("space", "the engine is full (alarm NOSPACE)")
        return trouble

    def _apply(
        self,
        key: str,
        value: bytes | None,
        expect: int,
        while_: tuple[str, int] | None,
        dead: str | None,
        leased: bool,
    ) -> WriteResult:
        if leased and self._engine.lease_of(self._lease) is None:
            return GuardFailed()
        current = self._engine.get(key)
        if expect not in (ANY, _version(current)):
            return Conflict(current)
        if while_ is not None and _version(self._engine.get(while_[0])) != while_[1]:
            return GuardFailed()
        if dead is not None and _version(self._engine.get(dead)) != ABSENT:
            return GuardFailed()
        revision = self._engine.put(key, value, self._lease if leased else 0)
        self._seen = max(self._seen, revision)
        return Written(revision)


def _version(found: Versioned | Absent) -> int:
    return found.version if isinstance(found, Versioned) else ABSENT
