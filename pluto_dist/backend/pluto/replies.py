"""What the control API tells of a Run, as values."""

from __future__ import annotations

from datetime import datetime

import msgspec

from pluto_dist.core.requests import Status

TERMINAL = frozenset({"COMPLETED", "FAILED", "TERMINATED", "CANCELLED"})
MARK = "pluto_dist"  # under which our own is kept in the Run's loggerSettings and systemMetadata
MARKED = f"systemMetadata.{MARK}.run_id"  # where `create` leaves the external id; the list is filtered by it
UNMARKED = {
    "source": "systemMetadata",
    "key": f"{MARK}.run_id",
    "dataType": "text",
    "operator": "not exists",
    "values": [],
}


class RunReply(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Answer to create and resume."""

    run_id: int
    project_name: str
    url: str
    resumed: bool
    display_id: str | None = None
    forked_from_run_id: int | None = None
    fork_step: int | None = None


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """What we keep in the Run's loggerSettings."""

    key: str = ""
    launch: str = ""


class Details(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Answer to `details`.

    Attributes:
        config: JSON text as the server has it; `null` if there is none.
    """

    id: int
    name: str
    status: Status
    project_name: str
    created_at: datetime
    display_id: str | None = None
    external_id: str | None = None
    tags: tuple[str, ...] = ()
    config: msgspec.Raw = msgspec.Raw(b"null")
    logger_settings: msgspec.Raw = msgspec.Raw(b"null")
    status_metadata: msgspec.Raw = msgspec.Raw(b"null")
    status_updated: datetime | None = None
    forked_from_run_id: int | None = None
    fork_step: int | None = None

    @property
    def config_object(self) -> bytes:
        """The config as a JSON object; empty where the server has none."""
        config = bytes(self.config)
        return b"{}" if config == b"null" else config

    @property
    def key(self) -> str:
        """The key of the coordinator that created the Run; "" if another client did."""
        return self._mark.key

    @property
    def launch(self) -> str:
        """The launch that took the Run up last, of those that span several nodes; "" if none did."""
        return self._mark.launch

    @property
    def _mark(self) -> Mark:
        try:
            settings = msgspec.json.decode(self.logger_settings, type=dict[str, msgspec.Raw])
            return msgspec.json.decode(settings.get(MARK, b"{}"), type=Mark)
        except msgspec.DecodeError:
            return Mark()


class Row(msgspec.Struct, frozen=True):
    """One Run of a list."""

    id: int


class Listed(msgspec.Struct, frozen=True):
    """Answer to `list`; `total` counts what is on other pages too."""

    runs: tuple[Row, ...]
    total: int


class StatusEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One change of status; `id` gives the order of writing, `created_at` may be set by clients."""

    id: str
    from_status: Status | None
    to_status: Status
    source: str
    created_at: datetime

    @property
    def at_ms(self) -> int:
        """`created_at` in epoch milliseconds."""
        return epoch_ms(self.created_at)


class History(msgspec.Struct, frozen=True):
    """All changes of status in the order of writing, which the server's answer is not in."""

    events: tuple[StatusEvent, ...]

    def in_order(self) -> tuple[StatusEvent, ...]:
        """Oldest first."""
        return tuple(sorted(self.events, key=lambda event: int(event.id)))


class BeatReply(msgspec.Struct, frozen=True):
    """Answer to a sign of life."""

    status: Status


def mark(key: str, launch: str = "") -> str:
    """The loggerSettings that say which coordinator's Run this is, and which launch has taken it up."""
    return msgspec.json.encode({MARK: Mark(key, launch)}).decode()


def system_metadata(given: str, external_id: str) -> str:
    """A JSON object with our mark in it, by which the Run is found again."""
    metadata = msgspec.json.decode(given, type=dict[str, msgspec.Raw])
    metadata[MARK] = msgspec.Raw(msgspec.json.encode({"run_id": external_id}))
    return msgspec.json.encode(metadata).decode()


def epoch_ms(moment: datetime) -> int:
    """Epoch milliseconds; whole ones, as the server prints them."""
    return round(moment.timestamp() * 1000)
