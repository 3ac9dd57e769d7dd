"""The document of a Run: what `show --json` prints, what the store keeps, and what a later coordinator reads.

One format for all three. Keys that people and scripts may rely on are the fields of `Document`; everything
below `restore` is for the next coordinator and may change with `format`. `document` makes it from the book
and from what only the running coordinator knows; `restore` gives a coordinator back what it needs of it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pluto_dist.core.values.backend import Status
from pluto_dist.core.values.book import Book, Config, History, Points
from pluto_dist.core.values.ids import UNREADABLE, Role
from pluto_dist.core.values.lifecycle import RankMetrics
from pluto_dist.core.values.records import (
    AttemptEnd,
    Cursor,
    EndReason,
    Failure,
    Fault,
    Lease,
    LeaseState,
    Point,
    Run,
    RunEvent,
    SeriesOwner,
    Verdict,
)
from pluto_dist.core.values.topics import ItemShown, Reader, Topic

FORMAT = 1


class ForkShown(msgspec.Struct, frozen=True):
    """Which Run this one continues.

    Attributes:
        run_id: numeric id of the parent.
        step: the step after which this Run begins.
    """

    run_id: int
    step: int | None


class VerdictShown(msgspec.Struct, frozen=True):
    """The end of the Run.

    Attributes:
        status: the terminal status.
        reason: for people.
        first_failure: what began the end, null if nothing failed.
    """

    status: Status
    reason: str
    first_failure: Failure | None


class LeaseShown(msgspec.Struct, frozen=True, kw_only=True):
    """One lease; instants are epoch milliseconds.

    Attributes:
        lease_id: its id, also the name of its folder in the spool.
        role: what its process may do.
        label: what people call the process.
        participant: whose series they are, over restarts.
        rank: global rank, null for a plain process or a side.
        pid, host: of the process.
        epoch: of the ownership under which it was granted.
        attempt: which start of the job.
        state: `waiting`, `active`, `ended` or `refused`.
        granted_at: when it got its role.
        last_seen_at: when its process last sent a message.
        ended_at: when it ended.
        end_reason: `finished`, `closed`, `exited`, `died`, `superseded`, `refused` or `gave_up`.
        fault: `failed` (an exception, an exit code, a signal), `stopped` (asked to stop), or "", by what the
            end of its process says.
        relay: its node's name, where another node owns the Run.
        delivered: records that the backend has accepted.
        written: records that the process has written.
        last_step: its highest step, null before the first.
        rejected: values that `log()` left out.
        dropped: records lost to a full disk or quota.
        heartbeat_s: seconds between its process's heartbeats; a longer silence makes it suspect.
        last_logged_at: when the coordinator last saw something new of it.
        cursors: delivered bytes by stream and segment.
        launcher: its process is `pluto-dist run`, and its console is that of the command.
        rank_metrics: what becomes of its series (R7).
        world_size: how many ranks its job has, null for a plain process.
        fences: stream -> (segment, offset) from where on the records are those of `attempt<n>` (R7); all of
            a stream that is missing. None for a lease that no newer attempt has replaced.
    """

    lease_id: str
    role: Role
    label: str
    participant: str
    rank: int | None
    pid: int
    host: str
    epoch: int
    attempt: int
    state: LeaseState
    granted_at: int | None
    last_seen_at: int | None
    ended_at: int | None
    end_reason: EndReason | None
    delivered: int
    written: int
    last_step: int | None
    rejected: int
    dropped: int
    heartbeat_s: float = 5.0
    last_logged_at: int | None = None
    launcher: bool = False
    rank_metrics: RankMetrics = "auto"
    world_size: int | None = None
    cursors: dict[str, dict[int, int]] = {}
    fences: dict[str, tuple[int, int]] | None = None
    fault: Fault = ""
    relay: str = ""


class ReaderShown(msgspec.Struct, frozen=True):
    """How far a label or a group is in a topic.

    Attributes:
        name: the label's, or the group's.
        group: whether it is a group.
        done: number up to which every item is done.
        at_work: items that a process has taken and not finished, with its label.
        behind: how many items are not done.
    """

    name: str
    group: bool
    done: int
    at_work: dict[int, str]
    behind: int


class TopicShown(msgspec.Struct, frozen=True):
    """What was handed over under one name (R14).

    Attributes:
        last: number of the newest item, which is also how many there are.
        latest: the newest few.
        readers: who takes them.
    """

    last: int
    latest: tuple[ItemShown, ...]
    readers: tuple[ReaderShown, ...]


class Restore(msgspec.Struct, frozen=True):
    """Facts for the next coordinator only."""

    run: Run
    series: dict[str, SeriesOwner]
    steps: dict[str, int]
    side_configs: dict[str, msgspec.Raw]
    topics: dict[str, Topic] = {}
    readers: tuple[Reader, ...] = ()


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A Run; instants are epoch milliseconds.

    Attributes:
        format: version of the document.
        key: the coordinator's own id, also the folder's name in the store.
        id: numeric id, null while the backend has not given one.
        display_id: for people, e.g. `MMP-42`.
        run_id: the caller's id, or a generated one.
        project: where it is.
        name: for people.
        status: as on the server.
        phase: inner state.
        mode: `local` or `pluto`.
        url: of its page on the server.
        config: merged.
        side_configs: configs of sides, by label.
        tags: in the order in which they came.
        created_at: when it was made.
        ended_at: when it ended, null while it has not; as far as that is known.
        found_at: when its end was found, if that was long after it; null otherwise.
        resumed: whether it existed before its owner opened it.
        provisional: whether the server has not answered yet.
        fork: the Run that it continues.
        epoch: number of owners so far.
        attempt: which start of the job, 0 for the first.
        attempts: how earlier attempts ended.
        leases: all that were granted.
        summary: last value, step and count by series.
        points: number of points in all series.
        verdict: its end, null while there is none.
        reported: whether the backend has accepted the terminal status.
        pending: bytes in the spool that are not delivered.
        rejected: values and records that were not taken.
        first_reject: the first of them, and the reason.
        repeats: rows that may be on the server twice.
        dropped: records lost to a full disk or quota.
        damaged: places in the spool where no record could be read.
        trouble: why something does not go on, "" if all is well.
        series: names that several participants use: name -> participant -> final name.
        events: its history, for people.
        restore: for the next coordinator only; `show --json` leaves it out.
        server_status: the server's status where it is another one; null if it is the same, or not known.
        refusals: what the server will not take, with its reasons.
        relay: name of this node in a Run that another node owns; such a document has a verdict only where it
            is that of all nodes (R12).
        part_of: key of the Run's first part, where several nodes write parts of it (R12), "" otherwise.
        parts: keys of all parts that were put together by a reader, the Run's own first; empty for one part.
        topics: what its processes have handed over to each other on this node, by topic.
    """

    format: int
    key: str
    id: int | None
    display_id: str | None
    run_id: str
    project: str
    name: str
    status: Status
    phase: str
    mode: Literal["local", "pluto"]
    url: str
    config: msgspec.Raw
    side_configs: dict[str, msgspec.Raw]
    tags: tuple[str, ...]
    created_at: int
    ended_at: int | None
    resumed: bool
    provisional: bool
    fork: ForkShown | None
    epoch: int
    attempt: int
    attempts: tuple[AttemptEnd, ...]
    leases: tuple[LeaseShown, ...]
    summary: dict[str, Point]
    points: int
    verdict: VerdictShown | None
    reported: bool
    pending: int
    rejected: int
    first_reject: str
    repeats: int
    dropped: int
    trouble: str
    series: dict[str, dict[str, str]]
    events: tuple[RunEvent, ...]
    restore: Restore
    relay: str = ""
    expected: VerdictShown | None = None
    server_status: Status | None = None
    refusals: dict[str, str] = {}
    damaged: int = 0
    found_at: int | None = None
    topics: dict[str, TopicShown] = {}
    part_of: str = ""
    parts: tuple[str, ...] = ()

    @property
    def part_keys(self) -> tuple[str, ...]:
        """Keys of its parts in the store, the Run's own first."""
        return self.parts or (self.key,)


