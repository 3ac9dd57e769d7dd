"""Lines of a files stream: one logged file each, with the name of its blob.

A line's `path` is the blob's name, so that line and blob can move together from the spool into the store;
only a backend is given an absolute path. What a line says is never trusted to be a blob's name.

A file that was not copied has in its line what it was when it was logged (`seen`): its content is the user's,
as a second link to it or only as a name, and `sources` reads it with that in hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

import msgspec

from pluto_dist.core.rules.shipment import Shard
from pluto_dist.core.values.backend import LogType
from pluto_dist.spool.reader import records

BLOBS: Final = "blobs"  # their folder, in that of the lease
SENT: Final = ".sent"  # at the end of a blob's name: how far its upload is
LINK: Final = ".link"  # at the end of a blob's name: it is the user's file, so nothing here may change it
_BLOB = re.compile(r"[0-9a-f]{32}", re.ASCII)

Natural = Annotated[int, msgspec.Meta(ge=0)]


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """Which file it was, and of what state, when it was logged; a write to it changes `mtime_ns`."""

    size: int
    mtime_ns: int
    inode: int
    device: int


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file of a folder that was logged; the fields that `FileLine` has too are the same there.

    Attributes:
        name: below the folder, with `/`.
    """

    name: str
    path: str
    size: Natural
    source: str = ""
    seen: Seen | None = None
    linked: bool = False


class FileLine(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One line of a files stream.

    Attributes:
        path: in the spool and in the store's streams the blob's name; a backend gets an absolute path.
        file_name: unique below its log name, because the server keeps one object for each pair.
        file_type: extension without its dot, or what else the server's readers go by.
        file_size: bytes when it was logged.
        log_type: how the log name is registered.
        annotations: opaque JSON text.
        source: absolute path of the user's file, whose content was not copied; "" for a copy.
        seen: what that file was; None for a copy.
        linked: the blob is a second link to it, and so survives its deletion; else there is no blob.
        parts: the files of a folder; no blob has the `path` of its line then, only they have.
        id: the `path` that the line had in the spool, in lines that a backend gets.
        shard: all ranks or nodes give the artifact together, and this is one's share: a folder, maybe empty.
    """

    path: str
    file_name: str
    file_type: str
    log_name: str
    step: Natural
    time: Natural
    file_size: Natural = 0
    log_type: LogType = "FILE"
    caption: str | None = None
    sample_index: Natural = 0
    annotations: str | None = None
    source: str = ""
    seen: Seen | None = None
    linked: bool = False
    parts: tuple[Part, ...] = ()
    id: str = ""
    shard: Shard | None = None

    @property
    def is_folder(self) -> bool:
        """Whether only its `parts` have contents."""
        return bool(self.parts) or self.shard is not None

    @property
    def contents(self) -> tuple[FileLine | Part, ...]:
        """What has a content of its own: the line, or the files of its folder."""
        return self.parts if self.is_folder else (self,)


_PARTS = {"": "%", ".": "%2E", "..": "%2E%2E"}
_line = msgspec.json.Decoder(FileLine)
_to_json = msgspec.json.Encoder().encode


def located(lines: Iterable[bytes], folder: str) -> tuple[bytes, ...]:
    """The lines with the absolute paths of their blobs in a lease's folder.

    A line that names no blob gets no path; refusing it is the backend's part.
    """
    return tuple(_located(line, folder) for line in lines)


def read_line(line: bytes) -> FileLine | None:
    """A line of a files stream, None if it is none."""
    try:
        return _line.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def storable(log_name: str) -> str:
    """The name as part of a path: no part of it is empty, `.` or `..`; most names are what they are."""
    return "/".join(_PARTS.get(part, part) for part in log_name.split("/"))


def encode_line(line: FileLine) -> bytes:
    """The line with its newline."""
    return _to_json(line) + b"\n"


def remove_blobs(folder: str, stream: str, segment: int, start: int, end: int) -> None:
    """Deletes the blobs that the records in this part of a segment name; those that are gone are no error.

    Raises:
        OSError: one cannot be deleted; the call may be repeated.
    """
    for line in records(folder, stream, segment, start, end):
        found = read_line(line)
        if found is None:
            continue
        for blob in (found.path, *(part.path for part in found.parts)):
            if _BLOB.fullmatch(blob):
                for ending in ("", LINK, SENT):
                    Path(folder, BLOBS, blob + ending).unlink(missing_ok=True)


def place_in(folder: str, line: FileLine | Part) -> str:
    """Absolute path of a line's content: in the lease's folder, or the user's file; "" if it names none."""
    if line.seen is not None and not line.linked:
        return line.source if line.source.startswith("/") else ""
    if not _BLOB.fullmatch(line.path):
        return ""
    return f"{folder}/{BLOBS}/{line.path}{LINK if line.linked else ''}"


def _located(line: bytes, folder: str) -> bytes:
    found = read_line(line)
    if found is None:
        return line
    parts = tuple(msgspec.structs.replace(part, path=place_in(folder, part)) for part in found.parts)
    path = f"{folder}/{BLOBS}/{found.path}" if found.is_folder else place_in(folder, found)
    return encode_line(msgspec.structs.replace(found, path=path, parts=parts, id=id_of(found)))


def id_of(line: FileLine) -> str:
    """The id of a line as it stands in a spool; "" where it has none that could be a file's name."""
    return line.path if _BLOB.fullmatch(line.path) else ""
