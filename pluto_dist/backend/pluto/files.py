"""Uploads of files in two steps: an upload address from the server, then the bytes to object storage.

A repeat of the first step is seen: the server adds a metadata row each time, whether or not bytes follow. A
repeat of the second is not: the same object is written again. So an address is kept with its line, in a
`UrlBook`, until the upload succeeded, over all tries; only one that storage refuses is asked for again, and
counted.

The book is in memory: a coordinator that dies between both steps asks again after its restart. That is the
unknown outcome which its intent has recorded (G6).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

import msgspec

from pluto_dist.backend.pluto.client import Client, concluded, parsed
from pluto_dist.backend.pluto.exchange import (
    Answer,
    Failed,
    NotDelivered,
    explain,
    is_expired,
    is_name_refused,
)
from pluto_dist.backend.pluto.guard import clean
from pluto_dist.backend.pluto.http import Http
from pluto_dist.core.values.backend import BackendRun, Delivered, Outcome, Rejected, Retry, Unknown
from pluto_dist.spool.file_lines import FileLine, read_line, storable
from pluto_dist.spool.sources import ChangedError, Source, source_of

LIFE_S = 3600.0  # the server signs addresses for an hour


class Slot(msgspec.Struct, frozen=True):
    """State of one file's upload.

    Attributes:
        url: the address; "" if the file needs one.
        asked_s: epoch seconds at which it was asked for.
        renewed: storage has refused an earlier address of this file.
        done: the bytes are stored; the rest of its batch is not.
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


class UrlBook(Protocol):
    """Keeps slots by a token that stands for Run and line."""

    def get(self, token: str) -> Slot | None:
        """The slot that was kept, None without one."""
        ...

    def put(self, token: str, slot: Slot) -> None:
        """Keeps a slot."""
        ...

    def forget(self, token: str) -> None:
        """Drops a slot whose file's batch is delivered."""
        ...


class MemoryUrlBook:
    """Keeps slots as long as the process lives."""

    def __init__(self) -> None:
        self._slots: dict[str, Slot] = {}

    def get(self, token: str) -> Slot | None:
        return self._slots.get(token)

    def put(self, token: str, slot: Slot) -> None:
        self._slots[token] = slot

    def forget(self, token: str) -> None:
        self._slots.pop(token, None)


FILES_PER_REQUEST = 200
REQUEST_BYTES = 1 << 20  # the server takes 2 MiB
GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


