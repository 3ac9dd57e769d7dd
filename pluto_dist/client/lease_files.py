"""Files of a lease: the folder with its lock, the lifecycle stream and the record streams.

None of this needs a coordinator: a process can open a lease, log and end while none runs, and the next one
that starts finds the folder and carries out what is written there (G12).

Records that are lost to a full disk are counted; `DropReport` warns of them when it begins and when it is
over.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from pathlib import Path

from pluto_dist.core.values.backend import LogType
from pluto_dist.core.values.lifecycle import LifecycleEntry, encode_entry
from pluto_dist.errors import PlacesError
from pluto_dist.host.liveness import LOCK_NAME, LeaseLock
from pluto_dist.host.places import require_durable
from pluto_dist.spool.blobs import COPY_UP_TO, Blobs
from pluto_dist.spool.space import SIDE, Space
from pluto_dist.spool.writer import GroupSync, Limits, Room, StreamWriter


class LeaseFiles:
    """Opened once per lease by the process that holds it.

    Args:
        spool: root of this node's spool.
        segment_bytes: a stream goes on in a new segment after this many bytes.
        quota_bytes: limit of the whole spool, None for the default.
        files_quota_bytes: limit of the files that wait for delivery on this node, None for the default.
        files_copy_bytes: size of the largest logged file that is copied.
        sides_share: percent of both quotas that all sides of the node together may take, for a lease that is
            opened as a side; 0 for any other.
        durable: what was written is put on the disk about once a second, against power loss (G3).

    Raises:
        PlacesError: the folder cannot be made or locked; with `durable` also if it is in memory only.
    """

    def __init__(
        self,
        spool: Path,
        *,
        segment_bytes: int,
        quota_bytes: int | None,
        files_quota_bytes: int | None = None,
        files_copy_bytes: int = COPY_UP_TO,
        sides_share: int = 0,
        durable: bool = False,
    ) -> None:
        self.lease_id = os.urandom(12).hex()
        self.folder = spool / "leases" / self.lease_id
        try:
            self.folder.parent.mkdir(mode=0o700, exist_ok=True)
            self.folder.mkdir(mode=0o700)
            # Locked before anything is written: from the first entry on, a free lock means death (R2).
            self.lock = LeaseLock(self.folder / LOCK_NAME)
            if sides_share:
                (self.folder / SIDE).touch(mode=0o600)
            self.room = RoomForRecords(Space(str(spool), quota_bytes, sides_share=sides_share))
            limits = Limits(segment_bytes=segment_bytes)
            self.blobs = Blobs(
                str(self.folder),
                str(spool),
                files_quota_bytes,
                copy_up_to=files_copy_bytes,
                sides_share=sides_share,
                durable=durable,
            )
        except OSError as error:
            raise PlacesError(f"the spool {spool} cannot take a lease: {error}", path=str(spool)) from error
        folder = str(self.folder)
        self.lifecycle = StreamWriter(folder, "lifecycle", limits)
        self.metrics = StreamWriter(folder, "metrics", limits, space=self.room)
        self.data = StreamWriter(folder, "data", limits, space=self.room)
        self.console = StreamWriter(folder, "console", limits, space=self.room)
        self.files = StreamWriter(folder, "files", limits, space=self.room)
        self._group = self._group_sync(folder) if durable else None
        self.declared = self.undeclared = 0
        self._unsaid: deque[bytes] = deque()

    def stream_of(self, log_type: LogType) -> StreamWriter:
        """The stream for records under a name of this type."""
        if log_type == "METRIC":
            return self.metrics
        return self.data if log_type in ("DATA", "HISTOGRAM", "TABLE") else self.files

    @property
    def _records(self) -> tuple[StreamWriter, ...]:
        return self.metrics, self.data, self.files, self.console

    def sync_if_due(self, now: float) -> None:
        """Syncs what was written since the last time, if `durable`; the link's thread calls it."""
        if self._group is not None:
            self._group.sync_if_due(now)

    def sync(self) -> None:
        """Syncs everything now, if `durable`."""
        if self._group is not None:
            self._group.sync()

    def _group_sync(self, folder: str) -> GroupSync:
        require_durable(Path(folder))
        return GroupSync((self.blobs, self.lifecycle, self.metrics, self.data, self.files, self.console))

    def say(self, entry: LifecycleEntry) -> int:
        """Writes an entry; returns how many there are now.

        An entry that the disk refuses is kept in memory, and tried again with the next one and by
        `say_again`.

        Raises:
            ArgumentError: the entry has a field that the coordinator could not read; nothing was written.
        """
        self._unsaid.append(encode_entry(entry))
        return self.say_again()

    def say_again(self) -> int:
        """Writes what the disk refused before; returns how many entries are on disk."""
        while self._unsaid:
            line = self._unsaid.popleft()  # first taken, then written: a signal handler may come between
            if not self.lifecycle.append(line):
                self._unsaid.appendleft(line)
                self.room.unopened = not self.lifecycle.written
                break
            self.room.unopened = False
        return self.lifecycle.written

    @property
    def unsaid(self) -> bool:
        """Whether entries wait for room on the disk."""
        return bool(self._unsaid)

    @property
    def records(self) -> int:
        """Records of this process in its spool."""
        return sum(stream.written for stream in self._records) - self.declared

    @property
    def dropped(self) -> int:
        """Records that could not be written."""
        return sum(stream.dropped for stream in self._records) - self.undeclared

    @property
    def trouble(self) -> str:
        """The reason why records are being dropped now, "" if they are not."""
        return self.metrics.trouble or self.data.trouble or self.files.trouble

    def close(self) -> None:
        """Ends the record streams; the lock is kept, because the process still lives."""
        for stream in self._records:
            stream.close()

    def release(self) -> None:
        """Releases the folder to the coordinator, which removes it once all is delivered."""
        self.lifecycle.close()
        self.lock.release()


class RoomForRecords:
    """Room for records: none before the claim is on disk, for without it they would belong to no Run (G3).

    Args:
        space: the quota.

    Attributes:
        unopened: the disk has refused the claim, so records are refused too.
    """

    def __init__(self, space: Room) -> None:
        self._space = space
        self.unopened = False

    def shortage(self) -> str:
        """The reason why no segment may be opened now, "" if one may."""
        return "not opened" if self.unopened else self._space.shortage()


class Wall:
    """Time of records: wall clock at start plus monotonic time, so that a clock step loses no point."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def ms(self) -> int:
        """Epoch milliseconds."""
        return (self._offset_ns + time.monotonic_ns()) // 1_000_000


QUIET_S = 60.0  # a disk that is full every other second gives one warning a minute

_log = logging.getLogger("pluto_dist")


class DropReport:
    """Warnings of lost records, from the counters of a process's streams.

    Args:
        files: of the lease.
    """

    def __init__(self, files: LeaseFiles) -> None:
        self._files = files
        self._told = 0
        self._troubled = False
        self._quiet_until = float("-inf")

    def look(self) -> None:
        """Warns if records have been lost since the last look, or are no longer."""
        dropped, trouble = self._files.dropped, self._files.trouble
        if not self._troubled and dropped > self._told and time.monotonic() >= self._quiet_until:
            self._troubled = True
            self._quiet_until = time.monotonic() + QUIET_S
            _log.warning(
                "the spool %s takes no records now (%s): they are dropped and counted, training goes on",
                self._files.folder.parent.parent,
                trouble or "for a moment",
            )
        elif self._troubled and not trouble:
            self._troubled = False
            _log.warning("the spool takes records again; %d were dropped", dropped - self._told)
            self._told = dropped
