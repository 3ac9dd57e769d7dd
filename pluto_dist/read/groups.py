"""Processes as rows of a table: those that are alike share one, and the worst come first. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from pluto_dist.read.processes import WORST_FIRST, Process, Usage

ALIKE = 3  # so many make a group

Key = Literal["worst", "rank", "step", "rate", "lag", "word", "backlog", "cpu", "memory"]


class Group(msgspec.Struct, frozen=True):
    """One process, or several that are alike: same role, host, epoch, attempt and state."""

    processes: tuple[Process, ...]

    @property
    def first(self) -> Process:
        """Stands for all in what they share."""
        return self.processes[0]

    @property
    def who(self) -> str:
        """Its label, or the ranks of a group."""
        if len(self.processes) == 1:
            return self.first.lease.label
        ranks = [process.lease.rank for process in self.processes]
        if None in ranks:
            return f"{self.first.lease.label}, … ({len(self.processes)})"
        return f"ranks {spans(rank for rank in ranks if rank is not None)}"

    @property
    def steps(self) -> str:
        """The last step, or the slowest and the fastest of a group."""
        steps = [step for process in self.processes if (step := process.lease.last_step) is not None]
        if not steps:
            return ""
        return str(steps[0]) if min(steps) == max(steps) else f"{min(steps)}–{max(steps)}"

    @property
    def lag(self) -> int | None:
        """Of the last one."""
        return max((process.lag for process in self.processes if process.lag is not None), default=None)

    @property
    def rate(self) -> float | None:
        """Of the slowest."""
        return min((process.rate for process in self.processes if process.rate is not None), default=None)

    @property
    def word_s(self) -> float | None:
        """The longest silence."""
        return max((process.word_s for process in self.processes if process.word_s is not None), default=None)

    @property
    def written(self) -> int:
        """Records of all."""
        return sum(process.lease.written for process in self.processes)

    @property
    def delivered(self) -> int:
        """Records of all that the backend has accepted."""
        return sum(process.lease.delivered for process in self.processes)

    @property
    def backlog(self) -> int:
        """Records of all that the backend has not accepted."""
        return sum(process.backlog for process in self.processes)

    @property
    def cpu(self) -> float | None:
        """Percent of one core, all together."""
        known = [use.cpu for use in self._usages if use.cpu is not None]
        return sum(known) if known else None

    @property
    def memory(self) -> int | None:
        """Bytes resident, all together; what they share is counted in each."""
        return sum(use.memory for use in self._usages) if self._usages else None

    def oldest(self, instant: Literal["granted_at", "last_seen_at"]) -> int | None:
        """The earliest of the group, in epoch milliseconds."""
        leases = (process.lease for process in self.processes)
        return min((at for lease in leases if (at := getattr(lease, instant)) is not None), default=None)

    @property
    def _usages(self) -> list[Usage]:
        return [process.usage for process in self.processes if process.usage is not None]


def groups_of(
    processes: Iterable[Process], *, whole: bool = False, by: Key = "worst", reverse: bool = False
) -> list[Group]:
    """Processes as rows of a table; those that are alike share one.

    Args:
        processes: of one Run.
        whole: each has a row of its own.
        by: what the rows are sorted by; for `worst` the bad ones, then the owner, then by lag; for numbers
            the largest first, for `rate` the slowest.
        reverse: the other way round.
    """
    rows: dict[tuple[object, ...], list[Process]] = {}
    for process in processes:
        lease = process.lease
        alone = lease.lease_id if whole or process.health == "failed first" or lease.role == "owner" else ""
        key = (alone, lease.role, lease.host, lease.epoch, lease.attempt, process.state)
        rows.setdefault(key, []).append(process)
    groups = [group for row in rows.values() for group in _groups(row)]
    return sorted(groups, key=lambda group: _order(group, by), reverse=reverse)


def spans(numbers: Iterable[int]) -> str:
    """`1-7, 9`."""
    found: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def ranks_among(participants: Iterable[str]) -> list[int]:
    """The ranks among participants, where they are enough to be shown as one; else none."""
    ranks = [int(who[4:]) for who in participants if who.startswith("rank") and who[4:].isdecimal()]
    return sorted(ranks) if len(ranks) >= ALIKE else []


def shared_names(series: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """A line for each other participant, or all other ranks, that log a name.

    Args:
        series: name -> participant -> its final name.
    """
    for name, others in sorted(series.items()):
        ranks = ranks_among(others)
        if ranks:
            yield f"series {name}: ranks {spans(ranks)} log it too, as {name}/rank<n>"
        for participant in sorted(others.keys() - {f"rank{rank}" for rank in ranks}):
            yield f"series {name}: {participant} logs it too, as {others[participant]}"


def _groups(row: Sequence[Process]) -> list[Group]:
    return [Group(tuple(row))] if len(row) >= ALIKE else [Group((process,)) for process in row]


def _order(group: Group, by: Key) -> tuple[float, ...]:
    """For sorting: worst, or largest, first; what is not known comes last."""
    lease = group.first.lease
    rank = lease.rank if lease.rank is not None else float("inf")
    worst = (WORST_FIRST[group.first.health], -lease.attempt, lease.role != "owner", -(group.lag or 0), rank)
    if by == "worst":
        return worst
    steps = [process.lease.last_step for process in group.processes if process.lease.last_step is not None]
    numbers: dict[str, float | None] = {
        "rank": -rank,
        "step": max(steps, default=None),
        "rate": -group.rate if group.rate is not None else None,
        "lag": group.lag,
        "word": group.word_s,
        "backlog": group.backlog,
        "cpu": group.cpu,
        "memory": group.memory,
    }
    number = numbers[by]
    return (float("inf") if number is None else -number, *worst)
