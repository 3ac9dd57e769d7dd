"""What ranks say together: what they have logged, and what the target of their Run was told of it (R7)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import msgspec

from pluto_dist.core.rules.participants import is_reduced
from pluto_dist.core.rules.together import STATISTICS, statistics
from pluto_dist.core.values.book import Book
from pluto_dist.core.values.records import Lease
from pluto_dist.spool.frames import scan

if TYPE_CHECKING:
    from tests.simulation.processes import Process
    from tests.simulation.world import World

Key = tuple[str, int]
Told = tuple[int, tuple[float, ...]]
COUNT = "/count"


@dataclass(frozen=True)
class Logged:
    """One accepted value of a rank; `start` tells starts of its job apart, the later one is larger."""

    value: int
    lease_id: str
    rank: int
    start: tuple[int, int]
    at: float


class ReducedChecks:
    """The values that ranks have logged, by name and step, and what their Runs show of them.

    Attributes:
        names: final names that reduced series have, with the Run's number.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.names: set[str] = set()
        self._logged: dict[Key, list[Logged]] = defaultdict(list)
        self._keys: dict[int, Key] = {}
        self._shown: dict[tuple[int, str, int], Told] = {}

    def logged(self, process: Process, name: str, step: int, value: int) -> None:
        """A rank whose series are reduced has logged a value, and it is in the kernel."""
        assert process.lease is not None
        same = (each for each in self.world.processes if each.identity.same_process(process.identity))
        start = (max(each.start for each in same), process.job.attempt)  # an `exec` is no start
        found = Logged(value, process.lease.lease_id, process.actor.rank or 0, start, self.world.now)
        self._logged[name, step].append(found)
        self._keys[value] = name, step

    def told(self, run_id: int, line: bytes) -> bool:
        """Takes a line that may be of a reduced series; whether it is one."""
        found = statistics_in_line(line)
        for name, step, time_ms, final, told in found:
            known = self._shown.get((run_id, name, step))
            self.names.add(f"{run_id}/{final}")
            if known is not None and known[0] == time_ms:
                same = _alike(known[1], told)
                self.world.checks.expect(same, f"R7: {name} at {step} is {told} and {known[1]} at one time")
            if known is None or known[0] < time_ms:
                self._shown[run_id, name, step] = time_ms, told
        return bool(found)

    def reduces(self, book: Book, value: int) -> bool:
        """Whether a value became part of what ranks say together, by the role of its process."""
        lease = self._lease(book, value)
        return lease is not None and lease.rank_metrics == "reduce"

    def arrived(self, book: Book, value: int, *, or_spooled: bool = False) -> bool:
        """Whether what is shown has this value in it, or values of a later start instead.

        Args:
            or_spooled: what stands in the node's own stream is enough: it outlives those of the ranks.
        """
        name, step = self._keys[value]
        shown = self._at(book, value)
        if or_spooled:
            shown = max(self._spooled(book, value), default=(0, shown))[1]
        if shown is None:
            return False
        mine = next(each for each in self._logged[name, step] if each.value == value)
        return any(
            _alike(statistics({rank: each.value for rank, each in chosen.items()}), shown)
            for chosen in self._choices(book, value)
            if mine in chosen.values() or _replaced(mine, chosen)
        )

    def at_the_end(self, book: Book, fenced_at: Mapping[str, float], refused: set[int]) -> None:
        """Every step is reduced from all that the latest start has logged there; late values are apart."""
        for name, step in tuple(self._logged):
            by_run: dict[str, list[Logged]] = defaultdict(list)
            for each in self._logged[name, step]:
                lease = self._lease(book, each.value)
                if lease is not None and self.reduces(book, each.value) and each.value not in refused:
                    by_run[lease.run or ""].append(each)
            for run, logged in by_run.items():
                self._one_step(book, run, (name, step), logged, fenced_at)

    def _one_step(
        self, book: Book, run: str, key: Key, logged: list[Logged], fenced_at: Mapping[str, float]
    ) -> None:
        early = [each for each in logged if each.at <= fenced_at.get(each.lease_id, math.inf)]
        if not early:
            return
        newest = max(each.start for each in early)
        expected = {each.rank: float(each.value) for each in early if each.start == newest}
        found = book.runs.get(run)
        shown = self._shown.get((found.id or 0, *key)) if found is not None else None
        right = shown is not None and _alike(shown[1], statistics(expected))
        self.world.checks.expect(
            right,
            f"R7, G3: {key[0]} at {key[1]} is shown as {shown}, ranks have logged {expected} of {logged}",
        )

    def _choices(self, book: Book, value: int) -> Iterator[dict[int, Logged]]:
        """All sets of values that may have been reduced together: at most one of each rank."""
        run = self._lease(book, value)
        by_rank: dict[int, list[Logged | None]] = defaultdict(lambda: [None])
        for each in self._logged[self._keys[value]]:
            lease = self._lease(book, each.value)
            if lease is not None and run is not None and lease.run == run.run:
                by_rank[each.rank].append(each)
        for chosen in product(*by_rank.values()):
            found = {each.rank: each for each in chosen if each is not None}
            if found:
                yield found

    def _spooled(self, book: Book, value: int) -> Iterator[Told]:
        mine = self._lease(book, value)
        name, step = self._keys[value]
        for path, file in self.world.disk.files.items():
            lease = book.leases.get(path.split("/")[-2])
            if lease is not None and mine is not None and lease.run == mine.run and is_reduced(lease):
                for line in scan(bytes(file.data), final=True).lines:
                    for said, at, time_ms, _, told in statistics_in_line(line):
                        if (said, at) == (name, step):
                            yield time_ms, told

    def _at(self, book: Book, value: int) -> tuple[float, ...] | None:
        lease = self._lease(book, value)
        run = book.runs.get(lease.run or "") if lease is not None else None
        shown = self._shown.get((run.id or 0, *self._keys[value])) if run is not None else None
        return shown[1] if shown is not None else None

    def _lease(self, book: Book, value: int) -> Lease | None:
        key = self._keys.get(value)
        if key is None:
            return None
        logged = next(each for each in self._logged[key] if each.value == value)
        return book.leases.get(logged.lease_id)


def _replaced(mine: Logged, chosen: Mapping[int, Logged]) -> bool:
    """Whether others count instead: those of a later start, or what the same rank has logged there later."""
    same = chosen.get(mine.rank)
    anew = all(each.start > mine.start for each in chosen.values())
    return anew or (same is not None and same.start == mine.start and same.at > mine.at)


def statistics_in_line(line: bytes) -> list[tuple[str, int, int, str, tuple[float, ...]]]:
    """Name, step, time, final name and statistics of what a line says of all ranks; [] for any other line."""
    record = msgspec.json.decode(line)
    data = record.get("data")
    if not isinstance(data, dict):
        return []
    found = []
    for key in data:
        if key.endswith(COUNT):
            name = key.removesuffix(COUNT)
            final = f"{name}/reduced" if f"{name}/reduced" in data else name
            values = [data[final], *(data[f"{name}/{each}"] for each in STATISTICS[1:])]
            found.append((name, record["step"], record["time"], final, tuple(map(float, values))))
    return found


def _alike(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(math.isclose(left, right, rel_tol=1e-12) for left, right in zip(one, other, strict=True))