class Papers(msgspec.Struct, frozen=True):
    """The records of one Run that a coordinator restores from its document."""

    run: Run
    series: dict[str, SeriesOwner]
    steps: dict[str, int]
    sides: dict[str, bytes]
    history: History
    points: Points
    leases: tuple[LeaseShown, ...]
    topics: tuple[Topic, ...] = ()
    readers: tuple[Reader, ...] = ()


_encoder = msgspec.json.Encoder()


def read(body: bytes) -> Document:
    """Reads a document.

    Raises:
        ValueError: it is none, or of a newer format.
    """
    try:
        found = msgspec.json.decode(body, type=Document)
    except UNREADABLE as error:
        raise ValueError(f"no document of a Run: {error}") from error
    if found.format > FORMAT:
        raise ValueError(f"document has format {found.format}; this version reads up to {FORMAT}")
    return found


def restore(body: bytes) -> Papers:
    """The records that the next coordinator needs, from a stored document.

    Raises:
        ValueError: as `read`.
    """
    found = read(body)
    kept = found.restore
    sides = {label: bytes(config) for label, config in kept.side_configs.items()}
    history = History(found.events, _encoder.encode(found.leases))
    old = (kept.run, kept.series, kept.steps)
    points = Points(found.key, found.summary)
    topics = tuple(kept.topics.values())
    return Papers(*old, sides, history, points, found.leases, topics, kept.readers)


