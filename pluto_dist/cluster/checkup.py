"""Check-up of a cluster store: a trial of everything that jobs need of it, for `pluto-dist doctor`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Generator, Iterator
from typing import Literal

import msgspec

from pluto_dist.cluster import wire
from pluto_dist.cluster.etcd import EtcdStore
from pluto_dist.core.values.engine import (
    ABSENT,
    ClusterAddress,
    Conflict,
    Joined,
    Refused,
    Unavailable,
    Written,
)

SLOW_S = 0.5  # a leader that takes longer to write is close to losing its place
SUFFICIENT = "start etcd there, or open the port: everything waits for it, and the job goes on meanwhile"


class Finding(msgspec.Struct, frozen=True):
    """One fact; `advice` says what to do where the level is not "ok"."""

    name: str
    value: str | int | bool | None
    level: Literal["ok", "warn", "bad"] = "ok"
    advice: str = ""


def examine(address: ClusterAddress) -> Iterator[Finding]:
    """Members, versions, alarms, and a compare-and-set that must fail. Leaves nothing behind."""
    yield Finding("cluster", str(address))
    try:
        store = EtcdStore(address, accept_old=True)
    except OSError as error:  # a certificate that cannot be read
        yield Finding("cluster.tls", None, "bad", f"{error}; check PLUTO_DIST_CLUSTER_CA, _CERT and _KEY")
        return
    try:
        answering = yield from _members(store, address)
        if answering:
            yield from _alarms(store)
            yield from _trial(store, address)
    finally:
        store.close()


def _members(store: EtcdStore, address: ClusterAddress) -> Generator[Finding, None, int]:
    """Each member's version; returns how many answer."""
    answering = 0
    for number, member in enumerate(address.members, 1):
        began = time.monotonic()
        found = store.status(member)
        name = f"cluster.member.{number}"
        if isinstance(found, Refused):
            yield Finding(name, member, "bad", found.reason)
        elif isinstance(found, Unavailable):
            yield Finding(name, member, "warn", f"no answer ({found.reason}): {SUFFICIENT}")
        elif wire.too_old(found.version):
            yield Finding(name, f"{member}: etcd {found.version}", "bad", f"use {wire.OLD_ENOUGH}")
        else:
            answering += 1
            took_ms = (time.monotonic() - began) * 1000
            yield Finding(name, f"{member}: etcd {found.version}, {took_ms:.0f} ms, {found.dbSize} bytes")
    yield Finding(
        "cluster.gateway", answering > 0, "ok" if answering else "bad", "" if answering else SUFFICIENT
    )
    return answering


def _alarms(store: EtcdStore) -> Iterator[Finding]:
    found = store.alarms()
    if isinstance(found, Refused | Unavailable):
        yield Finding("cluster.alarm", None, "warn", f"they could not be read: {found.reason}")
        return
    names = ", ".join(sorted({each.alarm for each in found.alarms}))
    advice = (
        "compact, defragment and disarm: `etcdctl compact`, `defrag`, `alarm disarm`; nothing new can be kept"
    )
    yield Finding("cluster.alarm", names or "none", "bad" if names else "ok", advice if names else "")


def _trial(store: EtcdStore, address: ClusterAddress) -> Iterator[Finding]:
    """Tries what take-overs rest on: a lease, a key that is made once, a condition that is not ignored."""
    key = f"{address.prefix}/v1/.doctor/{secrets.token_hex(8)}"
    joined = store.join(address.ttl_s)
    if not isinstance(joined, Joined):
        yield Finding("cluster.lease", False, "bad", joined.reason)
        return
    yield Finding("cluster.lease", True)
    began = time.monotonic()
    made = store.write(key, b"{}", expect=ABSENT, leased=True)
    took_ms = round((time.monotonic() - began) * 1000)
    if isinstance(made, Written):
        again = store.write(key, b"{}", expect=ABSENT)
        right = isinstance(again, Conflict)
        advice = (
            "" if right else f"a condition was ignored ({type(again).__name__}): this is no etcd to rely on"
        )
        yield Finding("cluster.compare_and_set", right, "ok" if right else "bad", advice)
        slow = took_ms > SLOW_S * 1000
        yield Finding(
            "cluster.write_ms", took_ms, "warn" if slow else "ok", "its disk is slow" if slow else ""
        )
    else:
        reason = getattr(made, "reason", type(made).__name__)
        yield Finding("cluster.compare_and_set", False, "bad", reason)
    store.leave()
