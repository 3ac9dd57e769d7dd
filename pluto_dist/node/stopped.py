"""The marker that `pluto-dist coordinator stop` leaves in the runtime folder (R3).

The rule. While the marker is there, nobody starts a coordinator just because the old one is gone: heartbeats
and nudges of attached processes go unanswered, and what is logged stays in the spool. Whoever waits for a
coordinator still gets one, or nothing could begin or end: `init()`, `attach()`, `finish()`, `close()`,
`flush()`, `pluto-dist coordinator start` and `finish`. Starting one takes the marker away.
"""

from __future__ import annotations

import os
from pathlib import Path

from pluto_dist.node.places import Places
from pluto_dist.node.private_files import open_private


def leave(places: Places) -> None:
    """Leaves the marker.

    Raises:
        OSError: the runtime folder cannot be written.
    """
    os.close(open_private(_marker(places), os.O_WRONLY | os.O_CREAT))


def is_left(places: Places) -> bool:
    """Whether somebody stopped the coordinator and nobody has needed one since."""
    return _marker(places).exists()


def clear(places: Places) -> None:
    """A coordinator is needed again."""
    _marker(places).unlink(missing_ok=True)


def _marker(places: Places) -> Path:
    return places.runtime / "stopped"
