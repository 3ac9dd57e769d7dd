"""The page's server in this process, for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pluto_dist.read.lookup import Lookup
from pluto_dist.ui.serve import Server
from tests.patience import PATIENCE_S


@contextmanager
def serving(home: Path, folder: Path) -> Iterator[str]:
    """The page's address with its token; the server ends with the block."""
    server = Server(lambda take: Lookup(home, folder, take), port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.address
    finally:
        server.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
