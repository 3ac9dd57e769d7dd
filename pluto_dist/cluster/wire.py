"""The etcd v3 JSON gateway: the one place that spells the fields of its requests, and reads its errors.

The gateway ignores a field that it does not know. A misspelt condition is therefore no error but a missing
condition, and the transaction changes what it must not (seen with 3.4.23 and 3.5.1). So nothing else builds a
request, and the contract suite makes each condition fail once against a real server.

Keys and values are base64; 64-bit numbers are texts; zero, false and empty fields are left out of answers.

etcd has one kind of failure with many faces: "request timed out" (503/14), "context deadline exceeded"
(500/2), its own deadline (504/4), errors inside of streams. After all of them the result is not known. So
every error that the table does not name is `Unavailable`, and a change whose answer did not arrive may have
been carried out.
"""

from __future__ import annotations

import base64
import ssl

import httpx
import msgspec

from pluto_dist.core.values.engine import ANY, Refused, Unavailable, Why

MAX_OPERATIONS = 128  # of one transaction

Json = dict[str, object]
OLD_ENOUGH = "etcd 3.4.22 or newer, of the 3.5 series 3.5.6 or newer"


class Request(msgspec.Struct, frozen=True):
    """One call: its path, its body, and whether a repeat after a lost answer could be seen."""

    path: str
    body: Json
    changes: bool = False


def get(key: str) -> Request:
    """The newest value of one key, agreed upon by a majority."""
    return Request("/v3/kv/range", {"key": _text(key)})


def get_all(prefix: str) -> Request:
    """All keys below a prefix."""
    return Request("/v3/kv/range", {"key": _text(prefix), "range_end": _after(prefix)})


def watch(prefix: str, start: int) -> Request:
    """Changes of all keys below a prefix from a revision on."""
    create: Json = {"key": _text(prefix), "range_end": _after(prefix), "start_revision": str(start)}
    return Request("/v3/watch", {"create_request": create})


def put(
    key: str,
    value: bytes | None,
    *,
    expect: int,
    while_: tuple[str, int] | None,
    dead: str | None,
    lease: int,
) -> Request:
    """Puts or deletes a key under conditions; where one fails, all keys that were compared are read."""
    conditions = [] if expect == ANY else [_version_is(key, expect)]
    conditions += [_version_is(*while_)] if while_ is not None else []
    conditions += [_version_is(dead, 0)] if dead is not None else []
    operation: Json
    if value is None:
        operation = {"request_delete_range": {"key": _text(key)}}
    else:
        operation = {"request_put": {"key": _text(key), "value": _bytes(value), "lease": str(lease)}}
    compared = [key, *([while_[0]] if while_ is not None else []), *([dead] if dead is not None else [])]
    body: Json = {
        "compare": conditions,
        "success": [operation],
        "failure": [{"request_range": {"key": _text(each)}} for each in compared],
    }
    return Request("/v3/kv/txn", body, changes=True)


def put_under(keys: tuple[str, ...], lease: int) -> Request:
    """Ties keys that exist to a lease; their values stay. One that is missing fails all."""
    operations: list[Json] = [
        {"request_put": {"key": _text(key), "ignore_value": True, "lease": str(lease)}} for key in keys
    ]
    return Request("/v3/kv/txn", {"compare": [], "success": operations, "failure": []}, changes=True)


def grant(ttl_s: int) -> Request:
    """A lease with an id that the engine chooses."""
    return Request("/v3/lease/grant", {"TTL": str(ttl_s)}, changes=True)


def keep_alive(lease: int) -> Request:
    """Prolongs a lease to its full time."""
    return Request("/v3/lease/keepalive", {"ID": str(lease)})


def revoke(lease: int) -> Request:
    """Ends a lease, and the keys that are tied to it."""
    return Request("/v3/lease/revoke", {"ID": str(lease)}, changes=True)


def login(user: str, password: str) -> Request:
    """A token for a user."""
    return Request("/v3/auth/authenticate", {"name": user, "password": password})


