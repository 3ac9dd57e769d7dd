"""The trainer's side: handles of Runs, leases and their files, hooks, job detection, console, media.

The way in is `api`, the handle is `run`, what a process writes about itself goes through `lease`. Warnings
name their sender, also where no logging is set up.
"""

from __future__ import annotations

import logging

from pluto_dist.client.terminal import tell


def _sign(record: logging.LogRecord) -> bool:
    """Writes a record with its sender, where no handler would.

    Without a handler Python prints the bare message, a riddle among the output of a job, and raises where
    stderr does.
    """
    if logging.getLogger(record.name).hasHandlers():
        return True
    if logging.lastResort is not None and record.levelno >= logging.lastResort.level:
        tell(record.getMessage())
    return False


logging.getLogger("pluto_dist").addFilter(_sign)
