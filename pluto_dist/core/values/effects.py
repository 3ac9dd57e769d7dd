"""Effects: what the core wants done, in the imperative; its only way out.

The driver carries effects out in the order given. `Commit` comes first, so that nothing leaves the process
before it is on disk. Effects that read local files answer at once with an event; those that talk to a backend
or a shared disk run in worker threads and answer later. The event that answers stands behind the arrow.
"""

from __future__ import annotations

import msgspec

from pluto_dist.core.values.backend import (
    BackendRun,
    ControlRequest,
    OpenRequest,
    Operation,
    StreamKind,
    operation_of,
)
from pluto_dist.core.values.engine import ClusterAddress
from pluto_dist.core.values.ids import Identity
from pluto_dist.core.values.lifecycle import Origin, Target
from pluto_dist.core.values.messages import Reply
from pluto_dist.core.values.records import Reduction


class _Effect(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all effects."""


class Save(msgspec.Struct, frozen=True):
    """One record to keep; value None deletes it."""

    table: str
    key: str
    value: msgspec.Struct | None


class Commit(_Effect, frozen=True, kw_only=True):
    """One transaction of the database.

    Attributes:
        durable: synced to disk before it returns; left out where only cursors and intents have changed.
        awaited: no effect behind it may be carried out before it is kept; not needed for cursors without an
            intent.
    """

    saves: tuple[Save, ...]
    durable: bool
    awaited: bool


class Send(_Effect, frozen=True, kw_only=True):
    """Send a peer a message, asked for or not; the peer may be gone."""

    peer: bytes
    reply: Reply


class GiveItem(_Effect, frozen=True, kw_only=True):
    """Reads an item from the database and answers a `TakeItem` with it.

    Attributes:
        key: of the item in the table `items`.
        number: of the item in its topic.
        last: number of the newest item.
    """

    peer: bytes
    request: int
    key: str
    number: int
    last: int


class ReadLifecycle(_Effect, frozen=True, kw_only=True):
    """Read what is new in a lease's lifecycle stream → `LifecycleRead`."""

    lease_id: str
    folder: str


class WatchProcess(_Effect, frozen=True, kw_only=True):
    """Notice the death of a lease's process → `ProcessDied`."""

    lease_id: str
    folder: str
    identity: Identity


class TakeForDead(_Effect, frozen=True, kw_only=True):
    """The program that held this lease was replaced by `exec` → `ProcessDied`."""

    lease_id: str


class WatchLauncher(_Effect, frozen=True, kw_only=True):
    """Notice the death of a job's launcher → `LauncherDied`."""

    run: str
    identity: Identity


class CheckLiveness(_Effect, frozen=True, kw_only=True):
    """Look at a process now → perhaps `ProcessDied`, then `LivenessChecked`."""

    claim: str
    lease_id: str


class PollMembers(_Effect, frozen=True, kw_only=True):
    """Read new leases and what is new in the lifecycle streams of a Run's living members, (lease, folder),
    and look whether they live → `LifecycleRead` and `ProcessDied` as always, then `MembersPolled`.
    """

    run: str
    members: tuple[tuple[str, str], ...]


class LookAtStreams(_Effect, frozen=True, kw_only=True):
    """Find out the sizes of a lease's segments → `StreamsSeen`."""

    lease_id: str
    folder: str
    final: bool = False


class FindFence(_Effect, frozen=True, kw_only=True):
    """Find out where a superseded lease's streams stand → `FenceFound`."""

    lease_id: str
    folder: str


class Ship(_Effect, frozen=True, kw_only=True):
    """Cut a batch and send it → `Shipped` or `NamesFound`.

    Attributes:
        target: `run` for the Run's backend, `store` for the copy of undelivered records.
        stop: do not read beyond this offset.
        known: settled names of this participant -> final name, None to leave the series out.
        renamed: whether any known name differs from its final one; if not, lines are cut as they are.
        first_line: number of the first console line.
        label: prefix of the lines on a console that several participants share, else "".
        final: nothing will be added to this segment, so a torn tail is skipped.
        rate: bytes a second for the contents of files, 0 for as fast as it goes.
    """

    target: str
    run: BackendRun
    lease_id: str
    folder: str
    stream: str
    kind: StreamKind
    segment: int
    start: int
    stop: int
    limit_lines: int
    known: dict[str, str | None]
    renamed: bool
    first_line: int = 0
    label: str = ""
    final: bool = False
    rate: int = 0


class NodeFeed(msgspec.Struct, frozen=True, kw_only=True):
    """The stream for the system metrics of one Run.

    Attributes:
        lease_id, folder: of the node's own stream.
        first_step: lowest step; steps in `earlier` may raise it.
        earlier: folders of the node's former streams of this Run that may hold undelivered records.
        host: part of the metric names where the Run has several nodes, else "".
        store: folder whose filesystem is measured.
    """

    lease_id: str
    folder: str
    first_step: int
    host: str
    store: str
    earlier: tuple[str, ...] = ()


class SampleNode(_Effect, frozen=True, kw_only=True):
    """Measure this node once and write a record for each feed."""

    feeds: tuple[NodeFeed, ...]


class EndSampling(_Effect, frozen=True, kw_only=True):
    """Write nothing more for this lease of the node."""

    lease_id: str


class RankStreams(msgspec.Struct, frozen=True):
    """The metrics streams of one rank.

    Attributes:
        lease_id, folder, rank: whose.
        sizes: stream -> segment -> bytes, up to where they may be read.
        living: the process may still log.
    """

    lease_id: str
    folder: str
    rank: int
    sizes: dict[str, dict[int, int]]
    living: bool


class ReduceRanks(_Effect, frozen=True, kw_only=True):
    """Read what ranks have logged, and write what they say together into the node's stream → `RanksReduced`.

    Attributes:
        lease_id, folder: of the node's own stream.
        state: how far an earlier effect came.
        now: CLOCK_BOOTTIME seconds.
        chosen: what is wanted of names, as in `Claim.reduce`.
    """

    run: str
    lease_id: str
    folder: str
    state: Reduction
    members: tuple[RankStreams, ...]
    now: float
    chosen: str = ""


class EndReducing(_Effect, frozen=True, kw_only=True):
    """Hold nothing of this lease of the node any more."""

    lease_id: str


class SetAside(_Effect, frozen=True, kw_only=True):
    """Keep a record that the backend will never take, readable, with its reason → `RecordSetAside`."""

    target: str
    run: str
    store: str
    lease_id: str
    folder: str
    stream: str
    segment: int
    start: int
    end: int
    reason: str


class RemoveSegments(_Effect, frozen=True, kw_only=True):
    """Delete delivered segments: (number, size they had)."""

    lease_id: str
    folder: str
    stream: str
    segments: tuple[tuple[int, int], ...]


class RemoveBlobs(_Effect, frozen=True, kw_only=True):
    """Delete the contents that these records of a files stream name: they are delivered, or kept aside."""

    lease_id: str
    folder: str
    stream: str
    segment: int
    start: int
    end: int


class RemoveLease(_Effect, frozen=True, kw_only=True):
    """Delete the folder of a lease whose process is dead and whose streams are delivered."""

    lease_id: str
    folder: str


class OpenRun(_Effect, frozen=True, kw_only=True):
    """Create or reopen the Run on its backend → `OpenEnded`.

    Attributes:
        request: what is asked.
        origin: the process for which a new Run is made; facts about its machine are added.
    """

    run: str
    request: OpenRequest
    origin: Origin | None = None


class Fence(msgspec.Struct, frozen=True):
    """Until when a request of the seat may leave, and its epoch: a higher one at the server forbids it.

    Attributes:
        not_after: CLOCK_BOOTTIME seconds; None where the cluster store is away and only the epoch counts.
    """

    epoch: int
    not_after: float | None


class Control(_Effect, frozen=True, kw_only=True):
    """One control request → `Controlled` with the same operation and token.

    Attributes:
        request: what is asked.
        fence: for what only the seat of several nodes may say.
    """

    run: BackendRun
    request: ControlRequest
    token: int
    fence: Fence | None = None

    @property
    def operation(self) -> Operation:
        """The short name of the request."""
        return operation_of(self.request)


class BeatRun(_Effect, frozen=True, kw_only=True):
    """Send the backend a heartbeat of the job → `Beaten`."""

    run: BackendRun


class WriteDocument(_Effect, frozen=True, kw_only=True):
    """Put the Run's document into the store, atomically → `DocumentWritten`."""

    run: str
    store: str
    revision: int
    body: bytes


class Copy(msgspec.Struct, frozen=True):
    """Bytes of one segment."""

    stream: str
    segment: int
    start: int
    end: int


class KeepCopies(_Effect, frozen=True, kw_only=True):
    """Copy undelivered parts of a lease's segments into the store → `CopiesKept`."""

    run: str
    store: str
    lease_id: str
    folder: str
    copies: tuple[Copy, ...]


class DropCopies(_Effect, frozen=True, kw_only=True):
    """Remove copies of delivered segments, (stream, number), from the store → `CopiesDropped`."""

    run: str
    store: str
    lease_id: str
    segments: tuple[tuple[str, int], ...]


class ReadUploads(_Effect, frozen=True, kw_only=True):
    """Look in the store what `sync` has uploaded of a Run → `UploadsRead`."""

    run: str
    target: Target


class JoinCluster(_Effect, frozen=True, kw_only=True):
    """Get a lease of this node → `ClusterJoined`."""

    address: ClusterAddress


class RenewCluster(_Effect, frozen=True, kw_only=True):
    """Prolong the lease of this node → `ClusterJoined`."""

    address: ClusterAddress


class LeaveCluster(_Effect, frozen=True, kw_only=True):
    """Give the lease of this node back."""

    address: ClusterAddress


class ListCluster(_Effect, frozen=True, kw_only=True):
    """Read all keys below a prefix → `ClusterListed`."""

    run: str
    address: ClusterAddress
    prefix: str


class WatchCluster(_Effect, frozen=True, kw_only=True):
    """Wait for changes below a prefix, at most `quiet_s` → `ClusterSeen`."""

    run: str
    address: ClusterAddress
    prefix: str
    as_of: int
    quiet_s: float


class WriteCluster(_Effect, frozen=True, kw_only=True):
    """One change under conditions → `ClusterWritten`; arguments as `ClusterStore.write`."""

    run: str
    address: ClusterAddress
    token: int
    key: str
    value: bytes | None
    expect: int
    while_: tuple[str, int] | None = None
    dead: str | None = None
    leased: bool = False


class StoreItems(_Effect, frozen=True, kw_only=True):
    """Write items that wait in the database into the store as one `Batch`, made once → `ClusterWritten`.

    Attributes:
        items: their places in the database.
        node, origin, first: of the batch.
    """

    run: str
    address: ClusterAddress
    token: int
    key: str
    items: tuple[str, ...]
    node: str
    origin: str
    first: int


class ExpireCluster(_Effect, frozen=True, kw_only=True):
    """Have keys deleted by the engine after a while, and all that is `below` these folders now."""

    run: str
    address: ClusterAddress
    keys: tuple[str, ...]
    below: tuple[str, ...] = ()
    after_s: int


class Say(_Effect, frozen=True, kw_only=True):
    """One line for the coordinator's log: event name and fields, never a secret."""

    event: str
    fields: dict[str, str] = {}


class AwaitRelease(_Effect, frozen=True, kw_only=True):
    """Notice when a process that lives on has released the folder of its ended lease → `LeaseReleased`."""

    lease_id: str


class StopSelf(_Effect, frozen=True, kw_only=True):
    """Unlink, drain, unlock and exit: nothing is left to do, or a person asked for it.

    Attributes:
        unless: stay if a message has arrived meanwhile: an idle coordinator stays for a client.
    """

    reason: str
    unless: bool = False


# Closed: where a case is missing, the type checker says so.
AtCluster = (
    JoinCluster | RenewCluster | LeaveCluster | ListCluster | WatchCluster | WriteCluster | ExpireCluster
)
Outward = (
    Send
    | GiveItem
    | ReadLifecycle
    | WatchProcess
    | TakeForDead
    | WatchLauncher
    | CheckLiveness
    | PollMembers
    | LookAtStreams
    | FindFence
    | Ship
    | SampleNode
    | EndSampling
    | ReduceRanks
    | EndReducing
    | SetAside
    | RemoveSegments
    | RemoveBlobs
    | RemoveLease
    | OpenRun
    | Control
    | BeatRun
    | WriteDocument
    | KeepCopies
    | DropCopies
    | ReadUploads
    | AtCluster
    | StoreItems
    | Say
    | AwaitRelease
    | StopSelf
)
Effect = Commit | Outward  # a commit comes before all that it allows to leave
