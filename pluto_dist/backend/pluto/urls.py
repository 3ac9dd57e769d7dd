"""Where upload addresses stay between asking for them and using them."""

from __future__ import annotations

from typing import Protocol

import msgspec

LIFE_S = 3600.0  # the server signs addresses for an hour


class Slot(msgspec.Struct, frozen=True):
    """What is known of one file's upload.

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
        """What storage's refusal makes of it.

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
        """What was kept."""
        ...

    def put(self, token: str, slot: Slot) -> None:
        """Keeps it."""
        ...

    def forget(self, token: str) -> None:
        """The file's batch is delivered."""
        ...


class MemoryUrlBook:
    """Keeps slots as long as the process lives."""

    def __init__(self) -> None:
        self._slots: dict[str, Slot] = {}

    def get(self, token: str) -> Slot | None:
        """See `UrlBook`."""
        return self._slots.get(token)

    def put(self, token: str, slot: Slot) -> None:
        """See `UrlBook`."""
        self._slots[token] = slot

    def forget(self, token: str) -> None:
        """See `UrlBook`."""
        self._slots.pop(token, None)
