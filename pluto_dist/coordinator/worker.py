"""The worker carries out effects that may take long: requests to a backend, writes to a store on a network.

It runs in a few threads at once. Each effect returns the event that gives the core its outcome; an unexpected
fault becomes an `Unknown` with its text, never a silent thread. A cut of a spool is made here (`_cut`), put
under its final names, and given to the backend. Cluster stores are made when they are first needed, and
shared by the threads.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import assert_never

import msgspec

from pluto_dist.backend.local import files
from pluto_dist.backend.local import files as store_files
from pluto_dist.backend.local.store import Marks, Store
from pluto_dist.cluster.interface import ClusterStore
from pluto_dist.coordinator.describe import Metadata
from pluto_dist.coordinator.reducer import RankReducer
from pluto_dist.coordinator.sampler import NodeRecorder
from pluto_dist.core.rules.stream import MAX_LINES
from pluto_dist.core.values import engine
from pluto_dist.core.values.backend import (
    Alert,
    Backend,
    BackendRun,
    Batch,
    Beat,
    ConfigPatch,
    Delivered,
    LogType,
    Names,
    Outcome,
    Rejected,
    Reopened,
    Retry,
    Revive,
    SeatNote,
    StatusReport,
    TagsChange,
    Unavailable,
    Unknown,
    Uploaded,
)
from pluto_dist.core.values.effects import (
    AtCluster,
    BeatRun,
    Control,
    Copy,
    DropCopies,
    ExpireCluster,
    JoinCluster,
    KeepCopies,
    LeaveCluster,
    ListCluster,
    OpenRun,
    ReadUploads,
    ReduceRanks,
    RenewCluster,
    SampleNode,
    SetAside,
    Ship,
    WatchCluster,
    WriteCluster,
    WriteDocument,
)
from pluto_dist.core.values.engine import Blind, ClusterAddress, Listed
from pluto_dist.core.values.events import (
    Beaten,
    ClusterJoined,
    ClusterListed,
    ClusterSeen,
    ClusterWritten,
    Controlled,
    CopiesDropped,
    CopiesKept,
    DocumentWritten,
    Event,
    NamesFound,
    OpenEnded,
    PointSummary,
    RanksReduced,
    RecordSetAside,
    Shipped,
    UploadsRead,
)
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.host.identity import boot_clock
from pluto_dist.spool.batches import Contents, contents, numbered, renamed
from pluto_dist.spool.file_lines import BLOBS, located
from pluto_dist.spool.frames import Cut, segment_name, stream_kind
from pluto_dist.spool.reader import ReadLimits, read_cut, records

BATCH_BYTES = 2 << 20  # the server's contract advises 1 to 2 MB a request

Slow = (
    Ship
    | SetAside
    | OpenRun
    | Control
    | BeatRun
    | WriteDocument
    | KeepCopies
    | DropCopies
    | ReadUploads
    | ReduceRanks
    | SampleNode
    | AtCluster
)
Backends = Callable[[Target], Backend]


class Worker:
    """Carries out one effect at a time; several threads share it.

    Args:
        backends: the backend of a target.
        clusters: stores that the nodes of jobs share.
        clock: seconds since boot, by which the time of a seat ends.
        recorder: of the node's system metrics; one that measures this machine by default.
        metadata: of this machine, for the pages of new Runs.
    """

    def __init__(
        self,
        backends: Backends,
        recorder: NodeRecorder | None = None,
        metadata: Metadata | None = None,
        clusters: ClusterStores | None = None,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._backends = backends
        self.clusters = clusters or ClusterStores()
        self.recorder = recorder or NodeRecorder()
        self.reducer = RankReducer()
        self._metadata = metadata or Metadata()
        self._clock = clock

    def do(self, effect: Slow) -> Event | None:  # noqa: PLR0912 # one case for each effect
        """Carries an effect out, which may block; returns its event, None where the core needs none."""
        if isinstance(effect, AtCluster):
            return self.clusters.do(effect)
        match effect:
            case Ship():
                return self._ship(effect)
            case SetAside():
                self._set_aside(effect)
                return _set_aside(effect)
            case OpenRun():
                return self._open(effect)
            case Control():
                return self._control(effect)
            case BeatRun():
                return Beaten(run=effect.run.key, beat=self._backends(effect.run.target).beat(effect.run))
            case WriteDocument():
                return _write_document(effect)
            case KeepCopies():
                return keep(effect)
            case DropCopies():
                return drop(effect)
            case ReadUploads():
                return uploads(effect)
            case ReduceRanks():
                return self.reducer.reduce(effect)
            case SampleNode(feeds=feeds):
                self.recorder.record(feeds)
                return None
            case _:
                assert_never(effect)

    def failed(  # noqa: PLR0912 # one case for each effect
        self, effect: Slow, error: BaseException
    ) -> Event | None:
        """The event for an unexpected fault."""
        reason = f"{type(error).__name__}: {error}"
        if isinstance(effect, AtCluster):
            return self.clusters.failed(effect, reason)
        match effect:
            case Ship():
                return _shipped(effect, effect.start, 0, Retry(reason))
            case OpenRun(run=run):
                return OpenEnded(run=run, result=Unavailable(reason))
            case Control(run=run):
                return Controlled(
                    run=run.key, operation=effect.operation, token=effect.token, outcome=Unknown(reason)
                )
            case BeatRun(run=run):
                return Beaten(run=run.key, beat=Beat(Unknown(reason)))
            case WriteDocument(run=key, revision=revision):
                return DocumentWritten(run=key, revision=revision, error=reason)
            case KeepCopies(run=key, lease_id=lease_id):
                return CopiesKept(run=key, lease_id=lease_id, copies=(), error=reason)
            case DropCopies(run=key, lease_id=lease_id):
                return CopiesDropped(run=key, lease_id=lease_id, segments=())
            case ReadUploads(run=key):
                return UploadsRead(run=key, uploaded=None)
            case SetAside():
                return _set_aside(effect, reason)
            case ReduceRanks(lease_id=lease_id, state=state):
                self.reducer.end(lease_id)
                return RanksReduced(lease_id=lease_id, state=state, error=reason)
            case SampleNode():
                return None
            case _:
                assert_never(effect)

    def ship_together(self, ships: Sequence[Ship]) -> list[Event] | None:
        """Sends metrics of several streams of one Run in as few requests as they fit in.

        Returns:
            The event of each; None where each has to go by itself, because the server refused them: whose
            fault that is shows then, and only that stream's batch gets smaller.
        """
        events, ready = list[Event](), list[_Ready]()
        for ship in ships:
            cut = _prepared(ship)
            if isinstance(cut, _Ready):
                ready.append(cut)
            else:
                events.append(cut)
        for group in _requests(ready):
            outcome = self._deliver(ships[0].run, [each.batch for each in group if each.batch is not None])
            if isinstance(outcome, Rejected):
                return None
            events += [each.answered(outcome) for each in group]
        return events

    def _ship(self, effect: Ship) -> Event:
        ready = _prepared(effect)
        if not isinstance(ready, _Ready):
            return ready
        return ready.answered(self._deliver(effect.run, [ready.batch] if ready.batch is not None else []))

    def _deliver(self, run: BackendRun, batches: Sequence[Batch]) -> Outcome:
        """Delivers all of them by one request; without any there is nothing to be sent."""
        if not batches:
            return Delivered()
        batch = batches[0]
        if len(batches) > 1:
            lines = tuple(chain.from_iterable(each.lines for each in batches))
            batch = msgspec.structs.replace(batch, lines=lines, parts=tuple(batches))
        return self._backends(run.target).deliver(run, batch)

    def _open(self, effect: OpenRun) -> Event:
        request = self._metadata.request(effect)
        result = self._backends(request.target).open(request)
        self._metadata.answered(effect, result)
        return OpenEnded(run=effect.run, result=result)

    def _control(self, effect: Control) -> Event:
        backend, run = self._backends(effect.run.target), effect.run
        outcome = self._fenced(backend, effect)
        if outcome is not None:
            return Controlled(run=run.key, operation=effect.operation, token=effect.token, outcome=outcome)
        match effect.request:
            case Names(kinds=kinds):
                outcome = backend.register(run, kinds)
            case TagsChange() as change:
                outcome = backend.put_tags(run, change)
            case ConfigPatch(patch=patch):
                outcome = backend.merge_config(run, patch)
            case Alert() as alert:
                outcome = backend.alert(run, alert)
            case SeatNote(epoch=epoch):
                note = {"pluto_dist": {"seat": {"epoch": epoch}}}
                outcome = backend.merge_config(run, msgspec.json.encode(note))
            case StatusReport() as report:
                outcome = backend.report(run, report)
            case Revive():
                outcome = backend.revive(run)
            case Reopened() as reopened:
                outcome = backend.put_back(reopened)
            case other:
                assert_never(other)
        return Controlled(run=run.key, operation=effect.operation, token=effect.token, outcome=outcome)

    def _fenced(self, backend: Backend, effect: Control) -> Outcome | None:
        """Why a request that only the seat may send must not leave any more; None if it may.

        The server has no compare-and-set, so the time is compared last, just before the request.
        """
        fence = effect.fence
        if fence is None:
            return None
        newest = backend.seat_epoch(effect.run)
        if not isinstance(newest, int):
            return newest
        if newest > fence.epoch:  # it may be a later one of this node, so the request is only not sent now
            return Retry(f"a later seat speaks for the Run (epoch {newest} > {fence.epoch})")
        if fence.not_after is not None and self._clock() >= fence.not_after:
            return Retry("the time of this node's seat is over until its lease is renewed")
        return None

    def _set_aside(self, effect: SetAside) -> None:
        limits = ReadLimits(bytes=effect.end - effect.start)  # a declaration may stand before the record
        cut = read_cut(effect.folder, effect.stream, effect.segment, effect.start, limits, final=True)
        store, is_file = Store(Path(effect.store)), stream_kind(effect.stream) == "files"
        for line in cut.lines:
            record = {
                "reason": effect.reason,
                "lease_id": effect.lease_id,
                "stream": effect.stream,
                "record": line.decode("utf-8", "replace").rstrip("\n"),
            }
            if is_file:
                store_files.set_aside(store, effect.run, located((line,), effect.folder)[0])
            store.set_aside(effect.run, json.dumps(record).encode() + b"\n")


class _Ready(msgspec.Struct, frozen=True):
    """A batch that was cut for a `Ship`, None if nothing of it is to be sent; the event if all goes well."""

    batch: Batch | None
    delivered: Shipped

    def answered(self, outcome: Outcome) -> Shipped:
        """The event that goes with the backend's answer."""
        return msgspec.structs.replace(self.delivered, outcome=outcome)


