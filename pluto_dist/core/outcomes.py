"""What became of a request to a backend: one closed set, whatever the transport.

Only `Delivered` moves a cursor. `Unknown` is the honest answer when a request may or may not have been
carried out; whether it may be repeated is decided by the kind of stream (G6), not by the backend.
"""

from __future__ import annotations

import msgspec


class Delivered(msgspec.Struct, frozen=True, tag="delivered"):
    """The backend accepted it."""


class Retry(msgspec.Struct, frozen=True, tag="retry"):
    """Certainly not carried out; may be sent again.

    Attributes:
        reason: for people.
        after_s: the earliest time for another try, if the backend said one.
        key_problem: the API key is the cause; everything waits until there is another one.
    """

    reason: str
    after_s: float | None = None
    key_problem: bool = False


class Rejected(msgspec.Struct, frozen=True, tag="rejected"):
    """Will never be accepted as it is.

    Attributes:
        reason: for people.
        good: how many lines before the culprit are acceptable, if it was found before anything was sent;
            None if the backend said no, which may have taken some lines already.
    """

    reason: str
    good: int | None = None


class Unknown(msgspec.Struct, frozen=True, tag="unknown"):
    """The request may have been carried out: no answer, or one that breaks off."""

    reason: str


Outcome = Delivered | Retry | Rejected | Unknown
