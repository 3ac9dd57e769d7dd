"""A channel: what the trainer puts in the place of a captured descriptor, or of both where they are one file.

Descriptors of one file (`2>&1`, a terminal, the output file of a batch job) have one channel, so that the
file has its lines in the order in which they were written.

A terminal is replaced by a pseudo-terminal in raw mode, so that programs go on behaving as on a terminal
(colours, line buffering, progress bars); any other file by a pipe.

The trainer keeps the reading end open, although it never reads while the drain lives: when the drain is
killed, writers then wait for a moment instead of getting EPIPE, which would end a `print` with an exception.
"""

from __future__ import annotations

import os
import pty
import termios
import tty
from collections.abc import Iterable
from typing import Final

import msgspec

from pluto_dist.client.console.text import SEPARATE, StreamName

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
