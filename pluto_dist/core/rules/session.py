"""Session: the process's side of its lease. Decides when to send a `Sync` and when to start a coordinator.

It gets what happened and the time, and returns what to do. `log()` needs none of it; if no coordinator ever
answers, records and lifecycle entries are on disk all the same (G4, G12).
"""

from __future__ import annotations

import msgspec

from pluto_dist.core.values.messages import View

RETRY_FIRST_S = 0.1  # an unanswered nudge is repeated after this time, then ever more slowly
RETRY_CAP_S = 2.0
FOUND_S = 2.0  # one that listens and does not answer is looked for again after this time
ANSWER_S = 0.1  # a living coordinator usually answers within this time; else it is looked for
LAUNCH_S = 0.5  # not more often than this, then ever more rarely: a start that fails costs something
LAUNCH_CAP_S = 60.0
RECONNECT_S = 5.0  # a silent socket is replaced after this time


class Todo(msgspec.Struct, frozen=True):
    """Actions that are due now."""

    send: bool = False
    launch: bool = False  # if no coordinator listens; else say `found`
    reconnect: bool = False


class Session:
    """One per lease.

    Attributes:
        view: the coordinator's latest view, None before its first answer.
        entries: how many lifecycle entries have been written.
        generation: of the coordinator that answered last.

    Args:
        heartbeat_s: how often to send a `Sync` when nothing happens.
        now: CLOCK_BOOTTIME seconds.
        listening: whether there is a socket; if not, a coordinator is started at once.
    """

    def __init__(self, heartbeat_s: float, now: float, *, listening: bool = True) -> None:
        self._heartbeat_s = heartbeat_s
        self.view: View | None = None
        self.entries = 0
        self.generation = 0
        self._tries = 0
        self._send_at = now
        self._due = True
        self._asked_at: float | None = None if listening else now - ANSWER_S
        self._launch_at = now
        self._launched_at = now - LAUNCH_S
        self._launches = 0
        self._before = self._launched_at, self._launches
        self._reconnect_at = now + RECONNECT_S

    @property
    def settled(self) -> bool:
        """Whether the coordinator has taken all entries."""
        view = self.view
        return view is not None and (view.folded >= self.entries or view.state == "refused")

    def wrote(self, entries: int, now: float) -> None:
        """Notes new entries in the lifecycle stream: a `Sync` is due at once."""
        self.entries = max(self.entries, entries)
        self.speak(now)

    def speak(self, now: float) -> None:
        """A thread waits for an answer: a `Sync` is due at once, and the start of a coordinator if needed."""
        self._tries = self._launches = 0
        self._send_at, self._due = now, True
        self._launch_at = min(self._launch_at, max(now, self._launched_at + LAUNCH_S))

    def take_view(self, view: View, now: float) -> bool:
        """Takes a view; True if it is of another coordinator than before, which has no API key yet."""
        fresh = view.generation != self.generation
        answers = self._asked_at is not None  # and is no news: the coordinator hears nothing by telling some
        self.generation = view.generation
        self.view = view
        self._asked_at = None
        self._reconnect_at = now + RECONNECT_S
        self._launch_at = now
        self._launches = 0
        if answers and self.settled and not self._due:  # what it answers may be older than what is due
            self._tries = 0
            self._send_at = now + self._heartbeat_s
        return fresh

    def lost(self, now: float) -> None:
        """The connection broke, so the coordinator is gone: no answer has to be waited for.

        One that dies again and again is started no faster for that.
        """
        self._tries, self._send_at = 0, now
        self._asked_at = now - ANSWER_S
        self._launch_at = self._launched_at + self._pause_s
        self._reconnect_at = now + RECONNECT_S

    def found(self, now: float) -> None:
        """A coordinator listens, so `next` led to no start, and a later start waits for none."""
        self._launched_at, self._launches = self._before
        self._launch_at = now + FOUND_S

    def next(self, now: float) -> Todo:
        """What to do at this instant; call again at `deadline`."""
        silent = self._asked_at is not None and now >= self._asked_at + ANSWER_S
        launch = silent and now >= self._launch_at
        reconnect = self._asked_at is not None and now >= self._reconnect_at
        send = now >= self._send_at
        if launch:
            self._before = self._launched_at, self._launches
            self._launched_at, self._launches = now, min(self._launches + 1, 8)
            self._launch_at = now + self._pause_s
        if reconnect:
            self._reconnect_at = now + RECONNECT_S
        if send:
            self._due = False
            if self._asked_at is None:
                self._asked_at = now
                self._reconnect_at = max(self._reconnect_at, now + RECONNECT_S)
            self._send_at = now + min(RETRY_CAP_S, RETRY_FIRST_S * 2.0**self._tries)
            self._tries = min(self._tries + 1, 8)
        return Todo(send=send, launch=launch, reconnect=reconnect)

    def deadline(self) -> float:
        """When `next` has something to do, if nothing happens before."""
        if self._asked_at is None:
            return self._send_at
        return min(self._send_at, max(self._asked_at + ANSWER_S, self._launch_at), self._reconnect_at)

    @property
    def _pause_s(self) -> float:
        """Between the last start and the next."""
        return min(LAUNCH_CAP_S, LAUNCH_S * 2.0 ** max(0, self._launches - 1))
