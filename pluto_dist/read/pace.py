"""Pace of processes: steps per second, from the steps that were seen at several looks."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

KEPT_S = 60.0
PAUSE = 3.0  # so much longer than its longest pause, and a process has stopped
REST_S = 5.0  # a shorter silence is none

Move = tuple[float, int]


class Pace:
    """Steps per second of each lease. A look is given with its time; nothing here has a clock.

    A rank that logs every hundredth step moves in jumps: its rate is taken between jumps, so that it does not
    flicker, and falls only once the next jump is late.
    """

    def __init__(self) -> None:
        self._moves: dict[str, deque[Move]] = {}

    def see(self, lease_id: str, step: int | None, at: float) -> None:
        """Notes the step of a lease at an instant, in seconds of any clock that does not go back."""
        if step is None:
            return
        moves = self._moves.setdefault(lease_id, deque())
        if moves and moves[-1][1] == step:
            return
        moves.append((at, step))
        while len(moves) > 2 and moves[1][0] <= at - KEPT_S:
            moves.popleft()

    def rate(self, lease_id: str, now: float) -> float | None:
        """Steps per second; None while fewer than two steps were seen."""
        moves = self._moves.get(lease_id)
        if moves is None or len(moves) < 2:
            return None
        (first_at, first), (last_at, last) = moves[0], moves[-1]
        pauses = [after[0] - before[0] for before, after in pairwise(moves)]
        silent = now - last_at
        if silent > max(REST_S, PAUSE * max(pauses)):
            return 0.0
        late = silent > 1.5 * sum(pauses) / len(pauses)
        took = (now if late else last_at) - first_at
        return max(0.0, (last - first) / took) if took > 0 else None

    def keep(self, lease_ids: set[str]) -> None:
        """Forgets all other leases."""
        for lease_id in self._moves.keys() - lease_ids:
            del self._moves[lease_id]
