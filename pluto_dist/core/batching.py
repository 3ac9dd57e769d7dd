"""How many records the next batch of a stream holds: what the server takes, less after it has refused some.

A refused batch is halved until the culprit stands alone. Rows whose repeat would be seen are sent one by one
to the end of the refused batch instead, so that no good one is sent a third time.
"""

from __future__ import annotations

from pluto_dist.core.events import Shipped
from pluto_dist.core.outcomes import Rejected
from pluto_dist.core.requests import StreamKind

MAX_LINES = 10_000  # the server's contract advises at most about this many lines a request
MAX_FILES = 8  # upload addresses are asked for together and last for an hour
REPEATABLE: frozenset[StreamKind] = frozenset({"metrics"})  # the server de-duplicates these


class BatchSize:
    """Of one stream.

    Attributes:
        limit: records in the next batch.
    """

    def __init__(self, kind: StreamKind) -> None:
        self._repeatable = kind in REPEATABLE
        self._most = MAX_FILES if kind == "files" else MAX_LINES
        self._careful_until = (0, 0)
        self.limit = self._most

    def accepted(self, event: Shipped) -> None:
        """A batch has arrived: the next one may be larger."""
        if (event.segment, event.end) >= self._careful_until:
            self.limit = min(self._most, self.limit * 2)

    def refused(self, event: Shipped, rejected: Rejected) -> int:
        """A batch of several was refused; returns how many of them may have been taken all the same."""
        if rejected.good is not None:  # found before anything was sent
            self.limit = max(1, min(rejected.good, event.lines - 1))
            return 0
        self.limit = event.lines // 2
        if not self._repeatable:
            self.limit, self._careful_until = 1, (event.segment, event.end)
        return event.lines - 1  # nobody says how many stood before the bad one
