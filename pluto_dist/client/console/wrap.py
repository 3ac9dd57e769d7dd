"""Capture at Python's own streams: their `write` is replaced by one that also records.

The stream itself stays what it is: `sys.stdout` is the same object with the same `isatty`, `fileno`, `buffer`
and `encoding`, so whoever holds it (logging handlers, progress bars) is captured as well, and taking the
capture away is taking one attribute away. The text goes to the terminal first and exactly as before; what is
raised there is raised. Recording takes no lock, and each thread has its own unfinished line.

What does not come by `write` of the stream is not seen: bytes written to `.buffer` or to the descriptor,
output of C++ code and of child programs, `faulthandler`. That is what `fd` is for. A line that is unfinished
when the process is killed is lost.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import get_ident
from typing import Any, Protocol
from weakref import ref

from pluto_dist.client.console.levels import StreamName
from pluto_dist.client.console.recorder import Recorder

_PRUNE_AT = 64  # threads of one stream; beyond, those that are gone are looked for


class TextStream(Protocol):
    """A Python stream, as far as it matters here."""

    write: Callable[[str], Any]


class StreamCapture:
    """One captured stream.

    Args:
        stream: e.g. `sys.stdout`.
        recorder: makes a recorder for another thread.
    """

    def __init__(self, stream: TextStream, recorder: Callable[[], Recorder]) -> None:
        self._stream = stream
        self._recorder = recorder
        self._recorders: dict[int, Recorder] = {}
        self._on = False
        self._before: Callable[[str], Any] | None = getattr(stream, "__dict__", {}).get("write")
        self._write = self._recording(stream.write)

    def start(self) -> bool:
        """Begins; False if the stream does not let its `write` be replaced."""
        try:
            self._stream.write = self._write
        except AttributeError:
            return False
        self._on = True
        return True

    def stop(self) -> None:
        """Ends; unfinished lines are recorded. A wrapper that somebody put around ours keeps working."""
        self._on = False
        if getattr(self._stream, "__dict__", {}).get("write") is self._write:
            if self._before is None:
                del self._stream.write
            else:
                self._stream.write = self._before
        self._end(self._recorders)

    def after_fork(self) -> None:
        """In the child the parent's unfinished lines are the parent's."""
        self._recorders.clear()

    def _recording(self, write: Callable[[str], Any]) -> Callable[[str], Any]:
        recorders = self._recorders
        this = ref(self)  # whoever keeps the function must not keep the files of an ended lease

        def write_and_record(text: str, /) -> Any:
            written = write(text)
            capture = this()
            if capture is not None and capture._on:
                recorder = recorders.get(get_ident())
                if recorder is None:
                    recorder = capture._of_new_thread()
                recorder.feed(text)
            return written

        return write_and_record

    def _of_new_thread(self) -> Recorder:
        if len(self._recorders) >= _PRUNE_AT:
            alive = sys._current_frames()  # the one list of threads that knows those of C code
            self._end({ident: kept for ident, kept in self._recorders.items() if ident not in alive})
        return self._recorders.setdefault(get_ident(), self._recorder())

    def _end(self, recorders: dict[int, Recorder]) -> None:
        for ident, recorder in tuple(recorders.items()):
            recorder.end()
            self._recorders.pop(ident, None)


class WrapCapture:
    """Both standard streams.

    Args:
        recorder: makes a recorder for a stream and thread.
    """

    def __init__(self, recorder: Callable[[StreamName], Recorder]) -> None:
        self._recorder = recorder
        self._captures: list[StreamCapture] = []

    def start(self) -> None:
        """Captures the streams that there are now."""
        streams: dict[StreamName, Any] = {"stdout": sys.stdout}
        if sys.stderr is not sys.stdout:
            streams["stderr"] = sys.stderr
        for name, stream in streams.items():
            if stream is None or getattr(stream, "closed", False):
                continue
            capture = StreamCapture(stream, _maker(self._recorder, name))
            if capture.start():
                self._captures.append(capture)

    def stop(self) -> None:
        """Puts everything back as it was."""
        for capture in self._captures:
            capture.stop()
        self._captures.clear()

    def after_fork(self) -> None:
        """In a forked child: goes on, with lines of its own."""
        for capture in self._captures:
            capture.after_fork()


def _maker(recorder: Callable[[StreamName], Recorder], name: StreamName) -> Callable[[], Recorder]:
    return lambda: recorder(name)
