"""Heartbeats to the backend, and the last question before a status (G7, R10).

A heartbeat is also a question: its answer is the status that the server has. A cancel that a person asked for
on the Run's page takes effect at the server with the next heartbeat from any node, whatever the status is by
then.

**A cancel and an end that cross.** A cancel that is at the server before the status goes out is the end of
the Run. What failed meanwhile stays with it, as the first failure: the person who pressed stop finds the Run
stopped, and sees that it had failed as well. Any other rule would depend on chance: a job that dies between
two heartbeats, or while no coordinator runs, would be FAILED now and CANCELLED if the same death came a
moment later. So one more heartbeat, the last question, goes before a status. The status waits for its answer
no longer than `LAST_S`; a cancel that comes after it changes nothing. A `finish --force` is later than any
cancel, so no question precedes it.

While an exit code is awaited the question is asked ahead, and the process that is about to exit waits for the
answer: with its exit everything of the job may be killed, and then there is time for one request, the status.
"""

from __future__ import annotations

import msgspec

from pluto_dist.core.machine.context import Context
from pluto_dist.core.machine.lane import backend_run
from pluto_dist.core.values.backend import Delivered, Rejected, backoff_s
from pluto_dist.core.values.effects import BeatRun
from pluto_dist.core.values.events import Beaten
from pluto_dist.core.values.records import Run

POLL_S = 4.0  # while a process trains, because only the answer to a heartbeat brings a cancel
APART_S = 0.25  # a node with many Runs asks no more often than this
BEAT_S = 20.0  # the server forgets a Run 150 s after its last heartbeat and stores at most one each 30 s
LAST_S = 3.0  # the status waits no longer for the answer to the last question
KNOWN_S = 5.0  # an answer is not older when the status goes out


class _Question(msgspec.Struct):
    """The last question before the status of one epoch.

    Attributes:
        sent_at: when the question was sent whose answer is awaited, None if none is.
        known_at: when the question was sent that has been answered; a later cancel is not in that answer.
        over: as far as is known the Run has ended at the server, and another answer would be about that end.
        ahead: asked before there was a verdict; the status waits for the answer once there is one.
    """

    epoch: int
    since: float
    not_before: float
    failures: int = 0
    sent_at: float | None = None
    known_at: float | None = None
    over: bool = False
    ahead: bool = False

    def is_known(self, now: float) -> bool:
        """Whether the status need not wait for this question: answered lately, or too old to wait for."""
        if self.over or self.known_at is None:
            return self.over or now >= self.since + LAST_S
        return now < self.known_at + KNOWN_S


