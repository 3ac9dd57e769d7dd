"""Artifacts of a Run: which of them are where, with their checksums, and notes of uploads in progress.

    runs/<key>/artifacts.jsonl      in the store, a JSON object for each, appended when a backend has all
    <folder>/<id>.sent              beside the files, a JSON object a line, appended before what it says
                                    counts; a torn last line is a step that is done once more

A repeated delivery writes a second line with the same id. The list is for people and for `download`; what is
delivered is said by the cursors. From the notes another coordinator goes on with an upload (G12). An address
in them is as good as a key for its object, for an hour; the file is the user's alone, as its folder is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from pluto_dist.core.rules.shipment import ManifestFile, Note, Shard
from pluto_dist.core.values.ids import UNREADABLE
from pluto_dist.spool.file_lines import SENT, FileLine, Seen, read_line

LISTED = frozenset({"ARTIFACT", "FILE"})  # pictures and texts of a training are many, and shown, not fetched
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
_note: msgspec.json.Decoder[Note] = msgspec.json.Decoder(Note)
_to_json = msgspec.json.Encoder().encode


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One artifact.

    Attributes:
        id: of its line.
        name: under which it was logged; on a server the final name.
        file_name: with step and id, as storage has it.
        size, sha256: of the content; of a folder the sum, and the checksum of its manifest.
        where: which backend has it.
        files: of a folder, or of a file that was split; () for a plain file.
        lease_id: who logged it.
        source, seen: the user's file, where it was not copied.
        shard: of what it is a rank's or node's share.
    """

    id: str
    name: str
    file_name: str
    step: int
    time: int
    size: int
    sha256: str
    where: Literal["store", "server"]
    files: tuple[ManifestFile, ...] = ()
    lease_id: str = ""
    source: str = ""
    seen: Seen | None = None
    shard: Shard | None = None


def entry_of(
    line: FileLine, where: Literal["store", "server"], sha256: str, files: tuple[ManifestFile, ...] = ()
) -> Entry:
    """The entry of a line whose content a backend has."""
    return Entry(
        id=line.id,
        name=line.log_name,
        file_name=line.file_name,
        step=line.step,
        time=line.time,
        size=sum(file.size for file in files) if files else line.file_size,
        sha256=sha256,
        where=where,
        files=files,
        source=line.source,
        seen=line.seen,
        shard=line.shard,
    )


def digest_of(files: tuple[ManifestFile, ...]) -> str:
    """One checksum for a folder: of the names and checksums of its files, wherever they are kept."""
    import hashlib

    plain = [(file.name, file.size, file.sha256) for file in files]
    return hashlib.sha256(msgspec.json.encode(plain)).hexdigest()


def add(run: Path, entries: list[Entry]) -> None:
    """Appends entries to a Run's list.

    Raises:
        OSError: the store cannot take them.
    """
    if not entries:
        return
    run.mkdir(parents=True, exist_ok=True)
    fd = os.open(run / "artifacts.jsonl", _APPEND, 0o666)
    try:
        os.write(fd, b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
        os.fsync(fd)
    finally:
        os.close(fd)


def entries(run: Path) -> list[Entry]:
    """A Run's artifacts, oldest first, each once; the latest line says where it is."""
    return list(Ledger(run).read().values())


class Ledger:
    """A Run's list for a reader that looks again and again, and reads only what is new.

    Args:
        run: the Run's folder.
    """

    def __init__(self, run: Path) -> None:
        self._lines = _Lines(run / "artifacts.jsonl")
        self._found: dict[str, Entry] = {}

    def read(self) -> dict[str, Entry]:
        """All entries by id, as of now."""
        for line in self._lines.new():
            try:
                entry = msgspec.json.decode(line, type=Entry)
            except UNREADABLE:  # written by half, or by a newer version
                continue
            self._found[entry.id] = entry
        return self._found


class _SetAside(msgspec.Struct):
    reason: str = ""
    record: str = ""


class Refusals:
    """Files of a Run that no backend will take, for a reader that looks again and again.

    Args:
        run: the Run's folder.

    Attributes:
        files: their lines, by file name.
    """

    def __init__(self, run: Path) -> None:
        self._lines = _Lines(run / "rejected.jsonl")
        self._found: dict[str, str] = {}
        self.files: dict[str, FileLine] = {}
        self.read()

    def read(self) -> dict[str, str]:
        """Reasons by id, as of now; what the caller takes out stays out until it is refused again."""
        for line in self._lines.new():
            try:
                found = msgspec.json.decode(line, type=_SetAside)
            except UNREADABLE:
                continue
            record = read_line(found.record.encode())
            if record is not None:
                self._found[record.path] = found.reason
                self.files[record.file_name] = record
        return self._found


class _Lines:
    """The lines of a file to which others append."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def new(self) -> list[bytes]:
        """Whole lines that came since the last time."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except OSError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.splitlines()


class Notes:
    """The notes of one artifact's upload; several threads may add.

    A note that the disk does not take is kept in memory, and so are all behind it: an address that was asked
    for is not asked for again as long as this process lives.

    Args:
        folder: where they are kept, "" for in memory only.
        id: of the artifact, "" for in memory only.
    """

    def __init__(self, folder: str = "", id: str = "") -> None:  # noqa: A002 # the field's word
        self._path = Path(folder, id + SENT) if folder and id else None
        self._kept: list[Note] = []

    def all(self) -> list[Note]:
        """All notes, oldest first."""
        return [*(read_notes(self._path) if self._path is not None else ()), *self._kept]

    def add(self, note: Note) -> None:
        """Notes a step."""
        if not self._written(note) or self._kept:  # in memory they stand in their order
            self._kept.append(note)

    def _written(self, note: Note) -> bool:
        if self._path is None:
            return False
        try:
            self._append(self._path, _to_json(note) + b"\n")
        except OSError:
            return False
        return True

    def _append(self, path: Path, line: bytes) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, _APPEND | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, line)
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
