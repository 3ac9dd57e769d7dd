"""How long the suite waits: one deadline for everything.

Nothing in the suite depends on speed. A test waits for what has to happen and goes on in that moment; the
deadline only turns a hang into a report, so it is far beyond what a machine with other work to do needs.
What must *not* be waited for (a bound of the product that only a fault lets run out) gets a bound of
`NEVER_S` in the test: who waits it out is found by the deadline, and nobody has to take the time.
`tests/test_patience.py` holds this.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 300.0
NEVER_S = 86_400.0  # the longest bound that the settings take

_FIRST_S, _LONGEST_S = 0.002, 0.05  # between two looks


def wait_until(condition: Callable[[], Any], what: str | Callable[[], str] = "") -> Any:
    """Polls until the condition gives something true, and returns that.

    Args:
        what: for the report: what is waited for; a function is asked when the deadline is over.

    Raises:
        AssertionError: the deadline is over.
    """
    deadline, pause_s = time.monotonic() + PATIENCE_S, _FIRST_S
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE_S:g} s: {what() if callable(what) else what}")
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, _LONGEST_S)
    return found
