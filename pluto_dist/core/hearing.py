"""Before a verdict, everybody who is still there is heard (R10).

A coordinator may have been away: stopped, without room on its disk, or not yet started. Its clock then says
that a deadline has passed, and what the members did meanwhile stands unread in their lifecycle streams; so
does the claim of a rank that came last in a short job. So a verdict is made only after new leases were looked
for, the streams of the living read, and their processes looked at, once more.
"""

from __future__ import annotations

from collections.abc import Iterable

from pluto_dist.core.context import Context
from pluto_dist.core.effects import HearMembers
from pluto_dist.core.records import Lease, Run


class Hearings:
    """Runs whose members are being heard, and those whose have just been."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._asked: set[str] = set()
        self._heard: set[str] = set()

    def over(self, run: Run, members: Iterable[Lease]) -> bool:
        """Whether a verdict may be made now; if not, the members are asked."""
        if run.key in self._heard:
            return True
        if run.key not in self._asked:
            self._asked.add(run.key)
            living = tuple((member.lease_id, member.folder) for member in members if member.alive)
            self._context.emit(HearMembers(run=run.key, members=living))
        return False

    def heard(self, run: str) -> None:
        """The members were heard: what they have to say came before this."""
        self._asked.discard(run)
        self._heard.add(run)
        self._context.touch(run)

    def close(self) -> None:
        """The event is over; a later verdict needs another hearing."""
        self._heard.clear()

    def forget(self, run: str) -> None:
        """The Run is forgotten."""
        self._asked.discard(run)
