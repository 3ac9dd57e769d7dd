"""Private nodes for a measurement: a local one, and one with a server whose ingest is the trivial sink."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from tests.bench.sink import Sink
from tests.pluto_server.client import ServerProcess
from tests.process.harness import Node


class Served(NamedTuple):
    """A node and where its records go."""

    node: Node
    sink: Sink


@contextlib.contextmanager
def a_node(**settings: str) -> Iterator[Node]:
    """A node in local mode, gone afterwards."""
    node = Node(**settings)
    try:
        yield node
    finally:
        node.close()


@contextlib.contextmanager
def served() -> Iterator[Served]:
    """A node in server mode: the emulator for everything but the records."""
    with ServerProcess() as server, Sink() as sink, _pointed_at(server, sink) as node:
        yield Served(node, sink)


def _pointed_at(server: ServerProcess, sink: Sink) -> contextlib.AbstractContextManager[Node]:
    return a_node(**{**server.env(), "PLUTO_URL_INGEST": sink.url})
