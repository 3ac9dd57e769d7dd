"""Load of a Run's nodes, by its latest system metrics; no summary has them, because no process logs them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from pluto_dist.backend.local.reading import shown
from pluto_dist.core.rules.participants import NODE
from pluto_dist.core.values.document import Document
from pluto_dist.core.values.records import Point
from pluto_dist.read.columns import decoded
from pluto_dist.read.console import tails

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
