"""The rules of run statuses.

RUNNING is the only status that is not terminal. A terminal status gives way only to one of equal or higher
severity; everything else is applied. A report that loses is dropped whole, and its sender is not told.
"""

from dataclasses import dataclass

from .jsontext import Json, deep_merge
from .runs import Run, RunBook
from .tenants import Key

STATUSES = ("RUNNING", "COMPLETED", "FAILED", "TERMINATED", "CANCELLED")
SEVERITY = {"COMPLETED": 0, "TERMINATED": 1, "CANCELLED": 2, "FAILED": 3}


class Leave:
    """In place of a value: leave the stored one."""


LEAVE = Leave()


@dataclass(frozen=True, slots=True)
class Report:
    """A status report, its JSON strings decoded."""

    status: str
    metadata: Json = LEAVE
    logger_settings: Json = LEAVE
    at_ms: int | None = None


def is_terminal(status: str) -> bool:
    """Whether a run in this status has ended."""
    return status in SEVERITY


def apply(book: RunBook, run: Run, report: Report, key: Key, now_ms: int) -> bool:
    """Apply a report by the rules above; False when it was ignored by severity."""
    old = run.status
    if is_terminal(old) and is_terminal(report.status) and SEVERITY[report.status] < SEVERITY[old]:
        return False
    if report.metadata is not LEAVE:
        run.status_metadata = report.metadata
    if report.logger_settings is not LEAVE:
        run.logger_settings = deep_merge(run.logger_settings, report.logger_settings)
    at_ms = now_ms if report.at_ms is None else report.at_ms
    run.updated_ms = now_ms
    if report.status != old:
        run.status, run.status_updated_ms = report.status, at_ms
        metadata = None if report.metadata is LEAVE else report.metadata
        book.add_event(run, old, "api", at_ms, metadata=metadata, actor_id=key.user_id, key_id=key.id)
    elif report.status == "RUNNING":
        run.status_updated_ms = at_ms
    return True


def reopen(book: RunBook, run: Run, key: Key, now_ms: int) -> str | None:
    """What resume and attach do: terminal becomes RUNNING; what it was, None for a RUNNING one."""
    if not is_terminal(run.status):
        return None
    old, run.status = run.status, "RUNNING"
    run.status_updated_ms = run.updated_ms = now_ms
    book.add_event(run, old, "resume", now_ms, actor_id=key.user_id, key_id=key.id)
    return old


def mark(book: RunBook, run: Run, status: str, *, source: str, metadata: Json, now_ms: int) -> None:
    """A change by the server itself: the monitor or a threshold rule."""
    old, run.status = run.status, status
    run.status_metadata = metadata
    run.status_updated_ms = run.updated_ms = now_ms
    book.add_event(run, old, source, now_ms, metadata=metadata)


def cancel(run: Run, now_ms: int) -> None:
    """A poll after a cancel: from any status, without an event."""
    if run.status != "CANCELLED":
        run.status = "CANCELLED"
        run.status_updated_ms = run.updated_ms = now_ms
