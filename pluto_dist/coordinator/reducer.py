"""The reducer reads what the ranks of this node have logged, and writes what they say together.

Each call takes up what is new in the streams of all ranks of one Run, a piece of the rank that is furthest
behind at a time, so that a backlog does not tear them apart; lines that may go out by `rules/together` are
written into the node's stream and synced before the answer says how far it came.

What is held is in memory only. A coordinator that finds none, because it is a new one or because the disk
refused a write, reads the records again whose steps may still be corrected, and from the node's stream what
had gone out of them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from pluto_dist.core.rules.together import (
    VALUES,
    Gathering,
    Line,
    chosen_from,
    series_of,
    statistics_in,
    statistics_of,
)
from pluto_dist.core.values.effects import RankStreams, ReduceRanks
from pluto_dist.core.values.events import RanksReduced
from pluto_dist.core.values.records import Positions, Reduction
from pluto_dist.spool.batches import read_record
from pluto_dist.spool.reader import ReadLimits, list_streams, read_cut, records
from pluto_dist.spool.writer import Limits, StreamWriter

STREAM: Final = "metrics"
SEGMENT_BYTES: Final = 1 << 20
ROUND_VALUES: Final = 4 * VALUES  # in one call: the stream is delivered meanwhile, and the answer is kept
PIECE_BYTES: Final = 64 * 1024

_to_json = msgspec.json.Encoder().encode
_NOT_FINITE: Final = {
    str(value): msgspec.Raw(token)
    for value, token in ((math.nan, b"NaN"), (math.inf, b"Infinity"), (-math.inf, b"-Infinity"))
}


class _Mark(msgspec.Struct):
    """A cut of a stream, or the lines of one call, and the newest unit in it."""

    segment: int
    start: int
    newest: int


class _Open:
    """What is held of one Run's ranks, the positions of their streams, and the stream of what they say."""

    def __init__(self, effect: ReduceRanks) -> None:
        state = effect.state
        self._chosen = chosen_from(effect.chosen)
        self.gathering = Gathering(state.floors, late=state.late, chosen=self._chosen)
        self.read: Positions = {}
        self._marks: dict[tuple[str, str], deque[_Mark]] = {}
        self._out: deque[_Mark] = deque()
        self._folder = effect.folder
        self._series: dict[str, tuple[str, ...]] = {}
        self._named = 0
        make_folder(effect.folder)
        # Without a quota: what it takes frees the ranks' segments, which are larger, and these wait for it.
        self._writer = StreamWriter(effect.folder, STREAM, Limits(segment_bytes=SEGMENT_BYTES))
        for member in effect.members:
            self._read_again(member, state, effect.now)
        self._take_said(state.out)

    def take(self, members: tuple[RankStreams, ...], now: float, room: int) -> bool:
        """Takes records, of the rank that is furthest behind first; whether there are more."""
        left = {(member.lease_id, stream): member for member in members for stream in member.sizes}
        while room > 0 and left:
            key, member = min(left.items(), key=lambda item: self.gathering.reached.get(item[1].rank, -1))
            taken = self._take_piece(member, key[1], now, len(members))
            if not taken:
                del left[key]
            room -= taken
        return bool(left)

    def write(self, lines: list[Line]) -> None:
        """Writes lines into the node's stream.

        Raises:
            OSError: the disk does not take them.
        """
        if not lines:
            return
        segments = list_streams(self._folder).get(STREAM, {0: 0})
        newest = max(segments)
        for line in lines:
            if not self._writer.append(self._encoded(line)):
                raise OSError(f"what ranks say together cannot be written: {self._writer.trouble}")
        self._writer.sync()
        self._out.append(_Mark(newest, segments[newest], self.gathering.take_newest()))

    def state(self) -> Reduction:
        """How far it came."""
        oldest = self.gathering.oldest
        behind: Positions = {}
        for (lease_id, stream), marks in self._marks.items():
            while marks and marks[0].newest < oldest:
                marks.popleft()
            position = dict(self.read[lease_id][stream])
            for mark in marks:
                position[mark.segment] = min(position.get(mark.segment, mark.start), mark.start)
            behind.setdefault(lease_id, {})[stream] = position
        while self._out and self._out[0].newest < oldest:
            self._out.popleft()
        return Reduction(
            read={
                lease: {stream: dict(offsets) for stream, offsets in streams.items()}
                for lease, streams in self.read.items()
            },
            behind=behind,
            out=self._end_of_out(),
            floors=self.gathering.floors,
            late=self.gathering.late,
        )

    def close(self) -> None:
        """Writes nothing more."""
        self._writer.close()

    def _end_of_out(self) -> tuple[int, int]:
        if self._out:
            return (self._out[0].segment, self._out[0].start)
        segments = list_streams(self._folder).get(STREAM, {0: 0})
        return max(segments.items())

    def _take_piece(self, member: RankStreams, stream: str, now: float, ranks: int) -> int:
        """Takes some records of a stream; returns how many values, 0 at its end."""
        done = self.read.setdefault(member.lease_id, {}).setdefault(stream, {})
        width = max(1, len(self.gathering.names))
        limits = ReadLimits(PIECE_BYTES, max(1, VALUES // (4 * ranks * width)))
        for segment, size in sorted(member.sizes[stream].items()):
            start = done.get(segment, 0)
            if start >= size:
                continue
            room = msgspec.structs.replace(limits, bytes=min(limits.bytes, size - start))
            try:
                cut = read_cut(member.folder, stream, segment, start, room, final=not member.living)
            except FileNotFoundError:  # a person has deleted it
                done[segment] = size
                continue
            if cut.end == start:  # torn: its writer is in the middle of it
                continue
            done[segment] = cut.end
            return 1 + self._take_lines(member, stream, segment, start, cut.lines, now, again=False)
        return 0

    def _take_lines(
        self,
        member: RankStreams,
        stream: str,
        segment: int,
        start: int,
        lines: tuple[bytes, ...],
        now: float,
        *,
        again: bool,
    ) -> int:
        values = 0
        for line in lines:
            record = read_record(line)
            if record is not None:
                values += len(record.data)
                self.gathering.add(member.rank, record.step, record.time, record.data, now, again=again)
        marks = self._marks.setdefault((member.lease_id, stream), deque())
        marks.append(_Mark(segment, start, self.gathering.take_newest()))
        return values

    def _read_again(self, member: RankStreams, state: Reduction, now: float) -> None:
        for stream, offsets in state.read.get(member.lease_id, {}).items():
            self.read.setdefault(member.lease_id, {})[stream] = dict(offsets)
            behind = state.behind.get(member.lease_id, {}).get(stream, {})
            for segment, end in sorted(offsets.items()):
                for start, lines in _pieces(member.folder, stream, segment, behind.get(segment, 0), end):
                    self._take_lines(member, stream, segment, start, lines, now, again=True)

    def _take_said(self, out: tuple[int, int]) -> None:
        """Takes what had gone out; lines that are delivered and gone were of steps that are given up."""
        segments = [each for each in list_streams(self._folder).get(STREAM, {}) if each >= out[0]]
        for segment in sorted(segments):
            start = out[1] if segment == out[0] else 0
            for line in records(self._folder, STREAM, segment, start):
                said = read_record(line)
                if said is None:
                    continue
                for name in said.data:
                    found = statistics_in(name, said.data, statistics_of(name, self._chosen))
                    if found is not None:
                        self.gathering.said(name, said.step, said.time, found)
        if segments:
            first = min(segments)
            self._out.append(_Mark(first, out[1] if first == out[0] else 0, self.gathering.take_newest()))

    def _encoded(self, line: Line) -> bytes:
        names = self.gathering.names
        if self._named != len(names):  # a new name may be one that another one's statistics had
            self._named, self._series = len(names), {}
        data: dict[str, object] = {}
        for name in sorted(line.data):
            series = self._series.get(name)
            if series is None:
                series = self._series[name] = tuple(series_of(name, names, statistics_of(name, self._chosen)))
            found = line.data[name]
            finite = all(map(math.isfinite, found))
            data.update(zip(series, found if finite else map(_number, found), strict=True))
        return _to_json({"time": line.time, "step": line.step, "data": data}) + b"\n"


class RankReducer:
    """Reduces for all Runs of this node; one call for a Run at a time."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}

    def reduce(self, effect: ReduceRanks) -> RanksReduced:
        """Takes what is new, and writes what goes out; if the disk refuses something, nothing is held."""
        try:
            return self._reduce(effect)
        except OSError as error:
            self.end(effect.lease_id)
            return RanksReduced(lease_id=effect.lease_id, state=effect.state, error=str(error))

    def _reduce(self, effect: ReduceRanks) -> RanksReduced:
        found = self._open.get(effect.lease_id)
        if found is None:
            found = self._open[effect.lease_id] = _Open(effect)
        unread = found.take(effect.members, effect.now, ROUND_VALUES)
        living = {member.rank for member in effect.members if member.living}
        behind = living if unread else set[int]()
        lines = found.gathering.due(effect.now, living, behind)
        found.write(lines)
        return RanksReduced(
            lease_id=effect.lease_id,
            state=found.state(),
            lines=len(lines),
            again_at=found.gathering.deadline(),
            unread=unread,
        )

    def end(self, lease_id: str) -> None:
        """Drops what is held of a lease."""
        found = self._open.pop(lease_id, None)
        if found is not None:
            found.close()


def make_folder(folder: str) -> None:
    """Makes a lease's folder, if it is not there."""
    Path(folder).mkdir(mode=0o700, exist_ok=True)


def _pieces(
    folder: str, stream: str, segment: int, start: int, end: int
) -> Iterator[tuple[int, tuple[bytes, ...]]]:
    """Cuts of a part of a segment with their starts; none of a segment that is gone."""
    with suppress(FileNotFoundError):
        while start < end:
            cut = read_cut(folder, stream, segment, start, ReadLimits(min(PIECE_BYTES, end - start)))
            if cut.end == start:
                return
            yield start, cut.lines
            start = cut.end


def _number(value: float) -> float | msgspec.Raw:
    return value if math.isfinite(value) else _NOT_FINITE[str(value)]
