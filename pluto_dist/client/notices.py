"""What people in front of a Run are told while it goes on, and what is worth saying once.

Warnings that are worth saying once.

What the people in front of a Run have to know while it goes on: told once, by its owner.

A Run that somebody cancels on the server goes on here: nobody but the training knows what it still has to
save. It is told with a warning and `run.cancelled`; with `on_cancel="interrupt"` owner and workers get a
KeyboardInterrupt in their main thread as well, also one that waits in a system call.
"""

from __future__ import annotations

import logging
import signal
import threading
from typing import Literal

from pluto_dist.core.values.messages import View

_log = logging.getLogger("pluto_dist")


class WarnOnce:
    """Says a thing the first time and keeps quiet after that."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, key: str, message: str) -> None:
        if key not in self._said:
            self._said.add(key)
            _log.warning("%s", message)


class Tidings:
    """Looks at every view; called in the link's thread.

    Args:
        on_cancel: what else to do about a cancel.
    """

    def __init__(self, on_cancel: Literal["warn", "interrupt"]) -> None:
        self._on_cancel = on_cancel
        self._told: set[str] = set()

    def take(self, view: View) -> None:
        """Tells what is new in a view."""
        run = view.run
        if run is None or view.state != "active":
            return
        named = run.display_id or run.external_id
        if view.key_problem and self._is_new("key") and view.role == "owner":
            _log.warning(
                "the server refuses the API key of Run %s: %s. Everything is kept on disk and delivered when "
                "the key is good again; `pluto-dist sync` uploads it with another one",
                named,
                view.key_problem,
            )
        if view.stuck and self._is_new(view.stuck) and view.role == "owner":
            _log.warning(
                "Run %s: %s. Nothing was ended because of it; `pluto-dist ps` shows how far each rank is",
                named,
                view.stuck,
            )
        if run.cancelled and self._is_new("cancel"):
            if view.role == "owner":
                _log.warning("Run %s was cancelled on the server; run.cancelled is True from now on", named)
            if view.role != "side" and self._on_cancel == "interrupt":
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _is_new(self, what: str) -> bool:
        new = what not in self._told
        self._told.add(what)
        return new
