"""Address of a cluster store, as in `PLUTO_DIST_CLUSTER`: its syntax."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import msgspec

SCHEMES = {"etcd": "http", "etcds": "https"}
DEFAULT_PORT = 2379
DEFAULT_PREFIX = "pluto_dist"
ALLOWED = "off, or etcd://host:port[,host:port…][/prefix], with etcds:// for TLS"
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_PREFIX = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


class AddressError(ValueError):
    """The text is no address; the message says why, without a password that may be in it."""


class Place(msgspec.Struct, frozen=True):
    """The members' addresses, and the prefix of all keys."""

    members: tuple[str, ...]
    prefix: str

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.members[0].startswith("https:")


def parse(text: str) -> Place:
    """The members and the prefix of an address.

    Raises:
        AddressError: it is none.
    """
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise AddressError(str(error)) from error
    if parts.scheme == "k8s":
        raise AddressError("k8s:// is not there yet; use etcd")
    if parts.scheme not in SCHEMES:
        raise AddressError(f"the scheme is {parts.scheme!r}")
    if "@" in parts.netloc:
        raise AddressError(
            "it names a user: set PLUTO_DIST_CLUSTER_USER and, for the password, "
            "PLUTO_DIST_CLUSTER_PASSWORD_FILE"
        )
    if parts.query or parts.fragment:
        raise AddressError("it has a query or a fragment")
    members = tuple(f"{SCHEMES[parts.scheme]}://{_member(part)}" for part in parts.netloc.split(","))
    prefix = parts.path.strip("/") or DEFAULT_PREFIX
    if _PREFIX.fullmatch(prefix) is None:
        raise AddressError("the prefix may have letters, digits, '.', '_', '-' and '/'")
    return Place(tuple(dict.fromkeys(members)), prefix)


def _member(text: str) -> str:
    host, colon, port = (
        text.strip().rpartition(":") if not text.strip().endswith("]") else (text.strip(), "", "")
    )
    host = host if colon else text.strip()
    if _HOST.fullmatch(host) is None:
        raise AddressError(f"{text!r} is no host:port")
    if not colon:
        return f"{host}:{DEFAULT_PORT}"
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise AddressError(f"{text!r} has no port number")
    return f"{host}:{int(port)}"
