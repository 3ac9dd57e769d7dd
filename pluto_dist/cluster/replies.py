"""Meaning of etcd's error answers: the one table from statuses and error texts to values.

etcd has one kind of failure with many faces: "request timed out" (503/14), "context deadline exceeded"
(500/2), its own deadline (504/4), errors inside of streams. After all of them the result is not known. So
every answer that the table does not name is `Unavailable`, and a change whose answer did not arrive may have
been carried out.
"""

from __future__ import annotations

import ssl

import httpx
import msgspec

from pluto_dist.core.values.engine import Refused, Unavailable, Why

OLD_ENOUGH = "etcd 3.4.22 or newer, of the 3.5 series 3.5.6 or newer"


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