class Beats:
    """Heartbeats of all Runs; each Run has at most one in flight, so that an answer has one meaning."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._due_at: dict[str, float] = {}
        self._in_flight: set[str] = set()
        self._crossing: set[str] = set()
        self._doubted: set[str] = set()
        self._failures: dict[str, int] = {}
        self._questions: dict[str, _Question] = {}

    def beat(self, run: Run, every_s: float | None) -> None:
        """Sends a heartbeat if the Run lives and it is time.

        Args:
            run: the Run.
            every_s: seconds between heartbeats, None if the Run does not live.
        """
        now = self._context.now.at
        if every_s is None:
            self._due_at.pop(run.key, None)
        elif now >= self._due_at.get(run.key, 0.0) and run.key not in self._in_flight:
            self._due_at[run.key] = now + max(every_s, APART_S * len(self._due_at))
            question = self._questions.get(run.key)
            if question is not None and question.known_at is None and now >= question.not_before:
                question.sent_at = now  # any sign of life is the question, too
            self._send(run)

    def overdue(self, run: Run) -> bool:
        """Whether a heartbeat is due and held up only by the one in flight."""
        return self._due_at.get(run.key, self._context.now.at + 1.0) <= self._context.now.at

    def asked_last(self, run: Run) -> bool:
        """Whether the status may go out: the last question is answered, or need not be waited for.

        If not, it is asked as soon as no other heartbeat is in flight.
        """
        if run.forced:
            return True
        now = self._context.now.at
        question = self._questions.get(run.key)
        if question is not None and question.ahead and run.ended:
            question.ahead = False
            question.since = now
        if question is not None and question.epoch == run.epoch and question.is_known(now):
            return True
        if question is None or question.epoch != run.epoch or question.known_at is not None:
            question = self._questions[run.key] = _Question(run.epoch, now, now, ahead=not run.ended)
        if now >= question.not_before and run.key not in self._in_flight:
            question.sent_at = now
            self._send(run)
        return False

    def knows(self, run: Run) -> bool:
        """As `asked_last`, but asks nothing."""
        question = self._questions.get(run.key)
        asked = (
            question is not None and question.epoch == run.epoch and question.is_known(self._context.now.at)
        )
        return run.forced or asked

    def doubts(self, run: Run) -> bool:
        """Whether it is uncertain how the Run ended at the server; if so, asks."""
        if run.key not in self._doubted:
            return False
        if self.asked_last(run):
            self._doubted.discard(run.key)
            self.end(run)
        return run.key in self._doubted

    def status_leaves(self, run: Run) -> None:
        """A status goes out; a heartbeat in flight may reach the server before or after it."""
        if run.key in self._in_flight:
            self._crossing.add(run.key)

    def status_failed(self, run: Run, *, unsure: bool = False) -> None:
        """The server did not get the status, so that a cancel may come before the next try.

        Args:
            run: the Run.
            unsure: perhaps it did; then a cancel comes too late, if the last question had been answered.
        """
        question = self._questions.get(run.key)
        if question is None or question.over:
            return
        if unsure and question.known_at is not None:
            question.over = True
        else:
            del self._questions[run.key]

    def end(self, run: Run) -> None:
        """Drops the question, because the server has the end; the next end needs another one."""
        self._questions.pop(run.key, None)

    def answered(self, run: Run, event: Beaten) -> bool:
        """Takes an answer; False for a cancel that the status may have replaced: then `doubts` asks again."""
        crossed = run.key in self._crossing
        self._in_flight.discard(run.key)
        self._crossing.discard(run.key)
        reached = isinstance(event.beat.outcome, Delivered | Rejected)
        self._put_off(run, reached=reached)
        question = self._questions.get(run.key)
        if question is not None and question.sent_at is not None:
            self._take_answer(question, reached=reached, ended=event.beat.status not in (None, "RUNNING"))
        if crossed and event.beat.status == "CANCELLED":
            self._questions.pop(run.key, None)
            self._doubted.add(run.key)
            return False
        return True

    def is_last(self, run: Run) -> bool:
        """Whether the answer to the last question is on its way."""
        question = self._questions.get(run.key)
        return question is not None and question.sent_at is not None

    def waits(self, run: Run) -> bool:
        """Whether something waits for that answer."""
        question = self._questions.get(run.key)
        if question is None or question.sent_at is None:
            return False
        return not question.is_known(self._context.now.at)

    def deadline(self, run: str) -> float | None:
        """When a heartbeat or a status may be due, if nothing happens before."""
        waits = [self._due_at[run]] if run in self._due_at else []
        question = self._questions.get(run)
        if question is not None and question.known_at is None and not question.over:
            waits += [question.since + LAST_S, question.not_before]
        return min((at for at in waits if at > self._context.now.at), default=None)

    def forget(self, run: str) -> None:
        for known in (self._due_at, self._failures, self._questions):
            known.pop(run, None)
        for those in (self._in_flight, self._crossing, self._doubted):
            those.discard(run)

    def _send(self, run: Run) -> None:
        self._in_flight.add(run.key)
        self._context.emit(BeatRun(run=backend_run(run)))

    def _put_off(self, run: Run, *, reached: bool) -> None:
        """Plans the next heartbeat; a server in trouble is asked less often."""
        if reached:
            self._failures.pop(run.key, None)
        elif run.key in self._due_at:
            failures = self._failures.get(run.key, 0)
            self._failures[run.key] = failures + 1
            wait_s = min(BEAT_S, backoff_s(failures, self._context.now.jitter))
            self._due_at[run.key] = max(self._due_at[run.key], self._context.now.at + wait_s)

    def _take_answer(self, question: _Question, *, reached: bool, ended: bool) -> None:
        sent_at, question.sent_at = question.sent_at, None
        if reached:
            question.known_at, question.over = sent_at, ended
            return
        now = self._context.now
        question.not_before = now.at + backoff_s(question.failures, now.jitter)
        question.failures += 1
