"""Watches on the processes of all leases and on launchers, which notice their deaths (R2).

pidfds wake the driver by themselves, through one descriptor for all of them, so that a wait costs the same
beside 1 and beside 256; locks are probed every `PROBE_INTERVAL_S`. A process that cannot be seen
from here (another boot) and that has sent nothing for `UNSEEN_S` counts as dead: alive, it would have renewed
its lease twelve times.
"""

from __future__ import annotations

import select
from pathlib import Path

import msgspec

from pluto_dist.coordinator.log import say
from pluto_dist.core.values.ids import Identity
from pluto_dist.host.liveness import (
    LOCK_NAME,
    PROBE_INTERVAL_S,
    ExitStatus,
    OomWatch,
    Watch,
    oom_counter_of,
    watch,
)

UNSEEN_S = 60.0


class Death(msgspec.Struct, frozen=True):
    """A process that is gone, and what the kernel still knew.

    Attributes:
        seen: it was seen alive by this coordinator; else it may have been dead for long.
    """

    key: str
    alive_until: float
    status: ExitStatus | None
    oom: bool
    seen: bool = True


class _Watched(msgspec.Struct):
    watch: Watch
    since: float
    seen_at: float
    oom: OomWatch
    seen: bool = False


class Watches:
    """Watches by key: a lease id, or `run:<key>` for a launcher."""

    def __init__(self) -> None:
        self._watched: dict[str, _Watched] = {}
        self._by_fd: dict[int, str] = {}
        self._epoll = select.epoll() if hasattr(select, "epoll") else None  # as for pidfds: Linux alone
        self._polled_at = 0.0

    def polled(self, now: float) -> None:
        """Notes that all descriptors were polled and the deaths taken: all others were alive just now."""
        self._polled_at = now

    def start(self, key: str, identity: Identity, folder: str | None, now: float) -> None:
        """Begins to watch; a key that is watched already is left as it is."""
        if key in self._watched:
            return
        lock = Path(folder) / LOCK_NAME if folder is not None else None
        try:
            found = watch(identity, lock)
        except OSError as error:  # not the file that the process made; only its heartbeats can tell now
            say("lease_file_unusable", key=key, error=str(error))
            found = watch(identity)
        counter = oom_counter_of(identity.pid) if found.way == "pidfd" else None
        self._watched[key] = _Watched(found, now, now, OomWatch(counter))
        fd = found.fileno()
        if fd is not None and self._epoll is not None:
            self._by_fd[fd] = key
            self._epoll.register(fd, select.EPOLLIN)

    def note_message(self, key: str, now: float) -> None:
        """Notes a message of the process."""
        watched = self._watched.get(key)
        if watched is not None:
            watched.seen_at, watched.seen = now, True

    def stop(self, key: str) -> None:
        """Ends a watch."""
        watched = self._watched.pop(key, None)
        if watched is not None:
            fd = watched.watch.fileno()
            if fd is not None and self._epoll is not None:
                del self._by_fd[fd]
                self._epoll.unregister(fd)
            watched.watch.close()

    @property
    def descriptor(self) -> int | None:
        """A descriptor to poll: it is readable when a process has died; None where there are no pidfds."""
        return self._epoll.fileno() if self._epoll is not None else None

    @property
    def probe_interval_s(self) -> float | None:
        """How often `look` has to be called, None if the descriptors say all."""
        return PROBE_INTERVAL_S if len(self._watched) > len(self._by_fd) else None

    def readable(self, now: float) -> list[Death]:
        """The deaths that have made the descriptor readable."""
        ready = self._epoll.poll(0) if self._epoll is not None else []
        return [death for fd, _ in ready for death in self.check(self._by_fd[fd], now)]

    def look(self, now: float) -> list[Death]:
        """Checks all processes whose watches have no descriptor."""
        silent = [key for key, watched in self._watched.items() if watched.watch.fileno() is None]
        return [death for key in silent for death in self.check(key, now)]

    def check(self, key: str, now: float) -> list[Death]:
        """Looks at one process now; the watch of a dead one ends."""
        watched = self._watched.get(key)
        if watched is None:
            return []
        presence = watched.watch.check()
        exact = watched.watch.way == "pidfd"
        gone = presence == "dead" or (presence == "unknown" and now - watched.seen_at > UNSEEN_S)
        if not gone:
            if presence == "alive":
                watched.seen_at, watched.seen = now, True
            return []
        status = watched.watch.exit_status()
        killed = status is not None and status.signal == "SIGKILL"
        # On a busy machine a death is noticed late, and its victims' evidence would come before it (R10).
        alive_until = max(watched.since, self._polled_at) if exact else watched.seen_at
        self.stop(key)
        return [Death(key, alive_until, status, killed and watched.oom.risen(), watched.seen)]