class Row(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The metadata row of a file, as the server wants it."""

    file_name: str
    file_type: str
    file_size: int
    log_name: str
    step: int
    time: int
    caption: str | None = None
    sample_index: int = 0
    annotations: str | None = None


class Expired(msgspec.Struct, frozen=True):
    """Storage refuses the address."""


class NameRefused(msgspec.Struct, frozen=True):
    """Storage refuses the name of the object."""

    reason: str


class Upload(msgspec.Struct, frozen=True):
    """A file on its way."""

    token: str
    source: Source
    row: Row


Urls = dict[str, list[dict[str, str]]]
_urls = msgspec.json.Decoder(Urls)


class Files:
    """The two steps, and both together for a batch.

    Attributes:
        renewed: refused addresses that were asked for again; each shows as a second metadata row.
    """

    def __init__(
        self, client: Client, http: Http, book: UrlBook, wall: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._http = http
        self._book = book
        self._wall = wall
        self.renewed = 0

    def deliver(self, run: BackendRun, lines: Sequence[bytes]) -> Outcome:
        """Uploads the files of these lines in order, up to the first that fails.

        A repeat with the same lines goes on where this one stopped.
        """
        uploads: list[Upload] = []
        for index, line in enumerate(lines):
            upload = upload_of(run, line)
            if isinstance(upload, Rejected):
                return msgspec.structs.replace(upload, good=index)
            if not isinstance(upload, Upload):
                return upload
            uploads.append(upload)
        outcome = self._ask(run, uploads)
        for upload in uploads:
            if not isinstance(outcome, Delivered):
                return outcome
            outcome = self._store(upload)
        if isinstance(outcome, Delivered):
            for upload in uploads:
                self._book.forget(upload.token)
        return outcome

    def presign(self, run: BackendRun, rows: Sequence[Row]) -> tuple[str, ...] | NotDelivered:
        """Asks for one address per row, in their order, with one request. A repeat is seen."""
        urls = parsed(self._client.presign(run, rows), _urls.decode)
        if isinstance(urls, Failed):
            return urls.outcome
        found = _match(rows, urls)
        return found if len(found) == len(rows) else Unknown("the answer has not one address for each file")

    def put(self, url: str, source: Source) -> Outcome | Expired | NameRefused:
        """Uploads one file to its address; may be repeated."""
        try:
            result = self._http.put(as_signed(url), source.pieces(), source.size)
        except (ChangedError, OSError) as fault:
            return _unreadable(source, fault)
        if isinstance(result, Answer) and is_expired(result):
            return Expired()
        if isinstance(result, Answer) and is_name_refused(result):
            return NameRefused(explain(result))
        return concluded("put", result).outcome

    def _ask(self, run: BackendRun, uploads: Iterable[Upload]) -> Outcome:
        missing = [upload for upload in uploads if self._slot(upload).needs_url]
        for part in _parts(missing):
            urls = self.presign(run, [self._row(upload) for upload in part])
            if not isinstance(urls, tuple):
                return urls
            for upload, url in zip(part, urls, strict=True):
                before = self._slot(upload)
                self.renewed += before.renewed
                self._book.put(upload.token, Slot(url, self._wall(), before.renewed, escaped=before.escaped))
        return Delivered()

    def _row(self, upload: Upload) -> Row:
        if not self._slot(upload).escaped:
            return upload.row
        return msgspec.structs.replace(upload.row, log_name=storable(upload.row.log_name))

    def _store(self, upload: Upload) -> Outcome:
        slot = self._slot(upload)
        if slot.done:
            return Delivered()
        outcome = self.put(slot.url, upload.source)
        if isinstance(outcome, Expired):
            self._book.put(upload.token, slot.refused(self._wall()))
            return Retry(f"storage refuses the upload address of {upload.row.file_name}")
        if isinstance(outcome, NameRefused):
            return self._under_another_name(upload, slot, outcome)
        if isinstance(outcome, Delivered):
            self._book.put(upload.token, Slot(done=True))
        return outcome

    def _under_another_name(self, upload: Upload, slot: Slot, refused: NameRefused) -> Outcome:
        """S3 takes nearly every name, MinIO no `a//b` and no `..`: there the bytes get an escaped one."""
        if slot.escaped or storable(upload.row.log_name) == upload.row.log_name:
            return Rejected(refused.reason)
        self._book.put(upload.token, Slot(renewed=True, escaped=True))
        return Retry(f"storage refuses the name {upload.row.log_name}; it is asked for as an escaped one")

    def _slot(self, upload: Upload) -> Slot:
        return self._book.get(upload.token) or Slot()


def upload_of(run: BackendRun, line: bytes) -> Upload | Rejected | Retry:
    """The upload of a line whose file can be read; one that cannot be gets no metadata row either."""
    fields = read_line(line)
    if fields is None:
        return Rejected(f"no line of a file: {line[:200].decode(errors='replace')}")
    if not Path(fields.path).is_absolute():
        return Rejected("the line names no file of its lease")
    source = source_of(fields)
    try:
        source.check()
    except (ChangedError, OSError) as fault:
        return _unreadable(source, fault)
    token = hashlib.blake2s(b"%d %s" % (run.id, line)).hexdigest()
    return Upload(token, source, _row(fields, source.size))


def _row(line: FileLine, size: int) -> Row:
    return Row(
        file_name=clean(line.file_name),
        file_type=line.file_type,
        file_size=size,
        log_name=clean(line.log_name),
        step=line.step,
        time=line.time,
        caption=None if line.caption is None else clean(line.caption),
        sample_index=line.sample_index,
        annotations=line.annotations,
    )


def _parts(uploads: Sequence[Upload]) -> Iterator[list[Upload]]:
    """The uploads in parts, each small enough for one request."""
    part: list[Upload] = []
    length = 0
    for upload in uploads:
        size = len(msgspec.json.encode(upload.row))
        if part and (len(part) == FILES_PER_REQUEST or length + size > REQUEST_BYTES):
            yield part
            part, length = [], 0
        part.append(upload)
        length += size
    if part:
        yield part


def _match(rows: Sequence[Row], urls: Urls) -> tuple[str, ...]:
    """One address per row, by log name and file name; the server repeats entries in request order."""
    left = {name: iter(entries) for name, entries in urls.items()}
    entries = ((row, next(left.get(row.log_name, iter(())), {})) for row in rows)
    return tuple(entry[row.file_name] for row, entry in entries if row.file_name in entry)


def as_signed(url: str) -> str:
    """The address with `.` and `..` escaped: HTTP libraries resolve them, but the signature is of them."""
    parts = urlsplit(url)
    path = "/".join(
        part.replace(".", "%2E") if part in (".", "..") else part for part in parts.path.split("/")
    )
    return urlunsplit(parts._replace(path=path))


def _unreadable(source: Source, fault: ChangedError | OSError) -> Rejected | Retry:
    if isinstance(fault, ChangedError):
        return Rejected(str(fault))
    reason = f"{source.path} cannot be read: {fault.strerror or fault}"
    return Rejected(reason) if isinstance(fault, GONE) else Retry(reason)
