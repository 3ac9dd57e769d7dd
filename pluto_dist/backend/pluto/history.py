"""A Run's history on the server: whether our own call has reopened it, and what is left to put back (R8).

A Run is looked up before it is created, so this is the exception: `create` met an ended Run that the look-up
had missed. The newest event is then a `resume`, and it is as young as our call. Both times are the server's.
The limit: another user's resume within the same seconds cannot be told from ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from pluto_dist.backend.pluto.client import TERMINAL, StatusEvent
from pluto_dist.core.values.backend import Status

MONITOR = "stale-monitor"  # source of the events of the server's liveness monitor
RESUME = "resume"
Todo = Literal["nothing", "status", "resume and status"]

SLACK_MS = 2_000  # the `Date` header has whole seconds, and a proxy may add its own


class Reopening(msgspec.Struct, frozen=True):
    """A change by our call: the status before, and since when the Run had it (None if not recorded)."""

    status: Status
    since_ms: int | None


def reopening(events: Sequence[StatusEvent], called_ms: int) -> Reopening | None:
    """The change that the call has made, None if it made none.

    Args:
        events: the Run's history in the order of writing.
        called_ms: the server's time at our call.
    """
    if not events:
        return None
    newest = events[-1]
    before = newest.from_status
    if before is None or before not in TERMINAL:
        return None
    if newest.source != RESUME or newest.at_ms < called_ms - SLACK_MS:
        return None
    ended = next((event for event in reversed(events[:-1]) if event.to_status == before), None)
    return Reopening(before, ended.at_ms if ended else None)


def ended_by_monitor(events: Sequence[StatusEvent]) -> bool:
    """Whether the Run's last change was the liveness monitor's.

    Args:
        events: the Run's history in the order of writing.
    """
    return bool(events) and events[-1].source == MONITOR


def left_to_do(events: Sequence[StatusEvent], was: Status) -> Todo:
    """The calls that put back the end of a Run that our request has reopened.

    The monitor marks a Run FAILED that was reopened and then left; a lower severity than FAILED is ignored
    unless the Run is RUNNING again. Any other change since was made by another user, and stays.

    Args:
        events: the Run's history in the order of writing.
        was: the status before.
    """
    reaped = ended_by_monitor(events)
    since = events[:-1] if reaped else events
    if not since or since[-1].source != RESUME or since[-1].from_status != was:
        return "nothing"
    return "resume and status" if reaped else "status"
