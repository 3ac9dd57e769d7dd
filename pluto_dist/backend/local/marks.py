"""Marks: how far a Run of the store has been uploaded to one server; a file, replaced atomically.

    runs/<key>/sync/<target>.json

Data and console rows are on the server twice if they are sent twice. So the mark says before each such
request that one is under way; a later `sync` that finds it so counts those rows as possible repeats (G6).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from pluto_dist.backend.local.store import Store, replace_file
from pluto_dist.core.values.backend import Reopened, Status
from pluto_dist.core.values.ids import UNREADABLE
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.core.values.records import SeriesOwner

FORMAT = 1

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
    format: int = FORMAT
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
        return [_read(path) for path in files]

    def of(self, target: Target) -> Mark | None:
        """The mark for this server and key.

        Raises:
            ValueError: it cannot be read.
        """
        path = self._path(target.url_api, target.key_id)
        return _read(path) if path.exists() else None

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


def _read(path: Path) -> Mark:
    try:
        mark = msgspec.json.decode(path.read_bytes(), type=Mark)
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if mark.format > FORMAT:
        raise ValueError(f"{path} has format {mark.format}; this version reads up to {FORMAT}")
    return mark
