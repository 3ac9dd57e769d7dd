"""Restoring: Runs of others that our request has reopened on the server are ended again (R8, G8).

A refused `create` may have reopened a Run that is not ours. No process waits for its old end to be put back,
so that is kept on disk from the moment it is known, and tried again, over deaths of the coordinator and
outages of the server, until the server accepts it or refuses for good.
"""

from __future__ import annotations

from typing import assert_never

from pluto_dist.core.machine.context import Context
from pluto_dist.core.values.backend import (
    BackendRun,
    Delivered,
    Rejected,
    Reopened,
    Retry,
    Unknown,
    backoff_s,
)
from pluto_dist.core.values.effects import Control, Say
from pluto_dist.core.values.events import Controlled
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.core.values.records import Restoration


class Restoring:
    """Ends to be put back, and when to try again."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._book = context.book
        self._asked: set[str] = set()
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}

    def keep(self, target: Target, reopened: Reopened) -> None:
        """Keeps an end that has to be put back."""
        self._book.restorations.put(f"restore-{reopened.id}", Restoration(target, reopened))

    def wake(self) -> None:
        """Sends the requests that are due and for which there is a key."""
        now = self._context.now.at
        for key in self._book.restorations.all_keys():
            due = self._book.restorations[key]
            if key in self._asked or now < self._not_before.get(key, 0.0) or not self._may_talk(due):
                continue
            self._asked.add(key)
            run = BackendRun(key, due.target, due.reopened.id, due.reopened.project)
            self._context.emit(Control(run=run, request=due.reopened, token=0))

    def answered(self, event: Controlled) -> None:
        """Takes the server's answer."""
        self._asked.discard(event.run)
        match event.outcome:
            case Delivered():
                self._done(event.run, "put_back")
            case Rejected(reason=reason):
                self._done(event.run, "put_back_refused", why=reason)
            case Retry(after_s=after_s):
                self._later(event.run, after_s or 0.0)
            case Unknown():
                self._later(event.run, 0.0)
            case _:
                assert_never(event.outcome)

    def deadline(self) -> float | None:
        """When to try again."""
        due = [key for key in self._book.restorations.all_keys() if key not in self._asked]
        return min(
            (self._not_before.get(key, 0.0) for key in due if self._may_talk(self._book.restorations[key])),
            default=None,
        )

    @property
    def at_rest(self) -> bool:
        """Whether no end is left to be put back."""
        return not self._book.restorations.all_keys()

    def _may_talk(self, due: Restoration) -> bool:
        return due.target.key_id in self._context.keys

    def _done(self, key: str, what: str, **fields: str) -> None:
        due = self._book.restorations.get(key)
        if due is not None:
            told = {"run": str(due.reopened.id), "status": due.reopened.status, **fields}
            self._context.emit(Say(event=what, fields=told))
        self._book.restorations.delete(key)
        self._failures.pop(key, None)
        self._not_before.pop(key, None)

    def _later(self, key: str, at_least_s: float) -> None:
        now, failures = self._context.now, self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self._not_before[key] = now.at + max(at_least_s, backoff_s(failures, now.jitter))
