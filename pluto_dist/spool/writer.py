"""The writing end of a stream: a record is one `write()` of header and payload with O_APPEND.

With it: the fork hook, by which each forked child begins a chain of its own, and the syncs of a lease's
streams against power loss.

`append` may be called by any thread, and by a signal handler that interrupts an `append`: the way of a record
takes no lock (G4). What is rare (a first segment, rotation, trouble) is done by the thread that meets it, and
no thread waits for another.

A descriptor that must not be written to is shut (see `files`). That is the only state the hot path sees: a
refused write leads to `_append_anew`, which opens the next segment or drops the record. It is so at the
start, after a failed or short write, over quota, after `close()`, and in a forked child, where the fork hook
shuts the inherited number before any other Python code of the child can reach it.

Trouble is not reported by callbacks: they would run in any thread, in the middle of a `log()`. The client's
background thread looks at `trouble` and `dropped`.

Counting is exact while the interpreter has its global lock; without it the totals may miss a few.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol
from zlib import crc32

import msgspec

from pluto_dist.errors import InvalidRecordError
from pluto_dist.spool.files import Files, real_files
from pluto_dist.spool.frames import (
    HEADER,
    LAST_SEGMENT,
    MAGIC_WORD,
    MARK_MASK,
    MARK_STEP,
    MAX_PAYLOAD,
    RECORD,
    child_stream,
    parse_segment,
    segment_name,
    stream_pid,
)
from pluto_dist.spool.space import MIB

_pack = HEADER.pack
_LATER_BYTES: Final = MIB  # when a rotation finds no descriptor, the old segment goes on for this much


class Limits(msgspec.Struct, frozen=True):
    """Limits at which a chain is cut into segments.

    Attributes:
        segment_bytes: a segment that passes this is the last but one.
        retry_s: how long records are dropped after a failure before the disk is tried again.
    """

    segment_bytes: int = 16 * MIB
    retry_s: float = 0.5


class Room(Protocol):
    """Whether a stream may open a segment now; `Space` is one."""

    def shortage(self) -> str:
        """The reason why not, as one word; "" if it may."""
        ...


class StreamWriter:
    """The writing end of one chain.

    Nothing is created before the first `append`. What `append` accepted survives the death of the process;
    power loss only after `sync()`.

    Attributes:
        stream: the chain's name; another one in a forked child.
        segment: number of the newest segment of this writer, 0 before the first.
        written: records and declarations accepted.
        dropped: those that were not.
        trouble: why records are being dropped: the errno's name, what `Room` says (`quota`, `min_free`,
            `not opened`) or `short write`; an empty string when the last one was accepted. It ends with the
            first `append` that succeeds.
    """

    def __init__(
        self,
        folder: str,
        stream: str,
        limits: Limits | None = None,
        *,
        space: Room | None = None,
        files: Files | None = None,
        clock: Callable[[], float] = time.monotonic,
        pid: Callable[[], int] = os.getpid,
    ) -> None:
        """Makes a writer.

        Args:
            folder: the lease's folder; must exist when records come.
            stream: `metrics`, `data`, ...; a child's name is derived at the fork.
            limits: sizes and times.
            space: the quota, and what else records wait for; None for the lifecycle stream, which is small
                and must always get through.
            files: where segments are; real ones by default.
            clock: monotonic seconds.
            pid: of the calling process.

        Raises:
            ValueError: there is no such stream.
            OSError: the process has no descriptor left.
        """
        if stream_pid(stream) is not None:
            raise ValueError(f"{stream!r} is a forked child's chain; the child's writer opens it by itself")
        self._folder = folder
        self._kind = stream
        self._limits = limits or Limits()
        self._space = space
        self._files = files or real_files()
        self._write = self._files.write
        self._clock = clock
        self._pid = pid
        self._closed = False
        self._fd = self._files.open_shut()
        self._begin(stream)
        follow_forks(self)

    def _begin(self, stream: str) -> None:
        self.stream = stream
        self.segment = self.written = self.dropped = 0
        self.trouble = ""
        self._retry_at = float("-inf")
        self._left = 0
        self._marks = itertools.count(0, MARK_STEP)
        self._turning = threading.Lock()
        self._synced = 0

    def append(self, payload: bytes, kind: int = RECORD) -> bool:
        """Writes one frame; False when it was dropped and counted.

        Raises:
            InvalidRecordError: the payload is empty or larger than a frame may be.
        """
        size = len(payload)
        if not 0 < size <= MAX_PAYLOAD:
            raise _unfit(size)
        mark = (next(self._marks) | kind) & MARK_MASK
        frame = _pack(MAGIC_WORD, mark, size, crc32(payload, mark)) + payload
        try:
            count = self._write(self._fd, frame)
        except OSError as error:
            return self._append_anew(frame, error.errno)
        if count != len(frame):
            return self._append_anew(frame, None)
        self.written += 1
        self._left -= count
        if self._left < 0:
            self._rotate()
        return True

    def sync(self) -> None:
        """Puts everything accepted so far on the disk, as far as the disk tells the truth.

        Raises:
            OSError: the disk could not.
        """
        newest = self._newest_on_disk()
        if newest > self._synced:
            self._files.sync(self._folder)
        # One segment back, because a write in flight during a rotation ends up there.
        for number in range(max(self._synced - 1, 1), newest + 1):
            with suppress(FileNotFoundError):  # delivered and gone
                self._files.sync(self._path(number))
        self._synced = newest

    def close(self) -> None:
        """Later records are dropped and counted. May be repeated.

        The descriptor's number stays taken as long as this object lives: another thread may be about to write
        to it.
        """
        self._closed = True
        self._files.shut(self._fd)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def after_fork(self) -> None:
        """In the child: leaves the parent's chain alone and begins one of its own; the fork hook calls it."""
        self._files.shut(self._fd)
        self._begin(child_stream(self._kind, self._pid()))

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        """Gives the number back; at the end of the interpreter the kernel does, and modules may be empty.

        What asks for that is bound here: globals of a module are None before the last of its objects is gone.
        """
        if not is_finalizing() and hasattr(self, "_fd"):  # without it the constructor has failed
            self._files.close(self._fd)

    def _append_anew(self, frame: bytes, code: int | None) -> bool:
        """Takes a frame whose write was refused or short to a new segment, or drops it."""
        if code != errno.EBADF:  # a torn frame may stand there now: nothing is appended behind it
            self._files.shut(self._fd)
        if self._closed:
            self.dropped += 1
            return False
        now = self._clock()
        if self.trouble and now < self._retry_at:
            self.dropped += 1
            return False
        reason = (self._space.shortage() if self._space else "") or self._write_to_new(frame)
        if reason:
            self._retry_at = now + self._limits.retry_s
            self.dropped += 1
        else:
            self.written += 1
        self.trouble = reason
        return not reason

    def _write_to_new(self, frame: bytes) -> str:
        """Writes the frame to the next segment and goes on there; the reason if that fails."""
        try:
            number, fd = self._create_next()
        except OSError as error:
            return _reason(error)
        try:
            count = self._write(fd, frame)
            failure = "" if count == len(frame) else "short write"
        except OSError as error:
            failure = _reason(error)
        if failure:
            self._files.close(fd)
            with suppress(OSError):  # it holds no whole frame, so it does no harm either
                self._files.unlink(self._path(number))
            return failure
        if not self._turning.acquire(blocking=False):  # another thread opens one; the frame is safe in ours
            self._files.close(fd)
            return ""
        try:
            self._go_on_in(fd, len(frame))
        finally:
            self._turning.release()
        return ""

    def _rotate(self) -> None:
        """Goes on in a new segment. A second thread, or a signal handler, goes on in the old one."""
        if not self._turning.acquire(blocking=False):
            return
        try:
            if self._left < 0:
                self._turn()
        finally:
            self._turning.release()

    def _turn(self) -> None:
        shortage = self._space.shortage() if self._space else ""
        if shortage:
            self.trouble, self._retry_at = shortage, self._clock() + self._limits.retry_s
            self._files.shut(self._fd)
            return
        try:
            _, fd = self._create_next()
        except OSError:  # no descriptor or no inode to be had; the old segment still takes records
            self._left = _LATER_BYTES
            return
        self._go_on_in(fd, 0)

    def _go_on_in(self, fd: int, size: int) -> None:
        self._fd = self._files.replace(self._fd, fd)
        self._left = self._limits.segment_bytes - size
        if self._closed:  # by another thread, meanwhile
            self._files.shut(self._fd)

    def _create_next(self) -> tuple[int, int]:
        """Number and descriptor of the next free segment. A reused pid finds segments of its predecessor."""
        number = self.segment or self._newest_on_disk()
        while number < LAST_SEGMENT:
            number += 1
            try:
                fd = self._files.create(self._path(number))
            except FileExistsError:
                continue
            self.segment = number  # also if it comes to nothing: cursors may know the number by now
            return number, fd
        raise OSError(errno.EOVERFLOW, f"the chain has {LAST_SEGMENT} segments", self._path(number))

    def _newest_on_disk(self) -> int:
        found = (parse_segment(name) for name in self._files.sizes(self._folder))
        return max((segment[1] for segment in found if segment and segment[0] == self.stream), default=0)

    def _path(self, number: int) -> str:
        return f"{self._folder}/{segment_name(self.stream, number)}"


