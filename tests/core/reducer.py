"""What `coordinator/reducer.py` does, on spools in memory; the rule is the real one.

What is held is gone with the coordinator; the next one reads again what `Reduction` tells it to.
"""

from __future__ import annotations

from collections.abc import ItemsView, Mapping

from pluto_dist.core.rules.together import Gathering, chosen_from, series_of, statistics_in, statistics_of
from pluto_dist.core.values.effects import RankStreams, ReduceRanks
from pluto_dist.core.values.events import RanksReduced
from pluto_dist.core.values.records import Positions, Reduction
from tests.core.spool import Record, Spool

Place = tuple[str, str, int, int]  # lease, stream, segment, offset


class MemoryReducer:
    """What is held for one lease of the node."""

    def __init__(self, spools: dict[str, Spool], effect: ReduceRanks) -> None:
        self._spools = spools
        self._chosen = chosen_from(effect.chosen)
        self._gathering = Gathering(effect.state.floors, late=effect.state.late, chosen=self._chosen)
        self._marks: list[tuple[Place, int]] = []
        self._out: list[tuple[int, int, int]] = []
        self._read: Positions = {}
        self._own = spools.setdefault(effect.lease_id, Spool(effect.lease_id, effect.folder, "ranks"))
        for member in effect.members:
            for stream, ends in effect.state.read.get(member.lease_id, {}).items():
                behind = effect.state.behind.get(member.lease_id, {}).get(stream, {})
                for number, end in ends.items():
                    self._take(member, stream, number, behind.get(number, 0), end, effect.now, again=True)
        for number, segment in self._own.streams.get("metrics", {}).items():
            for record in segment.records:
                if (number, record.start) >= effect.state.out:
                    self._said(number, record)

    def reduce(self, effect: ReduceRanks) -> RanksReduced:
        """As `RankReducer.reduce`."""
        for member in effect.members:
            for stream, sizes in member.sizes.items():
                for number, end in sizes.items():
                    start = self._read.get(member.lease_id, {}).get(stream, {}).get(number, 0)
                    self._take(member, stream, number, start, end, effect.now, again=False)
        living = {member.rank for member in effect.members if member.living}
        lines = self._gathering.due(effect.now, living, set())
        for line in lines:
            data: dict[str, float] = {}
            for name, found in line.data.items():
                data |= {final: found[index] for final, index in self._series(name)}
            self._own.log(data, line.step)
            newest = max(self._own.streams["metrics"])
            start = self._own.streams["metrics"][newest].records[-1].start
            self._out.append((newest, start, self._gathering.take_newest()))
        return RanksReduced(
            lease_id=effect.lease_id,
            state=self._state(),
            lines=len(lines),
            again_at=self._gathering.deadline(),
        )

    def _take(
        self, member: RankStreams, stream: str, number: int, start: int, end: int, now: float, *, again: bool
    ) -> None:
        spool = self._spools.get(member.lease_id)
        segment = spool.streams.get(stream, {}).get(number) if spool is not None else None
        for record in segment.records if segment is not None else ():
            if start <= record.start and record.end <= end:
                self._gathering.add(member.rank, record.step, 0, _readable(record), now, again=again)
                place = (member.lease_id, stream, number, record.start)
                self._marks.append((place, self._gathering.take_newest()))
        done = self._read.setdefault(member.lease_id, {}).setdefault(stream, {})
        torn = segment is not None and member.living and segment.torn
        done[number] = max(done.get(number, 0), segment.whole if torn and segment is not None else end)

    def _said(self, number: int, record: Record) -> None:
        for name in record.values:
            found = statistics_in(name, record.values, statistics_of(name, self._chosen))
            if found is not None:
                self._gathering.said(name, record.step, 0, found)
        self._out.append((number, record.start, self._gathering.take_newest()))

    def _series(self, name: str) -> ItemsView[str, int]:
        return series_of(name, self._gathering.names, statistics_of(name, self._chosen)).items()

    def _state(self) -> Reduction:
        oldest = self._gathering.oldest
        self._marks = [mark for mark in self._marks if mark[1] >= oldest]
        self._out = [mark for mark in self._out if mark[2] >= oldest]
        behind = {
            lease: {stream: dict(ends) for stream, ends in streams.items()}
            for lease, streams in self._read.items()
        }
        for (lease, stream, number, start), _ in self._marks:
            behind[lease][stream][number] = min(behind[lease][stream][number], start)
        segments = self._own.streams.get("metrics", {})
        end = max(((number, segment.size) for number, segment in segments.items()), default=(0, 0))
        return Reduction(
            read={
                lease: {stream: dict(ends) for stream, ends in streams.items()}
                for lease, streams in self._read.items()
            },
            behind=behind,
            out=min(((number, start) for number, start, _ in self._out), default=end),
            floors=self._gathering.floors,
            late=self._gathering.late,
        )


def _readable(record: Record) -> Mapping[str, float]:
    return {} if record.damaged else record.values
