"""What the core wants kept, on its way to the database; a full disk delays it and loses nothing."""

from __future__ import annotations

from pluto_dist.core.effects import Commit, Save
from pluto_dist.node.log import say
from pluto_dist.state.database import Database, DatabaseUnusableError

AGAIN_S = 1.0


class Keeper:
    """Gathers commits; one transaction for all that came since the last.

    Args:
        database: opened by the caller.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._saves: dict[tuple[str, str], Save] = {}
        self._durable = self._awaited = False
        self._not_before = 0.0
        self._works = True

    def add(self, commit: Commit) -> None:
        """Takes what the core has changed."""
        self._saves.update({(save.table, save.key): save for save in commit.saves})
        self._durable = self._durable or commit.durable
        self._awaited = self._awaited or commit.awaited

    def keep(self, now: float) -> bool:
        """Whether effects may leave: what they rest on is kept (R1), or is a cursor, which may be lost.

        Raises:
            SupersededError: there is a newer coordinator.
        """
        if self._saves and now >= self._not_before:
            try:
                self._database.commit(self._saves.values(), durable=self._durable)
            except DatabaseUnusableError as error:
                self._not_before = now + AGAIN_S
                self._tell(error.message)
            else:
                self._saves.clear()
                self._durable = self._awaited = False
                self._tell("")
        return not (self._saves and self._awaited)

    def _tell(self, trouble: str) -> None:
        if self._works == bool(trouble):
            self._works = not trouble
            say("keeps_again" if self._works else "cannot_keep", error=trouble)
