"""The emulated server's time: a source that tests may replace, and an offset that they may move."""

import time
from collections.abc import Callable
from datetime import UTC, datetime


class Clock:
    """Epoch milliseconds as the server sees them.

    Only the server's own time moves with `advance`; clients keep theirs. Not for measuring durations.
    """

    def __init__(self, source: Callable[[], float] = time.time) -> None:
        self._source = source
        self._offset_ms = 0

    def now_ms(self) -> int:
        """Current time in epoch milliseconds."""
        return int(self._source() * 1000) + self._offset_ms

    def advance(self, seconds: float) -> int:
        """Move the server's time forward and return the new one in milliseconds."""
        if seconds < 0:
            raise ValueError(f"clock cannot go back by {-seconds} s; pass a positive number of seconds")
        self._offset_ms += round(seconds * 1000)
        return self.now_ms()


def iso(epoch_ms: int | None) -> str | None:
    """ISO-8601 in UTC with milliseconds and `Z`, as the API prints times."""
    if epoch_ms is None:
        return None
    moment = datetime.fromtimestamp(epoch_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{epoch_ms % 1000:03d}Z"
