"""Uploads of files in two steps: an upload address from the server, then the bytes to object storage.

Asking has an effect that a repeat shows: the server adds a metadata row each time, whether or not bytes
follow. Uploading has none: the same object is written again. `core.rules.shipment` says what is to be done;
what was done is noted before the next step, so that a coordinator that dies costs neither an address nor a
second upload (G6, G12). Only an answer that was lost between both is asked for again: its intent is recorded.

Memory is constant: contents go out piece by piece. One token bucket for all files of a target sets the pace.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import msgspec

from pluto_dist.backend import ledger
from pluto_dist.backend.ledger import Notes
from pluto_dist.backend.pluto.client import Client, Http, concluded, parsed
from pluto_dist.backend.pluto.exchange import (
    Answer,
    Failed,
    NotDelivered,
    explain,
    is_expired,
    is_name_refused,
)
from pluto_dist.backend.pluto.guard import clean
from pluto_dist.core.rules import shipment
from pluto_dist.core.rules.shipment import Addressed, FileOf, Hashed, Note, Object, Sent, Shipment, Slot
from pluto_dist.core.values.backend import BackendRun, Batch, Delivered, Outcome, Rejected, Retry, Unknown
from pluto_dist.spool.file_lines import FileLine, read_line, storable
from pluto_dist.spool.sources import ChangedError, sources_of

SAY_EVERY = 16 << 20  # bytes between two notes for people who watch
AT_ONCE = 4  # objects of a batch on their way at a time
WORTH_A_THREAD = 8 << 20  # bytes of a batch; below that one thread is as fast
FILES_PER_REQUEST = 200
REQUEST_BYTES = 1 << 20  # the server takes 2 MiB
GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


class Expired(msgspec.Struct, frozen=True):
    """Storage refuses the address."""


class NameRefused(msgspec.Struct, frozen=True):
    """Storage refuses the name of the object."""

    reason: str


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
        names = [part.name for part in line.parts] if line.is_folder else [line.file_name]
        files = [FileOf(name, source.size) for name, source in zip(names, self.sources, strict=True)]
        self.shipment = Shipment(
            line.file_name,
            files,
            folder=line.is_folder,
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
        digest = ledger.digest_of(files) if self.shipment.bundle else self.shipment.sha256
        return ledger.entry_of(self.line, "server", digest, files)

    @property
    def _manifest(self) -> bytes:
        manifest = self.shipment.manifest
        if self.line.shard is not None:
            manifest = msgspec.structs.replace(manifest, shard=self.line.shard)
        return msgspec.json.encode(manifest)

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


Step = tuple[Upload, Object]
Urls = dict[str, list[dict[str, str]]]
_urls = msgspec.json.Decoder(Urls)


class Files:
    """The two steps, and both together for a batch.

    Attributes:
        renewed: refused addresses that were asked for again; each shows as a second metadata row.
    """

    def __init__(self, client: Client, http: Http, wall: Callable[[], float] = time.time) -> None:
        self._client = client
        self._http = http
        self._wall = wall
        self._pace = Pace()
        self._remembered: dict[str, Notes] = {}
        self.renewed = 0

    def deliver(self, run: BackendRun, batch: Batch) -> Outcome:
        """Uploads the files of these lines.

        A repeat with the same lines goes on where this one stopped.
        """
        uploads: list[Upload] = []
        for index, line in enumerate(batch.lines):
            upload = self._begun(run, line, batch.notes)
            if isinstance(upload, Rejected):
                return msgspec.structs.replace(upload, good=index)
            if not isinstance(upload, Upload):
                return upload
            uploads.append(upload)
        outcome = self._all_of(run, uploads, batch.rate)
        if isinstance(outcome, Delivered):
            for line in batch.lines:
                self._remembered.pop(_token(run, line), None)
            _list(run, uploads, batch.lease_id)
        return outcome

    def presign(self, run: BackendRun, rows: Sequence[Row]) -> tuple[str, ...] | NotDelivered:
        """Asks for one address per row, in their order, with one request. A repeat is seen."""
        urls = parsed(self._client.presign(run, rows), _urls.decode)
        if isinstance(urls, Failed):
            return urls.outcome
        found = _match(rows, urls)
        return found if len(found) == len(rows) else Unknown("the answer has not one address for each file")

    def put(self, url: str, pieces: Iterator[bytes], size: int) -> Outcome | Expired | NameRefused:
        """Uploads one object to its address; may be repeated.

        Raises:
            ChangedError, OSError: from `pieces`.
        """
        result = self._http.put(as_signed(url), pieces, size)
        if isinstance(result, Answer) and is_expired(result):
            return Expired()
        if isinstance(result, Answer) and is_name_refused(result):
            return NameRefused(explain(result))
        return concluded("put", result).outcome

    def _begun(self, run: BackendRun, line: bytes, folder: str) -> Upload | Rejected | Retry:
        """One whose content cannot be read gets no metadata row either."""
        fields = read_line(line)
        if fields is None:
            return Rejected(f"no line of a file: {line[:200].decode(errors='replace')}")
        if not all(Path(part.path).is_absolute() for part in fields.contents):
            return Rejected("the line names no file of its lease")
        notes = self._remembered.setdefault(_token(run, line), Notes(folder, fields.id))
        upload = Upload(fields, notes)
        try:
            upload.read()
        except (ChangedError, OSError) as fault:
            return _unreadable(fault)
        return upload

    def _all_of(self, run: BackendRun, uploads: Sequence[Upload], rate: int) -> Outcome:
        while True:
            outcome = self._ask(run, _steps(uploads, Shipment.to_ask))
            if not isinstance(outcome, Delivered):
                return outcome
            steps = _steps(uploads, Shipment.to_send)
            if not steps:
                return outcome
            outcome = self._send_all(steps, rate)
            if not isinstance(outcome, Delivered):
                return outcome

    def _ask(self, run: BackendRun, missing: Sequence[Step]) -> Outcome:
        for part in _parts(missing):
            urls = self.presign(run, [upload.row(each) for upload, each in part])
            if not isinstance(urls, tuple):
                return urls
            for (upload, each), url in zip(part, urls, strict=True):
                before = upload.shipment.slot(each.number)
                self.renewed += before.renewed
                slot = Slot(url, self._wall(), before.renewed, escaped=before.escaped)
                upload.note(Addressed(each.number, slot))
        return Delivered()

    def _send_all(self, steps: Sequence[Step], rate: int) -> Outcome:
        """Several at a time if they are large; the first that fails ends it when those beside it are done."""
        large = sum(upload.size(each) for upload, each in steps) > WORTH_A_THREAD
        left, outcomes = iter(steps), list[Outcome]()
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    step = None if outcomes else next(left, None)
                if step is None:
                    return
                try:
                    outcome = self._send(*step, rate)
                except Exception as error:  # noqa: BLE001 # a thread's error would reach nobody
                    outcome = Unknown(f"{type(error).__name__}: {error}")
                if not isinstance(outcome, Delivered):
                    outcomes.append(outcome)

        others = [
            threading.Thread(target=work, name="pluto upload", daemon=True)
            for _ in range(min(AT_ONCE, len(steps)) - 1 if large else 0)
        ]
        for thread in others:
            thread.start()
        work()
        for thread in others:
            thread.join()
        return outcomes[0] if outcomes else Delivered()

    def _send(self, upload: Upload, each: Object, rate: int) -> Outcome:
        slot = upload.shipment.slot(each.number)
        try:
            outcome = self.put(slot.url, self._pace.limited(upload.pieces(each), rate), upload.size(each))
            if isinstance(outcome, Expired):
                upload.note(Addressed(each.number, slot.refused(self._wall())))
                return Retry(f"storage refuses the upload address of {each.name}")
            if isinstance(outcome, NameRefused):
                return _under_another_name(upload, each, slot, outcome)
            if isinstance(outcome, Delivered):
                upload.note(Addressed(each.number, Slot(done=True)))
            return outcome
        except (ChangedError, OSError) as fault:
            return _unreadable(fault)


def _under_another_name(upload: Upload, each: Object, slot: Slot, refused: NameRefused) -> Outcome:
    """S3 takes nearly every name, MinIO no `a//b` and no `..`: there the bytes get an escaped one."""
    log_name = clean(upload.line.log_name)
    if slot.escaped or storable(log_name) == log_name:
        return Rejected(refused.reason)
    upload.note(Addressed(each.number, Slot(renewed=True, escaped=True)))
    return Retry(f"storage refuses the name {log_name}; it is asked for as an escaped one")


def _steps(uploads: Sequence[Upload], which: Callable[[Shipment], list[Object]]) -> list[Step]:
    return [(upload, each) for upload in uploads for each in which(upload.shipment)]


def _list(run: BackendRun, uploads: Sequence[Upload], lease_id: str) -> None:
    """In the store of the Run; one that is away costs the list an entry, and the upload nothing."""
    found = [
        msgspec.structs.replace(upload.entry, lease_id=lease_id)
        for upload in uploads
        if upload.line.log_type in ledger.LISTED and upload.line.id
    ]
    if run.target.store and found:
        with contextlib.suppress(OSError):
            ledger.add(Path(run.target.store, "runs", run.key), found)


def _token(run: BackendRun, line: bytes) -> str:
    return hashlib.blake2s(b"%d %s" % (run.id, line)).hexdigest()


def _parts(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """In requests that the server takes."""
    part: list[Step] = []
    length = 0
    for upload, each in steps:
        size = len(msgspec.json.encode(upload.row(each)))
        if part and (len(part) == FILES_PER_REQUEST or length + size > REQUEST_BYTES):
            yield part
            part, length = [], 0
        part.append((upload, each))
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


def _unreadable(fault: ChangedError | OSError) -> Rejected | Retry:
    if isinstance(fault, ChangedError):
        return Rejected(str(fault))
    reason = f"{fault.filename or 'the file'} cannot be read: {fault.strerror or fault}"
    return Rejected(reason) if isinstance(fault, GONE) else Retry(reason)


class Pace:
    """The bucket, shared by all threads that upload.

    Args:
        clock, pause: of the machine.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock = clock
        self._pause = pause
        self._lock = threading.Lock()
        self._free_at = 0.0

    def limited(self, pieces: Iterator[bytes], rate: int) -> Iterator[bytes]:
        """The pieces, as fast as `rate` bytes a second allow; 0 for no limit."""
        for piece in pieces:
            if rate:
                self._pause(self._turn(len(piece), rate))
            yield piece

    def _turn(self, size: int, rate: int) -> float:
        """Seconds until these bytes may go; those behind them wait for them too."""
        with self._lock:
            now = self._clock()
            begin = max(now, self._free_at)
            self._free_at = begin + size / rate
            return begin - now
