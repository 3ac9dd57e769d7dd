"""The backend in memory as the core's world has it: answers that a test chooses, records in place of lines.

Without instructions it does what every backend does. `answer` puts other answers in front; `down` answers
everything with "no".
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

import msgspec

from pluto_dist.core.values.backend import (
    Beat,
    Delivered,
    OpenRequest,
    OpenResult,
    Outcome,
    Rejected,
    Retry,
    RunOpened,
    Status,
)
from pluto_dist.core.values.effects import Ship
from tests.adapters.memory_backend import Call, MemoryBackend, Point, Step, StoredRun
from tests.core.spool import Record

Chosen = Outcome | OpenResult | Beat | None


class Server(MemoryBackend):
    """All Runs; ids count from 1.

    Attributes:
        down: nothing is answered.
        gone: Runs that somebody has deleted.
        asked: every request in order, `open` with what was wanted of which Run.
        beats: how often a heartbeat came, answered or not.
        opens: what was asked of `open`, in order.
        accepted: places of the records that were taken.
    """

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.down = False
        self.gone: set[int] = set()
        self.asked: list[str] = []
        self.beats = 0
        self.opens: list[OpenRequest] = []
        self.accepted: set[tuple[str, str, int, int]] = set()
        self._chosen: dict[Call, deque[Chosen]] = defaultdict(deque)

    def answer(self, call: Call, *answers: Chosen) -> None:
        """The next calls of this kind get these answers; `Delivered` and None are the usual one."""
        self._chosen[call].extend(answers)

    def forget_answers(self) -> None:
        """From now on all answers are the usual ones."""
        self._chosen.clear()

    def only(self) -> StoredRun:
        """The only Run."""
        (run,) = self.runs.values()
        return run

    def called(self, external_id: str) -> StoredRun:
        """The Run with this external id."""
        return next(run for run in self.runs.values() if run.external_id == external_id)

    def said(self, *calls: Call) -> list[str]:
        """The calls of these kinds, in order."""
        return [call for call in self.asked if call in calls]

    def open(self, request: OpenRequest) -> OpenResult:
        """See `Backend`."""
        named = request.id or request.display_id or request.external_id
        self.asked.append(f"open {request.want} {named}")
        self.opens.append(request)
        return super().open(request)

    def ship(self, effect: Ship, records: tuple[Record, ...]) -> Outcome:
        """As `deliver`, of records that have no bytes: what stands before a bad one is taken."""
        step = self._next("deliver", effect.run.id)
        if step is not None:
            assert isinstance(step.answer, Outcome)
            return step.answer
        bad = next((number for number, record in enumerate(records) if record.poison), None)
        self._take_records(effect, records[:bad])
        return Delivered() if bad is None else Rejected("a value is no number")

    def _next(self, call: Call, run_id: int) -> Step | None:
        if call == "beat":
            self.beats += 1
        elif call not in ("open", "deliver"):
            self.asked.append(call)
        if call == "beat" and run_id in self.gone and not self.down:
            return Step(Rejected("Run not found"))
        return super()._next(call, run_id)

    def _answer(self, call: Call) -> Step | None:
        chosen = self._chosen[call].popleft() if self._chosen[call] else None
        if chosen is not None and not isinstance(chosen, Delivered):
            return Step(chosen)
        return Step(Retry("connection refused")) if self.down else None

    def _take_records(self, effect: Ship, records: tuple[Record, ...]) -> None:
        run = self.runs[effect.run.id]
        for number, record in enumerate(records):
            if effect.kind == "console":
                run.console.append(effect.first_line + number)
            for name, value in record.values.items():
                final = effect.known[name]
                if final is not None:
                    run.series[final].append(Point(record.step, value, record.writer))
            self.accepted.add((effect.lease_id, effect.stream, effect.segment, record.start))


def made_elsewhere(
    number: int,
    external_id: str,
    key: str = "another-key",
    *,
    status: Status = "RUNNING",
    tags: tuple[str, ...] = (),
    config: dict[str, Any] | None = None,
) -> StoredRun:
    """A Run of the project demo that no world has asked for."""
    run = StoredRun(number, key, external_id, "demo", "", number, status, tags=tags)
    run.config = config or {}
    return run


class StoreServer(Server):
    """A store folder instead of a server: it gives numbers, and takes those of parts as they are."""

    def open(self, request: OpenRequest) -> OpenResult:
        """See `Backend`."""
        if not request.part_of:
            opened = super().open(request)
            made = request.shared and isinstance(opened, RunOpened)
            return msgspec.structs.replace(opened, part_of=request.key) if made else opened
        self.asked.append(f"open part of {request.part_of}")
        opened = self.add(request, request.id or 0, number=request.id)
        return msgspec.structs.replace(opened, resumed=True, tags=None, config=None, part_of=request.part_of)
