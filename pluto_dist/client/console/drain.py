"""The drain: the process that empties the channels of one trainer, passes bytes on, and records lines.

It is a process of its own because a thread of the trainer would need the interpreter's lock, which C code may
hold while it waits for room in the very pipe that the thread should empty. It is no process's child, ignores
the signals that end a job, and ends by itself when no process can write into its channels any more: so the
last lines of a killed trainer are passed on and recorded, too. When the terminal cannot be written to, the
drain ends at once; the trainer then takes its descriptors back and sees the same error as without a capture.

Bytes are passed on before they are recorded. The trainer's commands, one byte each, and its instructions come
through `control`, never by arguments: secrets are among them.

A channel is what the trainer puts in the place of a captured descriptor, or of both where they are one file.
Descriptors of one file (`2>&1`, a terminal, the output file of a batch job) have one channel, so that the
file has its lines in the order in which they were written. A terminal is replaced by a pseudo-terminal in raw
mode, so that programs go on behaving as on a terminal (colours, line buffering, progress bars); any other
file by a pipe.

The trainer keeps the reading end open, although it never reads while the drain lives: when the drain is
killed, writers then wait for a moment instead of getting EPIPE, which would end a `print` with an exception.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import pty
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from pluto_dist.client.console.text import SEPARATE, Recorder, StreamName, redactor
from pluto_dist.client.lease_files import Wall
from pluto_dist.spool.space import Space
from pluto_dist.spool.writer import Limits, StreamWriter

STREAMS: Final[dict[StreamName, tuple[int, ...]]] = {"stdout": (1,), "stderr": (2,), "both": (1, 2)}


class Channel(msgspec.Struct, frozen=True):
    """Descriptors of one channel; none of them is inherited by programs that the trainer starts.

    Attributes:
        original: where the output went before, and still goes.
        read, write: the two ends of the channel.
        terminal: it is a pseudo-terminal.
    """

    stream: StreamName
    original: int
    read: int
    write: int
    terminal: bool

    def take(self) -> None:
        """Puts the channel in the place of the descriptor."""
        for number in STREAMS[self.stream]:
            os.dup2(self.write, number)
        os.close(self.write)

    def give_back(self) -> None:
        """Puts the original descriptor back."""
        for number in STREAMS[self.stream]:
            os.dup2(self.original, number)

    def close(self) -> None:
        """Closes the trainer's ends."""
        os.close(self.read)
        os.close(self.original)


def open_channels(streams: Iterable[StreamName]) -> tuple[Channel, ...]:
    """Channels for those of the standard streams that are open.

    Raises:
        OSError: there are no descriptors left.
    """
    wanted = tuple(streams)
    if set(wanted) == set(SEPARATE) and _one_file():
        wanted = ("both",)
    return tuple(channel for stream in wanted if (channel := open_channel(stream)) is not None)


def open_channel(stream: StreamName) -> Channel | None:
    """A channel for one of the standard streams, not yet in its place; None if that one is closed.

    Raises:
        OSError: there are no descriptors left.
    """
    number = STREAMS[stream][0]
    try:
        if not os.get_inheritable(number):
            return None  # it was closed when this process began, and the number is now that of a file of ours
        original = os.dup(number)
    except OSError:
        return None
    try:
        terminal = os.isatty(original)
        read, write = pty.openpty() if terminal else os.pipe()
    except OSError:
        os.close(original)
        raise
    if terminal:
        tty.setraw(write)
        copy_size(original, read)
    return Channel(stream, original, read, write, terminal)


def _one_file() -> bool:
    try:
        return os.path.sameopenfile(*STREAMS["both"])
    except OSError:  # one of them is closed
        return False


def copy_size(terminal: int, to: int) -> None:
    """Gives the pseudo-terminal the size of the real one, if that has changed."""
    try:
        size = termios.tcgetwinsize(terminal)
        if size != termios.tcgetwinsize(to):
            termios.tcsetwinsize(to, size)
    except termios.error:  # the terminal is gone, and with it the need for its size
        return


def read_some(fd: int) -> bytes:
    """Bytes that can be read, b"" at the end; for a pseudo-terminal without writers that is EIO."""
    try:
        return os.read(fd, 1 << 16)
    except OSError:
        return b""


