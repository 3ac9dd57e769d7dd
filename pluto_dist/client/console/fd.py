"""Capture at descriptors 1 and 2: all output of this process and of its children; the trainer's side of it.

It puts channels in the place of the descriptors, starts the drain, and watches over it. If the drain dies,
what is left in the channels is passed on and the original descriptors are put back at once; nothing is
recorded from then on. Lost is only what the drain had read and not yet written. Children that were started
before keep the channels: what they write is passed on as long as this process lives, and where the reader is
gone (`… | head`) they get the SIGPIPE that they would have got.

Limits: stdout and stderr are two channels unless they are one file, so lines written to both within the same
millisecond may change places in the record. If the drain is killed while C code holds the interpreter's lock
and prints more than a pipe holds (64 KiB) before it lets go, that code waits for ever: the watching thread
needs the lock.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from pluto_dist.client.console.drain import (
    DRAIN,
    PASS_ON,
    RECORD,
    Channel,
    Instructions,
    Source,
    open_channels,
    read_some,
    write_all,
)
from pluto_dist.client.console.text import SEPARATE, StreamName
from pluto_dist.client.green import wait_readable
from pluto_dist.client.terminal import flush, is_open
from pluto_dist.host.launch import environment, module_command, start_detached
from pluto_dist.spool.files import real_files
from pluto_dist.spool.frames import DRAIN_LOCK

EMPTY_S: Final = 1.0  # what stands in the channels when the drain dies; a program may write on and on
STOP_S: Final = 2.0  # for the drain to pass on and record what is in the channels
MODULE: Final = "pluto_dist.client.console.drain"

_log = logging.getLogger("pluto_dist")


class FdCapture:
    """The standard descriptors.

    Args:
        folder: of the lease.
        spool: root of the spool.
        segment_bytes, quota_bytes: of the spool.
        secrets: what is masked in records.
        env: environment; the drain gets what a coordinator would get of it.
        log: file for the drain's own errors.
        streams: which of them.
    """

    def __init__(
        self,
        folder: Path,
        spool: Path,
        *,
        segment_bytes: int,
        quota_bytes: int | None,
        secrets: tuple[str, ...],
        env: Mapping[str, str],
        log: Path,
        streams: Iterable[StreamName] = SEPARATE,
    ) -> None:
        self._folder = folder
        self._spool = spool
        self._segment_bytes = segment_bytes
        self._quota_bytes = quota_bytes
        self._secrets = secrets
        self._env = env
        self._drain_log = log
        self._streams = tuple(streams)
        self._inherited = False
        self._channels: tuple[Channel, ...] = ()
        self._control = -1
        self._life = -1
        self._drained = threading.Event()
        self._died = False
        self._watcher = threading.Thread()
        self._turn = threading.Lock()  # between the end and the death of the drain

    def start(self) -> None:
        """Captures what is written from now on.

        Raises:
            OSError, PlutoDistError: the drain cannot be started; nothing was changed.
        """
        channels = open_channels(self._streams)
        if not channels:
            return
        try:
            self._start_drain(channels)
        except BaseException:
            for channel in channels:
                os.close(channel.write)
                channel.close()
            raise
        flush_python_streams()
        self._channels = channels
        for channel in channels:
            channel.take()
        self._watcher = threading.Thread(target=self._watch, name="pluto-dist-console", daemon=True)
        self._watcher.start()

    def record(self, on: bool) -> None:
        """Sets whether output is recorded, or only passed on."""
        with self._turn, contextlib.suppress(BrokenPipeError):  # the drain died just now
            if self._channels:
                os.write(self._control, RECORD if on else PASS_ON)

    def stop(self, within_s: float = STOP_S) -> None:
        """Puts the descriptors back and waits, bounded, until everything before is passed on and recorded."""
        flush_python_streams()
        with self._turn:
            channels, self._channels = self._channels, ()
            for channel in channels:
                channel.give_back()
        if self._inherited:
            for channel in channels:
                os.close(channel.original)
        if not channels and self._watcher.is_alive():
            self._watcher.join(EMPTY_S)  # without a drain it passes on what children have written
        if not channels or self._inherited:
            return
        with contextlib.suppress(BrokenPipeError):  # it died just now; then `_watch` says "drained"
            os.write(self._control, DRAIN)
        if not self._drained.wait(within_s):
            _log.warning("the last lines of output were not recorded within %g s", within_s)
        elif self._died:
            pass_on(channels, EMPTY_S)
        os.close(self._control)
        for channel in channels:
            channel.close()

    def after_fork(self) -> None:
        """In a forked child: its output goes to the same drain, which is the parent's to watch over."""
        self._turn = threading.Lock()
        if self._channels and not self._inherited:
            self._inherited = True
            os.close(self._control)
            os.close(self._life)
            for channel in self._channels:
                os.close(channel.read)

    def _start_drain(self, channels: tuple[Channel, ...]) -> None:
        path = self._folder / DRAIN_LOCK
        path.unlink(missing_ok=True)  # of a drain before: another Run has had the console meanwhile
        lock = real_files().create(str(path))  # its lock goes with its last descriptor
        control, self._control = os.pipe()
        self._life, life = os.pipe()
        kept = (control, life, lock, *(fd for each in channels for fd in (each.read, each.original)))
        try:
            command = module_command(MODULE, [str(control)])
            start_detached(command, self._drain_log, environment(self._env), keep=kept)
            os.write(self._control, msgspec.json.encode(self._instructions(channels, life)) + b"\n")
        except BaseException:
            os.close(self._control)
            os.close(self._life)
            raise
        finally:
            os.close(control)
            os.close(life)
            real_files().close(lock)

    def _instructions(self, channels: tuple[Channel, ...], life: int) -> Instructions:
        return Instructions(
            sources=tuple(Source(c.stream, c.read, c.original, c.terminal) for c in channels),
            life=life,
            folder=str(self._folder),
            spool=str(self._spool),
            segment_bytes=self._segment_bytes,
            quota_bytes=self._quota_bytes,
            secrets=self._secrets,
        )

    def _waited_for(self, life: int) -> bytes:
        wait_readable((life,), None)
        return os.read(life, 1)

    def _watch(self) -> None:
        """A thread: waits for the drain's answer, and for its death."""
        life = self._life
        while self._waited_for(life):
            self._drained.set()
        with self._turn:
            channels, self._channels = self._channels, ()
            pass_on(channels, EMPTY_S)  # first what was written first
            for channel in channels:
                channel.give_back()
        os.close(life)
        self._died = True
        self._drained.set()
        if channels:
            os.close(self._control)
            _log.warning("console capture ended: its process is gone; output goes on, but is not recorded")
            pass_on(channels)  # children may write there still


