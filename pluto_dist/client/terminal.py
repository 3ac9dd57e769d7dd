"""The user's own streams: `sys.stdout` and `sys.stderr` may be None, have only `write()`, or raise whatever.

What is said there is a courtesy, so nothing of it may end a call of this package.
"""

from __future__ import annotations

import sys
from typing import Any


def tell(text: str) -> bool:
    """One line on stderr; False if nobody can be reached there."""
    return put(f"pluto_dist: {text}\n")


def put(text: str) -> bool:
    """Text on stderr as it is; False if it could not be written."""
    try:
        sys.stderr.write(text)
    except Exception:  # noqa: BLE001 # code of others: closed, gone, or a stream of the script's own
        return False
    flush(sys.stderr)
    return True


def flush(stream: Any) -> None:
    """What is buffered goes out, if the stream can do that."""
    try:
        stream.flush()
    except Exception:  # noqa: BLE001 # the terminal is gone, or a signal handler interrupts a print: it flushes itself
        return


def is_open(stream: Any) -> bool:
    """Whether there is such a stream, and it does not say that it was closed."""
    try:
        return stream is not None and not getattr(stream, "closed", False)
    except Exception:  # noqa: BLE001 # a property of others
        return False


def is_terminal(stream: Any) -> bool:
    """Whether a person looks at it, as far as it says."""
    try:
        return bool(stream.isatty())
    except Exception:  # noqa: BLE001 # it is None, has no such method, or was closed
        return False
