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
