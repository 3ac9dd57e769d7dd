"""Fixtures: a running emulator, a client with a key, a run."""

from collections.abc import Iterator

import pytest

from .server import PlutoServer
from .sessions import Session
from .talk import Client


@pytest.fixture
def server() -> Iterator[PlutoServer]:
    """An emulator without runs."""
    with PlutoServer() as running:
        yield running


@pytest.fixture
def client(server: PlutoServer) -> Client:
    """A sender with a good key."""
    return Client(server.urls)


@pytest.fixture
def run_id(client: Client) -> int:
    """A RUNNING run in project `p`; the first, so its id is 1."""
    created: int = client.api("create", runName="r", projectName="p", externalId="e1").json["runId"]
    return created


@pytest.fixture
def session(server: PlutoServer, client: Client, run_id: int) -> Session:
    """A run whose names are registered."""
    session = Session(server, client, Client(server.urls, "two"), run_id)
    session.register("m", "METRIC")
    session.register("f", "FILE")
    session.register("h", "HISTOGRAM")
    return session
