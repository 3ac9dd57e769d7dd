"""The cluster store: its interface and its answers, one closed set, whatever the engine (etcd, memory).

A cluster store keeps a few small values for all nodes of a job, and says which nodes are present. It decides
nothing: which node speaks for a Run, and how the Run ended, are rules of the core.

No answer is an exception. An answer that never came is a value too, because what follows from it depends on
whether the request may have been carried out.

Versions are the engine's own and only rise, except when the engine was emptied (`Reset`). 0 is no version: it
stands for a key that does not exist. Instants named `valid_until` are CLOCK_BOOTTIME seconds of the caller.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol

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


MARGIN_S = 4.0  # a leader that was cut off confirms leases for another 2 s; a request takes up to 2 s
REQUEST_S = 2.0  # an answer that takes longer is taken for lost


class ClusterStore(Protocol):
    """One node's access; safe to use from several threads. All calls block.

    The three promises that the rules rest on, held by one contract suite against every implementation:

    1. `write` is atomic. All of its conditions hold at the instant of the change, or nothing is changed. 2. A
    value written with `leased` exists only while the node's lease does. A lease is valid until the instant
       that `join` and `renew` name, except when an engine in trouble revokes it early: a lost lease is a fact
       to live with, and no proof of anything. Its keys may outlive it by seconds, and by much more while the
       engine has no quorum or changes its leader.
    3. `list` is the truth at one instant. `watch` is a hint: it may be late, silent or end at any time.
    """

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
