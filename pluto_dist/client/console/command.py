"""The console of a launcher's command: `fd` for what it starts, which may be anything.

What is no terminal is captured (batch jobs, containers, pipes and files); a terminal only where `fd` is asked
for, because a command may do more with it than print. Stdin stays as it is.

A process below the launcher that records its own console knows more of its lines, so the launcher records
none as long as there is one (`View.relieved`), and passes on all the same. It hears of it by its coordinator:
in the milliseconds in between a line may be recorded twice, or not at all. Nor is recorded meanwhile what the
others print that record nothing: ranks that have not come to `init()`, C code, `torchrun` itself. A second
Run of a process below is not the launcher's: what it records the launcher does too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from pluto_dist.client.console.capture import fd_capture
from pluto_dist.client.console.channel import STREAMS
from pluto_dist.client.console.fd import FdCapture
from pluto_dist.client.console.levels import SEPARATE, StreamName
from pluto_dist.client.lease import LeaseFiles
from pluto_dist.core.lifecycle import Console
from pluto_dist.errors import PlutoDistError
from pluto_dist.node.identity import boot_clock
from pluto_dist.node.places import Places
from pluto_dist.node.settings import Settings

_log = logging.getLogger("pluto_dist")


class CommandConsole:
    """The launcher's own descriptors 1 and 2, which its command inherits.

    Args:
        files: of the launcher's lease.
        settings, places, env: of the launcher.
    """

    def __init__(self, files: LeaseFiles, settings: Settings, places: Places, env: Mapping[str, str]) -> None:
        streams = streams_of(settings.console)
        self._capture: FdCapture | None = None
        if streams:
            self._capture = fd_capture(files, settings, places, env, streams)
        self._relieved = False

    def start(self) -> None:
        """What is written from now on is recorded."""
        if self._capture is None:
            return
        try:
            self._capture.start()
        except (OSError, PlutoDistError) as error:
            self._capture = None
            _log.warning("the console of the command is not recorded: %s", error)

    def relieve(self, relieved: bool) -> None:
        """Whether somebody below records now; called with each view."""
        capture = self._capture
        if capture is not None and relieved != self._relieved:
            self._relieved = relieved
            capture.record(not relieved)

    def stop(self, within_s: float) -> float:
        """Waits until what the command has written is passed on and recorded.

        Longer than a trainer would: the drain may end with this process (a container, a SLURM step), and what
        it has not passed on by then is lost.

        Args:
            within_s: bound of the wait.

        Returns:
            What is left of that time.
        """
        capture, self._capture = self._capture, None
        began = boot_clock()
        if capture is not None:
            capture.stop(within_s)
        return max(0.0, within_s - (boot_clock() - began))


def streams_of(console: Console) -> tuple[StreamName, ...]:
    """What is captured by a setting."""
    if console == "off":
        return ()
    return tuple(name for name in SEPARATE if console == "fd" or not os.isatty(STREAMS[name][0]))
