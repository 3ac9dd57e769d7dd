"""Claims: one sync at a time for each Run, without locks, because the store may be on a network filesystem.

A claim is a file that only one process can create, with the identity of its holder, touched while it works.
It is stale when its holder is known to be dead, or when it was not touched for `STALE_S`; the process that
renames a stale one away may create the next.

Limit: a holder that sleeps for longer than `STALE_S` (a suspended laptop, a hung mount) and wakes up finds
the claim gone before its next request, but a request in flight is not called back. Hosts whose clocks differ
from the file server's by more than a minute may judge wrongly.

`Heart` sends heartbeats while a Run is uploaded: to the server, and, by touching the claim, to other syncs.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from pluto_dist.backend.local.store import create_exclusively
from pluto_dist.core.values.backend import Backend, BackendRun
from pluto_dist.core.values.ids import UNREADABLE, Identity
from pluto_dist.errors import MachineError
from pluto_dist.host.identity import own_identity
from pluto_dist.host.liveness import watch

STALE_S = 120.0
TOUCH_S = 20.0


class SyncBusyError(MachineError):
    """Another sync works on this Run."""


class _Holder(msgspec.Struct, frozen=True):
    identity: Identity
    nonce: str


class SyncClaim:
    """Held in a `with` block.

    Args:
        folder: of the Run.

    Raises:
        SyncBusyError: from `__enter__`: another sync holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "sync" / "claim"
        self._mine = msgspec.json.encode(_Holder(own_identity(), os.urandom(8).hex()))
        self._touched = 0.0

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(3):
            if create_exclusively(self._path, self._mine.decode()):
                return self
            self._clear_if_stale()
        raise SyncBusyError(f"another sync took {self._path} in this instant; try again")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_mine():
            self._path.unlink(missing_ok=True)

    def keep(self) -> None:
        """Touches the claim; to be called before each request.

        Raises:
            SyncBusyError: the claim was lost, and another sync goes on.
        """
        now = time.monotonic()
        if now < self._touched + TOUCH_S:
            return
        if not self._is_mine():
            raise SyncBusyError(f"this sync was silent for too long and another one took over ({self._path})")
        os.utime(self._path)
        self._touched = now

    def _is_mine(self) -> bool:
        try:
            return self._path.read_bytes() == self._mine
        except FileNotFoundError:
            return False

    def _clear_if_stale(self) -> None:
        try:
            holder = _holder(self._path.read_bytes())
            age = time.time() - self._path.stat().st_mtime
        except FileNotFoundError:
            return
        if age < STALE_S and not _is_dead(holder):
            raise SyncBusyError(
                f"a sync of pid {holder.pid} on {holder.host} works on this Run since {age:.0f} s or less "
                f"({self._path}); it counts as dead after {STALE_S:g} s without a sign"
            )
        grave = self._path.with_name(f"claim.{os.urandom(4).hex()}")
        try:
            self._path.rename(grave)
        except FileNotFoundError:  # another sync was faster
            return
        grave.unlink()


def _holder(claim: bytes) -> Identity:
    """The holder; an unknown one for a claim that cannot be read, of which only the file's age counts."""
    try:
        return msgspec.json.decode(claim, type=_Holder).identity
    except UNREADABLE:
        return Identity("unknown", 0, 0, 0, host="an unknown host")


def _is_dead(holder: Identity) -> bool:
    """Whether the holder is certainly dead; False for a process of another host."""
    seen = watch(holder)
    try:
        return seen.check() == "dead"
    finally:
        seen.close()


BEAT_S = 20.0  # the server forgets a Run 150 s after its last one and stores at most one each 30 s


class Heart:
    """Heartbeats, in a thread of its own, while the `with` block runs; the first before it begins.

    Args:
        backend, run: receivers of the heartbeats.
        keep: touches the claim on the Run; its loss is noticed with the next request.
    """

    def __init__(self, backend: Backend, run: BackendRun, keep: Callable[[], None]) -> None:
        self._backend = backend
        self._keep = keep
        self._run = run
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pluto-heart", daemon=True)

    def __enter__(self) -> Self:
        self._backend.beat(self._run)
        self._thread.start()
        return self

    def stop(self) -> None:
        """No beat comes after this returns; call it before the Run is ended."""
        self._done.set()
        self._thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _beat(self) -> None:
        while not self._done.wait(BEAT_S):
            with suppress(SyncBusyError, OSError):
                self._keep()
            self._backend.beat(self._run)