def _reason(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "OSError")


def _unfit(size: int) -> InvalidRecordError:
    return InvalidRecordError(
        f"a record has {size} bytes; it may have 1 to {MAX_PAYLOAD}; log what is larger as a file",
        size=size,
        limit=MAX_PAYLOAD,
    )


class Forkable(Protocol):
    """An object that is called in each forked child."""

    def after_fork(self) -> None:
        """Called in the child, once per fork."""
        ...


_watched: weakref.WeakSet[Forkable] = weakref.WeakSet()


def follow_forks(item: Forkable) -> None:
    """Calls `item.after_fork()` in each child that is forked while the item exists.

    The hook runs in every fork that Python code makes, `multiprocessing` and `pty` included, before the
    child's own code. A comparison of pids in `append` would find forks made by C code too, and cost
    0.15 µs a record.
    """
    _watched.add(item)
    _register_hook()


@functools.cache
def _register_hook() -> None:
    """Registers the hook, once, and not at import."""
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _after_fork_in_child() -> None:
    for item in list(_watched):
        item.after_fork()


class Syncable(Protocol):
    """A stream's writer, or the blobs; `written` only grows, so that a change shows what is to be synced."""

    written: int

    def sync(self) -> None:
        """Puts everything written so far on the disk."""
        ...


