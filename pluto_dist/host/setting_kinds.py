"""Kinds of values that settings have, with one parser each.

A parser takes a value as it was given (text from the environment, any object from `init(settings=…)`) and
returns the usable one, or raises ValueError or TypeError. `allowed` completes "… is not usable; allowed: …".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from pluto_dist.core.rules.together import chosen_from
from pluto_dist.core.values.ids import LEASE_ID, classify_run_id
from pluto_dist.secret import Secret

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_SCHEMES = {"etcd": "http", "etcds": "https"}
_CLUSTER_PORT = 2379
_CLUSTER_PREFIX = "pluto_dist"
_KEY_PREFIX = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


class UnfitError(ValueError):
    """A value that is not usable; the text says why, for people."""


class Kind(msgspec.Struct, frozen=True):
    """A parser, and the allowed values in words."""

    parse: Callable[[object], object]
    allowed: str
    secret: bool = False


def text(limit: int) -> Kind:
    """Non-empty text of at most `limit` characters."""

    def parse(given: object) -> str:
        found = str(given).strip() if isinstance(given, str | int) and not isinstance(given, bool) else ""
        if not 0 < len(found) <= limit or not found.isprintable():
            raise ValueError
        return found

    return Kind(parse, f"1 to {limit} printable characters")


def choice(*words: str) -> Kind:
    """One of a few words."""

    def parse(given: object) -> str:
        word = str(given).strip().lower()
        if word not in words:
            raise ValueError
        return word

    return Kind(parse, ", ".join(words))


def number(low: float, high: float, unit: str) -> Kind:
    """A finite number from `low` to `high`."""

    def parse(given: object) -> float:
        if isinstance(given, bool) or not isinstance(given, int | float | str):
            raise TypeError
        found = float(given)
        if not math.isfinite(found) or not low <= found <= high:
            raise ValueError
        return found

    return Kind(parse, f"a number of {unit} from {low:g} to {high:g}")


def count(low: int, high: int) -> Kind:
    """A whole number from `low` to `high`."""

    def parse(given: object) -> int:
        if isinstance(given, bool) or not isinstance(given, int | str):
            raise TypeError
        found = int(given)
        if not low <= found <= high:
            raise ValueError
        return found

    return Kind(parse, f"a whole number from {low} to {high}")


def size(low: int, high: int) -> Kind:
    """Bytes, as an integer or as text such as `64k`, `8 MiB`, `2G` (powers of 1024)."""

    def parse(given: object) -> int:
        if isinstance(given, bool) or not isinstance(given, int | str):
            raise TypeError
        match = _SIZE.fullmatch(str(given).strip())
        if match is None:
            raise ValueError
        found = int(float(match[1]) * 1024 ** _POWER[match[2].lower()])
        if not low <= found <= high:
            raise ValueError
        return found

    return Kind(parse, f"bytes from {low} to {high}, for example 8MiB")


def _parse_run_id(given: object) -> str:
    if isinstance(given, bool) or not isinstance(given, int | str):
        raise TypeError
    return str(classify_run_id(given))


def _parse_flag(given: object) -> bool:
    if isinstance(given, bool):
        return given
    word = str(given).strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError
    return word in _TRUE


def _parse_url(given: object) -> str:
    if not isinstance(given, str):
        raise TypeError
    url = given.strip().rstrip("/")
    parts = urlsplit(url)
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not plain or re.search(r"\s", url):
        raise ValueError
    _ = parts.port  # raises ValueError when it is not a port number
    return url


def _parse_host(given: object) -> str:
    if not isinstance(given, str) or _HOST.fullmatch(given.strip()) is None:
        raise ValueError
    return given.strip()


def _parse_folder(given: object) -> Path:
    if not isinstance(given, str | Path) or "\0" in str(given) or not str(given).strip():
        raise ValueError
    str(given).encode()  # entries and messages name folders, in UTF-8
    return Path(given).expanduser()


def _parse_home(given: object) -> Path:
    folder = _parse_folder(given)
    if not folder.is_absolute():
        raise ValueError
    return folder


def _parse_key(given: object) -> Secret:
    if isinstance(given, Secret):
        return given
    if not isinstance(given, str):
        raise TypeError
    return Secret(given)


def _parse_cluster(given: object) -> str:
    text = str(given).strip() if isinstance(given, str) else ""
    if text.lower() in ("", "off"):
        return ""
    cluster_place(text)
    return text


class ClusterPlace(msgspec.Struct, frozen=True):
    """A cluster store: its members' addresses, and the prefix of all keys."""

    members: tuple[str, ...]
    prefix: str

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.members[0].startswith("https:")


