"""Tells the user that records are being lost, when it begins and when it is over."""

from __future__ import annotations

import logging
import time

from pluto_dist.client.lease import LeaseFiles

QUIET_S = 60.0  # a disk that is full every other second is told once a minute

_log = logging.getLogger("pluto_dist")


class DropReport:
    """Looks at the counters of a process's streams from time to time.

    Args:
        files: of the lease.
    """

    def __init__(self, files: LeaseFiles) -> None:
        self._files = files
        self._told = 0
        self._troubled = False
        self._quiet_until = float("-inf")

    def look(self) -> None:
        """Says what has changed since the last look."""
        dropped, trouble = self._files.dropped, self._files.trouble
        if not self._troubled and dropped > self._told and time.monotonic() >= self._quiet_until:
            self._troubled = True
            self._quiet_until = time.monotonic() + QUIET_S
            _log.warning(
                "the spool %s takes no records now (%s): they are dropped and counted, training goes on",
                self._files.folder.parent.parent,
                trouble or "for a moment",
            )
        elif self._troubled and not trouble:
            self._troubled = False
            _log.warning("the spool takes records again; %d were dropped", dropped - self._told)
            self._told = dropped
