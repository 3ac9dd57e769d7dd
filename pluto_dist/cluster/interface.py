"""The interface of a cluster store: few operations, each with one answer. All calls block.

A cluster store keeps a few small values for all nodes of a job, and says which nodes are present. It decides
nothing: which node speaks for a Run, and how the Run ended, are rules of the core.

The three promises that the rules rest on, held by one contract suite against every implementation:

1. `write` is atomic. All of its conditions hold at the instant of the change, or nothing is changed.
2. A value written with `leased` exists only while the node's lease does. A lease is valid until the instant
   that `join` and `renew` name, except when an engine in trouble revokes it early: a lost lease is a fact to
   live with, and no proof of anything. Its keys may outlive it by seconds, and by much more while the engine
   has no quorum or changes its leader.
3. `list` is the truth at one instant. `watch` is a hint: it may be late, silent or end at any time.
"""

from __future__ import annotations

from typing import Protocol

from pluto_dist.core.values.engine import (
    JoinResult,
    LeaveResult,
    ListResult,
    ReadResult,
    RenewResult,
    WatchResult,
    WriteResult,
)

MARGIN_S = 4.0  # a leader that was cut off confirms leases for another 2 s; a request takes up to 2 s
REQUEST_S = 2.0  # an answer that takes longer is taken for lost


class ClusterStore(Protocol):
    """One node's access; safe to use from several threads."""

    def join(self, ttl_s: int) -> JoinResult:
        """Gets a lease for this node. One that it had before is given up."""
        ...

    def renew(self) -> RenewResult:
        """Prolongs the lease to its full time."""
        ...

    def leave(self) -> LeaveResult:
        """Gives the lease back; its keys are gone at once."""
        ...

    def read(self, key: str) -> ReadResult:
        """The newest value."""
        ...

    def list(self, prefix: str) -> ListResult:
        """All keys that begin so, with their values."""
        ...

    def watch(self, prefix: str, as_of: int, quiet_s: float) -> WatchResult:
        """Waits for changes after `as_of`; answers without any after `quiet_s` seconds."""
        ...

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
        """Puts a value, or deletes the key if it is None.

        Args:
            expect: the version that the key must have, `ABSENT` or `ANY`.
            while_: another key and the version that it must have.
            dead: a key that must not exist: the presence of the node that is to be replaced.
            leased: the key goes when the node's lease does; refused as `GuardFailed` without a lease.
        """
        ...

    def expire(self, keys: tuple[str, ...], after_s: int) -> WriteResult:
        """Has these keys deleted by the engine itself after so many seconds."""
        ...

    def interrupt(self) -> None:
        """Ends watches that wait, and those to come, with `Blind`; everything else goes on."""
        ...

    def close(self) -> None:
        """Gives back connections; calls that wait end with `Unavailable` or `Blind`. The lease stays."""
        ...
