"""Private nodes for a measurement: a local one, and one with a server whose ingest is the trivial sink."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from tests.bench.builds import Build
from tests.bench.sink import Sink
from tests.pluto_server.client import Control, ServerProcess
from tests.process.harness import Node

COMMAND = "from pluto_dist.cli.main import app; app(prog_name='pluto-dist')"


class BuildNode(Node):
    """A node on which a build runs.

    Attributes:
        build: that one.
    """

    def __init__(self, build: Build, **settings: str) -> None:
        super().__init__(PYTHONPATH=build.path, **settings)
        self.build = build

    def tell(self, *arguments: str) -> str:
        """What a command of the build's `pluto-dist` prints."""
        argv = [self.build.python, "-P", "-c", COMMAND, *arguments]
        return subprocess.run(
            argv, env=self.env(), cwd=self.base, capture_output=True, text=True, check=True
        ).stdout


class Served(NamedTuple):
    """A node, where its records go, and the server of everything else."""

    node: BuildNode
    sink: Sink
    server: Control


@contextlib.contextmanager
def a_node(build: Build, **settings: str) -> Iterator[BuildNode]:
    """A node in local mode, gone afterwards."""
    node = BuildNode(build, **settings)
    try:
        yield node
    finally:
        node.close()


@contextlib.contextmanager
def served(build: Build) -> Iterator[Served]:
    """A node in server mode: the emulator for everything but the records."""
    with ServerProcess() as server, Sink() as sink, _pointed_at(build, server, sink) as node:
        yield Served(node, sink, server.control)


def _pointed_at(
    build: Build, server: ServerProcess, sink: Sink
) -> contextlib.AbstractContextManager[BuildNode]:
    large = {"PLUTO_DIST_FILES_QUOTA": "64G"}
    return a_node(build, **{**server.env(), **large, "PLUTO_URL_INGEST": sink.url})
