"""What runs in the trainer. Its warnings name their sender also where nobody has set up logging."""

from __future__ import annotations

import logging

from pluto_dist.client.terminal import tell


def _sign(record: logging.LogRecord) -> bool:
    """Without a handler Python prints the bare message, which is a riddle among the output of a job.

    It also raises where stderr does, so the line is written here, with its sender.
    """
    if logging.getLogger(record.name).hasHandlers():
        return True
    if logging.lastResort is not None and record.levelno >= logging.lastResort.level:
        tell(record.getMessage())
    return False


logging.getLogger("pluto_dist").addFilter(_sign)
