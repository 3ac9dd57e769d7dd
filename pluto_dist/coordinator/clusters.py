"""Cluster stores of this coordinator: made when they are first needed, shared by the worker threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import assert_never

from pluto_dist.cluster.interface import ClusterStore
from pluto_dist.core.values.effects import (
    AtCluster,
    ExpireCluster,
    JoinCluster,
    LeaveCluster,
    ListCluster,
    RenewCluster,
    WatchCluster,
    WriteCluster,
)
from pluto_dist.core.values.engine import Blind, ClusterAddress, Listed, Unavailable
from pluto_dist.core.values.events import ClusterJoined, ClusterListed, ClusterSeen, ClusterWritten, Event
from pluto_dist.host.identity import boot_clock


def connect(address: ClusterAddress) -> ClusterStore:
    """The store at an address; httpx is loaded only where there is one."""
    from pluto_dist.cluster.etcd import EtcdStore

    return EtcdStore(address)


def all_keys(store: ClusterStore, effect: ExpireCluster) -> tuple[str, ...]:
    """The keys that are named, and those that are below the folders now."""
    listed = [store.list(folder) for folder in effect.below]
    found = {key for each in listed if isinstance(each, Listed) for key in each.items}
    return tuple(dict.fromkeys((*effect.keys, *sorted(found))))


class ClusterStores:
    """Carries out the effects on cluster stores.

    Args:
        make: makes the store at an address.
        clock: seconds since boot, which say when an answer was read.
    """

    def __init__(
        self,
        make: Callable[[ClusterAddress], ClusterStore] = connect,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._make = make
        self._clock = clock
        self._stores: dict[ClusterAddress, ClusterStore] = {}
        self._lock = threading.Lock()

    def do(self, effect: AtCluster) -> Event | None:
        """Blocks; returns what happened."""
        store = self._of(effect.address)
        match effect:
            case JoinCluster(address=address):
                return ClusterJoined(address=address, result=store.join(address.ttl_s))
            case RenewCluster(address=address):
                return ClusterJoined(address=address, result=store.renew())
            case LeaveCluster():
                store.leave()
                return None
            case ListCluster(run=run, prefix=prefix):
                return ClusterListed(run=run, prefix=prefix, result=store.list(prefix), read_at=self._clock())
            case WatchCluster(run=run, prefix=prefix):
                seen = store.watch(prefix, effect.as_of, effect.quiet_s)
                return ClusterSeen(run=run, prefix=prefix, result=seen, read_at=self._clock())
            case WriteCluster():
                written = store.write(
                    effect.key,
                    effect.value,
                    expect=effect.expect,
                    while_=effect.while_,
                    dead=effect.dead,
                    leased=effect.leased,
                )
                return ClusterWritten(run=effect.run, token=effect.token, result=written, value=effect.value)
            case ExpireCluster():
                store.expire(all_keys(store, effect), effect.after_s)  # else they stay: no harm
                return None
            case _:
                assert_never(effect)

    def failed(self, effect: AtCluster, reason: str) -> Event | None:
        """The event for an unexpected fault, a certificate that cannot be read for instance."""
        match effect:
            case JoinCluster(address=address) | RenewCluster(address=address):
                return ClusterJoined(address=address, result=Unavailable(reason))
            case ListCluster(run=run, prefix=prefix):
                return ClusterListed(
                    run=run, prefix=prefix, result=Unavailable(reason), read_at=self._clock()
                )
            case WatchCluster(run=run, prefix=prefix):
                return ClusterSeen(run=run, prefix=prefix, result=Blind(reason), read_at=self._clock())
            case WriteCluster(run=run, token=token):
                return ClusterWritten(run=run, token=token, result=Unavailable(reason, "unknown"))
            case LeaveCluster() | ExpireCluster():
                return None
            case _:
                assert_never(effect)

    def interrupt(self) -> None:
        """Ends watches that wait, so that the coordinator can leave."""
        with self._lock:
            for store in self._stores.values():
                store.interrupt()

    def close(self) -> None:
        """Gives leases back, so that another node need not wait for them to run out, and connections."""
        with self._lock:
            for store in self._stores.values():
                store.leave()
                store.close()

    def _of(self, address: ClusterAddress) -> ClusterStore:
        with self._lock:
            if address not in self._stores:
                self._stores[address] = self._make(address)
            return self._stores[address]
