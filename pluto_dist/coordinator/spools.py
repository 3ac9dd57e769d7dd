"""Lease folders of this node's spool: lifecycle entries, sizes of streams and the last step, as events.

The final look at a lease's streams says that nothing more will come, and what comes after it is lost with the
folder. Children of a dead process, and its console's drain, may outlive it for a moment. So after a death the
final look waits, for a bounded drain grace, until no process has the lease's chains open any more. A process
that ended its lease by itself has seen to that before.

A lease with unreadable files harms no other: its trouble is logged once, and it is looked at again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from pluto_dist.coordinator.log import say
from pluto_dist.core.values import events as on
from pluto_dist.core.values.backend import kind_of
from pluto_dist.core.values.ids import LEASE_ID
from pluto_dist.core.values.lifecycle import LifecycleEntry, Unreadable, decode_entry
from pluto_dist.errors import ProtocolError
from pluto_dist.host.liveness import LOCK_NAME, LeaseProbe
from pluto_dist.spool.batches import next_step
from pluto_dist.spool.files import real_files
from pluto_dist.spool.frames import (
    DRAIN_LOCK,
    HEADER,
    HEADER_BYTES,
    MARK_STEP,
    Cut,
    scan,
    segment_name,
    stream_pid,
)
from pluto_dist.spool.reader import list_streams, next_range, read_cut, writer_lives
from pluto_dist.spool.space import touch_live

LIFECYCLE = "lifecycle"
FORGOTTEN_S = 10.0  # a process that has made its lock file locks it at once


class LifecycleTail:
    """Reads the lifecycle stream of one lease; entries are numbered from 1.

    Attributes:
        trouble: why the last `read` did not get further.

    Args:
        folder: the lease's folder.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._offsets: dict[int, int] = {}
        self._torn: dict[int, int] = {}
        self._count = 0
        self.trouble: OSError | None = None

    def read(self, sizes: dict[int, int] | None = None) -> list[tuple[int, LifecycleEntry | Unreadable]]:
        """Entries that were not read before, with their numbers; `trouble` says why there are not more."""
        entries: list[tuple[int, LifecycleEntry | Unreadable]] = []
        self.trouble = None
        try:
            segments = list_streams(self._folder).get(LIFECYCLE, {}) if sizes is None else sizes
            self._read(segments, entries)
        except OSError as error:
            self.trouble = error
        return entries

    def _read(self, segments: dict[int, int], entries: list[tuple[int, LifecycleEntry | Unreadable]]) -> None:
        while (segment := next_range(segments, self._offsets, self._torn)) is not None:
            cut = read_cut(self._folder, LIFECYCLE, segment, self._offsets.get(segment, 0))
            if cut.end == cut.start:
                self._torn[segment] = segments[segment]
                continue
            self._offsets[segment] = cut.end
            for line in cut.lines if not cut.damaged else self._with_gaps(cut, segment):
                self._count += 1
                entries.append((self._count, decode_entry(line)))

    def _with_gaps(self, cut: Cut, segment: int) -> Iterator[bytes]:
        path = f"{self._folder}/{segment_name(LIFECYCLE, segment)}"
        return with_gaps(real_files().read_at(path, cut.start, cut.end - cut.start), cut, segment)


def with_gaps(raw: bytes, cut: Cut, segment: int) -> Iterator[bytes]:
    """Lines of a damaged cut, with an empty one for each entry that cannot be read any more.

    Thus the entries behind them keep the numbers that an earlier coordinator gave them. How many are missing
    follows from the sequence; at the start of a cut, where that is not known, one is assumed.
    """
    before = -1 if cut.start == 0 and segment == 1 else None
    start = 0
    while start < len(raw):
        one = scan(raw, start, final=True, limit_frames=1)
        after = _sequence_of(raw, one) if one.lines else None
        missing = one.damaged
        if missing and before is not None and after is not None:
            room = one.skipped // HEADER_BYTES  # a sequence that is a lie must not make billions of them
            missing = max(missing, min(after - before - 1, room))
        yield from (b"",) * missing
        yield from one.lines
        start, before = one.end, after


def _sequence_of(raw: bytes, one: Cut) -> int:
    """The sequence of the last frame of a cut of `raw`."""
    mark: int = HEADER.unpack_from(raw, one.end - len(one.lines[-1]) - HEADER_BYTES)[1]
    return mark // MARK_STEP


def check_exists(folder: str) -> None:
    """Checks that a lease has its folder.

    Raises:
        ProtocolError: it has none.
    """
    if not Path(folder).is_dir():
        raise ProtocolError(f"there is no lease folder {folder}; somebody deleted it, or it never was")


def lease_folder(spool: Path, lease_id: str) -> Path:
    """Path of a lease's folder."""
    return spool / "leases" / lease_id


def lease_ids(spool: Path) -> list[str]:
    """Leases that have a folder in the spool."""
    folder = spool / "leases"
    try:
        return sorted(path.name for path in folder.iterdir() if LEASE_ID.match(path.name))
    except FileNotFoundError:
        return []