class Live(msgspec.Struct, frozen=True):
    """Facts about a lease that only the running coordinator knows."""

    last_seen_ms: int | None
    last_logged_ms: int | None
    written: int
    last_step: int | None


def show(
    book: Book,
    run: Run,
    *,
    phase: str = "",
    pending: int = 0,
    trouble: str = "",
    live: dict[str, Live] | None = None,
    expected: Verdict | None = None,
) -> bytes:
    """The document as JSON."""
    return _encoder.encode(
        document(book, run, phase=phase, pending=pending, trouble=trouble, live=live or {}, expected=expected)
    )


def document(
    book: Book,
    run: Run,
    *,
    phase: str,
    pending: int,
    trouble: str,
    live: dict[str, Live],
    expected: Verdict | None = None,
) -> Document:
    """The document as a value."""
    leases = tuple(sorted(book.leases_of(run.key), key=lambda lease: (lease.granted_ms or 0, lease.lease_id)))
    config = book.configs.get(run.key) or Config()
    history = book.histories.get(run.key) or History()
    summary = book.points_of(run.key)
    shown = tuple(
        _lease(book, lease, live.get(lease.lease_id), run.relay) for lease in leases if lease.participant
    )
    series = _series(book, run)
    topics = book.topics_of(run.key)
    return Document(
        format=FORMAT,
        key=run.key,
        id=run.id,
        display_id=run.display_id,
        run_id=run.external_id,
        project=run.project,
        name=run.name,
        status=run.status,
        phase=phase,
        mode=run.target.mode,
        url=run.url,
        config=msgspec.Raw(config.body),
        side_configs={label: msgspec.Raw(body) for label, body in config.sides.items()},
        tags=run.tags,
        created_at=run.created_ms,
        ended_at=run.ended_ms,
        found_at=run.found_ms or None,
        resumed=run.resumed,
        provisional=run.provisional,
        fork=ForkShown(run.fork_run_id, run.fork_step) if run.fork_run_id is not None else None,
        epoch=run.epoch,
        attempt=run.attempt,
        attempts=run.attempts,
        leases=_past_leases(history, shown) + shown,
        summary=summary,
        points=sum(point.count for point in summary.values()),
        verdict=_verdict(run.verdict),
        expected=_verdict(expected),
        reported=run.reported,
        relay=run.relay,
        part_of=run.part_of,
        server_status=run.server_status,
        refusals=run.refusals,
        pending=pending,
        rejected=run.rejected + sum(lease.rejected for lease in leases),
        first_reject=run.first_reject,
        repeats=run.repeats,
        damaged=run.damaged,
        dropped=sum(lease.dropped for lease in leases),
        trouble=trouble or run.open_trouble,
        series={name: dict(owner.others) for name, owner in series.items() if owner.others},
        events=history.events,
        restore=Restore(
            book.runs.get(run.key) or run,
            series,
            _steps(book, run, leases),
            {label: msgspec.Raw(body) for label, body in config.sides.items()},
            dict(topics),
            tuple(reader for topic in topics.values() for reader in book.readers_of(topic)),
        ),
        topics={name: _topic(book, topic) for name, topic in topics.items()},
    )


