"""The lease folders of this node's spool, looked at in time: what is in them becomes events.

One lease with unreadable files harms no other: its trouble is told once, and it is looked at again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from pluto_dist.core import events as on
from pluto_dist.node import spools
from pluto_dist.node.last_looks import LastLooks
from pluto_dist.node.log import say
from pluto_dist.spool.retention import touch_live

LOOK_S = 0.5  # how often spools are looked at: light load reaches the backend within a second
TOUCH_S = 3600.0  # how often times are renewed that are older than a day
SCAN_S = 5.0  # how often it looks for leases whose process never got through to us


class LeaseFolders:
    """Remembers how far each lease's folder has been read.

    Args:
        spool: root of this node's spool.
    """

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._folders: dict[str, str] = {}
        self._tails: dict[str, spools.LifecycleTail] = {}
        self._looked: dict[str, dict[str, dict[int, int]]] = {}
        self._last_looks = LastLooks()
        self._leaving: set[str] = set()
        self._troubled: set[tuple[str, str]] = set()
        self.look_at = 0.0
        self._scan_at = 0.0
        self._touch_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._folders)

    def __contains__(self, lease_id: str) -> bool:
        return lease_id in self._folders

    def folder(self, lease_id: str) -> str:
        """Path of a lease's folder, "" if it is not known."""
        return self._folders.get(lease_id, "")

    def look(self, now: float) -> Iterator[on.Event]:
        """What is new in all of them, if it is time."""
        if now < self.look_at:
            return
        self.look_at = now + LOOK_S
        for lease_id, folder in self._last_looks.due(now):
            yield _seen(lease_id, folder, final=True)
        for lease_id, folder in tuple(self._folders.items()):
            try:
                yield from self._look_at(lease_id, folder)
            except OSError as error:
                self.tell_trouble(lease_id, error)
        if now >= self._scan_at:
            yield from self.scan(now)
        if now >= self._touch_at:
            self._touch(now)

    def _touch(self, now: float) -> None:
        """Cleaners of /var/tmp take what nobody touched for long; a trainer that logs nothing lives too."""
        self._touch_at = now + TOUCH_S
        for lease_id, folder in self._folders.items():
            try:
                touch_live(folder, time.time())
            except OSError as error:
                self.tell_trouble(lease_id, error)

    def scan(self, now: float) -> Iterator[on.Event]:
        """Leases of which nobody told us: their process has ended, or could not reach the socket."""
        self._scan_at = now + SCAN_S
        for lease_id in spools.lease_ids(self._spool):
            folder = str(spools.lease_folder(self._spool, lease_id))
            try:
                records, lifecycle = spools.record_sizes(folder)
                forgotten = not records and not lifecycle and spools.is_forgotten(folder, time.time())
            except OSError as error:
                self.tell_trouble(lease_id, error)
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
            tail = self._tails[lease_id] = spools.LifecycleTail(folder)
        self._folders[lease_id] = folder
        entries = tuple(tail.read(sizes))
        if tail.trouble is not None:
            self.tell_trouble(lease_id, tail.trouble)
        if entries or sizes is None:
            yield on.LifecycleRead(lease_id=lease_id, folder=folder, entries=entries)

    def seen(self, lease_id: str, folder: str, *, final: bool, now: float) -> on.StreamsSeen:
        """The sizes of a lease's streams; the last look at them may have to wait a moment."""
        return _seen(lease_id, folder, final=final and not self._last_looks.must_wait(lease_id, folder, now))

    def died(self, lease_id: str, now: float) -> Iterator[on.LifecycleRead]:
        """The process is dead; what it wrote before comes first (R1)."""
        self._last_looks.died(lease_id, now)
        yield from self.read(lease_id, self.folder(lease_id))

    def next_step(self, lease_id: str) -> int:
        """One more than the last step on disk."""
        try:
            return spools.next_step(self.folder(lease_id))
        except OSError as error:
            self.tell_trouble(lease_id, error)
            return 0

    def await_release(self, lease_id: str) -> None:
        """Tell when the process has let go of this folder."""
        self._leaving.add(lease_id)

    def look_again(self, lease_id: str) -> None:
        """Its sizes are to be told again, also if they have not changed."""
        self._looked.pop(lease_id, None)

    def remove(self, lease_id: str, folder: str) -> None:
        """Deletes a lease's folder."""
        self._folders.pop(lease_id, None)
        self._tails.pop(lease_id, None)
        self._looked.pop(lease_id, None)
        self._leaving.discard(lease_id)
        self._last_looks.forget(lease_id)
        spools.remove_folder(folder)

    def tell_trouble(self, lease_id: str, error: OSError) -> None:
        """Once for each kind of trouble."""
        told = (lease_id, str(error))
        if told not in self._troubled:
            self._troubled.add(told)
            say("lease_trouble", lease=lease_id, error=str(error))

    def _look_at(self, lease_id: str, folder: str) -> Iterator[on.Event]:
        sizes, lifecycle = spools.record_sizes(folder)
        if sizes and sizes != self._looked.get(lease_id):
            self._looked[lease_id] = sizes
            yield on.StreamsSeen(lease_id=lease_id, sizes=sizes)
        yield from self.read(lease_id, folder, lifecycle)
        if lease_id in self._leaving and spools.is_released(folder):
            self._leaving.discard(lease_id)
            yield on.LeaseReleased(lease_id=lease_id)


def _seen(lease_id: str, folder: str, *, final: bool) -> on.StreamsSeen:
    sizes, _ = spools.record_sizes(folder)
    return on.StreamsSeen(lease_id=lease_id, sizes=sizes, final=final)
