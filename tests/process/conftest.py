"""Fixtures of the process tests: a private node for each test, its story in the report of a failure."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pluto_server.client import ServerProcess
from tests.process.harness import ZYGOTES, Node
from tests.process.served import Served

_nodes = pytest.StashKey[list[Node]]()


@pytest.fixture
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node of its own; everything on it ends with the test."""
    yield from _node(request)


@pytest.fixture(scope="module")
def shared_node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node for all tests of a module: for stories that go on beside each other and do not touch."""
    yield from _node(request)


def _node(request: pytest.FixtureRequest) -> Iterator[Node]:
    made = Node()
    request.node.stash.setdefault(_nodes, []).append(made)
    yield made
    made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Adds what the processes said to the report of a failed test."""
    report = yield
    if call.when == "call" and report.failed:
        for part in item.listchain():
            for made in part.stash.get(_nodes, []):
                shared = part is not item
                report.sections.append(("node", made.report(item.name if shared else "")))
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder start processes."""
    for item in items:
        if item.path.is_relative_to(__file__.rpartition("/")[0]):
            item.add_marker(pytest.mark.process)


def pytest_sessionfinish() -> None:
    """What has been imported for all tests of this session is not needed any more."""
    while ZYGOTES:
        ZYGOTES.popitem()[1].close()


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    """An emulator of its own, which has found no client defect when the test is over."""
    yield from _server()


def _server() -> Iterator[ServerProcess]:
    with ServerProcess() as server:
        yield server
        assert server.control.check() == []


@pytest.fixture
def served(request: pytest.FixtureRequest, server: ServerProcess) -> Iterator[Served]:
    """A node whose Runs go to the emulator."""
    yield from _served(request, server)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[ServerProcess]:
    """An emulator for all tests of a module."""
    yield from _server()


@pytest.fixture(scope="module")
def shared_served(request: pytest.FixtureRequest, shared_server: ServerProcess) -> Iterator[Served]:
    """As `shared_node`, with Runs that go to the emulator."""
    yield from _served(request, shared_server)


def _served(request: pytest.FixtureRequest, server: ServerProcess) -> Iterator[Served]:
    made = Served(server)
    request.node.stash.setdefault(_nodes, []).append(made)
    yield made
    made.close()
