"""Alerts on their way to the server: each is sent at most once, because the server mails it to people.

An alert leaves the book in the transaction in front of its request. So a coordinator that dies between the
two has sent nothing, and one that dies behind them sends nothing again. It comes back only where the server
has certainly not seen it.
"""

from __future__ import annotations

from pluto_dist.core.machine.context import Context
from pluto_dist.core.rules.alerts import TitleLimit
from pluto_dist.core.values.backend import Alert
from pluto_dist.core.values.lifecycle import Alerted
from pluto_dist.core.values.records import Lease, Run

MAX_WAITING = 100  # of a Run, while its server does not answer


class Alerts:
    """Those that wait stand in the book; of each Run one may be on its way."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._book = context.book
        self._limits: dict[str, TitleLimit] = {}
        self._leaving: dict[str, tuple[str, Alert]] = {}

    def take(self, lease: Lease, run: Run, entry: Alerted) -> None:
        """A process alerts people: an event of the Run, and a request where it has a server."""
        limit = self._limits.setdefault(run.key, TitleLimit())
        held_back = limit.admit(entry.title, self._context.now.at)
        if held_back is None:
            return
        more = entry.more + held_back
        detail = {"title": entry.title, "message": entry.message, "level": entry.level}
        also = {"more": str(more)} if more else {}
        self._context.note(run.key, "alert", **detail, **also, lease=lease.lease_id)
        if run.target.mode == "local" or not entry.remote:
            return
        waiting = len(self._keys(run.key))
        if waiting >= MAX_WAITING:
            self._context.note(run.key, "alert_dropped", title=entry.title, why=f"{waiting} others wait")
            return
        body = f"{entry.message} ({more} more of this title before)" if more else entry.message
        alert = Alert(entry.wall_ms, entry.title, body, entry.level, entry.email)
        self._book.alerts.put(f"{run.key}/{entry.wall_ms:015}/{lease.lease_id}/{lease.folded:09}", alert)

    def next(self, run: str) -> Alert | None:
        """The one that is on its way or comes next."""
        leaving = self._leaving.get(run)
        if leaving is not None:
            return leaving[1]
        keys = self._keys(run)
        return self._book.alerts[keys[0]] if keys else None

    def leaves(self, run: str) -> None:
        """The next one is sent now."""
        key = self._keys(run)[0]
        self._leaving[run] = key, self._book.alerts[key]
        self._book.alerts.delete(key)

    def over(self, run: str) -> None:
        """The server has it, or never will."""
        self._leaving.pop(run, None)

    def back(self, run: str) -> None:
        """The server has certainly not seen it."""
        key, alert = self._leaving.pop(run)
        self._book.alerts.put(key, alert)

    def forget(self, run: str) -> None:
        self._limits.pop(run, None)
        self._leaving.pop(run, None)

    def _keys(self, run: str) -> list[str]:
        """Oldest first."""
        return sorted(key for key in self._book.alerts.all_keys() if key.startswith(f"{run}/"))
