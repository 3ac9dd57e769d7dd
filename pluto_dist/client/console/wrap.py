"""Capture at Python's own streams: their `write` is replaced by one that also records.

The stream itself stays what it is: `sys.stdout` is the same object with the same `isatty`, `fileno`, `buffer`
and `encoding`, so code that holds a reference to it (logging handlers, progress bars) is captured as well,
and the capture ends by removing one attribute. A stream that does not let its `write` be replaced gets a
stand-in in `sys`, which passes everything on; code that holds a reference to that stream itself is not
captured. Text goes to the terminal first and exactly as before; errors there are raised. Recording takes no
lock, and each thread has its own unfinished line.

Only output by `write` of the stream is captured. Bytes written to `.buffer` or to the descriptor, output of
C++ code, child programs and `faulthandler` are not: for them there is `fd`. A line that is unfinished when
the process is killed is lost.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import get_ident
from typing import Any, Protocol
from weakref import ref

from pluto_dist.client.console.text import Recorder, StreamName
from pluto_dist.client.terminal import is_open

_PRUNE_AT = 64  # threads of one stream; beyond, those that are gone are looked for


class TextStream(Protocol):
    """A Python stream, as far as it matters here."""

    write: Callable[[str], Any]


class StandIn:
    """An object in the place of a stream, with all attributes of that stream."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        """Called for what is not there."""
        return getattr(self._stream, name)


class StreamCapture:
    """One captured stream.

    Args:
        stream: e.g. `sys.stdout`; anything with a `write`.
        recorder: makes a recorder for another thread.

    Raises:
        AttributeError: it has no `write`.
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
        except (AttributeError, TypeError):  # slots, or C code
            return False
        self._on = True
        return True

    def stop(self) -> None:
        """Ends; unfinished lines are recorded. A wrapper that other code put around ours keeps working."""
        self._on = False
        if getattr(self._stream, "__dict__", {}).get("write") is self._write:
            if self._before is None:
                del self._stream.write
            else:
                self._stream.write = self._before
        self._end(self._recorders)

    def after_fork(self) -> None:
        """In a forked child: drops unfinished lines, which are the parent's."""
        self._recorders.clear()

    def _recording(self, write: Callable[[str], Any]) -> Callable[[str], Any]:
        recorders = self._recorders
        this = ref(self)  # code that keeps the function must not keep the files of an ended lease

        def write_and_record(*given: Any, **named: Any) -> Any:
            written = write(*given, **named)
            capture = this()
            text = given[0] if given else None
            if capture is not None and capture._on and isinstance(text, str):
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
        self._stand_ins: list[tuple[str, StandIn, Any]] = []

    def start(self) -> None:
        """Captures the streams that there are now."""
        stdout, stderr = sys.stdout, sys.stderr
        self._capture("stdout", stdout, ("stdout", "stderr") if stderr is stdout else ("stdout",))
        if stderr is not stdout:
            self._capture("stderr", stderr, ("stderr",))

    def stop(self) -> None:
        """Puts everything back as it was."""
        for capture in self._captures:
            capture.stop()
        for place, stand_in, stream in self._stand_ins:
            if getattr(sys, place) is stand_in:
                setattr(sys, place, stream)
        self._captures.clear()
        self._stand_ins.clear()

    def after_fork(self) -> None:
        """In a forked child: goes on, with lines of its own."""
        for capture in self._captures:
            capture.after_fork()

    def _capture(self, name: StreamName, stream: Any, places: tuple[str, ...]) -> None:
        if not is_open(stream) or not callable(getattr(stream, "write", None)):
            return
        capture = StreamCapture(stream, _maker(self._recorder, name))
        if not capture.start():
            stand_in = StandIn(stream)
            capture = StreamCapture(stand_in, _maker(self._recorder, name))
            capture.start()
            for place in places:
                setattr(sys, place, stand_in)
                self._stand_ins.append((place, stand_in, stream))
        self._captures.append(capture)


def _maker(recorder: Callable[[StreamName], Recorder], name: StreamName) -> Callable[[], Recorder]:
    return lambda: recorder(name)
