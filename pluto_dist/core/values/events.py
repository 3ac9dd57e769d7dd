"""Events: what happened, in the past tense; the only way into the core.

Many answer an effect; `core/values/effects.py` names them behind an arrow. What needs an answer of the world
is decided when its event comes, with the book as it is by then.
"""

from __future__ import annotations

import msgspec

from pluto_dist.core.values.backend import Beat, LogType, OpenResult, Operation, Outcome, Uploaded
from pluto_dist.core.values.effects import Copy
from pluto_dist.core.values.engine import ClusterAddress, ListResult, RenewResult, WatchResult, WriteResult
from pluto_dist.core.values.ids import Identity
from pluto_dist.core.values.lifecycle import LifecycleEntry, Unreadable
from pluto_dist.core.values.messages import Question, Sync
from pluto_dist.core.values.records import Reduction


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all events."""


class Synced(_Event, frozen=True, kw_only=True):
    """A process sent a `Sync`: how far its lifecycle stream is. `peer` is its address on the socket."""

    peer: bytes
    message: Sync


class Asked(_Event, frozen=True, kw_only=True):
    """A question of a person or a script arrived."""

    peer: bytes
    question: Question


class LifecycleRead(_Event, frozen=True, kw_only=True):
    """Entries of a lease's lifecycle stream, each with its ordinal number, counted from 1."""

    lease_id: str
    folder: str
    entries: tuple[tuple[int, LifecycleEntry | Unreadable], ...]


class ProcessDied(_Event, frozen=True, kw_only=True):
    """The process of a lease is gone for certain; its lifecycle stream was read to the end before.

    Attributes:
        alive_until: latest instant at which it was known to live, for what is decided.
        alive_until_ms: the same for people, epoch milliseconds; earlier where no coordinator ran: then it
            comes from times of files and from the coordinator before. 0 for just now.
        exit_code, signal: how it ended, where the kernel still knew.
        next_step: one more than the step of its last record, 0 if it logged nothing.
        replaced: the process lives and runs another program (`exec`).
        family: forked children of the process live, and may go on logging.
    """

    lease_id: str
    alive_until: float
    alive_until_ms: int = 0
    exit_code: int | None = None
    signal: str = ""
    oom: bool = False
    next_step: int = 0
    replaced: bool = False
    family: bool = False


class LeaseReleased(_Event, frozen=True, kw_only=True):
    """The process has released the folder of its ended lease; it may live on."""

    lease_id: str


class LauncherDied(_Event, frozen=True, kw_only=True):
    """A launcher that was watched for a Run is gone; the Run may belong to another job by now."""

    run: str
    launcher: Identity


class LivenessChecked(_Event, frozen=True, kw_only=True):
    """The owner's liveness was checked for a claim; if it was dead, `ProcessDied` came before this."""

    claim: str
    lease_id: str


class MembersPolled(_Event, frozen=True, kw_only=True):
    """All members of a Run were polled for its verdict; what was new of them came before, as events."""

    run: str


class StreamsSeen(_Event, frozen=True, kw_only=True):
    """Sizes of the segments of a lease's streams: stream -> segment -> bytes.

    Attributes:
        final: the process is gone, nothing will be added.
    """

    lease_id: str
    sizes: dict[str, dict[int, int]]
    final: bool = False


class PointSummary(msgspec.Struct, frozen=True):
    """The points of one batch in one series."""

    last: float | str
    step: int
    count: int


class Shipped(_Event, frozen=True, kw_only=True):
    """Outcome of one `Ship`.

    Attributes:
        target: `run` for the Run's backend, `store` for the copy of undelivered records.
        start, end: bytes of the segment that the batch covers, bad frames included.
        lines: records in it.
        summary: points in it, by the name under which the participant logged them.
        max_step: highest step in it, -1 without records.
    """

    target: str
    lease_id: str
    stream: str
    segment: int
    start: int
    end: int
    lines: int
    skipped: int
    outcome: Outcome
    summary: dict[str, PointSummary] = {}
    max_step: int = -1


