"""When a process was last known to live: what a verdict rests on (R2, R10)."""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pluto_dist.coordinator.watches import Watches
from pluto_dist.host.identity import identity_of
from tests.patience import PATIENCE_S

SLEEPER = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEPER, stdin=subprocess.PIPE) as started:
        yield started
        started.kill()


@pytest.mark.parametrize(("since", "alive_until"), [(90.0, 101.0), (101.5, 101.5)])
def test_a_death_that_is_noticed_late_is_dated_back_to_when_all_were_polled_before(
    process: subprocess.Popen[bytes], since: float, alive_until: float
) -> None:
    """R10: else a busy coordinator would take the first victim's words for the cause."""
    guard = Watches()
    identity = identity_of(process.pid)
    assert identity is not None
    guard.start("lease", identity, None, since)
    guard.polled(101.0)
    process.kill()
    process.wait()
    guard.note_message("lease", 108.0)  # its last message waited in the queue
    (death,) = guard.check("lease", 110.0)
    assert death.alive_until == alive_until


def test_one_descriptor_tells_of_the_deaths_of_all_processes_that_are_watched(
    process: subprocess.Popen[bytes],
) -> None:
    """G7: and of none that is not watched any more."""
    guard = Watches()
    identity = identity_of(process.pid)
    assert identity is not None
    for key in ("first", "second", "ended"):
        guard.start(key, identity, None, 100.0)
    guard.stop("ended")
    assert guard.descriptor is not None
    assert select.select([guard.descriptor], [], [], 0)[0] == []
    process.kill()
    process.wait()
    assert select.select([guard.descriptor], [], [], PATIENCE_S)[0] == [guard.descriptor]
    assert {death.key for death in guard.readable(110.0)} == {"first", "second"}
    assert select.select([guard.descriptor], [], [], 0)[0] == []


def test_a_process_that_was_dead_before_it_was_watched_was_never_seen(
    process: subprocess.Popen[bytes],
) -> None:
    """R10: when it died is for others to tell, not for who found it."""
    identity = identity_of(process.pid)
    assert identity is not None
    process.kill()
    process.wait()
    guard = Watches()
    guard.start("lease", identity, None, 100.0)
    (death,) = guard.check("lease", 100.0)
    assert not death.seen


def test_a_process_that_was_alive_when_it_was_watched_was_seen(process: subprocess.Popen[bytes]) -> None:
    """R10"""
    identity = identity_of(process.pid)
    assert identity is not None
    guard = Watches()
    guard.start("lease", identity, None, 100.0)
    assert guard.check("lease", 100.0) == []
    process.kill()
    process.wait()
    (death,) = guard.check("lease", 110.0)
    assert death.seen
