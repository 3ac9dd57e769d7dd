"""When nothing has been left to do for so long that the coordinator ends (R3)."""

from __future__ import annotations


class Idle:
    """Counts the time at rest.

    Args:
        exit_s: seconds at rest after which to end.
    """

    def __init__(self, exit_s: float) -> None:
        self.exit_s = exit_s
        self._since: float | None = None

    def long_enough(self, at_rest: bool, now: float) -> bool:
        """Whether to end now; said once each time, in case it is not heeded."""
        if not at_rest:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        if now < self._since + self.exit_s:
            return False
        self._since = now
        return True

    def deadline(self) -> float | None:
        """When it will have been long enough, None if there is something to do."""
        return self._since + self.exit_s if self._since is not None else None
