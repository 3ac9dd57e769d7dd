"""Places: the folders of runtime, spool and store on this machine, kept the user's own (G11).

Runtime and spool are one unit below one base folder, so that cursors, locks and records never part. The base
is a fixed path per user on local disk: all processes of the node must come to the same answer by themselves,
so nothing is derived from TMPDIR or XDG_RUNTIME_DIR, which differ per job or vanish at logout.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from pluto_dist.errors import PlacesError, SocketPathError

# sun_path has 108 bytes on Linux and 104 on macOS; one is for the terminating zero.
SOCKET_PATH_LIMIT = 103 if sys.platform == "darwin" else 107
PARENTS = ("/var/tmp", "/tmp", "/dev/shm")  # noqa: S108  -- private_folder() is what makes them safe
STORE_NAME = ".pluto"
FOLDER_MODE = 0o700
FILE_MODE = 0o600
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # non-blocking: a planted FIFO must not hang us
_EFFECTIVE = os.access in os.supports_effective_ids


class Rejected(msgspec.Struct, frozen=True):
    """A base folder that was tried and cannot be used."""

    path: str
    reason: str


class Places(msgspec.Struct, frozen=True):
    """The folders of this node; they exist and are private.

    Attributes:
        base: holds `run` and `spool`.
        filesystem: what the base is on.
        remarks: what the user should know about the choice.
        rejected: better places that could not be used.
    """

    base: Path
    filesystem: Filesystem
    remarks: tuple[str, ...] = ()
    rejected: tuple[Rejected, ...] = ()

    @property
    def runtime(self) -> Path:
        """Socket, lock, log."""
        return self.base / "run"

    @property
    def spool(self) -> Path:
        """One folder per lease."""
        return self.base / "spool"

    @property
    def socket(self) -> Path:
        """The path of the coordinator's socket."""
        return socket_of(self.runtime)

    @property
    def lock(self) -> Path:
        """Held by the coordinator while it lives."""
        return self.runtime / "coordinator.lock"

    @property
    def database(self) -> Path:
        """The coordinator's SQLite file."""
        return self.runtime / "coordinator.db"

    @property
    def alive(self) -> Path:
        """Touched by the coordinator while it serves; shows the next one until when this one watched."""
        return self.runtime / "coordinator.alive"

    @property
    def log(self) -> Path:
        """The coordinator's log: everything that it prints."""
        return self.runtime / "coordinator.log"


def find_places(
    home: Path | None = None, *, parents: Iterable[str] = PARENTS, among: Iterable[Mount] | None = None
) -> Places:
    """Finds and makes runtime and spool: at `home` if given, else at the first usable default.

    Args:
        home: PLUTO_DIST_HOME; insisted on, even on a network filesystem.
        parents: folders in which the default base is tried, best first.
        among: the mounts, as read from the machine if None.

    Raises:
        PlacesError: nothing can be used; names every candidate with its reason.
        SocketPathError: `home` is too long for a socket.
    """
    known = tuple(mounts() if among is None else among)
    if home is not None:
        return _at_home(home, known)
    rejected: list[Rejected] = []
    for parent in parents:
        base = _default_base(parent)
        try:
            return _at_default(base, known, tuple(rejected))
        except OSError as error:
            rejected.append(Rejected(str(base), _reason(error)))
    tried = "; ".join(f"{each.path}: {each.reason}" for each in rejected)
    raise PlacesError(
        f"no folder for the spool: {tried}. Set PLUTO_DIST_HOME to a folder of yours on local disk",
        rejected=[[each.path, each.reason] for each in rejected],
    )


def places_at(runtime: Path, spool: Path) -> Places:
    """The places that a coordinator was started with, checked again.

    Raises:
        PlacesError: they are not private folders of one base, or gone.
    """
    if runtime.parent != spool.parent or (runtime.name, spool.name) != ("run", "spool"):
        raise PlacesError(f"{runtime} and {spool} are not run and spool of one folder")
    return find_places(runtime.parent)


def make_again(places: Places) -> None:
    """Makes folders that were deleted since they were found.

    Raises:
        PlacesError: they cannot be made, or another user has taken the name.
    """
    try:
        _make(places.base)
    except OSError as error:
        raise PlacesError(
            f"{places.base} cannot be used any more: {_reason(error)}", path=str(places.base)
        ) from error


def store_of(folder: Path | None) -> Path:
    """Absolute path of the store: `.pluto` in `folder`, by default in the working directory. Not created.

    Raises:
        PlacesError: the working directory is gone, so a relative path means nothing; or its name is no UTF-8.
    """
    try:
        store = Path(folder or "", STORE_NAME).resolve()  # one folder, one target, whatever it is called
        str(store).encode()
        return store
    except UnicodeEncodeError as error:
        raise PlacesError(
            f"the store folder {str(folder or '.')!a} has a name that is no UTF-8; "
            "give init(dir=…) or PLUTO_DIR another one"
        ) from error
    except FileNotFoundError as error:
        raise PlacesError(
            "the working directory no longer exists; give init(dir=…) or PLUTO_DIR an absolute path"
        ) from error


