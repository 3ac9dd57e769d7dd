"""How often people are told of one thing: one alert of a title in a minute, the others are counted."""

from __future__ import annotations

from typing import Final

EVERY_S: Final = 60.0
TITLES: Final = 1000  # remembered at once


class TitleLimit:
    """One in each process and one for each Run: neither a loop nor a job of many ranks floods people."""

    def __init__(self) -> None:
        self._next_at: dict[str, float] = {}
        self._held_back: dict[str, int] = {}

    def admit(self, title: str, now: float) -> int | None:
        """How many of this title were held back since the last one; None if this one is held back too."""
        if now < self._next_at.get(title, now):
            self._held_back[title] = self._held_back.get(title, 0) + 1
            return None
        self._next_at.pop(title, None)
        if len(self._next_at) >= TITLES:
            oldest = next(iter(self._next_at))
            del self._next_at[oldest]
            self._held_back.pop(oldest, None)
        self._next_at[title] = now + EVERY_S
        return self._held_back.pop(title, 0)
