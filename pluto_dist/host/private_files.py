"""Folders and files that belong to the user alone (G11).

Every step goes through a descriptor of the folder above, never follows a symbolic link and looks at what was
really opened. So a folder that another user made, or swapped for a link, is noticed and not used. It does not
protect from root, from the same user, or from a parent folder that its owner renames afterwards.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

FOLDER_MODE = 0o700
FILE_MODE = 0o600
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # non-blocking: a planted FIFO must not hang us
_EFFECTIVE = os.access in os.supports_effective_ids


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
