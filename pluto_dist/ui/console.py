"""Console lines for the page: the newest ones, or those that hold a text."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable

import msgspec

from pluto_dist.backend.local.reading import SaidLine, read_lines
from pluto_dist.core.rules.participants import speaker_shown
from pluto_dist.core.values.document import LeaseShown
from pluto_dist.read.console import last_lines
from pluto_dist.read.run import Run

MOST = 5000


class Lines(msgspec.Struct, frozen=True):
    """Lines, oldest first.

    Attributes:
        found: how many hold the text, None if none was asked for.
        cut: there are more before the first one.
    """

    lines: list[SaidLine]
    found: int | None
    cut: bool


def lines_of(run: Run, participants: Iterable[str], text: str, count: int) -> Lines:
    """The newest lines.

    Args:
        run: whose.
        participants: of these; none means all.
        text: only lines that hold it, in whatever case; "" for all. What is searched is read from its start.
        count: at most so many, `MOST` at the most.
    """
    wanted = set(participants)
    leases = [lease for lease in run.leases if not wanted or lease.participant in wanted]
    count = max(1, min(count, MOST))
    return _searched(run, leases, text, count) if text else _newest(run, leases, count)


def _newest(run: Run, leases: list[LeaseShown], count: int) -> Lines:
    found = [last_lines(lease, run.roots, count + 1, speaker_shown(lease, run.document)) for lease in leases]
    lines = list(heapq.merge(*found, key=lambda line: line.time))
    return Lines(lines[-count:], None, len(lines) > count)


def _searched(run: Run, leases: list[LeaseShown], text: str, count: int) -> Lines:
    wanted, sought = {lease.lease_id for lease in leases}, text.casefold()
    kept: deque[SaidLine] = deque(maxlen=count)
    found = 0
    for line in read_lines(run.document, run.roots, {}):
        if line.lease_id in wanted and sought in line.message.casefold():
            kept.append(line)
            found += 1
    return Lines(list(kept), found, found > count)
