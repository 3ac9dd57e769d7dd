"""The life of a coordinator process (R3).

The order of its start is fixed: lock, database with a new generation, bind, takeover of what earlier ones
left, serve. It ends when nothing is left to do, when it is asked to, or when it finds that it has been
replaced: by its lock file or its socket, by a missing folder, or by a newer generation in the database.

The lock is held as long as anything can leave the process. It is not released while a request is in flight,
so that everything a coordinator has sent is at the server, or never will be, when the next one starts.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple
from zlib import crc32

from pluto_dist.backend.local import LocalBackend
from pluto_dist.coordinator.database import SupersededError, open_database
from pluto_dist.coordinator.driver import Driver, Keys
from pluto_dist.coordinator.log import say
from pluto_dist.coordinator.worker import ClusterStores, Worker
from pluto_dist.core.machine.coordinator import Coordinator
from pluto_dist.core.values.backend import Backend
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.errors import PlacesError, PlutoDistError
from pluto_dist.host.identity import boot_clock, boot_id
from pluto_dist.host.launch import CoordinatorOptions, end_start, someone_listens, widen_affinity
from pluto_dist.host.places import Places, open_private, places_at
from pluto_dist.host.spawn import try_lock
from pluto_dist.transport.zeromq import RouterServer

CHECK_S = 1.0  # how often it makes sure that lock and socket are still its own
SIGTERM_S = 25.0  # it serves this long after SIGTERM, until its clients have left (R11)
DRAIN_S = 0.1  # a client that found the socket just before it went has spoken by then
LOCK_WAIT_S = 3.0  # one that is just leaving lets go of the lock within this time

DESCRIPTORS = 65_536

LOST_IDENTITY, BUSY, FAILED, DONE = 3, 0, 1, 0


class Targets:
    """Backends by target, made when they are first needed. Shared by the worker threads."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._backends: dict[Target, Backend] = {}
        self._lock = threading.Lock()

    def __call__(self, target: Target) -> Backend:
        with self._lock:
            if target not in self._backends:
                self._backends[target] = self._make(target)
            return self._backends[target]

    def close(self) -> None:
        """Gives back all connections."""
        for backend in self._backends.values():
            backend.close()

    def _make(self, target: Target) -> Backend:
        if target.mode == "local":
            return LocalBackend(Path(target.store))
        from pluto_dist.backend.pluto import PlutoBackend  # only where there is a server

        return PlutoBackend(target, lambda: self._keys.get(target.key_id))


class Stopper:
    """The handler of SIGTERM and SIGINT, which ask for an end; keeps when the first one came."""

    def __init__(self) -> None:
        self.asked_at: float | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked_at is None:
            self.asked_at = boot_clock()
            say("signal", number=str(number), frame=str(frame is not None))


def main(arguments: Sequence[str]) -> int:
    """Runs a coordinator to its end; returns the exit code."""
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the process that started us may have blocked some
    widen_affinity()
    raise_descriptor_limit()
    try:
        options = CoordinatorOptions.parse(arguments)
        places = places_at(options.runtime, options.spool)
    except (PlutoDistError, OSError, ValueError) as error:
        say("cannot_start", error=str(error))
        return FAILED
    try:
        return _serve_locked(places, options)
    except SupersededError as error:
        say("superseded", error=error.message)
        return LOST_IDENTITY
    except (PlutoDistError, OSError) as error:
        say("cannot_go_on", error=str(error))
        return FAILED


def _serve_locked(places: Places, options: CoordinatorOptions) -> int:
    lock = await_lock(places, options.lock_fd)
    if lock is None:
        say("already_running")
        return BUSY
    try:
        return serve(places, lock, options.idle_exit_s)
    finally:
        end_start(places)


def await_lock(places: Places, born_with: int | None) -> CoordinatorLock | None:
    """Takes the lock; None if another coordinator has it and serves, or will soon."""
    if born_with is not None:
        return adopt_lock(places.lock, born_with)
    deadline = boot_clock() + LOCK_WAIT_S
    while (lock := take_lock(places.lock)) is None:
        if someone_listens(places.socket) or boot_clock() >= deadline:
            return None
        time.sleep(0.02)
    return lock


