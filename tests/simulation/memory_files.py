"""The spool's files in memory, with the faults that disks and machines have.

`MemoryDisk` is what outlives processes; `MemoryFiles` is one process's view, with descriptors of its own.
Deterministic: random choices come from the generator that the caller passes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from random import Random


def _error(code: int, path: str = "") -> OSError:
    return OSError(code, os.strerror(code), path)


class _File:
    """Content of a file, whether or not it still has a name."""

    def __init__(self, now: float) -> None:
        self.data = bytearray()
        self.synced = 0
        self.name_synced = False
        self.changed_at = now
        self.descriptors = 0


class MemoryDisk:
    """A filesystem.

    Attributes:
        capacity: bytes it holds in all; a write that does not fit is short, the next raises ENOSPC.
        failing: errno per operation name (`write`, `create`, `sync`, ...) that is raised until removed.
        before: called with each operation's name first; a slow disk moves its clock here.
    """

    def __init__(self, capacity: int = 1 << 40, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.capacity = capacity
        self.clock = clock
        self.failing: dict[str, int] = {}
        self.before: Callable[[str], None] = lambda operation: None
        self.files: dict[str, _File] = {}

    @property
    def used(self) -> int:
        """Bytes of all files that have a name."""
        return sum(len(file.data) for file in self.files.values())

    def enter(self, operation: str) -> None:
        """Every operation begins here."""
        self.before(operation)
        if code := self.failing.get(operation):
            raise _error(code)

    def power_loss(self, random: Random) -> None:
        """Bytes and names that were not synced are kept or lost at random; all processes must be dead."""
        for path, file in list(self.files.items()):
            if not file.name_synced and random.random() < 0.5:
                del self.files[path]
                continue
            kept = random.randint(file.synced, len(file.data))
            del file.data[kept:]

    def damage(self, path: str, offset: int, data: bytes) -> None:
        """Overwrites bytes, as a failing disk does."""
        self.files[path].data[offset : offset + len(data)] = data


class MemoryFiles:
    """One process's view of a disk; implements `pluto_dist.spool.files.Files`."""

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self.disk = disk or MemoryDisk()
        self._open: dict[int, _File | None] = {}
        self._numbers = iter(range(3, 1 << 30))

    def die(self) -> None:
        """The process is gone: so are its descriptors, and its marks on files."""
        for fd in list(self._open):
            self.close(fd)

    def open_shut(self) -> int:
        return self._number_for(None)

    def create(self, path: str) -> int:
        self.disk.enter("create")
        if path in self.disk.files:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        file = self.disk.files[path] = _File(self.disk.clock())
        return self._number_for(file)

    def write(self, fd: int, data: bytes, /) -> int:
        file = self._open.get(fd)
        if file is None:
            raise _error(errno.EBADF)
        self.disk.enter("write")
        room = self.disk.capacity - self.disk.used
        if room <= 0 and data:
            raise _error(errno.ENOSPC)
        file.data += data[:room]
        file.changed_at = self.disk.clock()
        return min(len(data), room)

    def replace(self, fd: int, new: int) -> int:
        self.disk.enter("replace")
        if fd not in self._open:
            return new
        self._point(fd, self._open[new])
        self.close(new)
        return fd

    def shut(self, fd: int) -> None:
        self.disk.enter("shut")
        if fd in self._open:
            self._point(fd, None)

    def close(self, fd: int) -> None:
        if fd in self._open:
            self._point(fd, None)
            del self._open[fd]

    def sync(self, path: str) -> None:
        self.disk.enter("sync")
        if path in self.disk.files:
            file = self.disk.files[path]
            file.synced = len(file.data)
            return
        inside = self._inside(path)
        if not inside:
            raise _error(errno.ENOENT, path)
        for file in inside.values():
            file.name_synced = True

    def sizes(self, folder: str) -> dict[str, int]:
        self.disk.enter("sizes")
        return {name: len(file.data) for name, file in self._inside(folder).items()}

    def folders(self, folder: str) -> list[str]:
        self.disk.enter("folders")
        below = [path.removeprefix(f"{folder}/") for path in self.disk.files if path.startswith(f"{folder}/")]
        return sorted({rest.split("/", 1)[0] for rest in below if "/" in rest})

    def read_at(self, path: str, offset: int, count: int) -> bytes:
        self.disk.enter("read_at")
        return bytes(self._file(path).data[offset : offset + count])

    def being_written(self, path: str) -> bool:
        return self._file(path).descriptors > 0

    def unlink_if(self, path: str, size: int) -> bool:
        file = self._file(path)
        if len(file.data) != size or file.descriptors:
            return False
        self.unlink(path)
        return True

    def unlink(self, path: str) -> None:
        self.disk.enter("unlink")
        self._file(path)
        del self.disk.files[path]

    def touch_older(self, path: str, before: float) -> bool:
        file = self.disk.files.get(path)
        if file is None:
            if self._inside(path):
                return False  # folders have no times here
            raise _error(errno.ENOENT, path)
        if file.changed_at >= before:
            return False
        file.changed_at = self.disk.clock()
        return True

    def free_bytes(self, path: str) -> int:
        self.disk.enter("free_bytes")
        return max(0, self.disk.capacity - self.disk.used)

    def _inside(self, folder: str) -> dict[str, _File]:
        start = f"{folder}/"
        return {
            path.removeprefix(start): file
            for path, file in self.disk.files.items()
            if path.startswith(start) and "/" not in path.removeprefix(start)
        }

    def _file(self, path: str) -> _File:
        try:
            return self.disk.files[path]
        except KeyError:
            raise _error(errno.ENOENT, path) from None

    def _number_for(self, file: _File | None) -> int:
        fd = next(self._numbers)
        self._open[fd] = None
        self._point(fd, file)
        return fd

    def _point(self, fd: int, file: _File | None) -> None:
        before = self._open[fd]
        if before is not None:
            before.descriptors -= 1
        if file is not None:
            file.descriptors += 1
        self._open[fd] = file
