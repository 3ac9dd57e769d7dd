"""Warnings that are worth saying once."""

from __future__ import annotations

import logging

_log = logging.getLogger("pluto_dist")


class WarnOnce:
    """Says a thing the first time and keeps quiet after that."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, key: str, message: str) -> None:
        if key not in self._said:
            self._said.add(key)
            _log.warning("%s", message)