def may_go_together(ship: Ship) -> bool:
    """Whether other streams' batches may be in the same request.

    Not rows and files: what may be there twice after an unknown outcome is noted for each stream. Not what
    was made smaller to find a record that the server refuses.
    """
    return ship.kind == "metrics" and ship.run.target.mode == "pluto" and ship.limit_lines == MAX_LINES


def _prepared(effect: Ship) -> _Ready | NamesFound:
    cut = _cut(effect)
    found = contents(effect.kind, cut.lines)
    declared: dict[str, LogType] = msgspec.convert(
        {name: kind for name, kind in cut.declared.items() if name in found.names}, dict[str, LogType]
    )
    unknown = {name: kind for name, kind in {**found.names, **declared}.items() if name not in effect.known}
    if unknown:
        return NamesFound(target=effect.target, lease_id=effect.lease_id, stream=effect.stream, names=unknown)
    delivered = _shipped(
        effect,
        cut.end,
        len(cut.lines),
        Delivered(),
        skipped=cut.damaged,
        summary=found.summary,
        max_step=found.max_step,
    )
    return _Ready(_batch(effect, cut, found) if cut.end > cut.start else None, delivered)


def _batch(effect: Ship, cut: Cut, found: Contents) -> Batch | None:
    """What the backend gets, None if all of it is left out."""
    lines = located(cut.lines, effect.folder) if effect.kind == "files" else cut.lines
    if effect.run.target.mode == "pluto":
        names = found.names
        if names and all(effect.known.get(name, name) is None for name in names):
            return None  # no line has to be looked at again
        lines = _final(effect, lines, found)
        if not lines:
            return None
    return Batch(
        lease_id=effect.lease_id,
        stream=effect.stream,
        kind=effect.kind,
        segment=effect.segment,
        start=effect.start,
        end=cut.end,
        folder=effect.folder,
        lines=lines,
        last=effect.final,
        notes=f"{effect.folder}/{BLOBS}" if effect.kind == "files" else "",
        rate=effect.rate,
    )


