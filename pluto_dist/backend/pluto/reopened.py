"""Whether our own call has reopened a Run that was ended, and what it was before (R8).

The server has no way to ask for an external id without attaching, and an attach reopens. The history tells
afterwards: the newest event is a `resume`, and it is as young as our call. Both times are the server's. The
limit: a resume by somebody else within the same seconds cannot be told from ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pluto_dist.backend.pluto.replies import TERMINAL, StatusEvent
from pluto_dist.core.requests import Status

MONITOR = "stale-monitor"  # source of the events of the server's liveness monitor
SLACK_MS = 2_000  # the `Date` header has whole seconds, and a proxy may add its own


class Reopening(msgspec.Struct, frozen=True):
    """What our call changed: the status before, and since when the Run had it (None if not recorded)."""

    status: Status
    since_ms: int | None


def reopening(events: Sequence[StatusEvent], called_ms: int) -> Reopening | None:
    """What the call changed, None if it changed nothing.

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
    if newest.source != "resume" or newest.at_ms < called_ms - SLACK_MS:
        return None
    ended = next((event for event in reversed(events[:-1]) if event.to_status == before), None)
    return Reopening(before, ended.at_ms if ended else None)


def ended_by_monitor(events: Sequence[StatusEvent]) -> bool:
    """Whether the Run's last change was the liveness monitor's.

    Args:
        events: the Run's history in the order of writing.
    """
    return bool(events) and events[-1].source == MONITOR
