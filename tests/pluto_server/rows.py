"""Append-only rows: data, console lines, file metadata. A repeat is another row."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from .metrics import RunKey


@dataclass(frozen=True, slots=True)
class DataRow:
    """A line of /ingest/data."""

    time: int
    step: int
    log_name: str
    data_type: str
    data: str


@dataclass(frozen=True, slots=True)
class LogRow:
    """A line of /ingest/logs."""

    time: int
    line_number: int
    log_type: str
    message: str


@dataclass(frozen=True, slots=True)
class FileRow:
    """File metadata, written when the URL is asked for."""

    time: int
    step: int
    log_name: str
    file_name: str
    file_type: str
    file_size: int
    object_key: str
    caption: str | None
    annotations: str | None
    sample_index: int


RowT = TypeVar("RowT", DataRow, LogRow, FileRow)


class RowStore(Generic[RowT]):
    """Rows of one kind by run, with the time from which readers see them."""

    def __init__(self) -> None:
        self._rows: dict[RunKey, list[tuple[int, RowT]]] = {}

    def add(self, key: RunKey, rows: list[RowT], visible_ms: int | None) -> None:
        """Append rows in order."""
        self._rows.setdefault(key, []).extend((visible_ms or 0, row) for row in rows)

    def all(self, key: RunKey) -> list[RowT]:
        """Every accepted row."""
        return [row for _, row in self._rows.get(key, [])]

    def visible(self, key: RunKey, now_ms: int) -> list[RowT]:
        """The rows readers can see."""
        return [row for visible_ms, row in self._rows.get(key, []) if visible_ms <= now_ms]

    def forget(self, key: RunKey) -> None:
        """The run was deleted."""
        self._rows.pop(key, None)

    def keys(self) -> list[RunKey]:
        """Every (tenant, project, run) that rows were sent for."""
        return list(self._rows)
