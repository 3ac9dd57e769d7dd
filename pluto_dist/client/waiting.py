"""What people see of the wait at a process's end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

from pluto_dist.client.terminal import is_terminal, put, tell

if TYPE_CHECKING:
    from pluto_dist.core.values.messages import View
    from pluto_dist.host.settings import Settings

TOLD_AFTER_S = 5.0


class Waiting:
    """The wait at the end: a line that is overwritten on a terminal, else one line if it takes long."""

    def __init__(self, settings: Settings) -> None:
        self._shown = not settings.quiet and is_terminal(sys.stderr)
        self._untold = not (settings.quiet or self._shown)
        self._most_s = 0.0

    def __enter__(self) -> Self:
        return self

    def show(self, view: View | None, left_s: float) -> None:
        """Shows how much is left, and how long the wait is at most."""
        if view is None:
            return
        what = f"delivering, {view.pending / 1e6:.1f} MB left" if view.pending else "waiting for the server"
        trouble = f" ({view.trouble[:60]})" if view.trouble else ""
        line = f"{what}{trouble}, at most {left_s:.0f} s"
        if self._shown:
            put(f"\r\x1b[Kpluto_dist: {line}")
        self._most_s = max(self._most_s, left_s)
        if self._untold and self._most_s - left_s > TOLD_AFTER_S:
            self._untold = False
            tell(line)

    def __exit__(self, *_: object) -> None:
        if self._shown:
            put("\r\x1b[K")
