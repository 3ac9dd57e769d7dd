"""A death by SIGKILL is the OOM killer's if the count of its cgroup has risen meanwhile (R9)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pluto_dist.coordinator import watches
from pluto_dist.coordinator.watches import Death, Watches
from pluto_dist.host.identity import boot_clock, identity_of
from tests.process.harness import wait_until

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="pidfd and /proc"),
]


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the memory.events of the cgroup of every process."""
    made = tmp_path / "memory.events"
    made.write_text("oom 1\noom_kill 1\n")
    monkeypatch.setattr(watches, "oom_counter_of", lambda pid: made)
    return made


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Lives until its stdin is closed or it is killed."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as started:
        yield started
        started.kill()


def death_of(process: subprocess.Popen[bytes], counter: Path, text: str | None) -> Death:
    """What is said of it when the count changes, and then it is killed or, without a text, ends."""
    guard = Watches()
    guard.start("lease", identity_of(process.pid), None, boot_clock())
    if text is not None:
        counter.write_text(text)
        os.kill(process.pid, signal.SIGKILL)
    else:
        counter.write_text("oom_kill 2\n")
        process.communicate()
    (death,) = wait_until(lambda: guard.check("lease", boot_clock()), "the death")
    return death


@pytest.mark.parametrize(
    ("text", "oom"),
    [("oom 2\noom_kill 2\n", True), ("oom 2\noom_kill 1\n", False), ("nothing is counted any more\n", False)],
)
def test_a_sigkill_is_an_oom_kill_if_the_count_has_risen(
    process: subprocess.Popen[bytes], counter: Path, text: str, oom: bool
) -> None:
    """R9: what was counted before it was watched is not its own."""
    assert death_of(process, counter, text).oom is oom


def test_who_ends_by_itself_was_not_killed_for_want_of_memory(
    process: subprocess.Popen[bytes], counter: Path
) -> None:
    """R9: the count is the cgroup's; it may have been a neighbour."""
    assert death_of(process, counter, None).oom is False


def test_each_is_asked_for_its_own_cgroup(
    process: subprocess.Popen[bytes], counter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R9: the coordinator may be in another cgroup than the job."""
    asked: list[int] = []
    monkeypatch.setattr(watches, "oom_counter_of", asked.append)
    Watches().start("lease", identity_of(process.pid), None, boot_clock())
    assert asked == [process.pid]
