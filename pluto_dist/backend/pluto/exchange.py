"""One request and what came back, as values; no I/O.

`Kind` says what a repeat of the request would do, because that decides what a broken answer means.
"""

from __future__ import annotations

import math
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal

import msgspec

from pluto_dist.core.outcomes import Delivered, Outcome, Rejected, Retry, Unknown

Kind = Literal[
    "control",  # api, POST: a repeat changes nothing
    "read",  # api, GET
    "beat",  # py: sign of life
    "metrics",  # ingest: the server de-duplicates
    "rows",  # ingest of data and console lines: a repeat is seen
    "presign",  # files: a repeat adds a metadata row
    "put",  # object storage: a repeat writes the same object
]
Service = Literal["api", "ingest", "py"]

# How much of a request had left when it broke: nothing, some of it, all of it.
Progress = Literal["unsent", "partly", "sent"]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole HTTP response.

    Attributes:
        after_s: seconds from `Retry-After`, None where it was not given.
        server_ms: the server's clock from `Date`, whole seconds; None where it was not given.
    """

    status: int
    body: bytes = b""
    after_s: float | None = None
    server_ms: int | None = None


class Broken(msgspec.Struct, frozen=True):
    """No whole response arrived."""

    progress: Progress
    reason: str


NotDelivered = Retry | Rejected | Unknown


class Reply(msgspec.Struct, frozen=True):
    """What became of a request, with the response it was concluded from, if there was one."""

    outcome: Outcome
    answer: Answer | None = None

    @property
    def maybe_carried_out(self) -> bool:
        """Whether the request reached something that may have acted on it."""
        return self.answer is not None or isinstance(self.outcome, Unknown)


class Failed(msgspec.Struct, frozen=True):
    """A reply that is no use."""

    outcome: NotDelivered
    answer: Answer | None = None


def failed(reply: Reply) -> Failed | None:
    """The failure in a reply, None if it was delivered."""
    return None if isinstance(reply.outcome, Delivered) else Failed(reply.outcome, reply.answer)


def seconds_until(retry_after: str | None, now_s: float) -> float | None:
    """Reads `Retry-After`: seconds or an HTTP date. Nonsense counts as not given."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        moment = epoch_s(retry_after)
        return None if moment is None else max(0.0, moment - now_s)
    return max(0.0, seconds) if math.isfinite(seconds) else None


def epoch_s(http_date: str | None) -> float | None:
    """Reads an HTTP date; None where it is missing or malformed."""
    if not http_date:
        return None
    try:
        moment = parsedate_to_datetime(http_date)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
