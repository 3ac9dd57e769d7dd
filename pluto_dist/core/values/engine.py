"""Answers of a cluster store: one closed set, whatever the engine (etcd, or memory in tests).

No answer is an exception. An answer that never came is a value too, because what follows from it depends on
whether the request may have been carried out.

Versions are the engine's own and only rise, except when the engine was emptied (`Reset`). 0 is no version: it
stands for a key that does not exist. Instants named `valid_until` are CLOCK_BOOTTIME seconds of the caller.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

ABSENT: Final = 0  # expected version of a key that must not exist yet
ANY: Final = -1  # whatever version the key has

Why = Literal["auth", "permission", "space", "size", "gateway", "version", "tls", "address"]


class ClusterAddress(msgspec.Struct, frozen=True, kw_only=True):
    """The address of a cluster store. Holds no secret: the password stays in its file.

    Attributes:
        members: base URLs, `http://host:port` or `https://host:port`.
        prefix: first part of all keys, without a slash at its ends.
        ca, cert, key: paths of PEM files, "" for none.
        user: for a login with a password, "" for none.
        password_file: path of the file that holds it.
        ttl_s: how long a node that is silent counts as present.
        strict: no status is ever sent while the store cannot be reached.
    """

    members: tuple[str, ...]
    prefix: str
    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password_file: str = ""
    ttl_s: int = 15
    strict: bool = False

    def __str__(self) -> str:
        return f"{', '.join(self.members)} (prefix {self.prefix!r})"


class Versioned(msgspec.Struct, frozen=True):
    """A value with the version that a compare-and-set has to name."""

    value: bytes
    version: int


class Absent(msgspec.Struct, frozen=True):
    """The key does not exist."""


class Unavailable(msgspec.Struct, frozen=True):
    """No answer, or one that says "later".

    Attributes:
        applied: `unknown` for a change that may have been carried out, or may still be: read it back.
    """

    reason: str
    applied: Literal["no", "unknown"] = "no"


class Refused(msgspec.Struct, frozen=True):
    """A no that a repetition does not change; `reason` says what a person can do."""

    why: Why
    reason: str


class Joined(msgspec.Struct, frozen=True):
    """The node has a lease, valid at least until `valid_until`; keys written with `leased` go with it."""

    valid_until: float


class LeaseLost(msgspec.Struct, frozen=True):
    """The engine knows no such lease any more; the keys written under it are gone."""


class Left(msgspec.Struct, frozen=True):
    """The lease was given back; the keys written under it are gone."""


class Listed(msgspec.Struct, frozen=True):
    """All keys below a prefix, by their full names, as they were at one instant."""

    items: dict[str, Versioned]
    as_of: int


class Written(msgspec.Struct, frozen=True):
    """Done; the key has this version now."""

    version: int


class Conflict(msgspec.Struct, frozen=True):
    """Nothing was written: the key had another version than expected, and holds this."""

    current: Versioned | Absent


class GuardFailed(msgspec.Struct, frozen=True):
    """Nothing was written: the key of `while_` has another version, or the key of `dead` exists."""


class Changed(msgspec.Struct, frozen=True):
    """The last change of each key, None for one that is gone; empty after a quiet while."""

    items: dict[str, Versioned | None]
    as_of: int


class Gone(msgspec.Struct, frozen=True):
    """The engine no longer has the changes since the version that was asked for: list again."""


class Reset(msgspec.Struct, frozen=True):
    """The engine's versions fell: it was emptied, or an older backup was put back. All versions are void."""

    as_of: int


class Blind(msgspec.Struct, frozen=True):
    """The watch sees nothing at present, and changes may be missing: list again."""

    reason: str


JoinResult = Joined | Unavailable | Refused
RenewResult = Joined | LeaseLost | Unavailable | Refused
LeaveResult = Left | Unavailable | Refused
ReadResult = Versioned | Absent | Unavailable | Refused
ListResult = Listed | Reset | Unavailable | Refused
WatchResult = Changed | Gone | Blind | Refused
WriteResult = Written | Conflict | GuardFailed | Unavailable | Refused
