"""The demo's order of events: each waits for what brought it about, and none of them for time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pluto_dist.cli.demo import play as subject
from pluto_dist.cli.demo.play import KILL_AFTER, Play, perform
from pluto_dist.errors import PlutoDistError, WaitTimeoutError

SECONDS = 7.0


class SlowMachine:
    """Cast and watch in one: every look takes a while, and brings the next of the things that are due."""

    def __init__(self, play: Play, look_s: float) -> None:
        self.elapsed_s = 0.0
        self.document: Any = None
        self.happened: list[str] = []
        self.codes: dict[str, int | None] = {}
        self._play, self._look_s = play, look_s
        self._due: list[Callable[[], None]] = []
        self._leases: dict[str, Any] = {}
        self._known: set[str] = set()

    def start(self, name: str, module: str, *arguments: object) -> None:
        self._happens(f"{name} starts")
        self.codes[name] = None
        match name:
            case "torchrun":
                self._due.append(lambda: setattr(self, "document", "the Run"))
            case "eval" | "profiler":
                self._due.append(lambda: self._logs(name, 1))
                self._due.append(lambda: self._logs(name, KILL_AFTER))
            case "eval-2":
                self._due.append(lambda: self._ends(name, 1))
                self._due.append(lambda: self._known.add(name))

    def kill(self, name: str) -> None:
        self._happens(f"{name} is killed")
        self._ends(name, -9)
        self._due.append(lambda: self._known.add(name))

    def code(self, name: str) -> int | None:
        return self.codes.get(name)

    def running(self) -> list[str]:
        return [name for name, code in self.codes.items() if code is None]

    def last_words(self, name: str) -> str:
        return "nothing"

    def until(self, condition: Callable[[], bool], within_s: float) -> bool:
        while not condition():
            if self.elapsed_s > within_s:
                return False
            self.elapsed_s += self._look_s
            if self._due:
                self._due.pop(0)()
            elif self._play.over.exists():
                self._happens("all end")
                self.codes = {name: code or 0 for name, code in self.codes.items()}
        return True

    def say(self, text: str) -> None:
        """Nobody reads it."""

    def lease(self, label: str) -> Any:
        return self._leases.get(label)

    def failed(self, *labels: str) -> bool:
        return self._known >= set(labels)

    def _logs(self, name: str, records: int) -> None:
        self._leases[name] = SimpleNamespace(written=records)

    def _ends(self, name: str, code: int) -> None:
        self._happens(f"{name} ends with {code}")
        self.codes[name] = code

    def _happens(self, what: str) -> None:
        self.happened.append(f"{what}{', training may end' if self._play.over.exists() else ''}")


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return Play(run_id="r", folder=tmp_path, store=tmp_path, home=None, seconds=SECONDS)


@pytest.mark.parametrize("look_s", [0.2, 40.0], ids=["idle", "busy"])
def test_crash_and_kill_happen_beside_the_training_however_slow_the_machine_is(
    play: Play, look_s: float
) -> None:
    """G1: what the demo shows is that they end no Run that lives."""
    machine = SlowMachine(play, look_s)
    perform(play, machine, machine)  # type: ignore[arg-type]
    *before, last = machine.happened
    assert set(before) > {"eval-2 ends with 1", "profiler is killed", "profiler ends with -9"}
    assert last == "all end, training may end"


def test_an_eval_that_does_not_crash_keeps_nobody_waiting(play: Play) -> None:
    """The findings tell that it did not."""
    machine = SlowMachine(play, 0.2)
    machine._ends = lambda name, _: machine.codes.update({name: 0})  # type: ignore[method-assign]
    perform(play, machine, machine)  # type: ignore[arg-type]
    assert machine.happened[-1] == "all end, training may end"


def test_a_training_that_fails_is_told_at_once(play: Play) -> None:
    machine = SlowMachine(play, 0.2)
    machine._logs = lambda *_: machine.codes.update(torchrun=3)  # type: ignore[method-assign]
    with pytest.raises(PlutoDistError, match=r"training failed \(exit code 3\)"):
        perform(play, machine, machine)  # type: ignore[arg-type]


def test_what_hangs_is_told_in_the_end(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "LATEST_S", 100.0)
    machine = SlowMachine(play, 1.0)
    machine._logs = lambda *_: None  # type: ignore[method-assign]
    with pytest.raises(WaitTimeoutError, match="still running: torchrun, eval, uploader, profiler"):
        perform(play, machine, machine)  # type: ignore[arg-type]
