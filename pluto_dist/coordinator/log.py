"""The coordinator's log: one line of JSON per event on stderr, which is its log file. Never a secret."""

from __future__ import annotations

import contextlib
import json
import sys
import time


def say(event: str, /, **fields: str) -> None:
    """Writes one line: time, event name, fields. A full disk leaves it out and ends nothing."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with contextlib.suppress(OSError):
        print(json.dumps({"time": stamp, "event": event, **fields}), file=sys.stderr, flush=True)  # noqa: T201