def record_sizes(folder: str) -> tuple[dict[str, dict[int, int]], dict[int, int]]:
    """Sizes of the record streams' segments, and those of the lifecycle stream."""
    streams = list_streams(folder)
    lifecycle = streams.get(LIFECYCLE, {})
    return {name: sizes for name, sizes in streams.items() if kind_of(name) is not None}, lifecycle


def last_written_ms(folder: str) -> int:
    """When something was last written into a lease's folder, epoch milliseconds; 0 if that cannot be seen."""
    try:
        with os.scandir(folder) as entries:
            times = [entry.stat(follow_symlinks=False).st_mtime_ns for entry in entries]
    except OSError:
        return 0
    return max(times, default=0) // 1_000_000


def still_written(folder: str) -> bool:
    """Whether a child or the console's drain of a dead process may still write here.

    They hold locks, which end with them: on the chain that a child writes, and on the drain's file. Where
    nothing can be read, the answer is no.
    """
    files = real_files()
    try:
        children = [stream for stream in list_streams(folder) if stream_pid(stream) is not None]
        if any(writer_lives(folder, stream) for stream in children):
            return True
        return files.being_written(f"{folder}/{DRAIN_LOCK}")
    except OSError:
        return False


def has_family(folder: str) -> bool:
    """Whether forked children of a dead process live; they may log, also if they have not done so yet."""
    try:
        probe = LeaseProbe(Path(folder) / LOCK_NAME)
    except OSError:  # not the file that the process made: nothing to wait for
        return False
    try:
        return probe.has_family()
    finally:
        probe.close()


def is_released(folder: str) -> bool:
    """Whether the process has released its lease file, and no child that it forked can write there."""
    probe = LeaseProbe(Path(folder) / LOCK_NAME)
    try:
        return probe.state() != "held" and not probe.has_family() and not still_written(folder)
    finally:
        probe.close()


def is_forgotten(folder: str, now: float) -> bool:
    """Whether a process died before its claim was written: its lock file is there, and not locked.

    Args:
        folder: of a lease that has written nothing.
        now: epoch seconds.
    """
    try:
        path = Path(folder) / LOCK_NAME
        return now > path.stat().st_mtime + FORGOTTEN_S and is_released(folder)
    except FileNotFoundError:  # not locked yet, or the node's own
        return False