def _requests(ready: Iterable[_Ready]) -> Iterator[list[_Ready]]:
    """Groups that are no larger than a request should be; what is larger by itself stands alone."""
    group: list[_Ready] = []
    lines = size = 0
    for each in ready:
        more, bytes_more = each.delivered.lines, each.delivered.end - each.delivered.start
        if group and (lines + more > MAX_LINES or size + bytes_more > BATCH_BYTES):
            yield group
            group, lines, size = [], 0, 0
        group.append(each)
        lines, size = lines + more, size + bytes_more
    if group:
        yield group


def _final(effect: Ship, lines: tuple[bytes, ...], found: Contents) -> tuple[bytes, ...]:
    """The lines as the backend gets them: with console numbers, or under final names."""
    if effect.kind == "console":
        return numbered(lines, effect.first_line, effect.label)
    return renamed(effect.kind, lines, effect.known, found) if effect.renamed else lines


def _cut(effect: Ship) -> Cut:
    room = min(BATCH_BYTES, effect.stop - effect.start)
    return read_cut(
        effect.folder,
        effect.stream,
        effect.segment,
        effect.start,
        ReadLimits(bytes=room, frames=effect.limit_lines),
        final=effect.final,
    )


def _set_aside(effect: SetAside, error: str = "") -> RecordSetAside:
    return RecordSetAside(target=effect.target, lease_id=effect.lease_id, stream=effect.stream, error=error)