def status() -> Request:
    """Version and health of one member, by itself."""
    return Request("/v3/maintenance/status", {})


def alarms() -> Request:
    """Alarms of all members."""
    return Request("/v3/maintenance/alarm", {"action": "GET"})


def _version_is(key: str, version: int) -> Json:
    """The revision of a key's last change; 0 is that of a key that does not exist."""
    return {"key": _text(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(version)}


def _text(key: str) -> str:
    return _bytes(key.encode())


def _bytes(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _after(prefix: str) -> str:
    """The first key behind all that begin with the prefix; UTF-8 has no byte 0xFF, so one more fits."""
    raw = prefix.encode()
    return _bytes(raw[:-1] + bytes((raw[-1] + 1,)))


# --- answers ------------------------------------------------------------------------------------------


class Header(msgspec.Struct, frozen=True):
    """The header of each answer; the revision is that of the whole store."""

    revision: str = "0"


class KeyValue(msgspec.Struct, frozen=True):
    """One key; `mod_revision` is the version that a condition names."""

    key: str
    value: str = ""
    mod_revision: str = "0"

    @property
    def name(self) -> str:
        return base64.b64decode(self.key).decode("utf-8", "replace")

    @property
    def content(self) -> bytes:
        return base64.b64decode(self.value)


class Range(msgspec.Struct, frozen=True):
    """Answer to a read."""

    header: Header = Header()
    kvs: tuple[KeyValue, ...] = ()


class Step(msgspec.Struct, frozen=True):
    """Answer to one operation of a transaction."""

    response_range: Range = Range()


class Txn(msgspec.Struct, frozen=True):
    """Answer to a transaction."""

    header: Header = Header()
    succeeded: bool = False
    responses: tuple[Step, ...] = ()


class LeaseReply(msgspec.Struct, frozen=True, rename={"id": "ID", "ttl": "TTL"}):
    """Answer to a grant or a renewal; a lease that is not there has no TTL, and no error."""

    id: str = "0"
    ttl: str = "0"


class KeepAlive(msgspec.Struct, frozen=True):
    """A renewal is a stream of one answer."""

    result: LeaseReply = LeaseReply()


class Token(msgspec.Struct, frozen=True):
    """Answer to a login."""

    token: str = ""


class WatchEvent(msgspec.Struct, frozen=True):
    """One change; a put has no type, because that is the zero of the enumeration."""

    kv: KeyValue
    type: str = "PUT"


class WatchBody(msgspec.Struct, frozen=True):
    """One message of a watch."""

    header: Header = Header()
    created: bool = False
    canceled: bool = False
    compact_revision: str = "0"
    cancel_reason: str = ""
    events: tuple[WatchEvent, ...] = ()


class Trouble(msgspec.Struct, frozen=True):
    """An error within a stream."""

    grpc_code: int = 2
    message: str = ""


class WatchLine(msgspec.Struct, frozen=True):
    """One line of a watch's answer."""

    result: WatchBody | None = None
    error: Trouble | None = None


class Status(msgspec.Struct, frozen=True):
    """Answer to the question for a member's status."""

    version: str = ""
    dbSize: str = "0"  # noqa: N815 # the gateway's spelling
    leader: str = "0"
    errors: tuple[str, ...] = ()


class Alarm(msgspec.Struct, frozen=True):
    """One alarm, which a person has to mend."""

    alarm: str = "NONE"


class Alarms(msgspec.Struct, frozen=True):
    """Answer to the question for alarms."""

    alarms: tuple[Alarm, ...] = ()


class Failure(msgspec.Struct, frozen=True):
    """An answer that is no success: its HTTP status, its gRPC code and its text."""

    http: int
    code: int
    text: str


class _Body(msgspec.Struct, frozen=True):
    error: object = ""
    message: str = ""
    code: int | None = None
    grpc_code: int | None = None


# (part of the text, kind, what a person can do); the first that fits counts
_REFUSALS: tuple[tuple[str, Why, str], ...] = (
    ("database space exceeded", "space", "etcd has no space left (NOSPACE): compact, defragment, disarm"),
    ("request is too large", "size", "the value is larger than etcd takes (1.5 MiB by default)"),
    ("larger than max", "size", "the value is larger than etcd takes (1.5 MiB by default)"),
    ("permission denied", "permission", "the user may not read and write below the prefix: grant it a role"),
    ("authentication failed", "auth", "etcd refused user or password: check PLUTO_DIST_CLUSTER_USER and "
     "PLUTO_DIST_CLUSTER_PASSWORD_FILE"),
    ("user name is empty", "auth", "etcd wants a user: set PLUTO_DIST_CLUSTER_USER and "
     "PLUTO_DIST_CLUSTER_PASSWORD_FILE"),
    ("authentication is not enabled", "auth", "etcd has no users: leave PLUTO_DIST_CLUSTER_USER out"),
)  # fmt: skip
_GATEWAY_OFF = (
    "the member has no JSON gateway (404): set `enable-grpc-gateway: true` in its configuration file; an "
    "etcd that is started from a file has it off"
)
TOKEN_CODES = frozenset({16})  # UNAUTHENTICATED: the token expired, or the member was started anew


def failure_of(status: int, body: bytes) -> Failure:
    """An answer with an error status."""
    try:
        found = msgspec.json.decode(body, type=_Body)
    except msgspec.MsgspecError:
        return Failure(status, 2, body[:200].decode("utf-8", "replace").strip())
    inner = found.error if isinstance(found.error, dict) else {}
    text = found.message or inner.get("message") or (found.error if isinstance(found.error, str) else "")
    code = found.code if found.code is not None else inner.get("grpc_code", found.grpc_code)
    return Failure(status, code if isinstance(code, int) else 2, str(text))


def expired(failure: Failure) -> bool:
    """Whether another login may help."""
    return failure.http == 401 or failure.code in TOKEN_CODES


def meaning(failure: Failure, *, changes: bool) -> Unavailable | Refused:
    """The value of an answer with an error status."""
    text = failure.text.lower()
    for part, why, advice in _REFUSALS:
        if part in text:
            return Refused(why, f"{advice} ({failure.text.strip()})")
    if "not found" in text and "etcdserver" in text:  # a lease or a key
        return Unavailable(failure.text)
    if failure.http == 404:
        return Refused("gateway", _GATEWAY_OFF)
    if expired(failure):
        return Refused("auth", f"etcd takes no login ({failure.text}): check the user and the password file")
    certain = failure.http == 429 or "no leader" in text  # refused before it was proposed
    told = failure.text or f"HTTP {failure.http}"
    return Unavailable(told, "no" if certain or not changes else "unknown")


def broken(error: Exception, *, changes: bool) -> Unavailable | Refused:
    """The value of a request without an answer."""
    if _tls(error):
        advice = (
            "check PLUTO_DIST_CLUSTER_CA, _CERT and _KEY, and that the member's certificate names the host"
        )
        return Refused("tls", f"the TLS connection was refused: {error}; {advice}")
    told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):  # etcd hangs up on plain HTTP
        told += " (if the member speaks TLS, write etcds:// instead of etcd://)"
    return Unavailable(told, "unknown" if changes and not unsent(error) else "no")


def unsent(error: Exception) -> bool:
    """Whether the request certainly did not leave, so that another member may be asked at once."""
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)


def _tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


def too_old(version: str) -> bool:
    """Whether this etcd loses or damages data: 3.5.0 to 3.5.5, and what came before 3.4.22."""
    try:
        major, minor, patch = (int(part) for part in version.partition("-")[0].split("."))
    except ValueError:
        return False
    return (major, minor, patch) < (3, 4, 22) or (3, 5, 0) <= (major, minor, patch) < (3, 5, 6)
