"""What processes and nodes use: steps per second, CPU and memory of processes; load of a Run's nodes.

Processes are measured here, from several looks at them. Nodes are known by their latest system metrics; no
summary has them, because no process logs them.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pluto_dist.backend.local.reading import shown
from pluto_dist.core.rules.participants import NODE
from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.records import Point
from pluto_dist.host.identity import identity_of
from pluto_dist.read.columns import decoded
from pluto_dist.read.processes import OPEN, Usage
from pluto_dist.read.settle import claim_of
from pluto_dist.read.streams import tails

if TYPE_CHECKING:
    import psutil  # type: ignore[import-untyped, unused-ignore]

KEPT_S = 60.0
PAUSE = 3.0  # so much longer than its longest pause, and a process has stopped
REST_S = 5.0  # a shorter silence is none

Move = tuple[float, int]


class Pace:
    """Steps per second of each lease. A look is given with its time; nothing here has a clock.

    A rank that logs every hundredth step moves in jumps: its rate is taken between jumps, so that it does not
    flicker, and falls only once the next jump is late.
    """

    def __init__(self) -> None:
        self._moves: dict[str, deque[Move]] = {}

    def see(self, lease_id: str, step: int | None, at: float) -> None:
        """Notes the step of a lease at an instant, in seconds of any clock that does not go back."""
        if step is None:
            return
        moves = self._moves.setdefault(lease_id, deque())
        if moves and moves[-1][1] == step:
            return
        moves.append((at, step))
        while len(moves) > 2 and moves[1][0] <= at - KEPT_S:
            moves.popleft()

    def rate(self, lease_id: str, now: float) -> float | None:
        """Steps per second; None while fewer than two steps were seen."""
        moves = self._moves.get(lease_id)
        if moves is None or len(moves) < 2:
            return None
        (first_at, first), (last_at, last) = moves[0], moves[-1]
        pauses = [after[0] - before[0] for before, after in pairwise(moves)]
        silent = now - last_at
        if silent > max(REST_S, PAUSE * max(pauses)):
            return 0.0
        late = silent > 1.5 * sum(pauses) / len(pauses)
        took = (now if late else last_at) - first_at
        return max(0.0, (last - first) / took) if took > 0 else None

    def keep(self, lease_ids: set[str]) -> None:
        """Forgets all other leases."""
        for lease_id in self._moves.keys() - lease_ids:
            del self._moves[lease_id]


class UsageMeter:
    """CPU and memory, as the kernel counts them without children; a first look has no percentage.

    Args:
        spool: folder of this node's leases, which say who they are; None measures nothing.
    """

    def __init__(self, spool: Path | None) -> None:
        self._spool = spool
        self._processes: dict[str, psutil.Process | None] = {}  # None: it cannot be seen from here

    def look(self, leases: Iterable[LeaseShown]) -> dict[str, Usage]:
        """What the processes of open leases use; those that cannot be seen from here are missing."""
        open_ones = [lease.lease_id for lease in leases if lease.state in OPEN]
        for gone in self._processes.keys() - set(open_ones):
            del self._processes[gone]
        found = {lease_id: self._usage(lease_id) for lease_id in open_ones}
        return {lease_id: usage for lease_id, usage in found.items() if usage is not None}

    def _usage(self, lease_id: str) -> Usage | None:
        import psutil

        first = lease_id not in self._processes
        if first:
            self._processes[lease_id] = _process(self._spool / lease_id) if self._spool is not None else None
        process = self._processes[lease_id]
        if process is None:
            return None
        try:
            with process.oneshot():
                cpu, memory = process.cpu_percent(), process.memory_info().rss
        except psutil.Error:  # ended in this instant, or hidden
            return None
        return Usage(None if first else cpu, memory)


def _process(folder: Path) -> psutil.Process | None:
    """The process of a lease, if it is the one that has its pid here; a number may be given to another."""
    import psutil

    try:
        claim = claim_of(str(folder))
        seen = identity_of(claim.identity.pid) if claim is not None else None
        if claim is None or seen is None or not claim.identity.same_process(seen):
            return None
        return psutil.Process(seen.pid)
    except (psutil.Error, OSError):
        return None


# Nodes: the load by a Run's latest system metrics.
_CORE = re.compile(r"cpu\.(?:percentage|pct)\.\d+", re.ASCII)
_CARD = re.compile(r"gpu\.(?P<index>\d+)\.(?P<model>.*)\.(?P<what>utilization|memory\.used)", re.ASCII)
_MEMORY = ("memory.percentage", "mem.percentage")


class Card(msgspec.Struct, frozen=True):
    """One GPU: percent of time in which it was busy, bytes in use; None where it was not measured."""

    index: int
    model: str
    busy: float | None
    memory: float | None


class MachineUse(msgspec.Struct, frozen=True):
    """One node: mean percent of its cores, percent of its memory that is not available, its GPUs.

    Attributes:
        host: as it is called in the names of its series, "" for the only one.
    """

    host: str
    cpu: float | None
    memory: float | None
    cards: tuple[Card, ...] = ()

    @property
    def busy(self) -> float | None:
        """Mean percent of its GPUs, None without any."""
        return _mean([card.busy for card in self.cards if card.busy is not None])


def machines_of(summary: Mapping[str, Point]) -> list[MachineUse]:
    """The nodes whose system metrics a Run has, by name."""
    hosts: dict[str, dict[str, float]] = {}
    for name, point in summary.items():
        if name.startswith("sys/") and not isinstance(point.last, str):
            host, _, metric = name.removeprefix("sys/").rpartition("/")
            hosts.setdefault(host, {})[metric] = point.last
    found = [_machine(host, values) for host, values in sorted(hosts.items())]
    return [each for each in found if each.cpu is not None or each.memory is not None or each.cards]


def _machine(host: str, values: Mapping[str, float]) -> MachineUse:
    cores = [value for name, value in values.items() if _CORE.fullmatch(name)]
    memory = next((values[name] for name in _MEMORY if name in values), None)
    return MachineUse(host, _mean(cores), memory, _cards(values))


def _cards(values: Mapping[str, float]) -> tuple[Card, ...]:
    found: dict[tuple[int, str], dict[str, float]] = {}
    for name, value in values.items():
        match = _CARD.fullmatch(name)
        if match is not None and not match["model"].endswith(".memory"):
            found.setdefault((int(match["index"]), match["model"]), {})[match["what"]] = value
    return tuple(
        Card(index, model, known.get("utilization"), known.get("memory.used"))
        for (index, model), known in sorted(found.items())
    )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


TAIL_BYTES = 64 << 10  # a sample of 256 cores has 10 KB


def last_samples(document: Document, roots: Sequence[Path]) -> dict[str, Point]:
    """Last value of each system metric by its name; the count is 1 and means nothing.

    Args:
        document: of the Run.
        roots: folders that hold one folder per lease.
    """
    found: dict[str, Point] = {}
    for lease in document.leases:
        if lease.participant == NODE:
            folders = [str(root / lease.lease_id) for root in roots]
            for lines in tails(folders, "metrics", TAIL_BYTES):
                records = decoded(lines)
                if records:
                    last = records[-1]
                    found |= {name: Point(shown(value), last.step, 1) for name, value in last.data.items()}
                    break
    return found
