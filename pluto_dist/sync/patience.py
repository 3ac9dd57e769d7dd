"""Requests are repeated until the server takes them, or has been away for too long."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from pluto_dist.core.backoff import backoff_s
from pluto_dist.core.outcomes import Delivered, Outcome, Rejected, Retry, Unknown
from pluto_dist.core.requests import Opened, OpenResult, Refused, Unavailable
from pluto_dist.errors import KeyRefusedError, WaitTimeoutError, from_wire


class Patience:
    """Bounds the time without any success; each success starts it anew.

    Args:
        limit_s: seconds without success after which `WaitTimeoutError` is raised.
        before: called before each try, e.g. to keep a claim.
        clock, pause: of the machine.
    """

    def __init__(
        self,
        limit_s: float,
        before: Callable[[], None] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limit_s = limit_s
        self.before = before
        self._clock = clock
        self._pause = pause

    def ask(self, request: Callable[[], Outcome]) -> Delivered | Rejected:
        """Sends a request until there is a definite answer.

        Raises:
            KeyRefusedError: the server refuses the API key.
            WaitTimeoutError: it gave no answer for too long; nothing is lost.
        """
        since, failures = self._clock(), 0
        while True:
            self.before()
            outcome = request()
            match outcome:
                case Delivered() | Rejected():
                    return outcome
                case Retry(reason=reason, key_problem=True):
                    raise KeyRefusedError(f"the server refuses the API key: {reason}")
                case Retry(reason=reason, after_s=after_s):
                    self._wait(since, failures, reason, after_s or 0.0)
                case Unknown(reason=reason):
                    self._wait(since, failures, reason, 0.0)
            failures += 1

    def open(self, request: Callable[[], OpenResult]) -> Opened:
        """The same for opening a Run.

        Raises:
            PlutoDistError: the server refused it, with the class that says why.
            WaitTimeoutError: as for `ask`.
        """
        since, failures = self._clock(), 0
        while True:
            self.before()
            match request():
                case Opened() as opened:
                    return opened
                case Refused(error=error, message=message):
                    raise from_wire(error, message)
                case Unavailable(reason=reason, after_s=after_s):
                    self._wait(since, failures, reason, after_s or 0.0)
            failures += 1

    def _wait(self, since: float, failures: int, reason: str, at_least_s: float) -> None:
        if self._clock() - since > self._limit_s:
            raise WaitTimeoutError(
                f"the server gave no answer for {self._limit_s:g} s ({reason}); what is uploaded so far is "
                "kept, and the same command goes on from there"
            )
        self._pause(max(at_least_s, backoff_s(failures, random.random())))  # noqa: S311 # jitter