class GroupSync:
    """Syncs the streams and blobs of a lease together, in their order; a background thread calls it.

    So `durability="machine"` has what was accepted on the disk within an interval, against power loss.
    Without it, G3 holds for the death of processes only: the kernel writes pages back when it likes.

    Attributes:
        due_at: when `sync_if_due` will next do something, on the caller's clock.
        trouble: name of the error of the last sync, empty if it went well.
    """

    def __init__(self, writers: Iterable[Syncable], interval_s: float = 1.0) -> None:
        self._writers = tuple(writers)
        self._interval_s = interval_s
        self._synced: dict[Syncable, int] = {}
        self.due_at = float("-inf")
        self.trouble = ""

    def sync_if_due(self, now: float) -> bool:
        """Syncs the streams that got records since the last time; whether it was due."""
        if now < self.due_at:
            return False
        self.due_at = now + self._interval_s
        self.sync()
        return True

    def sync(self) -> None:
        """Syncs now. A failure is kept in `trouble`; those streams are tried again next time."""
        self.trouble = ""
        for writer in self._writers:
            written = writer.written
            if written == self._synced.get(writer, 0):
                continue
            try:
                writer.sync()
            except OSError as error:
                self.trouble = error.strerror or type(error).__name__
            else:
                self._synced[writer] = written
