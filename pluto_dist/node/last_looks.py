"""Last words of a dead process: its children and its console's drain may outlive it for a moment.

The last look at a lease's streams says that nothing more will come, and what comes after it is lost with the
folder. So after a death it waits, bounded, until nobody has the lease's chains open any more. A process that
ended its lease by itself has seen to that before.
"""

from __future__ import annotations

from pluto_dist.node import spools

LAST_WORDS_S = 2.0  # a dead owner's place is kept as long, so nobody waits longer for this


class LastLooks:
    """Leases of dead processes whose last look has to wait."""

    def __init__(self) -> None:
        self._dead: dict[str, float] = {}
        self._waiting: dict[str, str] = {}

    def died(self, lease_id: str, now: float) -> None:
        """The process of this lease is dead."""
        self._dead.setdefault(lease_id, now)

    def must_wait(self, lease_id: str, folder: str, now: float) -> bool:
        """Whether it is too early for the last look; it then comes up in `due`."""
        died_at = self._dead.get(lease_id)
        if died_at is None or now >= died_at + LAST_WORDS_S or not spools.still_written(folder):
            return False
        self._waiting[lease_id] = folder
        return True

    def due(self, now: float) -> list[tuple[str, str]]:
        """Leases and folders whose time for the last look has come."""
        waiting, self._waiting = self._waiting, {}
        return [(each, folder) for each, folder in waiting.items() if not self.must_wait(each, folder, now)]

    def forget(self, lease_id: str) -> None:
        """The folder is gone."""
        self._dead.pop(lease_id, None)
        self._waiting.pop(lease_id, None)
