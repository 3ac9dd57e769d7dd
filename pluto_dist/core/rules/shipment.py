"""Shipment: a logged file or folder as objects in storage, and the next steps of its upload.

A plain file is one object. A folder, and a file that is larger than storage takes in one request, become
several objects and a manifest, which goes last: while it is missing, no reader takes the rest for the whole.

Each step is noted, and a later try goes on from the notes: an upload address is used again, because another
one shows as a second row; an object that is stored is not sent again.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Literal, assert_never

import msgspec

from pluto_dist.core.values.ids import Job

GIB = 1 << 30
PUT_LIMIT = 5 * GIB  # of S3 and its kind, for one request
PIECE = GIB  # of a file beyond that: what a broken connection costs
ASK_AHEAD = 4 * GIB  # addresses are asked for so many bytes at a time, because they get old
LIFE_S = 3600.0  # the server signs addresses for an hour
LONGEST_NAME = 60

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


class Slot(msgspec.Struct, frozen=True, omit_defaults=True):
    """State of one object's upload.

    Attributes:
        url: the address; "" if the object needs one.
        asked_s: epoch seconds at which it was asked for.
        renewed: storage has refused an earlier address of this object.
        done: the bytes are stored.
        escaped: storage has refused the name, so the address is asked for under an escaped one.
    """

    url: str = ""
    asked_s: float = 0.0
    renewed: bool = False
    done: bool = False
    escaped: bool = False

    @property
    def needs_url(self) -> bool:
        """Whether an address must be asked for."""
        return not (self.url or self.done)

    def refused(self, now_s: float) -> Slot:
        """The slot after storage has refused its address.

        A refused address is replaced once, since storage does not say why it refuses. If the new one is
        refused too, age was not the reason, and asking again each time would only add metadata rows: it
        stays until it is really old.
        """
        if self.renewed and now_s - self.asked_s < LIFE_S:
            return self
        return Slot(renewed=True, escaped=self.escaped)


class Hashed(msgspec.Struct, frozen=True, tag_field="note", tag="hashed"):
    """The checksum of a file, which was read once before it is sent."""

    file: int
    sha256: str


class Addressed(msgspec.Struct, frozen=True, tag_field="note", tag="addressed"):
    """An object's slot has changed."""

    object: int
    slot: Slot


class Sent(msgspec.Struct, frozen=True, tag_field="note", tag="sent"):
    """Bytes of an object that were sent, for people who watch; only `Slot.done` counts."""

    object: int
    bytes: int


Note = Hashed | Addressed | Sent


class FileOf(msgspec.Struct, frozen=True):
    """A file of an artifact: its name below it, and its bytes."""

    name: str
    size: int


class Object(msgspec.Struct, frozen=True):
    """One object in storage.

    Attributes:
        number: its place.
        name: its file name there.
        file: which file it is a part of; None for the manifest.
        start, size: which part.
        part: there is a manifest that says what it belongs to.
    """

    number: int
    name: str
    file: int | None
    start: int
    size: int
    part: bool = False


class ManifestFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file of an artifact.

    Attributes:
        name: below the artifact, with `/`.
        size: bytes.
        sha256: of its content, in hexadecimal digits.
        objects: file names of its parts in storage, in their order; () where it lies as one file of its name.
    """

    name: str
    size: int
    sha256: str
    objects: tuple[str, ...] = ()


Unit = Literal["rank", "node"]


class Shard(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one rank, or one node, gives of an artifact that all of them give together.

    Nobody waits for the others: each shard is an artifact of its own, and readers put them together. The
    whole is complete when there is one of each number.

    Attributes:
        name: of the whole; the shard is logged under `log_name`.
        number: which rank or node.
        of: how many there are.
        group: tells it from that of another launch or attempt, on all nodes alike.
    """

    name: str
    number: int
    of: int
    unit: Unit = "rank"
    group: str = ""

    @property
    def log_name(self) -> str:
        """The name has the giver in it, so no participant shares it (R7)."""
        return f"{self.name}/{self.unit}{self.number}"


def shard_of(name: str, unit: Unit, job: Job) -> Shard | Literal[False] | None:
    """What a process gives of the artifact `name`, which every rank logs.

    Args:
        name: of the whole.
        unit: a rank gives its own files, or the first of a node's ranks what the node's ranks have written.
        job: of the process.

    Returns:
        None for the whole, False for nothing.

    Raises:
        ValueError: nothing says how many ranks there are.
    """
    if job.rank is None:
        return None
    if unit == "node" and job.nodes == 1:
        return None if job.rank == 0 else False
    if unit == "node" and job.local_rank is not None:  # else each rank gives all, and readers take it once
        return _shard(name, job, job.node_rank, job.nodes, unit) if job.local_rank == 0 else False
    if job.world_size is None:
        raise ValueError("nothing says how many ranks the job has; set WORLD_SIZE, or log it without shards=")
    return _shard(name, job, job.rank, job.world_size, "rank")


