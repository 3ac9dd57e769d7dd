"""The loop around the core: what the disk refused is done later, all of it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pluto_dist.coordinator import driver as node_driver
from pluto_dist.coordinator.database import open_database
from pluto_dist.coordinator.driver import Driver, Keys
from pluto_dist.coordinator.spools import LeaseFolders
from pluto_dist.coordinator.worker import Worker
from pluto_dist.core.values.effects import Effect, PollMembers
from pluto_dist.core.values.events import Event, MembersPolled
from pluto_dist.core.values.records import Now
from pluto_dist.transport.zeromq import RouterServer


class Polling:
    """A core that has two Runs polled, and notes what happens."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def start(self, now: Now) -> list[Effect]:
        return [PollMembers(run=run, members=()) for run in ("a", "b")]

    def handle(self, event: Event, now: Now) -> list[Effect]:
        self.events.append(event)
        return []

    def deadline(self) -> float | None:
        return None


def test_of_two_effects_that_the_disk_refused_neither_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R1: a Run whose poll has no answer would have no verdict."""
    refusals = [OSError(errno.EMFILE, "too many open files") for _ in range(2)]

    def scan(self: LeaseFolders, now: float) -> Iterator[Event]:
        if refusals:
            raise refusals.pop()
        return iter(())

    monkeypatch.setattr(LeaseFolders, "scan", scan)
    monkeypatch.setattr(node_driver, "AGAIN_S", 0.0)
    core = Polling()
    database = open_database(tmp_path / "coordinator.db")
    server = RouterServer(tmp_path / "socket")
    places = cast(Any, SimpleNamespace(spool=tmp_path))
    worker = Worker(cast(Any, None))
    loop = Driver(cast(Any, core), places, database, server, worker, Keys(), lambda: True)
    try:
        loop.start()
        assert not core.events
        loop.run_once(0.0)
        assert [each.run for each in core.events if isinstance(each, MembersPolled)] == ["a", "b"]
    finally:
        server.close(unlink=True)
        loop.close()
        database.close()
