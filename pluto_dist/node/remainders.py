"""Copies of undelivered segments and their files in the store, and what `sync` has made of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pluto_dist.backend.local import files
from pluto_dist.backend.local.marks import Marks
from pluto_dist.backend.local.store import Store
from pluto_dist.core.effects import Copy, DropCopies, KeepCopies, ReadUploads
from pluto_dist.core.events import CopiesDropped, CopiesKept, UploadsRead
from pluto_dist.core.requests import Uploaded
from pluto_dist.spool.file_lines import located
from pluto_dist.spool.names import segment_name, stream_kind
from pluto_dist.spool.reader import records

PIECE = 4 << 20


def keep(effect: KeepCopies) -> CopiesKept:
    """Copies byte for byte to the same place; a segment that is gone has been delivered meanwhile."""
    store, copied = Store(Path(effect.store)), list[Copy]()
    try:
        for copy in sorted(effect.copies, key=_is_of_files):  # a large file must not hold back records
            name = segment_name(copy.stream, copy.segment)
            if _is_of_files(copy):
                _keep_files(store, effect, copy)
            for start, piece in _pieces(Path(effect.folder, name), copy):
                store.copy_segment(effect.run, effect.lease_id, name, start, piece)
            copied.append(copy)
    except OSError as error:
        return CopiesKept(run=effect.run, lease_id=effect.lease_id, copies=tuple(copied), error=str(error))
    return CopiesKept(run=effect.run, lease_id=effect.lease_id, copies=tuple(copied))


def drop(effect: DropCopies) -> CopiesDropped:
    """Removes them; one that cannot be removed now is found again later."""
    store, gone = Store(Path(effect.store)), list[tuple[str, int]]()
    for stream, segment in effect.segments:
        try:
            files.remove_segment(store, effect.run, effect.lease_id, segment_name(stream, segment))
        except OSError:  # a store that is away: it is tried again
            continue
        gone.append((stream, segment))
    return CopiesDropped(run=effect.run, lease_id=effect.lease_id, segments=tuple(gone))


def uploads(effect: ReadUploads) -> UploadsRead:
    """What the marks beside the Run say of its own server; a mark that cannot be read says nothing."""
    try:
        marks = Marks(Store(Path(effect.target.store)), effect.run).all()
    except (OSError, ValueError):
        return UploadsRead(run=effect.run, uploaded=None)
    found = [mark for mark in marks if mark.url_api == effect.target.url_api and mark.id is not None]
    if not found:
        return UploadsRead(run=effect.run, uploaded=None)
    newest = max(found, key=lambda mark: mark.records)
    uploaded = Uploaded(
        offsets=newest.offsets,
        next_line=newest.next_line,
        external_id=newest.external_id,
        status=newest.status,
    )
    return UploadsRead(run=effect.run, uploaded=uploaded)


def _is_of_files(copy: Copy) -> bool:
    return stream_kind(copy.stream) == "files"


def _keep_files(store: Store, effect: KeepCopies, copy: Copy) -> None:
    """The files of all records up to the end of the copy; those that are gone are delivered."""
    for line in located(records(effect.folder, copy.stream, copy.segment, 0, copy.end), effect.folder):
        files.keep(store, effect.run, line)


def _pieces(path: Path, copy: Copy) -> Iterator[tuple[int, bytes]]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(copy.start)
        start = copy.start
        while start < copy.end and (piece := file.read(min(PIECE, copy.end - start))):
            yield start, piece
            start += len(piece)