def pass_on(channels: tuple[Channel, ...], bound_s: float | None = None) -> None:
    """Passes on what is in the channels.

    Args:
        channels: those that no other process reads.
        bound_s: stop when they are empty for now, or after this time; None for "until no process can write",
            and then each is closed at its end.
    """
    by_fd = {channel.read: channel for channel in channels}
    deadline = None if bound_s is None else time.monotonic() + bound_s
    while by_fd and (deadline is None or time.monotonic() < deadline):
        ready = wait_readable(by_fd, None if deadline is None else 0)
        if not ready:
            return
        for fd in ready:
            data = read_some(fd)
            if data and _taken(by_fd[fd], data):
                continue
            channel = by_fd.pop(fd)
            if bound_s is None:
                channel.close()


def _taken(channel: Channel, data: bytes) -> bool:
    """Writes data to a channel's original; False if nothing more can be written there."""
    try:
        write_all(channel.original, data)
    except BrokenPipeError:
        return False
    except OSError as error:  # its writer would have got this error, and could have gone on
        _log.debug("%d bytes of %s were lost: %s", len(data), channel.stream, error)
    return True


def flush_python_streams() -> None:
    """Flushes what Python has buffered, because it belongs to the descriptor to which it was printed."""
    for stream in (sys.stdout, sys.stderr):
        if is_open(stream):
            flush(stream)
