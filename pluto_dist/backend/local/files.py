"""Logged files in the store.

    runs/<key>/files/<log name>/<file name>     of local Runs, and of what a server has not taken yet
    runs/<key>/rejected/<file name>             of records that were set aside

The log name is the one under which the file was logged, not the final one: then a line tells the place,
whoever reads it. File names are unique, so two participants do not meet there.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from pathlib import Path

import msgspec

from pluto_dist.backend.local.store import Store, safe_name, sync_folder
from pluto_dist.spool.file_lines import FileLine, encode_line, read_line, storable
from pluto_dist.spool.names import parse_segment, stream_kind
from pluto_dist.spool.reader import records

PIECE = 1 << 20


def place_of(store: Store, key: str, line: FileLine) -> Path:
    """Where the file of a line is in the store, or would be; always below the Run's folder."""
    return store.run(key) / relative_place(line)


def relative_place(line: FileLine) -> str:
    """The same as seen from the Run's folder."""
    return "/".join(("files", *map(safe_name, storable(line.log_name).split("/")), safe_name(line.file_name)))


def keep(store: Store, key: str, line: bytes) -> bool:
    """Puts the file of a line, whose path is absolute, into the store; repeating it changes nothing.

    Returns:
        Whether the store has it; False if the file is gone, or the line names none.

    Raises:
        OSError: the store could not take it; no part of it stays.
    """
    found = read_line(line)
    if found is None or not Path(found.path).is_absolute():
        return False
    return _copied(Path(found.path), place_of(store, key, found))


def set_aside(store: Store, key: str, line: bytes) -> None:
    """Keeps the file of a refused line, if there is one; its line tells its name.

    Raises:
        OSError: the store could not take it.
    """
    found = read_line(line)
    if found is not None and Path(found.path).is_absolute():
        _copied(Path(found.path), store.run(key) / "rejected" / safe_name(found.file_name))


def located(store: Store, key: str, line: bytes) -> bytes:
    """The line with the absolute path of its file in the store."""
    found = read_line(line)
    if found is None:
        return line
    return encode_line(msgspec.structs.replace(found, path=str(place_of(store, key, found))))


def remove_segment(store: Store, key: str, lease_id: str, segment: str) -> None:
    """Removes a copy of a delivered segment, and before it the files that its records name.

    Raises:
        OSError: the store did not allow it; it is found again.
    """
    parsed = parse_segment(segment)
    if parsed is not None and stream_kind(parsed[0]) == "files":
        for line in records(str(store.run(key) / "streams" / lease_id), *parsed):
            found = read_line(line)
            if found is not None:
                _remove(store.run(key) / "files", place_of(store, key, found))
    store.remove_segment(key, lease_id, segment)


def _copied(source: Path, target: Path) -> bool:
    if target.exists():
        return True
    if not source.is_file():
        return False
    target.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.part"):  # its coordinator was killed
        left.unlink(missing_ok=True)
    draft = target.with_name(f".{target.name}.{os.urandom(8).hex()}.part")
    try:
        _copy(source, draft)
        draft.replace(target)
    except FileNotFoundError:  # delivered and removed in this instant
        if source.exists():
            raise
        return False
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(target.parent)
    return True


def _copy(source: Path, draft: Path) -> None:
    """A link where store and spool are on one filesystem: a blob is never changed."""
    try:
        os.link(source, draft)
    except OSError:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as target, source.open("rb") as content:
            shutil.copyfileobj(content, target, PIECE)
    fd = os.open(draft, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(root: Path, path: Path) -> None:
    """The file, and the folders above it that are empty then."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other files are left
        while (path := path.parent).is_relative_to(root):
            path.rmdir()
