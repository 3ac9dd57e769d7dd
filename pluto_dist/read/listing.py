"""Lists of Runs: filtered, sorted, in pages."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import get_args

import msgspec

from pluto_dist.core.values.backend import Status
from pluto_dist.errors import UsageError
from pluto_dist.read.lookup import Head, Known, Lookup
from pluto_dist.read.settle import Situation, Standing, situation

_AGO = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhdw])")
_STATUSES = tuple(dict.fromkeys((*get_args(Status), *map(str.upper, get_args(Standing)))))
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Listed(msgspec.Struct, frozen=True):
    """A Run of a list, and whether its processes live."""

    known: Known
    situation: Situation


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A filter of Runs.

    Attributes:
        project: its name, None for all.
        status: statuses or standings in capitals, any of which will do; empty for all. RUNNING is a Run of
            which a process lives, or that its processes have left on purpose.
        tags: all of them.
        since_ms: made at this instant or later, in epoch milliseconds; None for all.
    """

    project: str | None = None
    status: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    since_ms: int | None = None


def listed(lookup: Lookup) -> list[Listed]:
    """All Runs in reach, oldest first."""
    spool = lookup.spool
    return [Listed(known, situation(known.head, live=known.live, spool=spool)) for known in lookup.runs()]


def chosen(
    found: Iterable[Listed], wanted: Wanted, *, by: str = "created", reverse: bool = False
) -> list[Listed]:
    """The wanted Runs, in order.

    Args:
        found: Runs.
        wanted: filter.
        by: `created`, `ended`, `name`, `project`, `status`, `points` or `duration`.
        reverse: the largest first.
    """
    now_ms = time.time_ns() // 1_000_000
    kept = [each for each in found if _is_wanted(each, wanted)]
    return sorted(kept, key=lambda each: _sorted_by(each, by, now_ms), reverse=reverse)


def page_of(found: Sequence[Listed], page: int, limit: int | None) -> list[Listed]:
    """One page, counted from the end of the list: the newest Runs are at the bottom of a terminal."""
    if limit is None:
        return list(found)
    end = len(found) - (page - 1) * limit
    return list(found[max(0, end - limit) : max(0, end)])


def statuses(given: Iterable[str]) -> tuple[str, ...]:
    """Statuses and standings as `Wanted` has them, in capitals.

    Raises:
        UsageError: there is no such one.
    """
    found = tuple(each.upper() for each in given)
    unknown = next((each for each in found if each not in _STATUSES), None)
    if unknown is not None:
        raise UsageError(f"status {unknown!r} is none; there are {', '.join(_STATUSES)}")
    return found


def since_ms(text: str, now_s: float | None = None) -> int:
    """Epoch milliseconds of an age (`30m`, `12h`, `7d`) or of a local date or time in ISO form.

    Raises:
        UsageError: it is neither.
    """
    now = time.time() if now_s is None else now_s
    ago = _AGO.fullmatch(text.strip())
    if ago is not None:
        return round((now - float(ago[1]) * _SECONDS[ago[2]]) * 1000)
    try:
        return round(datetime.fromisoformat(text.strip()).timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"since {text!r} is no age and no date; write 30m, 12h, 7d, 2026-11-30 or 2026-11-30T08:15"
        ) from error


def _is_wanted(each: Listed, wanted: Wanted) -> bool:
    head = each.known.head
    statuses = {each.situation.status, each.situation.standing.upper()}
    return (
        wanted.project in (None, head.project)
        and (not wanted.status or bool(statuses & set(wanted.status)))
        and set(wanted.tags) <= set(head.tags)
        and (wanted.since_ms is None or head.created_at >= wanted.since_ms)
    )


def _sorted_by(each: Listed, by: str, now_ms: int) -> tuple[float, str, int]:
    head = each.known.head
    texts = {"name": head.name, "project": head.project, "status": each.situation.status}
    return (_number(head, by, now_ms), texts.get(by, ""), head.created_at)


def _number(head: Head, by: str, now_ms: int) -> float:
    ended = head.ended_at if head.ended_at is not None else now_ms
    numbers = {"points": head.points, "ended": ended, "duration": ended - head.created_at}
    return numbers.get(by, 0)
