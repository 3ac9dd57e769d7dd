"""One logged file or folder on its way to object storage: its rows, its contents, its notes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgspec

from pluto_dist.backend import ledger
from pluto_dist.backend.ledger import Notes
from pluto_dist.backend.pluto.guard import clean
from pluto_dist.core.rules import shipment
from pluto_dist.core.rules.shipment import FileOf, Hashed, Note, Object, Sent, Shipment
from pluto_dist.spool.file_lines import FileLine, storable
from pluto_dist.spool.sources import sources_of

SAY_EVERY = 16 << 20  # bytes between two notes for people who watch


class Row(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The metadata row of an object, as the server wants it."""

    file_name: str
    file_type: str
    file_size: int
    log_name: str
    step: int
    time: int
    caption: str | None = None
    sample_index: int = 0
    annotations: str | None = None


class Upload:
    """The upload of one line.

    Args:
        line: with absolute paths.
        notes: of the steps that were done.
    """

    def __init__(self, line: FileLine, notes: Notes) -> None:
        self.line = line
        self._notes = notes
        self._lock = threading.Lock()
        self.sources = sources_of(line)
        names = [part.name for part in line.parts] or [line.file_name]
        files = [FileOf(name, source.size) for name, source in zip(names, self.sources, strict=True)]
        self.shipment = Shipment(
            line.file_name,
            files,
            folder=bool(line.parts),
            hashed=line.log_type in ledger.LISTED,
            limit=shipment.PUT_LIMIT,
            piece=shipment.PIECE,
        )
        for note in notes.all():
            self.shipment.take(note)

    def note(self, note: Note) -> None:
        """Notes a step that is done."""
        with self._lock:
            self._notes.add(note)
            self.shipment.take(note)

    def read(self) -> None:
        """Checks that all contents are there, and reads those whose checksum is needed before.

        Raises:
            ChangedError, OSError: a content cannot be read as it was.
        """
        for index in self.shipment.to_hash():
            self.note(Hashed(index, self.sources[index].sha256()))
        for file in {each.file for each in self.shipment.left if each.file is not None}:
            self.sources[file].check()

    def row(self, each: Object) -> Row:
        """The metadata of one object."""
        line, slot = self.line, self.shipment.slot(each.number)
        log_name = clean(line.log_name)
        return Row(
            file_name=clean(each.name),
            file_type="json" if each.file is None else line.file_type,
            file_size=self.size(each),
            log_name=storable(log_name) if slot.escaped else log_name,
            step=line.step,
            time=line.time,
            caption=None if line.caption is None else clean(line.caption),
            sample_index=line.sample_index,
            annotations=None if each.part else _with_checksum(line, self.shipment.sha256),
        )

    def size(self, each: Object) -> int:
        """Bytes of an object."""
        return each.size if each.file is not None else len(self._manifest)

    def pieces(self, each: Object) -> Iterator[bytes]:
        """The content of an object."""
        if each.file is None:
            return iter((self._manifest,))
        pieces = self.sources[each.file].pieces(each.start, each.size)
        return pieces if each.size <= SAY_EVERY else self._watched(each, pieces)

    @property
    def entry(self) -> ledger.Entry:
        """The entry in the Run's list of files, once storage has it."""
        files = self.shipment.manifest.files if self.shipment.bundle else ()
        digest = ledger.digest_of(files) if files else self.shipment.sha256
        return ledger.entry_of(self.line, "server", digest, files)

    @property
    def _manifest(self) -> bytes:
        return msgspec.json.encode(self.shipment.manifest)

    def _watched(self, each: Object, pieces: Iterator[bytes]) -> Iterator[bytes]:
        sent = told = 0
        for piece in pieces:
            yield piece
            sent += len(piece)
            if sent - told >= SAY_EVERY:
                told = sent
                self.note(Sent(each.number, sent))


def _with_checksum(line: FileLine, digest: str) -> str | None:
    """The line's own annotations, with the checksum beside them where they are an object of names."""
    if not digest:
        return line.annotations
    own = msgspec.json.decode(line.annotations) if line.annotations else {}
    if not isinstance(own, dict):
        return line.annotations
    return msgspec.json.encode({"sha256": digest, **own}).decode()