def _shard(name: str, job: Job, number: int, of: int, unit: Unit) -> Shard:
    launch = f"{job.launch or job.key} {job.attempt}".encode()
    return Shard(name, number, of, unit, f"{zlib.crc32(launch):08x}")


class Manifest(msgspec.Struct, frozen=True):
    """The files of an artifact of several objects; as an object of its own it is stored last."""

    files: tuple[ManifestFile, ...]
    format: int = 1
    shard: Shard | msgspec.UnsetType = msgspec.UNSET


MANIFEST = ".manifest.json"  # at the end of its object's file name


class Shipment:
    """The upload of one artifact, as its notes show it.

    Args:
        file_name: of the artifact; the objects' names begin with it.
        files: its files.
        folder: the artifact is a folder, and has a manifest even for a single file.
        hashed: checksums are wanted.
        limit, piece: see `PUT_LIMIT` and `PIECE`.
    """

    def __init__(
        self,
        file_name: str,
        files: Sequence[FileOf],
        *,
        folder: bool,
        hashed: bool = True,
        limit: int = PUT_LIMIT,
        piece: int = PIECE,
    ) -> None:
        self._file_name = file_name
        self._files = tuple(files)
        self._wants_hashes = hashed
        self._hashes: dict[int, str] = {}
        self._slots: dict[int, Slot] = {}
        self.bundle = folder or any(file.size > limit for file in self._files)
        parts = [
            (index, start, size)
            for index, file in enumerate(self._files)
            for start, size in _cut(file.size, limit, piece)
        ]
        self.objects = tuple(
            Object(
                number, self._name(number, file) if self.bundle else file_name, file, start, size, self.bundle
            )
            for number, (file, start, size) in enumerate(parts)
        )
        if self.bundle:
            self.objects += (Object(len(parts), file_name + MANIFEST, None, 0, 0),)

    def take(self, note: Note) -> None:
        """Takes the note of a step, done now or by an earlier try."""
        match note:
            case Hashed(file=file, sha256=digest):
                self._hashes[file] = digest
            case Addressed(object=number, slot=slot):
                self._slots[number] = slot
            case Sent():
                pass
            case _:
                assert_never(note)

    def slot(self, number: int) -> Slot:
        """The state of an object."""
        return self._slots.get(number, Slot())

    def to_hash(self) -> list[int]:
        """Files that have to be read before anything is sent: their checksums go before them."""
        if not (self._wants_hashes or self.bundle):
            return []
        return [index for index in range(len(self._files)) if index not in self._hashes]

    def to_ask(self) -> list[Object]:
        """Objects for which addresses are to be asked now."""
        wanted, ahead = [], 0
        for each in self._next():
            if ahead and ahead + each.size > ASK_AHEAD:
                break
            ahead += each.size
            wanted += [each] if self.slot(each.number).needs_url else []
        return wanted

    def to_send(self) -> list[Object]:
        """Objects that have an address and are not stored."""
        return [each for each in self._next() if self.slot(each.number).url]

    @property
    def done(self) -> bool:
        """Whether storage has all of it."""
        return not self.left

    @property
    def sha256(self) -> str:
        """Checksum of a plain file, "" for a bundle or where none is known."""
        return "" if self.bundle else self._hashes.get(0, "")

    @property
    def manifest(self) -> Manifest:
        """The manifest; to be called when all files are hashed."""
        names: dict[int, list[str]] = {}
        for each in self.objects:
            if each.file is not None:
                names.setdefault(each.file, []).append(each.name)
        return Manifest(
            tuple(
                ManifestFile(file.name, file.size, self._hashes[index], tuple(names[index]))
                for index, file in enumerate(self._files)
            )
        )

    @property
    def left(self) -> list[Object]:
        """Objects that storage does not have."""
        return [each for each in self.objects if not self.slot(each.number).done]

    def _next(self) -> list[Object]:
        left = self.left
        return [each for each in left if each.file is not None] or left

    def _name(self, number: int, file: int) -> str:
        plain = _NOT_IN_NAMES.sub("-", self._files[file].name.rpartition("/")[2])[-LONGEST_NAME:]
        return f"{self._file_name}.{number:05d}-{plain.lstrip('.-') or 'file'}"


def _cut(size: int, limit: int, piece: int) -> Iterator[tuple[int, int]]:
    if size <= limit:
        yield 0, size
        return
    for start in range(0, size, piece):
        yield start, min(piece, size - start)
