"""What must not be recorded: values of environment variables whose names look secret, and the API key.

Known values only: a secret that a program reads from a file and prints is not seen. What goes to the terminal
is never changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

SHORTEST: Final = 8  # characters; shorter values would take ordinary words out of every line
MASK: Final = "***"

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)


def secrets_of(env: Mapping[str, str], *more: str) -> tuple[str, ...]:
    """Values to take out, longest first, so that one within another leaves nothing behind.

    A value that names an existing file or folder is a place, not a secret. Of a value with several lines
    each line counts.
    """
    values = [value for name, value in env.items() if _SECRET_NAME.search(name) and not _is_place(value)]
    lines = {line.strip() for value in (*values, *more) for line in value.splitlines()}
    return tuple(sorted((line for line in lines if len(line) >= SHORTEST), key=len, reverse=True))


def redactor(secrets: Iterable[str]) -> Callable[[str], str]:
    """A function that masks them in a line."""
    known = tuple(secrets)

    def redact(line: str) -> str:
        for secret in known:  # faster than one pattern of them all
            if secret in line:
                line = line.replace(secret, MASK)
        return line

    return redact


def _is_place(value: str) -> bool:
    try:
        return value.startswith(("/", "~", "./")) and Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, or no such user: no place
        return False