class RanksReduced(_Event, frozen=True, kw_only=True):
    """Outcome of a `ReduceRanks`.

    Attributes:
        state: how far it came; unchanged on an `error`, and then all is read again from there.
        lines: written into the node's stream.
        again_at: when a step has waited long enough for its ranks, None if none waits.
        unread: there is more to be read.
        error: why not all could be done.
    """

    lease_id: str
    state: Reduction
    lines: int = 0
    again_at: float | None = None
    unread: bool = False
    error: str = ""


class RecordSetAside(_Event, frozen=True, kw_only=True):
    """A record that the backend will never take is kept aside; `error` says why that could not be done."""

    target: str
    lease_id: str
    stream: str
    error: str = ""


class NamesFound(_Event, frozen=True, kw_only=True):
    """A batch declares names that the core has not settled; nothing was sent."""

    target: str
    lease_id: str
    stream: str
    names: dict[str, LogType]


class OpenEnded(_Event, frozen=True, kw_only=True):
    """The backend answered an `OpenRun`."""

    run: str
    result: OpenResult


class Controlled(_Event, frozen=True, kw_only=True):
    """A control request of a Run was answered; `operation` and `token` say which."""

    run: str
    operation: Operation
    token: int
    outcome: Outcome


class Beaten(_Event, frozen=True, kw_only=True):
    """The backend got a sign of life."""

    run: str
    beat: Beat


class DocumentWritten(_Event, frozen=True, kw_only=True):
    """The Run's document is in the store, in this revision; `error` says why not."""

    run: str
    revision: int
    error: str = ""


class CopiesKept(_Event, frozen=True, kw_only=True):
    """Copies of a lease's segments are in the store; `error` says why not all of them."""

    run: str
    lease_id: str
    copies: tuple[Copy, ...]
    error: str = ""


class CopiesDropped(_Event, frozen=True, kw_only=True):
    """Copies are not in the store any more."""

    run: str
    lease_id: str
    segments: tuple[tuple[str, int], ...]


class UploadsRead(_Event, frozen=True, kw_only=True):
    """The uploads of a Run by `sync`, None if there were none or the store cannot be read."""

    run: str
    uploaded: Uploaded | None


class FenceFound(_Event, frozen=True, kw_only=True):
    """The fences of a superseded lease are known: where its streams stood when it was replaced."""

    lease_id: str
    fences: dict[str, tuple[int, int]]


class KeyGiven(_Event, frozen=True, kw_only=True):
    """The coordinator has received the API key for this `Target.key_id`; it is in memory only."""

    key_id: str


class ClusterJoined(_Event, frozen=True, kw_only=True):
    """The cluster store answered a request for a lease, or for more time."""

    address: ClusterAddress
    result: RenewResult


class ClusterListed(_Event, frozen=True, kw_only=True):
    """The cluster store answered a list; `read_at` is when the answer arrived."""

    run: str
    prefix: str
    result: ListResult
    read_at: float


class ClusterSeen(_Event, frozen=True, kw_only=True):
    """A watch has reported changes, or that nothing changed for a while, or has ended."""

    run: str
    prefix: str
    result: WatchResult
    read_at: float


class ClusterWritten(_Event, frozen=True, kw_only=True):
    """The cluster store answered a change; `value` is what was to be written."""

    run: str
    token: int
    result: WriteResult
    value: bytes | None = None


class Ticked(_Event, frozen=True, kw_only=True):
    """A deadline has passed."""


# Closed: where a case is missing, the type checker says so.
Event = (
    Synced
    | Asked
    | LifecycleRead
    | ProcessDied
    | LeaseReleased
    | LauncherDied
    | LivenessChecked
    | MembersPolled
    | StreamsSeen
    | Shipped
    | RanksReduced
    | RecordSetAside
    | NamesFound
    | OpenEnded
    | Controlled
    | Beaten
    | DocumentWritten
    | CopiesKept
    | CopiesDropped
    | UploadsRead
    | FenceFound
    | KeyGiven
    | ClusterJoined
    | ClusterListed
    | ClusterSeen
    | ClusterWritten
    | Ticked
)
