"""Membership: this node's lease at each cluster store, prolonged three times within its time.

The loss of a lease is not the loss of a seat: the node joins again, and goes on with all that no other node
has taken meanwhile.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from pluto_dist.core.machine.context import Context
from pluto_dist.core.rules.seat import REQUEST_S
from pluto_dist.core.values.effects import JoinCluster, LeaveCluster, RenewCluster
from pluto_dist.core.values.engine import ClusterAddress, Joined, LeaseLost, Refused, Unavailable
from pluto_dist.core.values.events import ClusterJoined

AGAIN_S = 1.0
REFUSED_AGAIN_S = 15.0  # the cause may be mended meanwhile


class NodeLease(msgspec.Struct):
    """This node's lease at one store.

    Attributes:
        valid_until: None without one.
        serial: rises with each lease; keys written under an earlier one may be gone.
        answered_at: when the store answered last, None if it never did.
        away_since: since when it does not answer, None while it does.
        trouble: why.
    """

    valid_until: float | None = None
    serial: int = 0
    asked: bool = False
    next_at: float = 0.0
    answered_at: float | None = None
    away_since: float | None = None
    trouble: str = ""


class Memberships:
    """All leases of this node."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._leases: dict[ClusterAddress, NodeLease] = {}

    def of(self, address: ClusterAddress) -> NodeLease:
        """The lease at a store; from the first call on the node keeps one there."""
        if address not in self._leases:
            self._leases[address] = NodeLease(away_since=self._context.now.at)
        return self._leases[address]

    def advance(self) -> None:
        """Asks where it is time."""
        for address, lease in self._leases.items():
            if not lease.asked and self._context.now.at >= lease.next_at:
                lease.asked = True
                joins = lease.valid_until is None
                self._context.emit(JoinCluster(address=address) if joins else RenewCluster(address=address))

    def answered(self, event: ClusterJoined) -> bool:
        """Takes an answer; True if what is under the lease has to be written anew."""
        lease = self._leases.get(event.address)
        if lease is None:
            return False
        now = self._context.now.at
        lease.asked = False
        match event.result:
            case Joined(valid_until=valid_until):
                anew = lease.valid_until is None
                lease.serial += anew
                lease.valid_until = valid_until
                lease.next_at = now + event.address.ttl_s / 3
                self.reached(event.address)
                return anew
            case LeaseLost():
                lease.valid_until, lease.next_at = None, now
                self.reached(event.address)
            case Unavailable(reason=reason):
                lease.next_at = now + AGAIN_S
                self.silent(event.address, reason)
            case Refused(reason=reason):
                lease.next_at = now + REFUSED_AGAIN_S
                self.silent(event.address, reason)
            case _:
                assert_never(event.result)
        return False

    def is_well(self, address: ClusterAddress) -> bool:
        """Whether this node has a lease that lasts, from a store that answers."""
        lease = self._leases.get(address)
        if lease is None or lease.valid_until is None or lease.away_since is not None:
            return False
        return self._context.now.at < lease.valid_until - REQUEST_S

    def lost(self, address: ClusterAddress) -> None:
        """Notes that the store has no lease of this node any more, as a write under it has found."""
        lease = self.of(address)
        lease.valid_until, lease.next_at = None, self._context.now.at

    def reached(self, address: ClusterAddress) -> None:
        """Notes an answer of the store."""
        lease = self.of(address)
        lease.answered_at, lease.away_since, lease.trouble = self._context.now.at, None, ""

    def silent(self, address: ClusterAddress, reason: str) -> None:
        """Notes that the store has not answered, or has refused."""
        lease = self.of(address)
        lease.trouble = reason
        if lease.away_since is None:
            lease.away_since = self._context.now.at

    def keep_only(self, wanted: set[ClusterAddress]) -> None:
        """Gives leases back that no Run needs any more."""
        for address in [address for address in self._leases if address not in wanted]:
            if not self._leases[address].asked:
                if self._leases[address].valid_until is not None:
                    self._context.emit(LeaveCluster(address=address))
                del self._leases[address]

    def deadline(self) -> float | None:
        """When the next lease has to be renewed, or asked for again."""
        return min((lease.next_at for lease in self._leases.values() if not lease.asked), default=None)
