"""Which artifacts of a Run are where, with their checksums: a list beside the Run, in the store.

    runs/<key>/artifacts.jsonl      a JSON object for each, appended when a backend has all of it

A repeated delivery writes a second line with the same id. The list is for people and for `download`; what is
delivered is said by the cursors.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from pluto_dist.core.rules.shipment import ManifestFile
from pluto_dist.core.values.ids import UNREADABLE
from pluto_dist.spool.file_lines import FileLine, Seen

LISTED = frozenset({"ARTIFACT", "FILE"})  # pictures and texts of a training are many, and shown, not fetched
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


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
        self._path = run / "artifacts.jsonl"
        self._read = 0
        self._found: dict[str, Entry] = {}

    def read(self) -> dict[str, Entry]:
        """All entries by id, as of now."""
        for line in self._new_lines():
            try:
                entry = msgspec.json.decode(line, type=Entry)
            except UNREADABLE:  # written by half, or by a newer version
                continue
            self._found[entry.id] = entry
        return self._found

    def _new_lines(self) -> list[bytes]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except OSError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.splitlines()
