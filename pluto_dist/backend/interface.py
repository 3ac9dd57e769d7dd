"""What a backend can do. All calls block and run in the coordinator's worker threads.

A backend translates; it decides nothing. It keeps no state that must survive: cursors, names and statuses
belong to the coordinator. Every method may be called again after a crash with the same arguments.

Two implementations are shipped: `local` (the store) and `pluto` (the HTTP server). The contract suite in
`tests/adapters` runs against both and against the in-memory one.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from pluto_dist.core.outcomes import Outcome
from pluto_dist.core.requests import (
    BackendRun,
    Beat,
    LogType,
    Opened,
    OpenRequest,
    OpenResult,
    Refused,
    Reopened,
    Status,
    StatusReport,
    StreamKind,
    Unavailable,
)

__all__ = [
    "Backend",
    "BackendRun",
    "Batch",
    "Beat",
    "LogType",
    "OpenRequest",
    "OpenResult",
    "Opened",
    "Refused",
    "Reopened",
    "Status",
    "StatusReport",
    "StreamKind",
    "Unavailable",
]


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A cut of one segment of one stream.

    Attributes:
        lease_id, stream, segment, start: where it was cut; `start` is the offset of `raw` in the segment.
        raw: the bytes of the segment, frames and all; the local backend copies them.
        lines: the payloads of the record frames in `raw`, each a request line with its newline, with names
            already replaced where a series has a suffix; the server's backend joins them.
        last: nothing follows for now.
    """

    lease_id: str
    stream: str
    kind: StreamKind
    segment: int
    start: int
    raw: bytes
    lines: tuple[bytes, ...]
    last: bool = False


class Backend(Protocol):
    """See the module's docstring."""

    def open(self, request: OpenRequest) -> OpenResult:
        """Creates or reopens a Run."""
        ...

    def deliver(self, run: BackendRun, batch: Batch) -> Outcome:
        """Sends one batch; `Delivered` means all of it."""
        ...

    def register(self, run: BackendRun, names: dict[str, LogType]) -> Outcome:
        """Makes names known before their first delivery."""
        ...

    def report(self, run: BackendRun, report: StatusReport) -> Outcome:
        """Sets the status."""
        ...

    def put_tags(
        self, run: BackendRun, tags: tuple[str, ...], base: tuple[str, ...] | None = None
    ) -> Outcome:
        """Makes the tags these; with `base` only what differs from it, and what others did to them stays."""
        ...

    def merge_config(self, run: BackendRun, patch: bytes) -> Outcome:
        """Merges a JSON object deeply into the config."""
        ...

    def beat(self, run: BackendRun) -> Beat:
        """Says that the job lives, and learns whether somebody cancelled it."""
        ...

    def revive(self, run: BackendRun) -> Outcome:
        """Takes back an end that nobody meant: the server marks a Run FAILED that was silent for too long.

        Any other end stays as it is. Without this, the true status could not replace the wrong one.
        """
        ...

    def seat_epoch(self, run: BackendRun) -> int | Outcome:
        """The highest epoch of a seat that has spoken for the Run, 0 for none; why that is not known."""
        ...

    def put_back(self, reopened: Reopened) -> Outcome:
        """Ends a Run again as it was ended before asking reopened it, unless somebody has gone on with it."""
        ...

    def close(self) -> None:
        """Gives back connections."""
        ...
