"""The programs' own account of what they have logged: a line for each point of every `log()` that returned.

At the end the demo compares it with the store. What is in the ledger and not in the store was lost.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

VARIABLE = "DEMO_LEDGER"


class Entry(NamedTuple):
    """One logged point."""

    lease_id: str
    name: str
    step: int
    value: float | str


def note(lease_id: str, data: Mapping[str, float | str], step: int) -> None:
    """Accounts for a `log()` that has returned; survives SIGKILL, as `log()` itself does."""
    lines = "".join(json.dumps([lease_id, name, step, value]) + "\n" for name, value in data.items())
    fd = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, lines.encode())
    finally:
        os.close(fd)


def read(path: Path) -> Iterator[Entry]:
    """All entries; a line that a killed process has not finished is none."""
    for line in path.read_text().split("\n")[:-1]:
        yield Entry(*json.loads(line))