def remove_folder(folder: str) -> None:
    """Deletes a lease's folder; one that is gone already is no error."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


DRAIN_GRACE_S = 2.0  # a dead owner's place is kept as long, so no wait gets longer by this


class DrainGrace:
    """Leases of dead processes whose final look has to wait."""

    def __init__(self) -> None:
        self._dead: dict[str, float] = {}
        self._waiting: dict[str, str] = {}

    def died(self, lease_id: str, now: float) -> None:
        """Begins the grace of a lease whose process is dead."""
        self._dead.setdefault(lease_id, now)

    def must_wait(self, lease_id: str, folder: str, now: float) -> bool:
        """Whether it is too early for the final look; the lease then comes up in `due`."""
        died_at = self._dead.get(lease_id)
        if died_at is None or now >= died_at + DRAIN_GRACE_S or not still_written(folder):
            return False
        self._waiting[lease_id] = folder
        return True

    def due(self, now: float) -> list[tuple[str, str]]:
        """Leases and folders whose time for the final look has come."""
        waiting, self._waiting = self._waiting, {}
        return [(each, folder) for each, folder in waiting.items() if not self.must_wait(each, folder, now)]

    def forget(self, lease_id: str) -> None:
        """Forgets a lease whose folder is gone."""
        self._dead.pop(lease_id, None)
        self._waiting.pop(lease_id, None)


LOOK_S = 0.5  # how often spools are looked at: light load reaches the backend within a second
TOUCH_S = 3600.0  # how often times are renewed that are older than a day
SCAN_S = 5.0  # how often it looks for leases whose process never got through to us


class LeaseFolders:
    """The lease folders of a spool, and how far each has been read.

    Args:
        spool: root of this node's spool.
    """

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._folders: dict[str, str] = {}
        self._tails: dict[str, LifecycleTail] = {}
        self._looked: dict[str, dict[str, dict[int, int]]] = {}
        self._drain_grace = DrainGrace()
        self._leaving: set[str] = set()
        self._troubled: set[tuple[str, str]] = set()
        self.look_at = 0.0
        self._scan_at = 0.0
        self._touch_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._folders)

    def check(self, lease_id: str, folder: str) -> None:
        """Checks a folder that a client has named: only its lease's own place in this spool will do (G11).

        Raises:
            ProtocolError: it is somewhere else, or there is none.
        """
        if self._folders.get(lease_id) == folder:
            return
        if not LEASE_ID.match(lease_id) or Path(folder) != lease_folder(self._spool, lease_id):
            raise ProtocolError(
                f"lease {lease_id!r} names the folder {folder!r}; this coordinator's are in "
                f"{self._spool}/leases"
            )
        check_exists(folder)

    def folder(self, lease_id: str) -> str:
        """Path of a lease's folder, "" if it is not known."""
        return self._folders.get(lease_id, "")

    def look(self, now: float) -> Iterator[on.Event]:
        """News of all folders, if it is time to look."""
        if now < self.look_at:
            return
        self.look_at = now + LOOK_S
        for lease_id, folder in self._drain_grace.due(now):
            yield _seen(lease_id, folder, final=True)
        for lease_id, folder in tuple(self._folders.items()):
            try:
                yield from self._look_at(lease_id, folder)
            except OSError as error:
                self.log_trouble(lease_id, error)
        if now >= self._scan_at:
            yield from self.scan(now)
        if now >= self._touch_at:
            self._touch(now)

    def _touch(self, now: float) -> None:
        """Renews file times against cleaners of /var/tmp, for trainers that log nothing for long."""
        self._touch_at = now + TOUCH_S
        for lease_id, folder in self._folders.items():
            try:
                touch_live(folder, time.time())
            except OSError as error:
                self.log_trouble(lease_id, error)

    def scan(self, now: float) -> Iterator[on.Event]:
        """Leases that sent no message: their process has ended, or could not reach the socket."""
        self._scan_at = now + SCAN_S
        for lease_id in lease_ids(self._spool):
            folder = str(lease_folder(self._spool, lease_id))
            try:
                records, lifecycle = record_sizes(folder)
                forgotten = not records and not lifecycle and is_forgotten(folder, time.time())
            except OSError as error:
                self.log_trouble(lease_id, error)
                continue
            if lifecycle and lease_id not in self._folders:
                yield from self.read(lease_id, folder, lifecycle)
            elif forgotten:
                say("lease_forgotten", lease=lease_id)
                self.remove(lease_id, folder)

    def read(
        self, lease_id: str, folder: str, sizes: dict[int, int] | None = None
    ) -> Iterator[on.LifecycleRead]:
        """New lifecycle entries; without `sizes` there is an event in any case."""
        tail = self._tails.get(lease_id)
        if tail is None:
            tail = self._tails[lease_id] = LifecycleTail(folder)
        self._folders[lease_id] = folder
        entries = tuple(tail.read(sizes))
        if tail.trouble is not None:
            self.log_trouble(lease_id, tail.trouble)
        if entries or sizes is None:
            yield on.LifecycleRead(lease_id=lease_id, folder=folder, entries=entries)

    def seen(self, lease_id: str, folder: str, *, final: bool, now: float) -> on.StreamsSeen:
        """The sizes of a lease's streams; the final look at them may have to wait a moment."""
        return _seen(lease_id, folder, final=final and not self._drain_grace.must_wait(lease_id, folder, now))

    def died(self, lease_id: str, now: float) -> Iterator[on.LifecycleRead]:
        """Reads what a dead process has written, before its death becomes an event (R1)."""
        self._drain_grace.died(lease_id, now)
        yield from self.read(lease_id, self.folder(lease_id))

    def next_step(self, lease_id: str) -> int:
        """One more than the last step on disk."""
        try:
            return next_step(self.folder(lease_id))
        except OSError as error:
            self.log_trouble(lease_id, error)
            return 0

    def await_release(self, lease_id: str) -> None:
        """Has an event come when the process has released this folder."""
        self._leaving.add(lease_id)

    def look_again(self, lease_id: str) -> None:
        """Has the sizes of a lease's streams reported again, also if they have not changed."""
        self._looked.pop(lease_id, None)

    def remove(self, lease_id: str, folder: str) -> None:
        """Deletes a lease's folder."""
        self._folders.pop(lease_id, None)
        self._tails.pop(lease_id, None)
        self._looked.pop(lease_id, None)
        self._leaving.discard(lease_id)
        self._drain_grace.forget(lease_id)
        remove_folder(folder)

    def log_trouble(self, lease_id: str, error: OSError) -> None:
        """Logs trouble with a lease's folder, once for each kind."""
        told = (lease_id, str(error))
        if told not in self._troubled:
            self._troubled.add(told)
            say("lease_trouble", lease=lease_id, error=str(error))

    def _look_at(self, lease_id: str, folder: str) -> Iterator[on.Event]:
        sizes, lifecycle = record_sizes(folder)
        if sizes and sizes != self._looked.get(lease_id):
            self._looked[lease_id] = sizes
            yield on.StreamsSeen(lease_id=lease_id, sizes=sizes)
        yield from self.read(lease_id, folder, lifecycle)
        if lease_id in self._leaving and is_released(folder):
            self._leaving.discard(lease_id)
            yield on.LeaseReleased(lease_id=lease_id)


def _seen(lease_id: str, folder: str, *, final: bool) -> on.StreamsSeen:
    sizes, _ = record_sizes(folder)
    return on.StreamsSeen(lease_id=lease_id, sizes=sizes, final=final)
