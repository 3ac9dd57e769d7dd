"""Signs of life for a Run that is being uploaded: to the server, and to other syncs beside a large file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from pluto_dist.backend.interface import Backend, BackendRun
from pluto_dist.sync.claim import SyncBusyError

BEAT_S = 20.0  # the server forgets a Run 150 s after its last one and stores at most one each 30 s


class Heart:
    """Beats in a thread of its own while the `with` block runs, the first time before it begins.

    Args:
        backend, run: where to.
        keep: keeps the claim on the Run; its loss is noticed by whoever sends the next request.
    """

    def __init__(self, backend: Backend, run: BackendRun, keep: Callable[[], None]) -> None:
        self._backend = backend
        self._keep = keep
        self._run = run
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pluto-heart", daemon=True)

    def __enter__(self) -> Self:
        self._backend.beat(self._run)
        self._thread.start()
        return self

    def stop(self) -> None:
        """No beat comes after this returns; call it before the Run is ended."""
        self._done.set()
        self._thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _beat(self) -> None:
        while not self._done.wait(BEAT_S):
            with suppress(SyncBusyError, OSError):
                self._keep()
            self._backend.beat(self._run)
