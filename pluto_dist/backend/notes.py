"""Notes of uploads in progress, beside the files, from which another coordinator goes on (G12).

    <folder>/<id>.sent      one JSON object a line, appended before what it says counts; a torn last line
                            is a step that is done once more

An address is as good as a key for its object, for an hour; the file is the user's alone, as its folder is.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from pluto_dist.core.rules.shipment import Note
from pluto_dist.core.values.ids import UNREADABLE
from pluto_dist.spool.file_lines import SENT

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
_note: msgspec.json.Decoder[Note] = msgspec.json.Decoder(Note)
_to_json = msgspec.json.Encoder().encode


class Notes:
    """The notes of one artifact's upload; several threads may add.

    Args:
        folder: where they are kept, "" for in memory only.
        id: of the artifact, "" for in memory only.
    """

    def __init__(self, folder: str = "", id: str = "") -> None:  # noqa: A002 # the field's word
        self._path = Path(folder, id + SENT) if folder and id else None
        self._kept: list[Note] = []

    def all(self) -> list[Note]:
        """All notes, oldest first."""
        return list(self._kept) if self._path is None else read_notes(self._path)

    def add(self, note: Note) -> None:
        """Notes a step.

        Raises:
            OSError: the disk cannot take it.
        """
        if self._path is None:
            self._kept.append(note)
            return
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(self._path, _APPEND, 0o600)
        try:
            os.write(fd, _to_json(note) + b"\n")
        finally:
            os.close(fd)


def read_notes(path: Path) -> list[Note]:
    """The notes in a file; [] without one. Lines that cannot be read are passed over."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    found: list[Note] = []
    for line in lines:
        try:
            found.append(_note.decode(line))
        except UNREADABLE:
            continue
    return found
