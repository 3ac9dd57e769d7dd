"""Lines of a files stream: one logged file each, with the name of its blob.

A line's `path` is the blob's name, so that line and blob can move together from the spool into the store;
only a backend is given an absolute path. What a line says is never trusted to be a blob's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

import msgspec

from pluto_dist.core.values.backend import LogType
from pluto_dist.spool.reader import records

BLOBS: Final = "blobs"  # their folder, in that of the lease
_BLOB = re.compile(r"[0-9a-f]{32}", re.ASCII)

Natural = Annotated[int, msgspec.Meta(ge=0)]


class FileLine(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One line of a files stream.

    Attributes:
        path: in the spool and in the store's streams the blob's name; a backend gets an absolute path.
        file_name: unique below its log name, because the server keeps one object for each pair.
        file_type: extension without its dot, or what else the server's readers go by.
        file_size: bytes when it was logged.
        log_type: how the log name is registered.
        annotations: opaque JSON text.
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
        if found is not None and _BLOB.fullmatch(found.path):
            Path(folder, BLOBS, found.path).unlink(missing_ok=True)


def _located(line: bytes, folder: str) -> bytes:
    found = read_line(line)
    if found is None:
        return line
    path = f"{folder}/{BLOBS}/{found.path}" if _BLOB.fullmatch(found.path) else ""
    return encode_line(msgspec.structs.replace(found, path=path))
