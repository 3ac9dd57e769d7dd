"""The store folder: local Runs, and copies of records that a server has not taken yet.

    runs/<key>/run.json                       the document, replaced atomically
    runs/<key>/streams/<lease>/<segment>      spool segments, linked, or copied byte for byte from their start
    runs/<key>/files/, runs/<key>/rejected/   logged files, see `files`
    objects/<two digits>/<SHA-256>            their contents, each once
    runs/<key>/system.json                    facts about the machine, for a server where the Run will be made
    runs/<key>/rejected.jsonl                 records that the backend refused, with the reason
    runs/<key>/columns/                       columns that a reader has gathered, may be deleted at any time
    runs/<key>/sync/<server>.json             mark: how far it has been uploaded to one server
    ids/<number>                              holds the key of the Run with this id
    projects/<name>/numbers/<number>          the same, by project: the number in its display id
    projects/<name>/external/<run_id>         holds the key of the Run with the caller's id
    projects/<name>/parts/<run_id>/<key>      parts of that Run here, where several nodes write parts of it

The folder may be shared between hosts, so nothing here locks: a number is taken by creating its file
exclusively, a document is written beside its place and renamed.

Data and console rows are on the server twice if they are sent twice. So the mark of a Run on a server says
before each such request that one is under way; a later `sync` that finds it so counts those rows as possible
repeats (G6).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec

from pluto_dist.core.values.backend import Reopened, Status
from pluto_dist.core.values.ids import UNREADABLE
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.core.values.records import SeriesOwner

PIECE_BYTES = 96 * 1024  # see spool.reader
LONGEST_NAME = 200  # bytes; filesystems take 255

_NUMBER = re.compile(r"[0-9]{1,18}")  # other names in a folder of numbers are not ours


class Store:
    """Paths and the few operations on them. Nothing is created before it is needed.

    Args:
        root: absolute path of the store folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, key: str) -> Path:
        """Folder of a Run."""
        return self.root / "runs" / key

    def streams_of(self, keys: Iterable[str]) -> list[Path]:
        """Folders with the lease folders of a Run's parts."""
        return [self.run(key) / "streams" for key in keys]

    def document(self, key: str) -> bytes | None:
        """The Run's document, None if there is none.

        Raises:
            OSError: it cannot be read, or is no file.
        """
        try:
            return _regular(self.run(key) / "run.json")
        except FileNotFoundError:
            return None

    def object(self, digest: str) -> Path:
        """Place of the content with this SHA-256."""
        return self.root / "objects" / digest[:2] / digest

    def keys(self) -> list[str]:
        """Keys of all Runs with a document, and of those of which another user hides whether they have one.

        Raises:
            OSError: the folder cannot be listed.
        """
        try:
            folders = list((self.root / "runs").iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(folder.name for folder in folders if _may_be(folder / "run.json"))

    def delete(self, key: str, project: str, external_id: str) -> None:
        """Deletes a Run with what only it has of `objects/`; its numbers stay taken. It may be repeated.

        Raises:
            OSError: a part of it cannot be deleted; the document is still there, so the Run is still listed.
        """
        import shutil

        folder = self.run(key)
        own = {entry.stat().st_ino for entry in (folder / "files").rglob("*") if entry.is_file()}
        for entry in folder.iterdir() if folder.is_dir() else ():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != "run.json":
                entry.unlink()
        for entry in (self.root / "objects").glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                found = entry.stat()
                if found.st_ino in own and found.st_nlink == 1:
                    entry.unlink()
        if external_id:
            if self.key_of_external(project, external_id) == key:
                (self._project(project) / "external" / _name(external_id)).unlink(missing_ok=True)
            (self._project(project) / "parts" / _name(external_id) / key).unlink(missing_ok=True)
        (folder / "run.json").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something was put there since
            folder.rmdir()

    def write_document(self, key: str, body: bytes) -> None:
        """Replaces the Run's document; a reader sees the old one or the new one.

        Raises:
            OSError: the store could not take it; the old document is untouched.
        """
        folder = self.run(key)
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "run.json", body)

    def write_metadata(self, key: str, body: bytes) -> None:
        """Keeps facts about the machine, for a server where the Run will be made.

        Raises:
            OSError: the store could not take it.
        """
        folder = self.run(key)
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "system.json", body)

    def metadata(self, key: str) -> bytes:
        """The facts that `write_metadata` kept, else an empty JSON object.

        Raises:
            OSError: it cannot be read.
        """
        try:
            return _regular(self.run(key) / "system.json")
        except FileNotFoundError:
            return b"{}"

    def drop_metadata(self, key: str) -> None:
        """Deletes those facts, once the server has them.

        Raises:
            OSError: it cannot be removed.
        """
        (self.run(key) / "system.json").unlink(missing_ok=True)

    def take_segment(self, key: str, lease_id: str, source: Path, start: int, end: int) -> None:
        """Has these bytes of a spool segment where they are in the segment; repeating it changes nothing.

        On the spool's own filesystem its file gets a second name here: nothing is copied, and what is written
        to it later is here at once. Elsewhere the bytes are copied.

        Raises:
            FileNotFoundError: the segment is gone.
            OSError: the store could not take them.
        """
        folder = self.run(key) / "streams" / lease_id
        spooled = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fd = _linked(source, folder / source.name)
            try:
                if not os.path.sameopenfile(spooled, fd):
                    copy_range(spooled, fd, start, end)
                os.fsync(fd)
            finally:
                os.close(fd)
        finally:
            os.close(spooled)
        if start == 0:
            sync_folder(folder)

    def remove_segment(self, key: str, lease_id: str, segment: str) -> None:
        """Removes a copy that is not needed any more, and the lease's folder with the last one."""
        folder = self.run(key) / "streams" / lease_id
        (folder / segment).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other copies are left
            folder.rmdir()

    def streams(self, key: str) -> list[Path]:
        """Lease folders with stream segments of a Run."""
        folder = self.run(key) / "streams"
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def set_aside(self, key: str, line: bytes) -> None:
        """Keeps a refused record, readable, with its reason; one JSON line."""
        folder = self.run(key)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "rejected.jsonl").open("ab") as file:
            file.write(line)

    def claim_external(self, project: str, external_id: str, key: str) -> str:
        """Takes the caller's id for a Run; returns the key that holds it, which is another's if it was taken.

        A claim whose Run never got a document is left over from a crash and is taken over.
        """
        path = self._project(project) / "external" / _name(external_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        if create_exclusively(path, key):
            return key
        holder = _read(path) or ""
        if holder == key or (holder and self.document(holder) is not None):
            return holder
        replace_file(path, key.encode())
        return key

    def take_number(self, project: str, key: str) -> int:
        """The number of a new Run, from 1: its id in the store, and the number in its display id.

        It is one number, so that `show 7` can mean one Run only. Versions up to 0.1.0 counted twice, so both
        folders are looked at.
        """
        ids, numbers = self.root / "ids", self._project(project) / "numbers"
        for folder in (ids, numbers):
            folder.mkdir(parents=True, exist_ok=True)
        number = max(_highest(ids), _highest(numbers))
        while True:
            number += 1
            if create_exclusively(ids / str(number), key):
                if create_exclusively(numbers / str(number), key):
                    return number
                (ids / str(number)).unlink()  # a coordinator of an older version was faster

    def add_part(self, project: str, external_id: str, key: str, number: int | None = None) -> None:
        """Notes a part of a Run of several nodes, of which another store may have made the first.

        With its number, which that store has given: a new Run of this one gets another, if it is still free.
        Nothing is taken from a Run that is here.
        """
        folder = self._project(project) / "parts" / _name(external_id)
        places = [folder / key]
        if number is not None:
            places.append(self._project(project) / "external" / _name(external_id))
            places += [self.root / "ids" / str(number), self._project(project) / "numbers" / str(number)]
        for path in places:
            path.parent.mkdir(parents=True, exist_ok=True)
            create_exclusively(path, key)

    def parts(self, project: str, external_id: str) -> list[str]:
        """Keys of the parts of a Run of several nodes that were noted here."""
        folder = self._project(project) / "parts" / _name(external_id)
        return (
            sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []
        )

    def key_of_id(self, number: int) -> str | None:
        """Key of the Run with this id."""
        return _read(self.root / "ids" / str(number))

    def key_of_external(self, project: str, external_id: str) -> str | None:
        """Key of the Run with the caller's id."""
        return _read(self._project(project) / "external" / _name(external_id))

    def key_of_number(self, project: str, number: int) -> str | None:
        """Key of the project's n-th Run."""
        return _read(self._project(project) / "numbers" / str(number))

    def projects(self) -> Iterator[str]:
        """Names of all projects."""
        folder = self.root / "projects"
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            yield _read(path / "name") or unquote(path.name)

    def _project(self, project: str) -> Path:
        path = self.root / "projects" / _name(project)
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            replace_file(path / "name", project.encode())
        return path


def replace_file(path: Path, body: bytes) -> None:
    """Writes beside its place, syncs, renames, syncs the folder."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            write_all(fd, body, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes a new name durable; filesystems that cannot sync folders do so by themselves."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (22, 95):  # EINVAL, EOPNOTSUPP: this filesystem does not sync folders
            raise
    finally:
        os.close(fd)


def _linked(source: Path, path: Path) -> int:
    """Opens a file of the store for writing; a new one is the source's own where that can be."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # another filesystem, or one without links
            os.link(source, path, follow_symlinks=False)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)