def _shipped(
    effect: Ship,
    end: int,
    lines: int,
    outcome: Outcome,
    *,
    skipped: int = 0,
    summary: dict[str, PointSummary] | None = None,
    max_step: int = -1,
) -> Shipped:
    return Shipped(
        target=effect.target,
        lease_id=effect.lease_id,
        stream=effect.stream,
        segment=effect.segment,
        start=effect.start,
        end=end,
        lines=lines,
        skipped=skipped,
        outcome=outcome,
        summary=summary or {},
        max_step=max_step,
    )


def _write_document(effect: WriteDocument) -> DocumentWritten:
    try:
        Store(Path(effect.store)).write_document(effect.run, effect.body)
    except OSError as error:
        return DocumentWritten(run=effect.run, revision=effect.revision, error=str(error))
    return DocumentWritten(run=effect.run, revision=effect.revision)


def keep(effect: KeepCopies) -> CopiesKept:
    """Has parts of segments in the store, too; a segment that is gone has been delivered."""
    store, copied = Store(Path(effect.store)), list[Copy]()
    try:
        for copy in sorted(effect.copies, key=_is_of_files):  # a large file must not hold back records
            name = segment_name(copy.stream, copy.segment)
            if _is_of_files(copy):
                _keep_files(store, effect, copy)
            with contextlib.suppress(FileNotFoundError):  # delivered meanwhile
                source = Path(effect.folder, name)
                store.take_segment(effect.run, effect.lease_id, source, copy.start, copy.end)
            copied.append(copy)
    except OSError as error:
        return CopiesKept(run=effect.run, lease_id=effect.lease_id, copies=tuple(copied), error=str(error))
    return CopiesKept(run=effect.run, lease_id=effect.lease_id, copies=tuple(copied))


def drop(effect: DropCopies) -> CopiesDropped:
    """Removes copies; one that cannot be removed now is found again later."""
    store, gone = Store(Path(effect.store)), list[tuple[str, int]]()
    for stream, segment in effect.segments:
        try:
            files.remove_segment(store, effect.run, effect.lease_id, segment_name(stream, segment))
        except OSError:  # a store that is away: it is tried again
            continue
        gone.append((stream, segment))
    return CopiesDropped(run=effect.run, lease_id=effect.lease_id, segments=tuple(gone))


def uploads(effect: ReadUploads) -> UploadsRead:
    """What `sync` has uploaded to the Run's own server, by its mark; an unreadable mark counts as none."""
    try:
        marks = Marks(Store(Path(effect.target.store)), effect.run).all()
    except (OSError, ValueError):
        return UploadsRead(run=effect.run, uploaded=None)
    found = [mark for mark in marks if mark.url_api == effect.target.url_api and mark.id is not None]
    if not found:
        return UploadsRead(run=effect.run, uploaded=None)
    newest = max(found, key=lambda mark: mark.records)
    uploaded = Uploaded(
        offsets=newest.offsets,
        next_line=newest.next_line,
        external_id=newest.external_id,
        status=newest.status,
    )
    return UploadsRead(run=effect.run, uploaded=uploaded)