def raise_descriptor_limit() -> None:
    """Each attached process takes a few descriptors; the usual soft limit of 1,024 is there for select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (min(hard, DESCRIPTORS) if hard > 0 else DESCRIPTORS, hard)
        )


def serve(places: Places, lock: CoordinatorLock, idle_exit_s: float) -> int:
    """Runs the coordinator under its lock; returns the exit code."""
    stopper = Stopper()
    signal.signal(signal.SIGTERM, stopper)
    signal.signal(signal.SIGINT, stopper)
    os.close(open_private(places.database, os.O_RDWR | os.O_CREAT))  # no link, pipe or second name
    database = open_database(places.database)
    if database.put_aside:
        say("database_put_aside", why=database.put_aside)
    book = database.load()
    for line in database.unreadable:
        say("unreadable_record", what=line)
    keys = Keys()
    targets = Targets(keys)
    core = Coordinator(
        book,
        boot_id=boot_id(),
        generation=database.generation,
        idle_exit_s=idle_exit_s,
        node=node_id(database.node, boot_id()),
    )
    clusters = ClusterStores()
    # Bound only under the lock: a second bind would take the path over silently (R3).
    server = RouterServer(places.socket)
    socket_id = file_id(places.socket)
    worker = Worker(targets, clusters=clusters)
    before_ms = last_served_ms(places)
    driver = Driver(core, places, database, server, worker, keys, lock.is_intact, before_ms)
    say("started", pid=str(os.getpid()), generation=str(database.generation), runtime=str(places.runtime))
    end_start(places)
    driver.start()  # before the first message is received: what is on disk comes first (R1)
    code = _serve_until_done(
        driver, server, stopper, lambda: lock.is_intact() and _is_ours(places, socket_id) and serves(places)
    )
    say("stopped", code=str(code), reason=driver.stop.reason if driver.stop is not None else "signal")
    if code == LOST_IDENTITY:  # what is still to be done is the other one's, also what is in flight
        return code
    server.close(unlink=_is_ours(places, socket_id))  # no request begins behind those that are waited for
    clusters.interrupt()
    quiet = driver.close()
    clusters.close()
    targets.close()
    database.close()
    if quiet:  # else the lock goes with the process, and the requests that are in flight before it
        lock.release()
    return code


def last_served_ms(places: Places) -> int:
    """When the coordinator before this one was last known to serve, epoch milliseconds; 0 for never."""
    try:
        return places.alive.lstat().st_mtime_ns // 1_000_000
    except FileNotFoundError:
        return 0


def serves(places: Places) -> bool:
    """Touches the file that shows the next coordinator how long this one served; False without the folder."""
    try:
        mark = open_private(places.alive, os.O_RDWR | os.O_CREAT)
    except FileNotFoundError:
        return False
    except OSError:  # no room, or something else has the name: the next one goes by the spool alone
        return True
    try:
        os.utime(mark)
    finally:
        os.close(mark)
    return True


def node_id(number: int, boot: str) -> str:
    """This node's id in cluster stores; another one after a restart of the machine."""
    return f"{(number ^ crc32(boot.encode())) % 2**48:012x}"


def _serve_until_done(
    driver: Driver, server: RouterServer, stopper: Stopper, intact: Callable[[], bool]
) -> int:
    next_check = 0.0
    while driver.stop is None or not _may_leave(driver, server):
        driver.run_once(CHECK_S)
        now = boot_clock()
        if now >= next_check:
            next_check = now + CHECK_S
            if not intact():
                say("replaced")
                return LOST_IDENTITY
        if stopper.asked_at is not None and (driver.idle or now >= stopper.asked_at + SIGTERM_S):
            return DONE
    return DONE


def _may_leave(driver: Driver, server: RouterServer) -> bool:
    """Whether the process may end; not if a client has come in this very moment, or just after it (R3)."""
    if driver.stop is None or not driver.stop.unless or (driver.idle and server.withdraw(DRAIN_S)):
        return True
    driver.stop = None
    return False


def _is_ours(places: Places, socket_id: FileId | None) -> bool:
    return socket_id is not None and file_id(places.socket) == socket_id


class FileId(NamedTuple):
    """Device and inode of a file, whatever its name."""

    device: int
    inode: int


def file_id(path: Path) -> FileId | None:
    """The file that a path names now, None if there is none; links are not followed."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return FileId(found.st_dev, found.st_ino)


class CoordinatorLock:
    """The coordinator's own lock (R3), one per runtime folder; held until `release()` or its end.

    A `flock` on a file that stays: the kernel drops it when the coordinator dies, so there are no stale
    locks. It is taken by the script that spawns the coordinator (`host/spawn.py`) and inherited, or by a
    coordinator that was started by hand. A client never has it, because a flock survives in forked children;
    neither has a child of the coordinator.

    It does not promise that the file is still the one that others would lock, for the runtime folder may have
    been deleted. So the holder asks `is_intact()` before any effect leaves, and ends if not. What was decided
    in between is fenced by the generation, which is kept in the database.

    Every check compares with the file that was there when the lock was taken.

    Args:
        path: of the lock file.
        descriptor: of the locked file; closed by `release()`.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        found = os.fstat(descriptor)
        self._path = path
        self._descriptor = descriptor
        self._held = FileId(found.st_dev, found.st_ino)

    def is_intact(self) -> bool:
        """Whether the path still names the file that is locked."""
        return file_id(self._path) == self._held

    def release(self) -> None:
        """Lets the next coordinator start; the file stays, so that no process locks a deleted one."""
        os.close(self._descriptor)


def take_lock(path: Path) -> CoordinatorLock | None:
    """Takes the lock without waiting.

    Returns:
        None if another coordinator has it.

    Raises:
        PlacesError: the filesystem has no flock.
        OSError: the file cannot be opened.
    """
    return _locked(path, open_private(path, os.O_RDWR | os.O_CREAT))


def adopt_lock(path: Path, descriptor: int) -> CoordinatorLock | None:
    """The lock that this process has inherited.

    Returns:
        None if the descriptor is not that of the lock file, or another coordinator has the lock.

    Raises:
        PlacesError: the filesystem has no flock.
        OSError: there is no such descriptor.
    """
    os.set_inheritable(descriptor, False)
    return _locked(path, descriptor)


def _locked(path: Path, descriptor: int) -> CoordinatorLock | None:
    try:
        taken = try_lock(descriptor)
    except OSError as error:
        os.close(descriptor)
        raise PlacesError(
            f"the filesystem of {path} has no flock ({error.strerror}); set PLUTO_DIST_HOME to a folder on "
            "local disk",
            path=str(path),
        ) from error
    lock = CoordinatorLock(path, descriptor)
    if taken and lock.is_intact():  # else it was deleted in this instant
        return lock
    lock.release()
    return None
