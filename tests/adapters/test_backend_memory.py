"""The backend in memory keeps the contract, and its script decides what callers are told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pluto_dist.core.values.backend import (
    Delivered,
    Refused,
    Rejected,
    Retry,
    Status,
    TagsChange,
    Unavailable,
    Unknown,
)
from pluto_dist.core.values.lifecycle import Target
from tests.adapters.backend_contract import LINE, METRIC, ServerContract, cut
from tests.adapters.memory_backend import MemoryBackend, Script, Step


class MemoryRig:
    """Looks inside the backend in memory."""

    def __init__(self) -> None:
        self.script = Script()
        self.backend = MemoryBackend(self.script, poison=b"poison")
        self.target = Target(mode="pluto", store="/s")

    def status(self, run_id: int) -> Status:
        return self.backend.runs[run_id].status

    def reap(self, run_id: int) -> None:
        self.backend.reap(run_id)

    def reason(self, run_id: int) -> dict[str, Any] | None:
        reason = self.backend.runs[run_id].reason
        return None if reason is None else msgspec.json.decode(reason)

    def tags(self, run_id: int) -> list[str]:
        return list(self.backend.runs[run_id].tags)

    def config(self, run_id: int) -> dict[str, Any]:
        return self.backend.runs[run_id].config

    def points(self, run_id: int) -> dict[str, dict[int, float]]:
        return self.backend.runs[run_id].points()

    def data(self, run_id: int) -> list[tuple[str, int, str]]:
        rows = [msgspec.json.decode(line) for line in self.backend.runs[run_id].lines.get("data", [])]
        return [(row["logName"], row["step"], row["data"]) for row in rows]

    def console(self, run_id: int) -> list[str]:
        lines = self.backend.runs[run_id].lines.get("console", [])
        return [msgspec.json.decode(line)["message"] for line in lines]

    def files(self, run_id: int) -> list[tuple[str, str, bytes]]:
        return self.backend.runs[run_id].files

    def run_count(self) -> int:
        return len(self.backend.runs)


class TestMemoryBackend(ServerContract):
    """The contract, and the script."""

    @pytest.fixture
    def rig(self) -> MemoryRig:
        return MemoryRig()

    def test_scripted_answer_replaces_the_call(self, rig: MemoryRig) -> None:
        run, handle = self.begin(rig)
        rig.script.add("deliver", Step(Retry("busy")), None)
        assert rig.backend.deliver(handle, cut("metrics", METRIC)) == Retry("busy")
        assert rig.points(run.id) == {}
        assert rig.backend.deliver(handle, cut("metrics", METRIC)) == Delivered()
        assert rig.points(run.id) != {}

    def test_lost_answer_leaves_the_effect(self, rig: MemoryRig) -> None:
        run, handle = self.begin(rig)
        lost = Unknown("lost")
        rig.script.add("deliver", Step(lost, carried_out=True, lines=1))
        rig.script.add("put_tags", Step(lost, carried_out=True))
        assert rig.backend.deliver(handle, cut("console", LINE, LINE)) == lost
        assert rig.backend.put_tags(handle, TagsChange(("t",), ())) == lost
        assert (len(rig.console(run.id)), rig.tags(run.id)) == (1, ["t"])

    def test_lost_answer_to_open_leaves_one_run(self, rig: MemoryRig) -> None:
        rig.script.add("open", Step(Unknown("lost"), carried_out=True), Step(Refused("E", "no")))
        assert rig.backend.open(self.ask(rig)) == Unavailable("lost")
        assert rig.backend.open(self.ask(rig)) == Refused("E", "no")
        self.begin(rig)
        assert rig.run_count() == 1

    def test_poisoned_line_keeps_those_before_it(self, rig: MemoryRig) -> None:
        run, handle = self.begin(rig)
        batch = cut("console", LINE, {**LINE, "message": "poison"}, LINE)
        assert isinstance(rig.backend.deliver(handle, batch), Rejected)
        assert rig.console(run.id) == ["hello"]

    def test_completed_does_not_replace_failed(self, rig: MemoryRig) -> None:
        run, handle = self.begin(rig)
        self.end(rig, handle, "FAILED")
        self.end(rig, handle, "COMPLETED")
        assert rig.status(run.id) == "FAILED"
        assert [report.status for report in rig.backend.runs[run.id].reports] == ["FAILED", "COMPLETED"]

    def test_cancel_is_learnt_from_the_beat(self, rig: MemoryRig) -> None:
        run, handle = self.begin(rig)
        rig.backend.cancel(run.id)
        assert rig.backend.beat(handle).status == "CANCELLED"

    def test_calls_are_recorded_in_order(self, rig: MemoryRig) -> None:
        run, handle = self.begin(rig)
        rig.backend.put_tags(handle, TagsChange((), ()))
        assert rig.backend.calls == [("open", 0), ("put_tags", run.id)]
        rig.backend.close()
        with pytest.raises(AssertionError, match="after close"):
            rig.backend.beat(handle)
