"""etcd v3 as a cluster store, through its JSON gateway, and the check-up of one for `pluto-dist doctor`.

A request that certainly did not leave goes to the next member at once. A change that left and was not
answered is never repeated here: it may have been carried out, and only the caller can tell its own value from
another node's.

The lease is safe until the *sending* of its last good renewal plus its time, less a margin: a leader that was
cut off goes on confirming for another two seconds (seen).
"""

from __future__ import annotations

import contextlib
import random
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Literal, TypeVar

import httpx
import msgspec

from pluto_dist.cluster import wire
from pluto_dist.cluster.interface import MARGIN_S, REQUEST_S
from pluto_dist.core.values.engine import (
    ABSENT,
    Absent,
    Blind,
    Changed,
    ClusterAddress,
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

CONNECT_S = 1.0
LARGEST = 1 << 20  # bytes of one value; etcd takes 1.5 MiB a request, in base64
LOGIN_S = 10.0  # bcrypt takes 0.9 s on a busy member
LOGIN_JITTER_S = 0.3  # not all nodes of a job log in within the same millisecond

Answer = TypeVar("Answer", bound=msgspec.Struct)
_watch_line = msgspec.json.Decoder(wire.WatchLine)


def boot_clock() -> float:
    """CLOCK_BOOTTIME, which counts suspended time."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class EtcdStore:
    """A `ClusterStore` on etcd.

    Args:
        address: of the members; one that is down is skipped.
        clock: CLOCK_BOOTTIME seconds.
        accept_old: do not refuse versions that are known to lose data; for tests.
        transport: replaces the network.
    """

    def __init__(
        self,
        address: ClusterAddress,
        *,
        clock: Callable[[], float] = boot_clock,
        accept_old: bool = False,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._address = address
        self._clock = clock
        self._version_checked = accept_old
        self._client = httpx.Client(
            verify=_trust(address),
            trust_env=False,
            transport=transport,
            timeout=httpx.Timeout(REQUEST_S, connect=CONNECT_S, pool=REQUEST_S),
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=8),
        )
        self._lock = threading.Lock()
        self._turn = random.randrange(len(address.members))  # noqa: S311 # spreads nodes over members
        self._token = ""
        self._lease = 0
        self._revision = 0
        self._closed = False
        self._streams: dict[str, _Stream] = {}
        self._watching: set[_Stream] = set()

    def join(self, ttl_s: int) -> JoinResult:
        old = self._old_version()
        if old is not None:
            return old
        sent_at = self._clock()
        found = self._ask(wire.grant(ttl_s), wire.LeaseReply)
        if not isinstance(found, wire.LeaseReply):
            return found
        self._lease = int(found.id)
        return self._valid(sent_at, found)

    def renew(self) -> RenewResult:
        if not self._lease:
            return LeaseLost()
        sent_at = self._clock()
        found = self._ask(wire.keep_alive(self._lease), wire.KeepAlive)
        if not isinstance(found, wire.KeepAlive):
            return found
        return self._valid(sent_at, found.result) if int(found.result.ttl) > 0 else LeaseLost()

    def leave(self) -> LeaveResult:
        if not self._lease:
            return Left()
        found = self._ask(wire.revoke(self._lease), wire.Txn)
        if isinstance(found, Unavailable) and "lease not found" not in found.reason:
            return found
        self._lease = 0
        return found if isinstance(found, Refused) else Left()

    def read(self, key: str) -> ReadResult:
        found = self._ask(wire.get(key), wire.Range)
        if not isinstance(found, wire.Range):
            return found
        self._seen(int(found.header.revision))
        return _only(found)

    def list(self, prefix: str) -> ListResult:
        floor = self._revision
        found = self._ask(wire.get_all(prefix), wire.Range)
        if not isinstance(found, wire.Range):
            return found
        revision = int(found.header.revision)
        if revision < floor:
            self._revision = revision
            return Reset(revision)
        self._seen(revision)
        return Listed({kv.name: _versioned(kv) for kv in found.kvs}, revision)

    def watch(self, prefix: str, as_of: int, quiet_s: float) -> WatchResult:
        """See `ClusterStore`. The stream stays open between calls that continue each other."""
        stream = self._streams.pop(prefix, None)
        if stream is None or stream.as_of != as_of:
            if stream is not None:
                stream.close()
            stream = _Stream(as_of)
            trouble = self._open(stream, wire.watch(prefix, as_of + 1), quiet_s)
            if trouble is not None:
                return trouble
        with self._lock:
            self._watching.add(stream)
        result = Blind("closed") if self._closed else stream.next()
        with self._lock:
            self._watching.discard(stream)
        if isinstance(result, Changed) and result.items:
            self._streams[prefix] = stream
        else:
            stream.close()  # its read timeout has ended the connection, or there is nothing more to come
        return result

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
        if value is not None and len(value) > LARGEST:
            return Refused("size", f"a value of {len(value)} bytes for {key}; the limit is {LARGEST}")
        if leased and not self._lease:
            return GuardFailed()
        lease = self._lease if leased else 0
        request = wire.put(key, value, expect=expect, while_=while_, dead=dead, lease=lease)
        found = self._ask(request, wire.Txn)
        if isinstance(found, Unavailable) and "lease not found" in found.reason:
            return GuardFailed()
        if not isinstance(found, wire.Txn):
            return found
        self._seen(int(found.header.revision))
        if found.succeeded:
            return Written(int(found.header.revision))
        current = _only(found.responses[0].response_range)
        version = current.version if isinstance(current, Versioned) else ABSENT
        return GuardFailed() if expect in (version, -1) else Conflict(current)

    def expire(self, keys: tuple[str, ...], after_s: int) -> WriteResult:
        lease = self._ask(wire.grant(after_s), wire.LeaseReply)
        if not isinstance(lease, wire.LeaseReply):
            return lease
        revision = 0
        for start in range(0, len(keys), wire.MAX_OPERATIONS):
            some = keys[start : start + wire.MAX_OPERATIONS]
            found = self._ask(wire.put_under(some, int(lease.id)), wire.Txn)
            if isinstance(found, Unavailable) and "key not found" in found.reason:
                return GuardFailed()
            if not isinstance(found, wire.Txn):
                return found
            revision = int(found.header.revision)
        return Written(revision)

    def close(self) -> None:
        self.interrupt()
        for stream in tuple(self._streams.values()):
            stream.close()
        self._client.close()

    def interrupt(self) -> None:
        self._closed = True
        with self._lock:
            for stream in self._watching:
                stream.interrupt()

    # --- for `pluto-dist doctor` ------------------------------------------------------------------------

    def status(self, member: str) -> wire.Status | Unavailable | Refused:
        """Version and health of one member, by itself."""
        return self._once(member, wire.status(), wire.Status)

    def alarms(self) -> wire.Alarms | Unavailable | Refused:
        """Alarms of the cluster."""
        return self._ask(wire.alarms(), wire.Alarms)

    def members(self) -> wire.Members | Unavailable | Refused:
        """Members of the cluster."""
        return self._ask(wire.members(), wire.Members)

    # --- one request ------------------------------------------------------------------------------------

    def _valid(self, sent_at: float, lease: wire.LeaseReply) -> Joined:
        return Joined(sent_at + int(lease.ttl) - MARGIN_S)

    def _seen(self, revision: int) -> None:
        with self._lock:
            self._revision = max(self._revision, revision)

    def _old_version(self) -> Unavailable | Refused | None:
        """A refusal of a version that loses or damages data; checked once."""
        if self._version_checked:
            return None
        found = self._ask(wire.status(), wire.Status)
        if not isinstance(found, wire.Status):
            return found
        if wire.too_old(found.version):
            return Refused("version", f"etcd {found.version} loses data; use {wire.OLD_ENOUGH}")
        self._version_checked = True
        return None

    def _ask(self, request: wire.Request, answer: type[Answer]) -> Answer | Unavailable | Refused:
        """Asks one member after the other, as long as the request certainly did not leave."""
        deadline = self._clock() + REQUEST_S
        found: Answer | Unavailable | Refused = Unavailable("no member is known")
        for _ in self._address.members:
            found = self._signed(self._address.members[self._turn], request, answer)
            if not isinstance(found, Unavailable):
                return found
            self._turn = (self._turn + 1) % len(self._address.members)
            if found.applied == "unknown" or self._clock() >= deadline:
                return found
        return found

    def _signed(
        self, member: str, request: wire.Request, answer: type[Answer]
    ) -> Answer | Unavailable | Refused:
        """Sends a request, with a token where there is a user; after an expired one logs in once more."""
        if self._address.user and not self._token:
            trouble = self._login(member)
            if trouble is not None:
                return trouble
        found = self._send(member, request)
        if self._address.user and isinstance(found, wire.Failure) and wire.expired(found):
            time.sleep(random.uniform(0.0, LOGIN_JITTER_S))  # noqa: S311
            trouble = self._login(member)
            if trouble is not None:
                return trouble
            found = self._send(member, request)
        return _decoded(found, request, answer)

    def _once(
        self, member: str, request: wire.Request, answer: type[Answer]
    ) -> Answer | Unavailable | Refused:
        return _decoded(self._send(member, request), request, answer)

    def _login(self, member: str) -> Unavailable | Refused | None:
        try:
            password = Path(self._address.password_file).read_text().rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            return Refused("auth", f"the password file {self._address.password_file!r}: {error}")
        request = wire.login(self._address.user, password)
        found = _decoded(self._send(member, request, token="", within_s=LOGIN_S), request, wire.Token)
        if not isinstance(found, wire.Token):
            return found
        self._token = found.token
        return None

    def _send(
        self, member: str, request: wire.Request, *, token: str | None = None, within_s: float = REQUEST_S
    ) -> bytes | wire.Failure | Unavailable | Refused:
        headers = self._headers(self._token if token is None else token)
        timeout = httpx.Timeout(within_s, connect=CONNECT_S, pool=REQUEST_S)
        try:
            reply = self._client.post(
                member + request.path,
                content=msgspec.json.encode(request.body),
                headers=headers,
                timeout=timeout,
            )
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError, OSError) as error:
            return self._broken(error, changes=request.changes)
        return reply.content if reply.is_success else wire.failure_of(reply.status_code, reply.content)

    def _headers(self, token: str) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Grpc-Metadata-hasleader": "true"}
        return {**headers, "Authorization": token} if token else headers

    def _broken(self, error: Exception, *, changes: bool) -> Unavailable | Refused:
        if isinstance(error, RuntimeError) and not self._closed:  # httpx says so of a client that is closed
            raise error
        return wire.broken(error, changes=changes)

    def _open(self, stream: _Stream, request: wire.Request, quiet_s: float) -> Blind | Refused | None:
        """Opens a watch at the member whose turn it is; the next call tries another one."""
        member = self._address.members[self._turn]
        if self._address.user and not self._token and (trouble := self._login(member)) is not None:
            return trouble if isinstance(trouble, Refused) else Blind(trouble.reason)
        timeout = httpx.Timeout(quiet_s, connect=CONNECT_S, pool=REQUEST_S)
        try:
            reply = self._client.send(
                self._client.build_request(
                    "POST",
                    member + request.path,
                    content=msgspec.json.encode(request.body),
                    headers=self._headers(self._token),
                    timeout=timeout,
                ),
                stream=True,
            )
            if reply.is_success:
                stream.attach(reply)
                return None
            found = wire.failure_of(reply.status_code, reply.read())
        except (httpx.HTTPError, RuntimeError, OSError) as error:
            trouble = self._broken(error, changes=False)
        else:
            if wire.expired(found):
                self._token = ""
            trouble = Unavailable(found.text) if wire.expired(found) else wire.meaning(found, changes=False)
        self._turn = (self._turn + 1) % len(self._address.members)
        return trouble if isinstance(trouble, Refused) else Blind(trouble.reason)


class _Stream:
    """An open watch, and how far it has been read."""

    def __init__(self, as_of: int) -> None:
        self.as_of = as_of
        self._reply: httpx.Response | None = None
        self._lines: Iterator[str] = iter(())

    def attach(self, reply: httpx.Response) -> None:
        """Takes the member's answer, from which changes are read."""
        self._reply = reply
        self._lines = reply.iter_lines()

    def next(self) -> WatchResult:
        """The next changes; nothing within the read timeout is `Changed` without items."""
        try:
            for line in self._lines:
                result = self._meaning(_watch_line.decode(line)) if line.strip() else None
                if result is not None:
                    return result
        except httpx.ReadTimeout:
            return Changed({}, self.as_of)
        except (httpx.HTTPError, httpx.StreamError, RuntimeError, OSError, msgspec.MsgspecError) as error:
            return Blind(f"{type(error).__name__}: {error}")
        return Blind("the member ended the watch")

    def interrupt(self) -> None:
        """Wakes the thread that waits for the next line; closing alone would leave it in the system call."""
        network = self._reply.extensions.get("network_stream") if self._reply is not None else None
        connection = network.get_extra_info("socket") if network is not None else None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Gives the connection back."""
        if self._reply is not None:
            self._reply.close()

    def _meaning(self, line: wire.WatchLine) -> WatchResult | None:
        if line.error is not None:
            return Blind(line.error.message)
        body = line.result or wire.WatchBody()
        if body.canceled or int(body.compact_revision):
            return Gone() if int(body.compact_revision) else Blind(body.cancel_reason or "canceled")
        if not body.events:
            return None
        self.as_of = max(int(body.header.revision), self.as_of)
        items = {
            event.kv.name: None if event.type == "DELETE" else _versioned(event.kv) for event in body.events
        }
        return Changed(items, self.as_of)


def _decoded(
    found: bytes | wire.Failure | Unavailable | Refused, request: wire.Request, answer: type[Answer]
) -> Answer | Unavailable | Refused:
    if isinstance(found, wire.Failure):
        return wire.meaning(found, changes=request.changes)
    if not isinstance(found, bytes):
        return found
    try:
        return msgspec.json.decode(found, type=answer)
    except msgspec.MsgspecError as error:
        return Unavailable(f"an answer that is not etcd's: {error}", "unknown" if request.changes else "no")


def _only(found: wire.Range) -> Versioned | Absent:
    return _versioned(found.kvs[0]) if found.kvs else Absent()


def _versioned(kv: wire.KeyValue) -> Versioned:
    return Versioned(kv.content, int(kv.mod_revision))


def _trust(address: ClusterAddress) -> ssl.SSLContext | bool:
    """TLS settings; none are made for plain HTTP, because reading the certificates takes 0.2 s."""
    if not any(member.startswith("https:") for member in address.members):
        return False
    context = ssl.create_default_context(cafile=address.ca or None)
    if address.cert:
        context.load_cert_chain(address.cert, address.key or None)
    return context


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
