"""The book: all tables of records in memory, with their indexes, and which records have changed.

Records are replaced, never altered. `take_changes` gives what the next transaction has to hold; loading the
same saves into a fresh book gives the same book. Indexes are derived from the tables, by `put_*` and
`delete_*` alone: a record put into a table directly would be missing in its index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

import msgspec

from pluto_dist.core.values.backend import Alert, LogType
from pluto_dist.core.values.effects import Commit, Save
from pluto_dist.core.values.records import (
    Cursor,
    Lease,
    Point,
    Reduction,
    Restoration,
    Run,
    RunEvent,
    SeriesOwner,
)
from pluto_dist.core.values.topics import Item, Reader, Topic

V = TypeVar("V", bound=msgspec.Struct)


class Config(msgspec.Struct, frozen=True):
    """A Run's config.

    Attributes:
        body: the merged config, a JSON object.
        given: what the owner gave at init; a worker that gives the same has nothing of its own.
        sides: a side's own config by its label, so that an eval's learning rate is not the training's.
    """

    body: bytes = b"{}"
    given: bytes = b"{}"
    sides: dict[str, bytes] = {}


class Points(msgspec.Struct, frozen=True):
    """One lease's contribution to the series of its Run, by final name; `count` is over all series."""

    run: str
    series: dict[str, Point] = {}
    count: int = 0


class History(msgspec.Struct, frozen=True):
    """The events of one Run, oldest first; leases that an earlier coordinator granted, as they were shown."""

    events: tuple[RunEvent, ...] = ()
    past_leases: bytes = b"[]"


class Table(Generic[V]):
    """Records by key; remembers which were put or deleted since the last `take`."""

    def __init__(self, name: str, kind: type[V], *, durable: bool) -> None:
        self.name = name
        self.kind = kind
        self.durable = durable
        self._rows: dict[str, V] = {}
        self._changed: dict[str, None] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[V]:
        return iter(tuple(self._rows.values()))

    def __getitem__(self, key: str) -> V:
        return self._rows[key]

    def all_keys(self) -> tuple[str, ...]:
        return tuple(self._rows)

    def get(self, key: str) -> V | None:
        return self._rows.get(key)

    def put(self, key: str, value: V) -> V:
        if self._rows.get(key) is not value:
            self._rows[key] = value
            self._changed[key] = None
        return value

    def delete(self, key: str) -> None:
        if self._rows.pop(key, None) is not None:
            self._changed[key] = None

    def load(self, key: str, value: V) -> None:
        """Puts a record that is on disk already."""
        self._rows[key] = value

    def take(self) -> list[Save]:
        saves = [Save(self.name, key, self._rows.get(key)) for key in self._changed]
        self._changed.clear()
        return saves


class Runs(Table[Run]):
    """Runs, with indexes for what is asked at every event: few beside the many of a sweep that are over."""

    def __init__(self) -> None:
        super().__init__("runs", Run, durable=True)
        self._opening: dict[str, None] = {}
        self._live: dict[str, None] = {}
        self._untold: dict[str, None] = {}
        self._of_job: dict[str, dict[str, None]] = {}
        self._numbered: dict[int | str, dict[str, None]] = {}

    def put(self, key: str, value: Run) -> Run:
        self._index(key, value)
        return super().put(key, value)

    def delete(self, key: str) -> None:
        self._index(key, None)
        super().delete(key)

    def load(self, key: str, value: Run) -> None:
        """Puts a record that is on disk already."""
        self._index(key, value)
        super().load(key, value)

    @property
    def opening(self) -> tuple[Run, ...]:
        """Runs whose backend has not answered yet."""
        return tuple(self._rows[key] for key in self._opening)

    @property
    def live(self) -> tuple[Run, ...]:
        """Runs whose outcome is not decided."""
        return tuple(self._rows[key] for key in self._live)

    @property
    def untold(self) -> tuple[str, ...]:
        """Keys of Runs whose end this node has still to report."""
        return tuple(self._untold)

    def of_job(self, job_key: str) -> tuple[Run, ...]:
        """Runs that a launch owns."""
        return tuple(self._rows[key] for key in self._of_job.get(job_key, ()))

    def numbered(self, number: int | str) -> tuple[Run, ...]:
        """Runs with this number at their backend, or parts of the Run of several nodes with this id."""
        return tuple(self._rows[key] for key in self._numbered.get(number, ()))

    def _index(self, key: str, run: Run | None) -> None:
        before = self._rows.get(key)
        for number in _numbers(before) - _numbers(run):
            del self._numbered[number][key]
            if not self._numbered[number]:
                del self._numbered[number]
        for number in _numbers(run):
            self._numbered.setdefault(number, {})[key] = None
        if before is not None and (run is None or run.job_key != before.job_key):
            of_job = self._of_job[before.job_key]
            del of_job[key]
            if not of_job:
                del self._of_job[before.job_key]
        if run is not None:
            self._of_job.setdefault(run.job_key, {})[key] = None
        _mark(self._opening, key, run is not None and run.opening)
        _mark(self._live, key, run is not None and not run.ended)
        _mark(self._untold, key, run is not None and not (run.reported or run.relay))


