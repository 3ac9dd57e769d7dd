"""Lines become records: one JSON line each, without the number that the coordinator gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from pluto_dist.client.console.levels import Levels, StreamName
from pluto_dist.client.console.lines import LineCutter

_to_json = msgspec.json.Encoder().encode


class Recorder:
    """One stream as one thread (or one pipe) writes it.

    Args:
        stream: which one.
        append: takes a record; the lease's console stream.
        clock: epoch milliseconds.
        redact: takes secrets out of a line.
    """

    __slots__ = ("_append", "_clock", "_cutter", "_levels")

    def __init__(
        self,
        stream: StreamName,
        append: Callable[[bytes], object],
        clock: Callable[[], int],
        redact: Callable[[str], str],
    ) -> None:
        self._append = append
        self._clock = clock
        self._cutter = LineCutter(redact)
        self._levels = Levels(stream)

    def feed(self, text: str) -> None:
        """Records the lines that this text finishes."""
        lines = self._cutter.feed(text)
        if lines:
            self._record(lines)

    def end(self) -> None:
        """Records what no newline has finished."""
        self._record(self._cutter.end())

    @property
    def idle(self) -> bool:
        """Whether nothing unfinished would be lost with this object."""
        return self._cutter.empty

    def _record(self, lines: Iterable[str]) -> None:
        now = self._clock()
        for line in lines:
            log_type = self._levels.of(line).encode()
            self._append(b'{"time":%d,"message":%b,"logType":"%b"}\n' % (now, _to_json(line), log_type))