def copy_range(source: int, target: int, start: int, end: int) -> None:
    """Copies bytes of an open file to the same place of another one."""
    while start < end and (piece := os.pread(source, min(PIECE_BYTES, end - start), start)):
        write_all(target, piece, start)
        start += len(piece)


def write_all(fd: int, data: bytes, start: int | None = None) -> None:
    """All of the data, at an offset or where the descriptor stands."""
    view = memoryview(data)
    while view:
        written = os.write(fd, view) if start is None else os.pwrite(fd, view, start)
        view = view[written:]
        start = None if start is None else start + written


def _may_be(path: Path) -> bool:
    """Whether a file is there, or is hidden from this user."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def safe_name(text: str) -> str:
    """A name that a person gave, as a file name: as it is if it can be, and never a way out of its folder."""
    plain = text.isprintable() and "/" not in text and not text.startswith(".") and text == text.strip()
    return text if plain and 0 < len(text.encode()) <= LONGEST_NAME else _name(text)


def _name(text: str) -> str:
    """A caller's text as a file name: readable where it can be, a digest where it is too long."""
    quoted = quote(text, safe=" ").replace(".", "%2E")
    if 0 < len(quoted) <= LONGEST_NAME:
        return quoted
    import hashlib

    return "%" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _regular(path: Path) -> bytes:
    """Content of a regular file; a pipe in its place would be read for ever."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        return file.read()


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None


def create_exclusively(path: Path, text: str) -> bool:
    """Whether the file is new; it appears with its content. Works on network filesystems, too."""
    draft = path.with_name(f".{path.name[:100]}.{os.getpid()}.{os.urandom(4).hex()}")
    draft.write_text(text)
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def _highest(folder: Path) -> int:
    return max((int(name) for name in os.listdir(folder) if _NUMBER.fullmatch(name)), default=0)  # noqa: PTH208


MARK_FORMAT = 1

Offsets = dict[str, dict[str, dict[int, int]]]  # lease -> stream -> segment -> bytes


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a Run on one server.

    Attributes:
        id: the Run's number there, None until it was created.
        papers: digest of the tags and config that were sent.
        next_line: number of the next console line.
        series: owners of names that the Run's document does not know yet.
        in_flight: rows of a request whose answer was not written down.
        status, ended_ms: what was reported as the end; CANCELLED if the server had that already.
        asked_ms: when a request to create it may have reached the server first, 0 for never, or answered.
        server_status: the status that the server had after the report.
        tags: those that were sent last; what the server has beyond them was added there.
        damaged: places where no record could be read.
        reopened: another user's Run that our request has reopened, until it is put back.
    """

    url_api: str
    key_id: str
    format: int = MARK_FORMAT
    id: int | None = None
    display_id: str = ""
    url: str = ""
    project: str = ""
    external_id: str = ""
    papers: str = ""
    offsets: Offsets = {}
    next_line: int = 1
    series: dict[str, SeriesOwner] = {}
    registered: frozenset[str] = frozenset()
    in_flight: int = 0
    records: int = 0
    repeats: int = 0
    rejected: int = 0
    first_reject: str = ""
    status: Status | None = None
    ended_ms: int | None = None
    asked_ms: int = 0
    damaged: int = 0
    reopened: Reopened | None = None
    server_status: Status | None = None
    tags: tuple[str, ...] | None = None


