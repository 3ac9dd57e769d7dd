"""Filesystems: which one a path is on, and whether its files are local, lasting and writable."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from pluto_dist.errors import PlacesError

# Other hosts may see the same files: no POSIX locks, sockets or prompt visibility to rely on.
NETWORK = frozenset(
    """
    9p acfs afpfs afs autofs beegfs beegfs_nodev ceph cifs coda davfs dvs fhgfs gfs gfs2 glusterfs gpfs lustre
    ncpfs nfs nfs3 nfs4 ocfs2 orangefs panfs pvfs2 quobyte smb2 smb3 smbfs vboxsf vmhgfs webdav wekafs
    """.split()  # noqa: SIM905  -- a list that people read
)
# Most of FUSE is an object store or an ssh session; these are local.
LOCAL_FUSE = frozenset(
    {"fuseblk", "fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.bindfs", "fuse.lxcfs", "fuse.ntfs-3g"}
)
MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
CONTAINER = frozenset({"overlay", "aufs", "fuse.fuse-overlayfs"})  # a container's own layer ends with it
TMP_FOLDERS = (  # to compare with; nothing is created there
    "/tmp",  # noqa: S108
    "/var/tmp",  # noqa: S108
    "/dev/shm",  # noqa: S108
    "/run",
    "/private/tmp",
    "/private/var/tmp",
    "/private/var/folders",
)

ROOM = 256 << 10  # bytes; with less a coordinator's database cannot begin

_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount(msgspec.Struct, frozen=True):
    """One line of /proc/self/mountinfo; `root` is the part of the filesystem that is mounted."""

    point: str
    fs_type: str
    root: str = "/"
    options: str = ""


class Filesystem(msgspec.Struct, frozen=True):
    """The filesystem of a path; `fs_type` is empty where the platform does not say."""

    fs_type: str
    free_bytes: int

    @property
    def is_network(self) -> bool:
        """Whether other hosts may see and change the files; FUSE counts unless it is known to be local."""
        return self.fs_type in NETWORK or (self.fs_type.startswith("fuse") and self.fs_type not in LOCAL_FUSE)

    @property
    def is_memory(self) -> bool:
        """Whether the files are gone after a reboot and count as memory."""
        return self.fs_type in MEMORY


def parse_mountinfo(lines: Iterable[str]) -> tuple[Mount, ...]:
    """Reads the format of proc(5); lines that do not fit are left out."""
    found = []
    for line in lines:
        left, separator, right = line.partition(" - ")
        fields, rest = left.split(), right.split()
        if separator and len(fields) >= 6 and len(rest) >= 2:
            options = rest[2] if len(rest) > 2 else ""
            found.append(Mount(_unescape(fields[4]), rest[0], _unescape(fields[3]), options))
    return tuple(found)


def mounts() -> tuple[Mount, ...]:
    """All mounts that this process sees; none where there is no /proc."""
    try:
        with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="surrogateescape") as lines:
            return parse_mountinfo(lines)
    except OSError:
        return ()


def mount_of(path: Path, among: Iterable[Mount]) -> Mount | None:
    """The mount that holds `path`: the longest mount point above it, the last one if some are stacked."""
    inside = f"{path}/".replace("//", "/")
    best: Mount | None = None
    for mount in among:
        longer = best is None or len(mount.point) >= len(best.point)
        if longer and inside.startswith(f"{mount.point.rstrip('/')}/"):
            best = mount
    return best


def filesystem_of(path: Path, among: Iterable[Mount] | None = None) -> Filesystem:
    """The filesystem of a path that need not exist yet.

    Raises:
        OSError: not even the root of the path can be examined.
    """
    nearest = existing(path)
    room = os.statvfs(nearest)
    known = mounts() if among is None else among
    mount = mount_of(nearest, known)
    return Filesystem(mount.fs_type if mount else _type_by_psutil(nearest), room.f_bavail * room.f_frsize)


def short_lived(path: Path, fs_type: str, tmp_folders: Iterable[str] = TMP_FOLDERS) -> str | None:
    """The reason why files at `path` may not outlive the job, None without one.

    It cannot know what a site deletes by itself (scratch purges) or which container folders are volumes.
    """
    folder = existing(path)
    if fs_type in MEMORY:
        return f"{fs_type} is memory: the files are gone after a reboot"
    for tmp in tmp_folders:
        if folder.is_relative_to(tmp):
            return f"it is below {tmp}, which is cleaned at times"
    if fs_type in CONTAINER:
        return f"{fs_type} is the container's own layer and ends with it"
    return None


def require_durable(folder: Path, among: Iterable[Mount] | None = None) -> None:
    """Refuses a folder whose files do not outlive the machine.

    Where the platform does not list its mounts, nothing is refused.

    Raises:
        PlacesError: the folder is in memory only.
    """
    found = filesystem_of(folder, among)
    if found.is_memory:
        raise PlacesError(
            f"durability='machine' needs a disk, but {folder} is on {found.fs_type}, which is lost with the "
            "machine's power; name a folder on a disk for the spool, or use durability='process'",
            folder=str(folder),
            filesystem=found.fs_type,
        )


def refusal(folder: Path) -> str:
    """The reason why nothing can be written into the folder now, "" if it can.

    A file is written to find out: a quota does not show in the free space.
    """
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".room") as probe:
            probe.write(b"\0" * ROOM)
            probe.flush()
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return f"the disk of {folder} is full" if full else f"{folder} cannot be written: {error.strerror}"
    return ""


def existing(path: Path) -> Path:
    """The nearest ancestor that exists, with symbolic links resolved."""
    resolved = path.resolve()
    return next((folder for folder in (resolved, *resolved.parents) if folder.exists()), Path("/"))


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def _type_by_psutil(path: Path) -> str:
    if sys.platform.startswith("linux"):
        return ""  # /proc is hidden; psutil would read the same file
    import psutil  # type: ignore[import-untyped, unused-ignore]  # slow, so only where there is no mountinfo

    found = [Mount(part.mountpoint, part.fstype) for part in psutil.disk_partitions(all=True)]
    mount = mount_of(path, found)
    return mount.fs_type if mount else ""
