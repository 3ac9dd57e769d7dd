"""What runs in the trainer. Its warnings name their sender also where nobody has set up logging."""

from __future__ import annotations

import logging


def _sign(record: logging.LogRecord) -> bool:
    """Without a handler Python prints the bare message, which is a riddle among the output of a job."""
    if not logging.getLogger(record.name).hasHandlers():
        record.msg = f"pluto_dist: {record.msg}"
    return True


logging.getLogger("pluto_dist").addFilter(_sign)