def _topic(book: Book, topic: Topic) -> TopicShown:
    readers = (_reader(book, topic, reader) for reader in book.readers_of(topic))
    return TopicShown(topic.last, topic.latest, tuple(readers))


def _reader(book: Book, topic: Topic, reader: Reader) -> ReaderShown:
    held = {number: book.leases.get(holder.lease_id) for number, holder in sorted(reader.held.items())}
    leases = () if reader.group else book.leases_by(topic.run, reader.name)
    return ReaderShown(
        leases[-1].label if leases else reader.name,
        reader.group,
        reader.through,
        {number: lease.label for number, lease in held.items() if lease is not None and lease.alive}
        | reader.elsewhere,
        topic.last - reader.given + len(held) + len(reader.elsewhere),
    )


def _verdict(verdict: Verdict | None) -> VerdictShown | None:
    if verdict is None:
        return None
    return VerdictShown(verdict.status, verdict.reason, verdict.first_failure)


def _past_leases(history: History, shown: tuple[LeaseShown, ...]) -> tuple[LeaseShown, ...]:
    """Leases of earlier coordinators, without those that were found in the spool again."""
    found = {lease.lease_id for lease in shown}
    past = msgspec.json.decode(history.past_leases, type=tuple[LeaseShown, ...])
    return tuple(lease for lease in past if lease.lease_id not in found)


def _series(book: Book, run: Run) -> dict[str, SeriesOwner]:
    return dict(book.series_of(run.key))


def _steps(book: Book, run: Run, leases: tuple[Lease, ...]) -> dict[str, int]:
    steps = dict(run.steps)
    for lease in leases:
        for cursor in _cursors(book, lease):
            steps[lease.participant] = max(steps.get(lease.participant, 0), lease.next_step, cursor.next_step)
    return steps


def _cursors(book: Book, lease: Lease) -> list[Cursor]:
    return [book.cursors[key] for key in book.cursor_keys(lease.lease_id)]


def _lease(book: Book, lease: Lease, live: Live | None, relay: str) -> LeaseShown:
    cursors = _cursors(book, lease)
    delivered = sum(cursor.delivered for cursor in cursors)
    last_step = max((cursor.next_step for cursor in cursors), default=0) - 1
    seen_step = live.last_step if live is not None and live.last_step is not None else last_step
    return LeaseShown(
        lease_id=lease.lease_id,
        role=lease.role,
        label=lease.label,
        participant=lease.participant,
        rank=lease.rank,
        pid=lease.identity.pid,
        host=lease.identity.host,
        epoch=lease.epoch,
        attempt=lease.attempt,
        state=lease.state,
        granted_at=lease.granted_ms,
        last_seen_at=live.last_seen_ms if live is not None else lease.ended_ms,
        ended_at=lease.ended_ms,
        end_reason=lease.end_reason,
        delivered=delivered,
        written=max(delivered, live.written if live is not None else 0),
        last_step=seen_step if seen_step >= 0 else None,
        last_logged_at=live.last_logged_ms if live is not None else None,
        rejected=lease.rejected,
        dropped=lease.dropped,
        heartbeat_s=lease.opened.heartbeat_s,
        launcher=lease.opened.launcher,
        rank_metrics=lease.rank_metrics,
        world_size=lease.opened.job.world_size,
        cursors={cursor.stream: cursor.offsets for cursor in cursors},
        fences=lease.fences,
        fault=lease.fault,
        relay=relay,
    )
