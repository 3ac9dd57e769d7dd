"""A lease's spool in memory: lifecycle entries, and record streams that have sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

from pluto_dist.core.values.effects import Ship
from pluto_dist.core.values.lifecycle import LifecycleEntry, Unreadable

FRAME = 10  # bytes of every record; what is on the disk of a torn one is less


@dataclass(frozen=True)
class Record:
    """One record in a segment.

    Attributes:
        writer: for the tests.
        poison: it is refused by the server.
        damaged: it cannot be read.
    """

    values: dict[str, float]
    step: int
    end: int
    writer: str
    poison: bool = False
    damaged: bool = False

    @property
    def start(self) -> int:
        return self.end - FRAME


@dataclass
class Segment:
    """Records, and perhaps the beginning of one."""

    records: list[Record] = field(default_factory=list)
    torn: int = 0

    @property
    def whole(self) -> int:
        return FRAME * len(self.records)

    @property
    def size(self) -> int:
        return self.whole + self.torn


@dataclass
class Cut:
    """What a batch holds; without progress the tail is torn."""

    records: tuple[Record, ...]
    end: int
    damaged: int = 0


@dataclass
class Spool:
    """The folder of one lease."""

    lease_id: str
    folder: str
    writer: str
    entries: list[LifecycleEntry | Unreadable] = field(default_factory=list)
    streams: dict[str, dict[int, Segment]] = field(default_factory=dict)

    def newest(self, stream: str) -> Segment:
        """The segment that is written to."""
        segments = self.streams.setdefault(stream, {1: Segment()})
        return segments[max(segments)]

    def log(
        self, values: dict[str, float], step: int, stream: str = "metrics", *, poison: bool = False
    ) -> None:
        """Appends a record; never behind a write that got stuck, as the real writer does it."""
        segment = self.newest(stream)
        if segment.torn:
            self.rotate(stream)
            segment = self.newest(stream)
        segment.records.append(Record(values, step, segment.whole + FRAME, self.writer, poison))

    def damage(self, stream: str = "metrics") -> None:
        """A record of which the disk has kept nonsense."""
        segment = self.newest(stream)
        segment.torn = 0
        segment.records.append(Record({}, -1, segment.whole + FRAME, self.writer, damaged=True))

    def tear(self, stream: str = "metrics") -> None:
        """A write got stuck in its middle."""
        self.newest(stream).torn = FRAME // 2

    def finish_torn(self, values: dict[str, float], step: int, stream: str = "metrics") -> None:
        """A write into the oldest segment ends, after newer ones were begun."""
        segment = self.streams[stream][min(self.streams[stream])]
        segment.torn = 0
        segment.records.append(Record(values, step, segment.whole + FRAME, self.writer))

    def rotate(self, stream: str = "metrics") -> None:
        """Begins a new segment."""
        self.newest(stream)
        segments = self.streams[stream]
        segments[max(segments) + 1] = Segment()

    def sizes(self) -> dict[str, dict[int, int]]:
        """Stream -> segment -> bytes."""
        return {
            stream: {number: segment.size for number, segment in segments.items()}
            for stream, segments in self.streams.items()
        }

    def remove(self, stream: str, number: int, size: int) -> None:
        """Deletes a segment, unless it has grown."""
        segments = self.streams[stream]
        if number in segments and segments[number].size == size:
            del segments[number]

    def cut(self, effect: Ship) -> Cut:
        """What the worker reads for a batch."""
        segment = self.streams.get(effect.stream, {}).get(effect.segment, Segment())
        records = [record for record in segment.records if record.start >= effect.start]
        records = [record for record in records if record.end <= effect.stop]
        records = records[: effect.limit_lines]
        end = records[-1].end if records else effect.start
        if effect.final and end == segment.whole:
            end = segment.size
        readable = tuple(record for record in records if not record.damaged)
        return Cut(readable, end, len(records) - len(readable))
