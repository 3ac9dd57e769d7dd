"""Output on the user's own streams, which may be None, have only `write()`, or raise any error.

Messages there are a courtesy, so their errors never end a call of this package.
"""

from __future__ import annotations

import sys
from typing import Any


def tell(text: str) -> bool:
    """Prints one line on stderr; False if that is not possible."""
    return put(f"pluto_dist: {text}\n")


def put(text: str) -> bool:
    """Prints text on stderr as it is; False if that is not possible."""
    try:
        sys.stderr.write(text)
    except Exception:  # noqa: BLE001 # code of others: closed, gone, or a stream of the script's own
        return False
    flush(sys.stderr)
    return True


def flush(stream: Any) -> None:
    """Flushes a stream that can be flushed."""
    try:
        stream.flush()
    except Exception:  # noqa: BLE001 # the terminal is gone, or a signal handler interrupts a print: it flushes itself
        return


def is_open(stream: Any) -> bool:
    """Whether the stream exists and is not closed, as far as it says."""
    try:
        return stream is not None and not getattr(stream, "closed", False)
    except Exception:  # noqa: BLE001 # a property of others
        return False


def is_terminal(stream: Any) -> bool:
    """Whether the stream is a terminal, as far as it says."""
    try:
        return bool(stream.isatty())
    except Exception:  # noqa: BLE001 # it is None, has no such method, or was closed
        return False
