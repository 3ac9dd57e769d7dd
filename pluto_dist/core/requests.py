"""What the coordinator asks of a backend and what comes back: values only.

The calls themselves are in `pluto_dist.backend.interface`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pluto_dist.core.ids import RunRef
from pluto_dist.core.lifecycle import Target
from pluto_dist.core.outcomes import Outcome

Status = Literal["RUNNING", "COMPLETED", "FAILED", "TERMINATED", "CANCELLED"]
LogType = Literal[
    "METRIC", "IMAGE", "VIDEO", "AUDIO", "FILE", "TEXT", "ARTIFACT", "HISTOGRAM", "TABLE", "DATA"
]
Want = Literal["create", "resume", "either", "join"]
StreamKind = Literal["metrics", "data", "console", "files", "lifecycle"]


class OpenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Create a Run, or go on with one.

    Attributes:
        key: the coordinator's own id of the Run; folder name in the store.
        want: `create` makes a new Run and must not touch an existing one; `resume` reopens an existing one;
            `either` takes what there is (ids from the environment, shared ids of several nodes); `join` finds
            a Run that another node owns, and leaves it as it is.
        launch: tells the launch of a job of several nodes from an earlier one of the same Run; "" otherwise.
        external_id: always set for `create` and `either`, so that a lost answer cannot make a second Run.
        id, display_id: for `resume` by number or display id.
        parent, fork_step: the Run that this one continues; the backend resolves the lineage.
        parent_record: the parent's document, if the coordinator has it; b"" otherwise.
        created_ms: when the Run was begun, which may be long before it is opened; None for now.
        system_metadata: JSON object, what is known of the machine, for a new Run.
        asked_s: seconds since a call for this may have reached the backend first; None if none has.
    """

    key: str
    target: Target
    want: Want
    project: str
    name: str
    external_id: str | None = None
    id: int | None = None
    display_id: str | None = None
    tags: tuple[str, ...] = ()
    config: bytes = b"{}"
    parent: RunRef | None = None
    parent_record: bytes = b""
    fork_step: int | None = None
    created_ms: int | None = None
    updated_ms: int | None = None
    launch: str = ""
    system_metadata: bytes = b"{}"
    asked_s: float | None = None


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """The Run is RUNNING on the backend.

    Attributes:
        project: the Run's true project; ingest must use this one.
        resumed: the Run existed before.
        was_status: the status it had before this call, None if new or not known.
        tags, config: what the backend has now, None where it does not say.
        record: the stored document of a local Run, b"" otherwise.
        parent_config, parent_tags: what a fork may inherit.
    """

    id: int
    display_id: str
    project: str
    url: str
    resumed: bool
    name: str | None = None
    was_status: Status | None = None
    tags: tuple[str, ...] | None = None
    config: bytes | None = None
    created_ms: int | None = None
    fork_run_id: int | None = None
    fork_step: int | None = None
    record: bytes = b""
    parent_config: bytes = b"{}"
    parent_tags: tuple[str, ...] = ()


class Reopened(msgspec.Struct, frozen=True):
    """An ended Run that asking has set to RUNNING, and what it was.

    Attributes:
        since_ms: since when it had that status, None if that is not known.
    """

    id: int
    project: str
    status: Status
    since_ms: int | None


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The backend said no, for good.

    Attributes:
        error: name of the class in `pluto_dist.errors`.
        reopened: what asking has changed, and what therefore has to be put back.
    """

    error: str
    message: str
    reopened: Reopened | None = None


class Unavailable(msgspec.Struct, frozen=True, tag="unavailable"):
    """No answer, or one that says "later"; the Run is provisional meanwhile.

    Attributes:
        absent: the backend answers, and has no such Run yet.
        untouched: nothing that this attempt did can have changed anything.
    """

    reason: str
    after_s: float | None = None
    absent: bool = False
    untouched: bool = False


OpenResult = Opened | Refused | Unavailable


class Uploaded(msgspec.Struct, frozen=True, kw_only=True):
    """What `sync` has uploaded of a Run from the store: lease -> stream -> segment -> bytes, and its end."""

    offsets: dict[str, dict[str, dict[int, int]]]
    next_line: int
    external_id: str
    status: Status | None


class BackendRun(msgspec.Struct, frozen=True):
    """What a backend needs to know of an open Run."""

    key: str
    target: Target
    id: int
    project: str
    name: str = ""


class TagsChange(msgspec.Struct, frozen=True):
    """Tags as this node wants them, and as it last knew them to be; None if it never knew."""

    wanted: tuple[str, ...]
    base: tuple[str, ...] | None


class SeatNote(msgspec.Struct, frozen=True):
    """Which seat of several nodes speaks for the Run; it stands in the Run's config before any status."""

    epoch: int


class StatusReport(msgspec.Struct, frozen=True):
    """A status with its reason; `metadata` is a JSON object or None to clear the old one."""

    status: Status
    metadata: bytes | None
    at_ms: int


class Beat(msgspec.Struct, frozen=True):
    """Answer to a sign of life."""

    outcome: Outcome
    status: Status | None = None