# Commands. Each holds for what is written after it: first the channels are emptied as before.
RECORD: Final = b"r"
PASS_ON: Final = b"p"  # and record nothing
DRAIN: Final = b"d"  # as PASS_ON; the same byte is the answer
DRAIN_S: Final = 1.0  # a child of the trainer may write for ever
_SIZE_S: Final = 1.0  # how often the size of a terminal is looked at
_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Source(msgspec.Struct, frozen=True):
    """A channel as the drain sees it."""

    stream: StreamName
    read: int
    original: int
    terminal: bool


class Instructions(msgspec.Struct, frozen=True):
    """Instructions of the trainer; the first line on `control`.

    Attributes:
        life: a descriptor whose other end the trainer reads; it breaks when the drain dies.
        folder, spool, segment_bytes, quota_bytes: where and how to record.
        secrets: what is masked in records.
    """

    sources: tuple[Source, ...]
    life: int
    folder: str
    spool: str
    segment_bytes: int
    quota_bytes: int | None
    secrets: tuple[str, ...]


class Drain:
    """Passes on and records until no process can write any more."""

    def __init__(self, instructions: Instructions, control: int) -> None:
        self._control = control
        self._life = instructions.life
        self._writer = _chain_of_this_process(instructions)
        wall, redact = Wall(), redactor(instructions.secrets)
        self._sources = {source.read: source for source in instructions.sources}
        self._recorders = {
            source.read: Recorder(source.stream, self._writer.append, wall.ms, redact)
            for source in instructions.sources
        }
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {fd: decoder("replace") for fd in self._sources}
        self._recording = True

    def run(self) -> None:
        """Returns when all channels are at their end.

        Raises:
            OSError: the output cannot be passed on.
        """
        poller = select.poll()
        for fd in (self._control, *self._sources):
            poller.register(fd, select.POLLIN)
        terminals = [source for source in self._sources.values() if source.terminal]
        try:
            while self._sources:
                for fd, _ in poller.poll(_SIZE_S * 1000 if terminals else None):
                    alive = self._obey() if fd == self._control else self._pass_on(fd)
                    if not alive:
                        poller.unregister(fd)
                for source in terminals:
                    copy_size(source.original, source.read)
        finally:
            self._end_lines()
            self._writer.close()

    def _pass_on(self, fd: int) -> bool:
        """One read of one channel; False at its end."""
        data = read_some(fd)
        if not data:
            self._sources.pop(fd, None)
            return False
        try:
            write_all(self._sources[fd].original, data)
        finally:
            if self._recording:
                self._recorders[fd].feed(self._decoders[fd].decode(data))
        return True

    def _obey(self) -> bool:
        """Takes a command; False when the trainer is gone: children may still write."""
        command = os.read(self._control, 1)
        if command:
            self._empty()
            self._end_lines()
            self._recording = command == RECORD
        if command == DRAIN:
            with contextlib.suppress(BrokenPipeError):  # it did not wait any longer
                os.write(self._life, DRAIN)
        return bool(command)

    def _empty(self) -> None:
        deadline = time.monotonic() + DRAIN_S
        poller = select.poll()
        for fd in self._sources:
            poller.register(fd, select.POLLIN)
        while time.monotonic() < deadline:
            # Only what can be read: a hang-up is seen, and taken, by `run`.
            ready = [fd for fd, what in poller.poll(0) if what & select.POLLIN]
            if not ready:
                return
            for fd in ready:
                self._pass_on(fd)

    def _end_lines(self) -> None:
        if self._recording:
            for fd, recorder in self._recorders.items():
                self._decoders[fd].reset()
                recorder.end()


def write_all(fd: int, data: bytes) -> None:
    """Writes everything; waits where another program has made the descriptor non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select((), (fd,), ())


def _chain_of_this_process(instructions: Instructions) -> StreamWriter:
    space = Space(instructions.spool, instructions.quota_bytes)
    limits = Limits(segment_bytes=instructions.segment_bytes)
    writer = StreamWriter(instructions.folder, "console", limits, space=space)
    writer.after_fork()  # as in a forked child: the lease's own chain is the trainer's
    return writer


def _read_instructions(control: int) -> Instructions:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(control, 1)  # no further: commands come behind it
        if not byte:
            raise EOFError("the trainer has sent no instructions")
        line += byte
    return msgspec.json.decode(line, type=Instructions)


def main(arguments: Sequence[str]) -> None:
    """Runs the drain; the only argument is the number of `control`."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    control = int(arguments[0])
    Drain(_read_instructions(control), control).run()


if __name__ == "__main__":
    main(sys.argv[1:])
