"""How long to wait after a failure, so that a server that is down is asked ever more rarely."""

from __future__ import annotations

BACKOFF_FIRST_S = 0.5
BACKOFF_CAP_S = 30.0


def backoff_s(failures: int, jitter: float) -> float:
    """Between half and all of min(cap, first * 2 ** failures)."""
    ceiling = min(BACKOFF_CAP_S, BACKOFF_FIRST_S * 2.0 ** min(failures, 16))
    return ceiling * (0.5 + jitter / 2)