def _numbers(run: Run | None) -> set[int | str]:
    return {number for number in (run.id, run.part_of) if number} if run is not None else set()


def _mark(keys: dict[str, None], key: str, holds: bool) -> None:
    if holds:
        keys[key] = None
    else:
        keys.pop(key, None)


class Journal(Table[V]):
    """Records that are written, and read from the database one by one: not kept here."""

    def put(self, key: str, value: V) -> V:
        self._rows[key] = value
        self._changed[key] = None
        return value

    def delete(self, key: str) -> None:
        self._rows.pop(key, None)
        self._changed[key] = None

    def load(self, key: str, value: V) -> None:
        """Stays where it is."""

    def take(self) -> list[Save]:
        saves = super().take()
        self._rows.clear()
        return saves


def cursor_key(lease_id: str, target: str, stream: str) -> str:
    """Key of a cursor."""
    return f"{lease_id}/{target}/{stream}"


def past_key(run: str) -> str:
    """Key of the points that an earlier coordinator counted."""
    return f"{run}:past"


class Book:
    """The tables. Keys: Run key; lease id; `lease/target/stream`; `run/name`; a number at the server."""

    def __init__(self) -> None:
        self.runs = Runs()
        self.leases = Table("leases", Lease, durable=True)
        self.configs = Table("configs", Config, durable=True)
        self.series = Table("series", SeriesOwner, durable=True)
        self.histories = Table("histories", History, durable=True)
        self.cursors = Table("feeds", Cursor, durable=False)
        self.points = Table("points", Points, durable=False)
        self.reductions = Table("reductions", Reduction, durable=False)
        self.restorations = Table("restorations", Restoration, durable=True)
        self.topics = Table("topics", Topic, durable=True)
        self.readers = Table("readers", Reader, durable=True)
        self.items = Journal("items", Item, durable=True)
        self.alerts = Table("alerts", Alert, durable=True)
        self._deleted: list[str] = []
        self._by_run: dict[str, dict[str, Lease]] = {}
        self._leases_of: dict[str, tuple[Lease, ...]] = {}
        self._left: dict[str, dict[str, Lease]] = {}
        self._there: dict[str, dict[str, None]] = {}
        self._by_participant: dict[tuple[str, str], dict[str, None]] = {}
        self._rejected: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._live: dict[str, None] = {}
        self._of_pid: dict[int, dict[str, None]] = {}
        self._cursors_of: dict[str, dict[str, None]] = {}
        self._series_of: dict[str, dict[str, SeriesOwner]] = {}
        self._unregistered: dict[str, dict[str, LogType]] = {}
        self._topics_of: dict[str, dict[str, Topic]] = {}
        self._readers_of: dict[str, dict[str, Reader]] = {}
        self.tables: dict[str, Table[msgspec.Struct]] = {
            table.name: table  # type: ignore[misc] # each table checks its own kind
            for table in (
                self.runs,
                self.leases,
                self.configs,
                self.series,
                self.histories,
                self.cursors,
                self.points,
                self.reductions,
                self.restorations,
                self.topics,
                self.readers,
                self.items,
                self.alerts,
            )
        }

    def take_changes(self) -> Commit:
        """All changed records."""
        saves: list[Save] = []
        durable = False
        for table in self.tables.values():
            taken = table.take()
            durable = durable or (table.durable and bool(taken))
            saves.extend(taken)
        intents = any(isinstance(save.value, Cursor) and save.value.intent is not None for save in saves)
        return Commit(saves=tuple(saves), durable=durable, awaited=durable or intents)

    def load(self, table: str, key: str, value: msgspec.Struct) -> None:
        """Puts a record that is on disk already."""
        if isinstance(value, Lease):
            self._index(self.leases.get(key), value)
        elif isinstance(value, Points):
            self._count(self.points.get(key), value)
        elif isinstance(value, Cursor):
            self._cursors_of.setdefault(value.lease_id, {})[key] = None
        elif isinstance(value, SeriesOwner):
            run, _, name = key.partition("/")
            self._index_series(run, name, value)
        elif isinstance(value, Topic):
            self._topics_of.setdefault(value.run, {})[value.name] = value
        elif isinstance(value, Reader):
            self._readers_of.setdefault(f"{value.run}/{value.topic}", {})[key] = value
        self.tables[table].load(key, value)

    def put_lease(self, lease: Lease) -> Lease:
        """Keeps a lease, and the index of leases by Run."""
        self._index(self.leases.get(lease.lease_id), lease)
        return self.leases.put(lease.lease_id, lease)

    def put_points(self, key: str, points: Points) -> Points:
        """Keeps what a lease has contributed, and the number of points by Run."""
        self._count(self.points.get(key), points)
        return self.points.put(key, points)

    def put_cursor(self, cursor: Cursor) -> Cursor:
        """Keeps a cursor, and the index of cursors by lease."""
        key = cursor_key(cursor.lease_id, cursor.target, cursor.stream)
        self._cursors_of.setdefault(cursor.lease_id, {})[key] = None
        return self.cursors.put(key, cursor)

    def cursor_keys(self, lease_id: str, target: str = "run") -> tuple[str, ...]:
        """Keys of a lease's cursors for one target."""
        prefix = f"{lease_id}/{target}/"
        return tuple(key for key in self._cursors_of.get(lease_id, {}) if key.startswith(prefix))

    def put_series(self, run: str, name: str, owner: SeriesOwner) -> SeriesOwner:
        """Keeps who owns a name, and the index of names by Run."""
        self._index_series(run, name, owner)
        return self.series.put(f"{run}/{name}", owner)

    def series_of(self, run: str) -> Mapping[str, SeriesOwner]:
        """All names of a Run, plain and suffixed."""
        return self._series_of.get(run, {})

    def unregistered(self, run: str) -> Mapping[str, LogType]:
        """Names of a Run that its backend does not know yet."""
        return self._unregistered.get(run, {})

    def put_topic(self, topic: Topic) -> Topic:
        """Keeps a topic, and the index of topics by Run."""
        self._topics_of.setdefault(topic.run, {})[topic.name] = topic
        return self.topics.put(topic.key, topic)

    def topics_of(self, run: str) -> Mapping[str, Topic]:
        """The topics of a Run, by name."""
        return self._topics_of.get(run, {})

    @property
    def with_topics(self) -> tuple[str, ...]:
        """Keys of Runs in which something was handed over."""
        return tuple(run for run, topics in self._topics_of.items() if topics)

    def put_reader(self, reader: Reader) -> Reader:
        """Keeps how far a label or group is, and the index of readers by topic."""
        self._readers_of.setdefault(f"{reader.run}/{reader.topic}", {})[reader.key] = reader
        return self.readers.put(reader.key, reader)

    def readers_of(self, topic: Topic) -> tuple[Reader, ...]:
        """Who reads a topic, in the order in which they came."""
        return tuple(self._readers_of.get(topic.key, {}).values())

    def move_topics(self, run: str, to: str) -> None:
        """A Run turns out to be another one: its items come behind those that are there."""
        for topic in tuple(self.topics_of(run).values()):
            there = self.topics_of(to).get(topic.name) or Topic(run=to, name=topic.name)
            if not there.last:  # else they get again what they had, behind what they have not seen
                for reader in self.readers_of(topic):
                    self.put_reader(msgspec.structs.replace(reader, run=to))
            self.put_topic(there.followed_by(topic))
            self._drop_topic(topic)

    def _drop_topic(self, topic: Topic) -> None:
        for key in self._readers_of.pop(topic.key, {}):
            self.readers.delete(key)
        self._topics_of.get(topic.run, {}).pop(topic.name, None)
        self.topics.delete(topic.key)

    def delete_run(self, run: str) -> None:
        """Forgets a Run and all that belongs to it."""
        self._deleted.append(run)
        for topic in tuple(self.topics_of(run).values()):
            for number in range(topic.gone + 1, topic.last + 1):
                self.items.delete(topic.item_key(number))
            for key in topic.waiting_keys():
                self.items.delete(key)
            self._drop_topic(topic)
        self._topics_of.pop(run, None)
        for key in self.alerts.all_keys():
            if key.startswith(f"{run}/"):
                self.alerts.delete(key)
        for lease_id in tuple(self._by_run.get(run, {})):
            self.delete_lease(lease_id)
        for name in self._series_of.pop(run, {}):
            self.series.delete(f"{run}/{name}")
        self._unregistered.pop(run, None)
        self._leases_of.pop(run, None)
        self.configs.delete(run)
        self._delete_points(past_key(run))
        self._counts.pop(run, None)
        self.histories.delete(run)
        self.runs.delete(run)

    def take_deleted(self) -> tuple[str, ...]:
        """Keys of Runs that were deleted since the last call."""
        deleted, self._deleted = tuple(self._deleted), []
        return deleted

    def delete_lease(self, lease_id: str) -> None:
        """Deletes a lease with its cursors and counts."""
        lease = self.leases.get(lease_id)
        if lease is not None:
            self._unindex(lease)
            del self._of_pid[lease.identity.pid][lease_id]
            if not self._of_pid[lease.identity.pid]:
                del self._of_pid[lease.identity.pid]
        self._live.pop(lease_id, None)
        self.leases.delete(lease_id)
        self.reductions.delete(lease_id)
        self._delete_points(lease_id)
        for key in self._cursors_of.pop(lease_id, {}):
            self.cursors.delete(key)

    def move_leases(self, run: str, to: str, epochs: int) -> None:
        """Moves all leases to the Run of which this one is a twin; `epochs` is added to their own."""
        if to != run:
            self.move_topics(run, to)
        for lease in self.leases_of(run):
            self.put_lease(msgspec.structs.replace(lease, run=to, epoch=lease.epoch + epochs))
            points = self.points.get(lease.lease_id)
            if points is not None:
                self.put_points(lease.lease_id, msgspec.structs.replace(points, run=to))

    def leases_of_pids(self, pids: Iterable[int]) -> tuple[Lease, ...]:
        """Leases of all processes that have or had one of these pids, in any namespace, the oldest first."""
        found = (lease_id for pid in dict.fromkeys(pids) for lease_id in self._of_pid.get(pid, ()))
        return tuple(sorted((self.leases[each] for each in found), key=lambda lease: lease.opened.at))

    @property
    def live_leases(self) -> tuple[Lease, ...]:
        """Leases whose processes may still act under them."""
        return tuple(self.leases[lease_id] for lease_id in self._live)

    @property
    def anybody(self) -> bool:
        """Whether any lease is alive."""
        return bool(self._live)

    def anybody_in(self, run: str) -> bool:
        """Whether any lease of a Run is alive."""
        return len(self._left.get(run, {})) < len(self._by_run.get(run, {}))

    def leases_of(self, run: str) -> tuple[Lease, ...]:
        """All leases of a Run, in the order in which they came to it; the same tuple until one changes."""
        if run in self._by_run and run not in self._leases_of:
            self._leases_of[run] = tuple(self._by_run[run].values())
        return self._leases_of.get(run, ())

    def left(self, run: str) -> tuple[Lease, ...]:
        """Leases of a Run that have ended, from an index: few beside many that live."""
        return tuple(self._left.get(run, {}).values())

    @property
    def unfinished(self) -> tuple[Run, ...]:
        """Runs whose end is not reported, or of which a lease still has its folder."""
        keys = dict.fromkeys((*self.runs.untold, *self._there))
        return tuple(self.runs[key] for key in keys if key in self.runs)

    def leases_by(self, run: str, participant: str) -> tuple[Lease, ...]:
        """Leases of one participant of a Run."""
        return tuple(self.leases[lease_id] for lease_id in self._by_participant.get((run, participant), {}))

    def rejected(self, run: str) -> int:
        """Keys that the processes of a Run left out because their values cannot be logged."""
        return self._rejected.get(run, 0)

    def points_of(self, run: str) -> dict[str, Point]:
        """Latest value, its step and the number of points of each series, over all leases."""
        total: dict[str, Point] = {}
        for points in self._points_in(run):
            for name, point in points.series.items():
                before = total.get(name)
                newest = point if before is None or point.step >= before.step else before
                count = point.count + (before.count if before is not None else 0)
                total[name] = Point(newest.last, newest.step, count)
        return total

    def count_points(self, run: str) -> int:
        """The number of points in all series of a Run."""
        return self._counts.get(run, 0)

    def _points_in(self, run: str) -> Iterator[Points]:
        for key in (past_key(run), *self._by_run.get(run, {})):
            points = self.points.get(key)
            if points is not None:
                yield points

    def _index(self, before: Lease | None, lease: Lease) -> None:
        if before is not None and (before.run, before.participant) != (lease.run, lease.participant):
            self._unindex(before, stays=before.run == lease.run)
            before = before if before.run == lease.run else None
        self._of_pid.setdefault(lease.identity.pid, {})[lease.lease_id] = None
        if lease.alive:
            self._live[lease.lease_id] = None
        else:
            self._live.pop(lease.lease_id, None)
        if lease.run is None:
            return
        self._leases_of.pop(lease.run, None)
        self._by_run.setdefault(lease.run, {})[lease.lease_id] = lease
        self._by_participant.setdefault((lease.run, lease.participant), {})[lease.lease_id] = None
        left = self._left.setdefault(lease.run, {})
        if lease.alive:
            left.pop(lease.lease_id, None)
        else:
            left[lease.lease_id] = lease
        self._mark_there(lease.run, lease.lease_id, not lease.removed)
        more = lease.rejected - (before.rejected if before is not None else 0)
        self._rejected[lease.run] = self._rejected.get(lease.run, 0) + more

    def _mark_there(self, run: str, lease_id: str, there: bool) -> None:
        """Notes whether a lease of a Run has its folder."""
        leases = self._there.setdefault(run, {})
        _mark(leases, lease_id, there)
        if not leases:
            del self._there[run]

    def _unindex(self, lease: Lease, *, stays: bool = False) -> None:
        """Takes a lease out of the indexes; one that `stays` in its Run has another participant now."""
        if lease.run is None:
            return
        by_participant = self._by_participant[(lease.run, lease.participant)]
        del by_participant[lease.lease_id]
        if not by_participant:
            del self._by_participant[(lease.run, lease.participant)]
        if stays:
            return
        self._leases_of.pop(lease.run, None)
        del self._by_run[lease.run][lease.lease_id]
        self._left[lease.run].pop(lease.lease_id, None)
        self._mark_there(lease.run, lease.lease_id, False)
        self._rejected[lease.run] -= lease.rejected
        if not self._by_run[lease.run]:
            for index in (self._by_run, self._left, self._rejected):
                del index[lease.run]

    def _count(self, before: Points | None, points: Points) -> None:
        if before is not None:
            self._counts[before.run] -= before.count
        self._counts[points.run] = self._counts.get(points.run, 0) + points.count

    def _delete_points(self, key: str) -> None:
        points = self.points.get(key)
        if points is not None:
            self._counts[points.run] -= points.count
            self.points.delete(key)

    def _index_series(self, run: str, name: str, owner: SeriesOwner) -> None:
        self._series_of.setdefault(run, {})[name] = owner
        unregistered = self._unregistered.setdefault(run, {})
        if owner.registered or not owner.participant:
            unregistered.pop(name, None)
        else:
            unregistered[name] = owner.log_type

    def note(self, run: str, at_ms: int, event: str, detail: dict[str, str]) -> None:
        """Adds one line to a known Run's history; beyond 1,000 the middle is given up, not the start."""
        if run not in self.runs:
            return
        history = self.histories.get(run) or History()
        events = history.events
        if len(events) >= 1000:
            events = events[:500] + events[501:]
        events = (*events, RunEvent(at_ms, event, detail))
        self.histories.put(run, msgspec.structs.replace(history, events=events))
