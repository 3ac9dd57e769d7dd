"""Processes of a Run as rows of a table: those that are alike share one, the worst come first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from pluto_dist.core.values.document import LeaseShown

ALIKE = 3  # so many make a group


class Row(msgspec.Struct, frozen=True):
    """One process, or several whose role, host, epoch, attempt and state are the same."""

    leases: tuple[LeaseShown, ...]

    @property
    def who(self) -> str:
        """Its label, or the ranks of a group."""
        if len(self.leases) == 1:
            return self.leases[0].label
        ranks = [lease.rank for lease in self.leases]
        if None in ranks:
            return f"{self.leases[0].label}, … ({len(self.leases)})"
        return f"ranks {spans(rank for rank in ranks if rank is not None)}"

    @property
    def state(self) -> str:
        """How it is, or how it ended."""
        return state_of(self.leases[0])

    @property
    def steps(self) -> str:
        """The last step, or the slowest and the fastest of a group."""
        steps = [lease.last_step for lease in self.leases if lease.last_step is not None]
        if not steps:
            return ""
        return str(steps[0]) if min(steps) == max(steps) else f"{min(steps)}–{max(steps)}"

    @property
    def written(self) -> int:
        """Records of all."""
        return sum(lease.written for lease in self.leases)

    @property
    def delivered(self) -> int:
        """Records of all that the backend has accepted."""
        return sum(lease.delivered for lease in self.leases)

    def oldest(self, instant: Literal["granted_at", "last_seen_at"]) -> int | None:
        """The earliest of the group, in epoch milliseconds."""
        return min((at for lease in self.leases if (at := getattr(lease, instant)) is not None), default=None)


def rows_of(leases: Iterable[LeaseShown], failed: str, *, whole: bool) -> list[Row]:
    """Rows in the order of the table.

    Args:
        leases: of the Run.
        failed: id of the lease that failed first, which has a row of its own at the top; "" if none did.
        whole: each process has a row, in the order in which they were granted.
    """
    if whole:
        return [Row((lease,)) for lease in leases]
    groups: dict[tuple[object, ...], list[LeaseShown]] = {}
    for lease in leases:
        alone = lease.lease_id if lease.lease_id == failed or lease.role == "owner" else ""
        key = (alone, lease.role, lease.host, lease.epoch, lease.attempt, state_of(lease))
        groups.setdefault(key, []).append(lease)
    rows = [row for group in groups.values() for row in _rows(group)]
    return sorted(rows, key=lambda row: _badness(row, failed))


def state_of(lease: LeaseShown) -> str:
    """`active`, or why it ended."""
    return lease.end_reason or lease.state


def spans(numbers: Iterable[int]) -> str:
    """`1-7, 9`."""
    found: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def _rows(group: Sequence[LeaseShown]) -> list[Row]:
    return [Row(tuple(group))] if len(group) >= ALIKE else [Row((lease,)) for lease in group]


def _badness(row: Row, failed: str) -> tuple[bool, bool, bool]:
    first = row.leases[0]
    return (first.lease_id != failed, first.end_reason not in ("died", "gave_up"), first.role != "owner")