def _is_of_files(copy: Copy) -> bool:
    return stream_kind(copy.stream) == "files"


def _keep_files(store: Store, effect: KeepCopies, copy: Copy) -> None:
    """Copies the files of all records up to the end of the copy; those that are gone are delivered."""
    for line in located(records(effect.folder, copy.stream, copy.segment, 0, copy.end), effect.folder):
        files.keep_copy(store, effect.run, line)


def connect(address: ClusterAddress) -> ClusterStore:
    """The store at an address; httpx is loaded only where there is one."""
    from pluto_dist.cluster.etcd import EtcdStore

    return EtcdStore(address)


def all_keys(store: ClusterStore, effect: ExpireCluster) -> tuple[str, ...]:
    """The keys that are named, and those that are below the folders now."""
    listed = [store.list(folder) for folder in effect.below]
    found = {key for each in listed if isinstance(each, Listed) for key in each.items}
    return tuple(dict.fromkeys((*effect.keys, *sorted(found))))


class ClusterStores:
    """Carries out the effects on the cluster stores of this coordinator, each made when it is first needed.

    Args:
        make: makes the store at an address.
        clock: seconds since boot, which say when an answer was read.
    """

    def __init__(
        self,
        make: Callable[[ClusterAddress], ClusterStore] = connect,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._make = make
        self._clock = clock
        self._stores: dict[ClusterAddress, ClusterStore] = {}
        self._lock = threading.Lock()

    def do(self, effect: AtCluster) -> Event | None:
        """Blocks; returns what happened."""
        store = self._of(effect.address)
        match effect:
            case JoinCluster(address=address):
                return ClusterJoined(address=address, result=store.join(address.ttl_s))
            case RenewCluster(address=address):
                return ClusterJoined(address=address, result=store.renew())
            case LeaveCluster():
                store.leave()
                return None
            case ListCluster(run=run, prefix=prefix):
                return ClusterListed(run=run, prefix=prefix, result=store.list(prefix), read_at=self._clock())
            case WatchCluster(run=run, prefix=prefix):
                seen = store.watch(prefix, effect.as_of, effect.quiet_s)
                return ClusterSeen(run=run, prefix=prefix, result=seen, read_at=self._clock())
            case WriteCluster():
                written = store.write(
                    effect.key,
                    effect.value,
                    expect=effect.expect,
                    while_=effect.while_,
                    dead=effect.dead,
                    leased=effect.leased,
                )
                return ClusterWritten(run=effect.run, token=effect.token, result=written, value=effect.value)
            case ExpireCluster():
                store.expire(all_keys(store, effect), effect.after_s)  # else they stay: no harm
                return None
            case _:
                assert_never(effect)

    def failed(self, effect: AtCluster, reason: str) -> Event | None:
        """The event for an unexpected fault, a certificate that cannot be read for instance."""
        match effect:
            case JoinCluster(address=address) | RenewCluster(address=address):
                return ClusterJoined(address=address, result=engine.Unavailable(reason))
            case ListCluster(run=run, prefix=prefix):
                return ClusterListed(
                    run=run, prefix=prefix, result=engine.Unavailable(reason), read_at=self._clock()
                )
            case WatchCluster(run=run, prefix=prefix):
                return ClusterSeen(run=run, prefix=prefix, result=Blind(reason), read_at=self._clock())
            case WriteCluster(run=run, token=token):
                return ClusterWritten(run=run, token=token, result=engine.Unavailable(reason, "unknown"))
            case LeaveCluster() | ExpireCluster():
                return None
            case _:
                assert_never(effect)

    def interrupt(self) -> None:
        """Ends watches that wait, so that the coordinator can leave."""
        with self._lock:
            for store in self._stores.values():
                store.interrupt()

    def close(self) -> None:
        """Gives leases back, so that another node need not wait for them to run out, and connections."""
        with self._lock:
            for store in self._stores.values():
                store.leave()
                store.close()

    def _of(self, address: ClusterAddress) -> ClusterStore:
        with self._lock:
            if address not in self._stores:
                self._stores[address] = self._make(address)
            return self._stores[address]
