"""Logged files in the store.

    runs/<key>/files/<log name>/<file name>     of local Runs, and of what a server has not taken yet
    objects/<two digits>/<SHA-256>              contents of local Runs' files, of which those are links
    runs/<key>/files/<log name>/<folder>/…      the files of a folder
    runs/<key>/rejected/<file name>             of records that were set aside

The log name is the one under which the file was logged, not the final one: so every reader finds the place by
the line alone. File names are unique, so files of two participants do not collide there.
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from pluto_dist.backend.ledger import Entry, digest_of, entry_of
from pluto_dist.backend.local.store import Store, safe_name, sync_folder, write_all
from pluto_dist.core.rules.shipment import ManifestFile
from pluto_dist.spool.file_lines import SENT, FileLine, Part, encode_line, id_of, read_line, storable
from pluto_dist.spool.frames import parse_segment, stream_kind
from pluto_dist.spool.reader import records
from pluto_dist.spool.sources import ChangedError, Source, sources_of


def place_of(store: Store, key: str, line: FileLine) -> Path:
    """The place of a line's file in the store, taken or not; always below the Run's folder."""
    return store.run(key) / relative_place(line)


def relative_place(line: FileLine) -> str:
    """`place_of`, relative to the Run's folder."""
    return "/".join(("files", *map(safe_name, storable(line.log_name).split("/")), safe_name(line.file_name)))


def places_of(store: Store, key: str, line: FileLine) -> tuple[Path, ...]:
    """Places of a line's contents in the store, in the order of `sources_of`."""
    return _places(place_of(store, key, line), line)


def _places(place: Path, line: FileLine) -> tuple[Path, ...]:
    return tuple(place / part_place(part.name) for part in line.parts) if line.is_folder else (place,)


def part_place(name: str) -> str:
    """Where a file of a folder is below the folder's place."""
    return "/".join(map(safe_name, storable(name).split("/")))


def keep(store: Store, key: str, line: bytes) -> Entry | None:
    """Puts the file of a line, or all of its folder, into the store; repeating it changes nothing.

    Returns:
        What the store has; None if the file is gone, or the line names none.

    Raises:
        ChangedError: the user's file is not what was logged any more.
        OSError: the store could not take it; no part of it stays.
    """
    found = read_line(line)
    if found is None or not _is_located(found):
        return None
    digests, places = [], places_of(store, key, found)
    for source, place in zip(sources_of(found), places, strict=True):
        digest = _taken_in(store, source, place)
        if digest is None:
            return None
        digests.append(digest)
    for folder in {place.parent for place in places}:
        sync_folder(folder)
    if not found.is_folder:
        return entry_of(found, "store", digests[0])
    files = tuple(
        ManifestFile(part.name, part.size, digest) for part, digest in zip(found.parts, digests, strict=True)
    )
    return entry_of(found, "store", digest_of(files), files)


def keep_copy(store: Store, key: str, line: bytes) -> None:
    """Copies the file of an undelivered line into the store; one that is only a reference stays where it is.

    Raises:
        OSError: the store could not take it; no part of it stays.
    """
    found = read_line(line)
    if found is None or not _is_located(found):
        return
    places = places_of(store, key, found)
    for part, source, place in zip(found.contents, sources_of(found), places, strict=True):
        if part.seen is None or part.linked:
            with contextlib.suppress(ChangedError, FileNotFoundError):  # its delivery says so, or has been
                _copied(source, place)


def set_aside(store: Store, key: str, line: bytes) -> None:
    """Keeps the file of a refused line, if there is one, under the name in its line.

    Raises:
        OSError: the store could not take it.
    """
    found = read_line(line)
    if found is not None and _is_located(found):
        places = _places(store.run(key) / "rejected" / safe_name(found.file_name), found)
        for source, target in zip(sources_of(found), places, strict=True):
            with contextlib.suppress(ChangedError, FileNotFoundError):
                _copied(source, target)


