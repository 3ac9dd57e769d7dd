"""Captures: which one runs, and for which Run.

The output of a process belongs to its newest Run that captures (`Captures`).

The output of a launcher's command is captured at the descriptors (`CommandConsole`), because the command may
be any program. Output that goes to no terminal is captured (batch jobs, containers, pipes and files); a
terminal only with `console="fd"`, because a command may do more with it than print. Stdin stays as it is.

A process below the launcher that records its own console knows more about its lines. So as long as there is
one (`View.relieved`) the launcher records nothing, and goes on passing everything on. Its coordinator's view
brings that with a delay of milliseconds, in which a line may be recorded twice, or not at all. Not recorded
meanwhile is the output of processes that record nothing themselves: ranks before their `init()`, C code,
`torchrun`. A second Run of a process below is not the launcher's, and its lines are recorded in both.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from threading import get_ident
from typing import Any, Protocol
from weakref import ref

import msgspec

from pluto_dist.client.console.drain import STREAMS
from pluto_dist.client.console.fd import FdCapture
from pluto_dist.client.console.text import SEPARATE, Recorder, StreamName, redactor, secrets_of
from pluto_dist.client.lease_files import LeaseFiles, Wall
from pluto_dist.client.terminal import is_open
from pluto_dist.core.values.lifecycle import Console
from pluto_dist.errors import PlutoDistError
from pluto_dist.host.identity import boot_clock
from pluto_dist.host.places import Places
from pluto_dist.host.settings import Settings
from pluto_dist.spool.writer import follow_forks

_log = logging.getLogger("pluto_dist")


class Capture(Protocol):
    """One way of capturing; may be started again after a stop."""

    def start(self) -> None:
        """Begins to record output."""
        ...

    def stop(self) -> None:
        """Ends the recording; everything printed before is recorded, and nothing after."""
        ...

    def after_fork(self) -> None:
        """Called in a forked child."""
        ...


class Captured(msgspec.Struct, frozen=True):
    """A capture and the lease for which it records."""

    lease_id: str
    asked: bool
    make: Callable[[], Capture]


class Captures:
    """The captures of this process; the last one runs, the others wait for their turn."""

    def __init__(self) -> None:
        self._stack: list[Captured] = []
        self._running: Capture | None = None
        self._turn = threading.RLock()  # the link's thread may end what `init` has just started

    def start(self, files: LeaseFiles, settings: Settings, places: Places, env: Mapping[str, str]) -> None:
        """Begins to capture for a lease, as its settings say."""
        if settings.console == "off":
            return
        follow_forks(self)
        asked = settings.console != "auto"
        with self._turn:
            self._stop_running()
            self._stack.append(
                Captured(files.lease_id, asked, lambda: make_capture(files, settings, places, env))
            )
            self._start_newest()

    def stop(self, lease_id: str, *, unless_asked: bool = False) -> None:
        """Ends the capture for a lease, if there is one; the one before it goes on.

        Args:
            lease_id: of the lease.
            unless_asked: only if no setting asks for it: a side's output is not captured by default.
        """
        with self._turn:
            found = next((each for each in self._stack if each.lease_id == lease_id), None)
            if found is None or (unless_asked and found.asked):
                return
            was_running = found is self._stack[-1]
            self._stack.remove(found)
            if was_running:
                self._stop_running()
                self._start_newest()

    def after_fork(self) -> None:
        """In a forked child: called by the fork hook."""
        self._turn = threading.RLock()
        if self._running is not None:
            self._running.after_fork()

    def _stop_running(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.stop()

    def _start_newest(self) -> None:
        if not self._stack:
            return
        capture = self._stack[-1].make()
        try:
            capture.start()
        except (OSError, PlutoDistError) as error:
            _log.warning("the console is not captured: %s", error)
            return
        self._running = capture


def make_capture(files: LeaseFiles, settings: Settings, places: Places, env: Mapping[str, str]) -> Capture:
    """The capture that the settings name."""
    if settings.console == "fd":
        return fd_capture(files, settings, places, env)
    wall, redact = Wall(), redactor(_secrets(settings, env))

    def recorder(stream: StreamName) -> Recorder:
        return Recorder(stream, files.console.append, wall.ms, redact)

    return WrapCapture(recorder)


def fd_capture(
    files: LeaseFiles,
    settings: Settings,
    places: Places,
    env: Mapping[str, str],
    streams: Iterable[StreamName] = SEPARATE,
) -> FdCapture:
    """The capture of descriptors."""
    return FdCapture(
        files.folder,
        places.spool,
        segment_bytes=settings.segment_size,
        quota_bytes=settings.spool_quota,
        secrets=_secrets(settings, env),
        env=env,
        log=places.runtime / "console.log",
        streams=streams,
    )


def _secrets(settings: Settings, env: Mapping[str, str]) -> tuple[str, ...]:
    return secrets_of(env, settings.api_key.reveal() if settings.api_key is not None else "")


CAPTURES = Captures()


class CommandConsole:
    """The launcher's own descriptors 1 and 2, which its command inherits.

    Args:
        files: of the launcher's lease.
        settings, places, env: of the launcher.
    """

    def __init__(self, files: LeaseFiles, settings: Settings, places: Places, env: Mapping[str, str]) -> None:
        streams = streams_of(settings.console)
        self._capture: FdCapture | None = None
        if streams:
            self._capture = fd_capture(files, settings, places, env, streams)
        self._relieved = False

    def start(self) -> None:
        """Begins to record what is written."""
        if self._capture is None:
            return
        try:
            self._capture.start()
        except (OSError, PlutoDistError) as error:
            self._capture = None
            _log.warning("the console of the command is not recorded: %s", error)

    def relieve(self, relieved: bool) -> None:
        """Pauses or resumes recording; called with each view, which says whether a process below records."""
        capture = self._capture
        if capture is not None and relieved != self._relieved:
            self._relieved = relieved
            capture.record(not relieved)

    def stop(self, within_s: float) -> float:
        """Waits until what the command has written is passed on and recorded.

        It waits longer than a trainer would: the drain may end with this process (a container, a SLURM step),
        and what it has not passed on by then is lost.

        Args:
            within_s: bound of the wait.

        Returns:
            What is left of that time.
        """
        capture, self._capture = self._capture, None
        began = boot_clock()
        if capture is not None:
            capture.stop(within_s)
        return max(0.0, within_s - (boot_clock() - began))


def streams_of(console: Console) -> tuple[StreamName, ...]:
    """The streams that a setting captures."""
    if console == "off":
        return ()
    return tuple(name for name in SEPARATE if console == "fd" or not os.isatty(STREAMS[name][0]))


_PRUNE_AT = 64  # threads of one stream; beyond, those that are gone are looked for


# Capture at Python's own streams: their `write` is replaced by one that also records.
#
# The stream itself stays what it is: `sys.stdout` is the same object with the same `isatty`, `fileno`,
# `buffer` and `encoding`, so code that holds a reference to it (logging handlers, progress bars) is captured
# as well, and the capture ends by removing one attribute. A stream that does not let its `write` be replaced
# gets a stand-in in `sys`, which passes everything on; code that holds a reference to that stream itself is
# not captured. Text goes to the terminal first and exactly as before; errors there are raised. Recording
# takes no lock, and each thread has its own unfinished line.
#
# Only output by `write` of the stream is captured. Bytes written to `.buffer` or to the descriptor, output of
# C++ code, child programs and `faulthandler` are not: for them there is `fd`. A line that is unfinished when
# the process is killed is lost.


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
