"""Signs of life, and the last question before a status (G7, R10).

A sign of life is also a question: the answer is the status that the server has, and a cancel that was asked
for on the page takes effect there with the next sign of life from any node, whatever the status is by then.

**A cancel and an end that meet unseen.** A cancel that is at the server before the status goes out is the end
of the Run. What failed meanwhile stays with it, as the first failure: the person who pressed stop finds the
Run stopped, and sees that it had failed as well. Any other rule depends on chance: a job that dies between
two signs of life, or while no coordinator runs, would be FAILED now and CANCELLED if the same death came a
moment later. So the last thing before a status is one more question. The status does not wait for the answer
longer than `LAST_S`; a cancel that comes after it changes nothing. `finish --force` is a later word than any
cancel, so there is no question before it.

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

POLL_S = 4.0  # while somebody trains, because only the answer to a heartbeat tells of a cancel
APART_S = 0.25  # a node with many Runs asks no more often than this
BEAT_S = 20.0  # the server forgets a Run 150 s after its last heartbeat and stores at most one each 30 s
LAST_S = 3.0  # the status waits no longer for the answer to the last question
KNOWN_S = 5.0  # an answer is not older when the status goes out


class _Question(msgspec.Struct):
    """The last one before the status of one epoch.

    Attributes:
        sent_at: since when an answer is on its way, None if none is.
        known_at: when the question was sent whose answer came; a cancel after that is not in it.
        over: the Run has an end at the server, as far as is known: another question would be about that.
        ahead: the Run had no verdict yet; the status waits for the answer from when there is one.
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
        """Whether there is nothing left to wait for."""
        if self.over or self.known_at is None:
            return self.over or now >= self.since + LAST_S
        return now < self.known_at + KNOWN_S


class Beats:
    """Of all Runs; each has at most one in flight, so that an answer has one meaning."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._due_at: dict[str, float] = {}
        self._in_flight: set[str] = set()
        self._crossing: set[str] = set()
        self._doubted: set[str] = set()
        self._unheard: dict[str, int] = {}
        self._questions: dict[str, _Question] = {}

    def beat(self, run: Run, every_s: float | None) -> None:
        """Sends a sign of life if the Run lives and it is time.

        Args:
            run: whose.
            every_s: how often, None if the Run does not live.
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
        """Whether the next sign of life has waited for an answer."""
        return self._due_at.get(run.key, self._context.now.at + 1.0) <= self._context.now.at

    def asked_last(self, run: Run) -> bool:
        """Whether the status may go out: the server was asked for a cancel, or nobody has to wait for that.

        If not, the question is asked as soon as no other sign of life is on its way.
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
        """Whether it has to be asked once more how the Run ended; asks."""
        if run.key not in self._doubted:
            return False
        if self.asked_last(run):
            self._doubted.discard(run.key)
            self.end(run)
        return run.key in self._doubted

    def status_leaves(self, run: Run) -> None:
        """A status goes out; a sign of life that is on its way may arrive before or after it."""
        if run.key in self._in_flight:
            self._crossing.add(run.key)

    def status_failed(self, run: Run, *, unsure: bool = False) -> None:
        """The server did not get the status: until the next try there is time for a cancel.

        Perhaps it did (`unsure`), and then a cancel comes too late; but only where the question was answered.
        """
        question = self._questions.get(run.key)
        if question is None or question.over:
            return
        if unsure and question.known_at is not None:
            question.over = True
        else:
            del self._questions[run.key]

    def end(self, run: Run) -> None:
        """The server has the end; the next one needs another question."""
        self._questions.pop(run.key, None)

    def answered(self, run: Run, event: Beaten) -> bool:
        """Takes an answer; False for a cancel that a status may have replaced since: `doubts` asks again."""
        crossed = run.key in self._crossing
        self._in_flight.discard(run.key)
        self._crossing.discard(run.key)
        heard = isinstance(event.beat.outcome, Delivered | Rejected)
        self._put_off(run, heard=heard)
        question = self._questions.get(run.key)
        if question is not None and question.sent_at is not None:
            self._take_answer(question, heard=heard, ended=event.beat.status not in (None, "RUNNING"))
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
        """When there may be something to do, if nothing happens before."""
        waits = [self._due_at[run]] if run in self._due_at else []
        question = self._questions.get(run)
        if question is not None and question.known_at is None and not question.over:
            waits += [question.since + LAST_S, question.not_before]
        return min((at for at in waits if at > self._context.now.at), default=None)

    def forget(self, run: str) -> None:
        """The Run is forgotten."""
        for known in (self._due_at, self._unheard, self._questions):
            known.pop(run, None)
        for those in (self._in_flight, self._crossing, self._doubted):
            those.discard(run)

    def _send(self, run: Run) -> None:
        self._in_flight.add(run.key)
        self._context.emit(BeatRun(run=backend_run(run)))

    def _put_off(self, run: Run, *, heard: bool) -> None:
        """A server that is in trouble is not asked as often."""
        if heard:
            self._unheard.pop(run.key, None)
        elif run.key in self._due_at:
            failures = self._unheard.get(run.key, 0)
            self._unheard[run.key] = failures + 1
            wait_s = min(BEAT_S, backoff_s(failures, self._context.now.jitter))
            self._due_at[run.key] = max(self._due_at[run.key], self._context.now.at + wait_s)

    def _take_answer(self, question: _Question, *, heard: bool, ended: bool) -> None:
        sent_at, question.sent_at = question.sent_at, None
        if heard:
            question.known_at, question.over = sent_at, ended
            return
        now = self._context.now
        question.not_before = now.at + backoff_s(question.failures, now.jitter)
        question.failures += 1