def located(store: Store, key: str, line: bytes, *, trusted: bool = False) -> bytes:
    """The line with the absolute path of its file in the store.

    Args:
        store, key, line: of which Run.
        trusted: the line was written by this user, so a file of the user's that it names may be read.
    """
    found = read_line(line)
    if found is None:
        return line
    place = place_of(store, key, found)
    parts = tuple(_at(part, place / part_place(part.name), trusted=trusted) for part in found.parts)
    id = id_of(found)  # noqa: A001 # the field's word
    if found.is_folder:
        return encode_line(msgspec.structs.replace(found, path=str(place), parts=parts, id=id))
    return encode_line(msgspec.structs.replace(_at(found, place, trusted=trusted), id=id))


_Content = TypeVar("_Content", FileLine, Part)


def _at(content: _Content, place: Path, *, trusted: bool) -> _Content:
    """The content with its path in the store: a copy, a second link to the user's file, or only its name."""
    seen = content.seen
    if seen is None:
        return msgspec.structs.replace(content, path=str(place))
    try:
        now = place.stat()
    except OSError:
        named = trusted and not content.linked and content.source.startswith("/")
        return msgspec.structs.replace(content, path=content.source if named else str(place))
    is_copy = (now.st_ino, now.st_dev) != (seen.inode, seen.device)  # ours alone
    return msgspec.structs.replace(content, path=str(place), seen=None if is_copy else seen)


def _is_located(line: FileLine) -> bool:
    return all(Path(part.path).is_absolute() for part in line.contents)


def forget_notes(store: Store, key: str, lines: Iterable[bytes]) -> None:
    """Deletes the notes of how far a sync was with the files of these lines, which are uploaded now."""
    for line in lines:
        found = read_line(line)
        if found is not None and id_of(found):
            (store.run(key) / "sync" / (id_of(found) + SENT)).unlink(missing_ok=True)


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
                for place in places_of(store, key, found):
                    _remove(store.run(key) / "files", place)
    store.remove_segment(key, lease_id, segment)


def _taken_in(store: Store, source: Source, target: Path) -> str | None:
    """The same content is in the store once, whatever it is called; its checksum, None if it is gone."""
    if target.exists():
        return Source(str(target), target.stat().st_size).sha256()
    with _draft_of(target) as draft:
        try:
            digest = _own_copy(source, draft)
        except FileNotFoundError:  # delivered and removed in this instant
            if Path(source.path).exists():
                raise
            return None
        _shared(store.object(digest), draft)
        draft.replace(target)
    return digest


def _copied(source: Source, target: Path) -> None:
    """Copies a content; on one filesystem by a link, which `located` tells from a copy."""
    if target.exists():
        return
    source.check()
    with _draft_of(target) as draft:
        try:
            os.link(source.path, draft)
        except OSError:
            _written(source, draft)
        draft.replace(target)
    sync_folder(target.parent)


@contextlib.contextmanager
def _draft_of(target: Path) -> Iterator[Path]:
    """A temporary name beside the target; whatever still has it afterwards is deleted."""
    target.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.part"):  # its coordinator was killed
        left.unlink(missing_ok=True)
    draft = target.with_name(f".{target.name}.{os.urandom(8).hex()}.part")
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _own_copy(source: Source, draft: Path) -> str:
    """Makes the draft a file that does not change any more, a link to a blob if possible; its SHA-256."""
    if source.seen is not None:
        return _written(source, draft)
    try:
        os.link(source.path, draft)
    except OSError:
        return _written(source, draft)
    digest = source.sha256()
    _synced(draft)
    return digest


def _written(source: Source, draft: Path) -> str:
    import hashlib

    digest = hashlib.sha256()
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb", buffering=0) as target:
        for piece in source.pieces():
            digest.update(piece)
            write_all(target.fileno(), piece)
        os.fsync(target.fileno())
    return digest.hexdigest()


def _shared(kept: Path, draft: Path) -> None:
    """Makes draft and object one file; on a filesystem without links the store has the draft only."""
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        try:
            os.link(draft, kept)
        except FileExistsError:
            before, now = kept.stat(), draft.stat()
            if before.st_size == now.st_size and before.st_ino != now.st_ino:  # else it is that file already
                second = draft.with_name(f"{draft.name[:-5]}2.part")
                os.link(kept, second)
                second.replace(draft)


def _synced(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(root: Path, path: Path) -> None:
    """Deletes the file, and the folders above it that are empty then."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other files are left
        while (path := path.parent).is_relative_to(root):
            path.rmdir()