def cluster_place(text: str) -> ClusterPlace:
    """The members and the prefix of a cluster store's address.

    Raises:
        UnfitError: it is none; the message has no password that may be in it.
    """
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise UnfitError(str(error)) from error
    if parts.scheme == "k8s":
        raise UnfitError("k8s:// is not there yet; use etcd")
    if parts.scheme not in _SCHEMES:
        raise UnfitError(f"the scheme is {parts.scheme!r}")
    if "@" in parts.netloc:
        raise UnfitError(
            "it names a user: set PLUTO_DIST_CLUSTER_USER and, for the password, "
            "PLUTO_DIST_CLUSTER_PASSWORD_FILE"
        )
    if parts.query or parts.fragment:
        raise UnfitError("it has a query or a fragment")
    members = tuple(f"{_SCHEMES[parts.scheme]}://{_member(part)}" for part in parts.netloc.split(","))
    prefix = parts.path.strip("/") or _CLUSTER_PREFIX
    if _KEY_PREFIX.fullmatch(prefix) is None:
        raise UnfitError("the prefix may have letters, digits, '.', '_', '-' and '/'")
    return ClusterPlace(tuple(dict.fromkeys(members)), prefix)


def _member(text: str) -> str:
    host, colon, port = (
        text.strip().rpartition(":") if not text.strip().endswith("]") else (text.strip(), "", "")
    )
    host = host if colon else text.strip()
    if _HOST.fullmatch(host) is None:
        raise UnfitError(f"{text!r} is no host:port")
    if not colon:
        return f"{host}:{_CLUSTER_PORT}"
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise UnfitError(f"{text!r} has no port number")
    return f"{host}:{int(port)}"


def _parse_path(given: object) -> str:
    path = _parse_folder(given)
    return str(path if path.is_absolute() else Path.cwd() / path)


def _parse_lease(given: object) -> str:
    if not isinstance(given, str) or LEASE_ID.fullmatch(given) is None:
        raise ValueError
    return given


def _parse_reduce(given: object) -> str:
    if isinstance(given, Mapping):
        if any("," in str(pattern) for pattern in given):
            raise ValueError
        given = ",".join(f"{pattern}={statistic}" for pattern, statistic in given.items())
    if not isinstance(given, str):
        raise TypeError
    return ",".join(f"{pattern}={statistic}" for pattern, statistic in chosen_from(given))


FLAG = Kind(_parse_flag, "1 or 0, true or false, yes or no, on or off")
LEASE = Kind(_parse_lease, "the id of a lease")
RUN_ID = Kind(_parse_run_id, "a positive number, a display id such as MMP-42, or 1 to 255 characters")
URL = Kind(_parse_url, "an http:// or https:// address without user, password, query or fragment")
HOST = Kind(_parse_host, "a host name or address without scheme and port, IPv6 in brackets")
FOLDER = Kind(_parse_folder, "a folder's path, in UTF-8")
HOME = Kind(_parse_home, "an absolute path, the same for all processes of the node")
KEY = Kind(_parse_key, "1 to 512 visible ASCII characters without spaces", secret=True)
CLUSTER = Kind(_parse_cluster, "off, or etcd://host:port[,host:port…][/prefix], with etcds:// for TLS")
REDUCE = Kind(
    _parse_reduce,
    "pattern=statistic, with commas between; one of mean, min, max, std, max_rank, count, sum, all",
)
FILE = Kind(_parse_path, "a file's path, in UTF-8")
