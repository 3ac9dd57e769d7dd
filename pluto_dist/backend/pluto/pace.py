"""Pace of uploads: one token bucket for all files of a target, which refills with time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator


class Pace:
    """The bucket, shared by all threads that upload.

    Args:
        clock, pause: of the machine.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock = clock
        self._pause = pause
        self._lock = threading.Lock()
        self._free_at = 0.0

    def limited(self, pieces: Iterator[bytes], rate: int) -> Iterator[bytes]:
        """The pieces, as fast as `rate` bytes a second allow; 0 for no limit."""
        for piece in pieces:
            if rate:
                self._pause(self._turn(len(piece), rate))
            yield piece

    def _turn(self, size: int, rate: int) -> float:
        """Seconds until these bytes may go; those behind them wait for them too."""
        with self._lock:
            now = self._clock()
            begin = max(now, self._free_at)
            self._free_at = begin + size / rate
            return begin - now