def make_store(store: Path) -> Path:
    """Makes the store folder when the first thing is put there; its mode follows the user's umask.

    Raises:
        PlacesError: it cannot be made or is no folder.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlacesError(
            f"cannot make the store {store}: {_reason(error)}; point init(dir=…) or PLUTO_DIR elsewhere",
            path=str(store),
        ) from error
    return store


def socket_of(runtime: Path) -> Path:
    """Path of the coordinator's socket.

    Raises:
        SocketPathError: longer than the kernel's address can hold.
    """
    path = runtime / "coordinator.sock"
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_LIMIT:
        raise SocketPathError(
            f"the socket's path {path} has {length} bytes; the limit here is {SOCKET_PATH_LIMIT}. "
            "Set PLUTO_DIST_HOME to a shorter path",
            path=str(path),
            length=length,
            limit=SOCKET_PATH_LIMIT,
        )
    return path


def leftover_spools(places: Places, parents: Iterable[str] = PARENTS) -> tuple[Path, ...]:
    """Spools of ours at other default bases that still hold leases: an earlier job had to go there.

    No coordinator of these places reads them; `pluto-dist sync PATH` does.
    """
    others = [_default_base(parent) / "spool" for parent in parents]
    return tuple(spool for spool in others if spool != places.spool and _is_ours_and_holds_leases(spool))


def _default_base(parent: str) -> Path:
    return Path(parent).resolve() / f"pluto-dist-{os.geteuid()}"


def _is_ours_and_holds_leases(spool: Path) -> bool:
    try:
        return spool.lstat().st_uid == os.geteuid() and any(spool.glob("leases/*"))
    except OSError:
        return False


def _at_home(home: Path, known: tuple[Mount, ...]) -> Places:
    base = Path(os.path.realpath(home))
    socket_of(base / "run")
    try:
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make(base)
        found = filesystem_of(base, known)
    except OSError as error:
        raise PlacesError(
            f"PLUTO_DIST_HOME={home} cannot be used: {_reason(error)}; each user needs one of his own",
            path=str(home),
        ) from error
    return Places(
        base, found, remarks=(*_network_remark(base, found), *_swap_remark(base), *_memory_remark(found))
    )


def _at_default(base: Path, known: tuple[Mount, ...], rejected: tuple[Rejected, ...]) -> Places:
    found = filesystem_of(base, known)
    if found.is_network:
        raise OSError(f"{found.fs_type} is a network filesystem")
    if swap := _swap_remark(base.parent):
        raise PermissionError(swap[0])
    private_folder(base.parent, base.name)
    _make(base)
    return Places(base, found, remarks=_memory_remark(found), rejected=rejected)


def _make(base: Path) -> None:
    for name in ("run", "spool"):
        private_folder(base, name)


def _swap_remark(folder: Path) -> tuple[str, ...]:
    mode = folder.stat().st_mode
    if mode & 0o022 and not mode & stat.S_ISVTX:
        return (f"{folder} lets others rename what is in it (mode {stat.S_IMODE(mode):04o}, no sticky bit)",)
    return ()


def _network_remark(base: Path, found: Filesystem) -> tuple[str, ...]:
    if not found.is_network:
        return ()
    return (
        f"PLUTO_DIST_HOME={base} is on {found.fs_type}, a network filesystem: "
        "locks and sockets may not work, and two hosts must not use it at the same time",
    )


def _memory_remark(found: Filesystem) -> tuple[str, ...]:
    if not found.is_memory:
        return ()
    return (f"the spool is on {found.fs_type}: it counts as memory and is gone after a reboot",)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


# Every step to a private folder or file goes through a descriptor of the folder above, never follows a
# symbolic link and looks at what was really opened. So a folder that another user made, or swapped for a
# link, is noticed and not used. It does not protect from root, from the same user, or from a parent folder
# that its owner renames afterwards.


def private_folder(parent: Path, *names: str) -> Path:
    """`parent/names[0]/names[1]…`, each made with mode 0700 if missing and checked if not.

    `parent` itself must exist; it may be shared (a tmp folder).

    Raises:
        OSError: a folder cannot be made or used; the text says which and why.
    """
    path = parent
    above = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            path = path / name
            below = _enter(above, name, path)
            os.close(above)
            above = below
    finally:
        os.close(above)
    return path


def open_private(path: Path, flags: int) -> int:
    """Opens a file of ours with mode 0600, made if `flags` has O_CREAT; the descriptor is not inherited.

    Raises:
        OSError: it is a link, no plain file, has several names, or belongs to another user.
    """
    descriptor = os.open(path, flags | _FILE_FLAGS, FILE_MODE)
    try:
        _check_file(os.fstat(descriptor), path)
        os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _enter(above: int, name: str, path: Path) -> int:
    with contextlib.suppress(FileExistsError):  # made earlier or at this instant; checked either way
        os.mkdir(name, FOLDER_MODE, dir_fd=above)
    found = os.stat(name, dir_fd=above, follow_symlinks=False)
    _check_folder(found, path)
    below = os.open(name, _FOLDER_FLAGS, dir_fd=above)
    try:
        _check_folder(os.fstat(below), path)
        if not os.access(name, os.W_OK | os.X_OK, dir_fd=above, effective_ids=_EFFECTIVE):
            raise PermissionError(f"{path} is not writable")
    except BaseException:
        os.close(below)
        raise
    return below


def _check_folder(found: os.stat_result, path: Path) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise PermissionError(f"{path} is a symbolic link")
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{path} is not a folder")
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to uid {found.st_uid}, not to {os.geteuid()}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise PermissionError(
            f"{path} is open to others (mode {mode:04o}); `chmod 700` if you trust its content"
        )


def _check_file(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise PermissionError(f"{path} is not a plain file")
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to uid {found.st_uid}, not to {os.geteuid()}")
    if found.st_nlink > 1:
        raise PermissionError(f"{path} has {found.st_nlink} names; it may be somebody's trick")


# Filesystems: which one a path is on, and whether its files are local, lasting and writable.

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