class Marks:
    """The marks of one Run.

    Args:
        store: where the Run is.
        key: the Run's.
    """

    def __init__(self, store: Store, key: str) -> None:
        self._folder = store.run(key) / "sync"

    def all(self) -> list[Mark]:
        """Every server that has something of the Run; a file of a newer version is left alone.

        Raises:
            ValueError: a mark cannot be read.
        """
        files = sorted(self._folder.glob("*.json")) if self._folder.is_dir() else []
        return [_read_mark(path) for path in files]

    def of(self, target: Target) -> Mark | None:
        """The mark for this server and key.

        Raises:
            ValueError: it cannot be read.
        """
        path = self._path(target.url_api, target.key_id)
        return _read_mark(path) if path.exists() else None

    def put(self, mark: Mark) -> Mark:
        """Keeps a mark; it is on disk when this returns.

        Raises:
            OSError: the store did not take it.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        replace_file(self._path(mark.url_api, mark.key_id), msgspec.json.encode(mark))
        return mark

    def _path(self, url_api: str, key_id: str) -> Path:
        import hashlib

        digest = hashlib.sha256(f"{url_api} {key_id}".encode()).hexdigest()[:12]
        return self._folder / f"{digest}.json"


def _read_mark(path: Path) -> Mark:
    try:
        mark = msgspec.json.decode(path.read_bytes(), type=Mark)
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if mark.format > MARK_FORMAT:
        raise ValueError(f"{path} has format {mark.format}; this version reads up to {MARK_FORMAT}")
    return mark
