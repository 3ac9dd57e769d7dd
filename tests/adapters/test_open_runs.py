"""The Runs of a process: which of them a notebook's next `init()` finishes (R5)."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from pluto_dist.client.runs import OpenRuns
from tests.patience import PATIENCE_S


class Notebook(OpenRuns):
    """Runs with leases that need no coordinator."""

    def open(self, name: str, **more: Any) -> SimpleNamespace:  # type: ignore[override]
        """As `init()` does."""
        facts = {"lease_id": name, "here": True, "by_init": True, "end": "", "warn_late": lambda: None}
        lease = SimpleNamespace(**facts | more)
        self.add(name, lease)  # type: ignore[arg-type]
        return lease


@pytest.fixture
def runs() -> Notebook:
    return Notebook()


def test_what_the_same_thread_has_opened_is_left_open(runs: Notebook) -> None:
    runs.open("first")
    runs.open("second").end = "finished"
    runs.open("third")
    assert runs.left_open() == ["third", "first"]


def test_an_attached_or_inherited_handle_is_nobodys_former_run(runs: Notebook) -> None:
    runs.open("attached", by_init=False)
    runs.open("inherited", here=False)
    assert runs.left_open() == []


def test_what_a_living_thread_has_opened_is_at_work(runs: Notebook) -> None:
    opened, leave = threading.Event(), threading.Event()

    def trial() -> None:
        runs.open("trial")
        opened.set()
        leave.wait(PATIENCE_S)

    thread = threading.Thread(target=trial)
    thread.start()
    assert opened.wait(PATIENCE_S)
    at_work = runs.left_open()
    leave.set()
    thread.join(PATIENCE_S)
    assert (at_work, runs.left_open()) == ([], ["trial"])


def test_what_a_task_that_goes_on_has_opened_is_at_work(runs: Notebook) -> None:
    async def trial(name: str, together: asyncio.Barrier) -> list[Any]:
        runs.open(name)
        await together.wait()
        return runs.left_open()

    async def main() -> list[Any]:
        together = asyncio.Barrier(2)
        return await asyncio.gather(trial("a", together), trial("b", together))

    assert asyncio.run(main()) == [["b", "a"], ["b"]]  # b goes on first, and a when b is over
    assert runs.left_open() == ["b", "a"]


def test_a_call_without_a_run_means_that_of_its_own_thread(runs: Notebook) -> None:
    """R5: trials in threads log into their own Runs, and finish these alone."""
    runs.open("main")
    together = threading.Barrier(2)
    told: dict[str, Any] = {}

    def trial(name: str) -> None:
        together.wait(PATIENCE_S)
        lease = runs.open(name)
        together.wait(PATIENCE_S)
        told[name] = [runs.newest(), runs.to_finish()]
        together.wait(PATIENCE_S)
        lease.end = "finished"

    threads = [threading.Thread(target=trial, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert told == {"a": ["a", ["a"]], "b": ["b", ["b"]]}
    assert (runs.newest(), runs.to_finish()) == ("main", ["main"])


def test_a_thread_that_has_opened_nothing_means_the_newest_and_finishes_all(runs: Notebook) -> None:
    """R5: one that only logs, or cleans up."""
    told: list[Any] = []

    def helper() -> None:
        told.extend([runs.newest(), runs.to_finish()])

    runs.open("first")
    runs.open("second")
    thread = threading.Thread(target=helper)
    thread.start()
    thread.join(PATIENCE_S)
    assert told == ["second", ["second", "first"]]


def test_tasks_mean_their_own_runs_and_those_they_start_mean_theirs(runs: Notebook) -> None:
    """R5: the order of the tasks' `init()` does not matter."""

    async def trial(name: str, together: asyncio.Barrier) -> list[Any]:
        runs.open(name)
        await together.wait()
        found = [runs.newest(), await asyncio.create_task(step()), runs.to_finish()]
        await together.wait()
        return found

    async def step() -> Any:
        return runs.newest()

    async def main() -> list[Any]:
        together = asyncio.Barrier(2)
        return await asyncio.gather(trial("a", together), trial("b", together))

    assert asyncio.run(main()) == [["a", "a", ["a"]], ["b", "b", ["b"]]]
