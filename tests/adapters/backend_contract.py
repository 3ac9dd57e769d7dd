"""What every backend does alike. A subclass supplies the fixture `rig`: the backend, and how to look inside.

class TestLocalBackend(BackendContract):
    @pytest.fixture
    def rig(self, tmp_path): ...
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Protocol

import pytest

from pluto_dist.core.values.backend import (
    Alert,
    Backend,
    BackendRun,
    Batch,
    Delivered,
    OpenRequest,
    OpenResult,
    Refused,
    Rejected,
    RunOpened,
    Status,
    StatusReport,
    StreamKind,
    TagsChange,
)
from pluto_dist.core.values.ids import RunRef, Scheduled
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.spool.frames import encode_frame, segment_name


class Rig(Protocol):
    """A backend and a view of what it holds."""

    backend: Backend
    target: Target

    def status(self, run_id: int) -> Status:
        """The Run's status."""
        ...

    def reap(self, run_id: int) -> None:
        """The liveness monitor marks the Run FAILED; nothing where there is no monitor."""
        ...

    def reason(self, run_id: int) -> dict[str, Any] | None:
        """What was reported with the status."""
        ...

    def tags(self, run_id: int) -> list[str]:
        """The Run's tags."""
        ...

    def config(self, run_id: int) -> dict[str, Any]:
        """The Run's config."""
        ...

    def points(self, run_id: int) -> dict[str, dict[int, float]]:
        """Values that readers see, by name and step."""
        ...

    def data(self, run_id: int) -> list[tuple[str, int, str]]:
        """Log name, step and payload of each data row, in order of arrival."""
        ...

    def console(self, run_id: int) -> list[str]:
        """Console messages, in order of arrival."""
        ...

    def files(self, run_id: int) -> list[tuple[str, str, bytes]]:
        """Log name, file name and content of each file, in order of arrival."""
        ...

    def run_count(self) -> int:
        """How many Runs there are."""
        ...


SPOOLS = tempfile.TemporaryDirectory(prefix="pd")
NOW_MS = 1_767_225_600_000
METRIC = {"time": NOW_MS, "step": 0, "data": {"loss": 0.5, "acc": 1}}
DATA = {"time": NOW_MS, "step": 3, "data": "x", "dataType": "string-series", "logName": "note"}
LINE = {"time": NOW_MS, "message": "hello", "lineNumber": 1, "logType": "INFO"}


def cut(kind: StreamKind, *records: dict[str, Any], behind: Batch | None = None) -> Batch:
    """A batch as the spool's reader cuts it, of a segment of its own or behind another one."""
    lines = tuple(json.dumps(record).encode() + b"\n" for record in records)
    folder = behind.folder if behind is not None else tempfile.mkdtemp(dir=SPOOLS.name)
    segment = Path(folder, segment_name(kind, 0))
    start = behind.end if behind is not None else 0
    with segment.open("ab") as file:
        file.truncate(start)
        file.write(b"".join(encode_frame(line, sequence=number) for number, line in enumerate(lines)))
    return Batch(
        lease_id="a" * 16,
        stream=kind,
        kind=kind,
        segment=0,
        start=start,
        end=segment.stat().st_size,
        folder=folder,
        lines=lines,
    )


def file_line(path: Path, content: bytes, log_name: str, file_name: str) -> dict[str, Any]:
    """A line of a files stream as a backend gets it, and its file."""
    path.write_bytes(content)
    return {
        "path": str(path),
        "fileName": file_name,
        "fileType": "bin",
        "logName": log_name,
        "step": 0,
        "time": NOW_MS,
        "fileSize": len(content),
    }


def opened(result: OpenResult) -> RunOpened:
    """The Run, or a failure that shows the answer."""
    assert isinstance(result, RunOpened), result
    return result


class BackendContract:
    """The tests; one class per backend inherits them."""

    @pytest.fixture
    def backend(self, rig: Rig) -> Backend:
        """The backend of the rig."""
        return rig.backend

    @staticmethod
    def ask(rig: Rig, key: str = "k1", **fields: Any) -> OpenRequest:
        """A create with defaults."""
        usual: dict[str, Any] = {
            "want": "create",
            "project": "proj",
            "name": "run",
            "external_id": f"ext-{key}",
        }
        return OpenRequest(key=key, target=rig.target, **(usual | fields))

    def begin(self, rig: Rig, key: str = "k1", **fields: Any) -> tuple[RunOpened, BackendRun]:
        """A new Run."""
        run = opened(rig.backend.open(self.ask(rig, key, **fields)))
        return run, BackendRun(key, rig.target, run.id, run.project, run.name or "")

    def end(self, rig: Rig, run: BackendRun, status: Status = "COMPLETED") -> None:
        """Ends a Run."""
        report = StatusReport(status, b'{"why":"end"}', NOW_MS)
        assert isinstance(rig.backend.report(run, report), Delivered)

    # --- create -----------------------------------------------------------------------------------

    def test_new_run_is_running_with_its_tags_and_config(self, rig: Rig) -> None:
        run, _ = self.begin(rig, tags=("a", "b"), config=b'{"lr":0.1}')
        assert run.id > 0
        assert (run.resumed, run.project, run.name) == (False, "proj", "run")
        assert rig.status(run.id) == "RUNNING"
        assert rig.tags(run.id) == ["a", "b"]
        assert rig.config(run.id) == {"lr": 0.1}

    def test_repeated_create_makes_one_run(self, rig: Rig) -> None:
        """R8: the answer to the first may have been lost."""
        first, _ = self.begin(rig, config=b'{"lr":0.1}')
        again = opened(rig.backend.open(self.ask(rig, config=b'{"lr":0.1}')))
        assert (again.id, again.resumed) == (first.id, False)
        assert rig.run_count() == 1
        assert rig.config(first.id) == {"lr": 0.1}

    def test_create_with_a_taken_id_is_refused_and_changes_nothing(self, rig: Rig) -> None:
        """G8, R8: neither a live nor an ended Run."""
        run, handle = self.begin(rig, tags=("a",), config=b'{"x":1}')
        intruder = self.ask(rig, "k2", external_id="ext-k1", tags=("b",), config=b'{"x":2}')
        for status in ("RUNNING", "COMPLETED", "FAILED"):
            if status != "RUNNING":
                self.end(rig, handle, status)
            result = rig.backend.open(intruder)
            assert isinstance(result, Refused)
            assert result.error == "RunExistsError"
            assert rig.status(run.id) == status
        assert (rig.tags(run.id), rig.config(run.id)) == (["a"], {"x": 1})
        assert rig.reason(run.id) == {"why": "end"}
        assert rig.run_count() == 1

    def test_a_requeued_job_goes_on_with_what_it_left_undone(self, rig: Rig) -> None:
        """R5: on whatever machine it runs now; nobody else does, and not with what was completed."""
        job, requeued = Scheduled("slurm c 77"), Scheduled("slurm c 77", 1)
        run, handle = self.begin(rig, scheduled=job)
        for number, status in enumerate(("TERMINATED", "FAILED", "COMPLETED")):
            self.end(rig, handle, status)  # type: ignore[arg-type]
            for other in (None, job, Scheduled("slurm c 78", 1)):
                asked = self.ask(rig, f"o{number}", external_id="ext-k1", scheduled=other)
                assert isinstance(rig.backend.open(asked), Refused)
            again = self.ask(rig, f"k2{number}", external_id="ext-k1", scheduled=requeued)
            result = rig.backend.open(again)
            if status == "COMPLETED":
                assert isinstance(result, Refused)
                return
            found = opened(result)
            assert (found.id, found.resumed, found.was_status) == (run.id, True, status)
            requeued = Scheduled("slurm c 77", requeued.restarts + 1)

    def test_a_run_of_ours_that_was_not_asked_for_now_goes_on(self, rig: Rig) -> None:
        """Its coordinator has lost its memory: what the Run has is told, and nothing begins anew."""
        made, _ = self.begin(rig, want="either", tags=("a",))
        found = opened(rig.backend.open(self.ask(rig, want="either", tags=("b",))))
        assert (found.id, found.resumed, found.tags) == (made.id, True, ("a",))

    # --- either and resume --------------------------------------------------------------------------

    def test_either_creates_what_is_not_there(self, rig: Rig) -> None:
        run, _ = self.begin(rig, want="either")
        assert not run.resumed

    def test_either_joins_what_is_there_without_changing_it(self, rig: Rig) -> None:
        """G8"""
        run, _ = self.begin(rig, tags=("a",), config=b'{"x":1}')
        other = self.ask(rig, "k2", want="either", external_id="ext-k1", config=b'{"x":2}', tags=("b",))
        joined = opened(rig.backend.open(other))
        assert (joined.id, joined.resumed, joined.was_status) == (run.id, True, "RUNNING")
        assert (rig.tags(run.id), rig.config(run.id)) == (["a"], {"x": 1})
        assert joined.tags == ("a",)
        assert json.loads(joined.config or b"") == {"x": 1}

    @pytest.mark.parametrize("by", ["id", "display_id", "external_id"])
    def test_resume_reopens_and_tells_the_old_status(self, rig: Rig, by: str) -> None:
        run, handle = self.begin(rig, tags=("a",), config=b'{"x":1}')
        self.end(rig, handle, "FAILED")
        ids = {"id": run.id, "display_id": run.display_id, "external_id": "ext-k1"}
        chosen = {"external_id": None, by: ids[by]}
        again = opened(rig.backend.open(self.ask(rig, "k2", want="resume", **chosen)))
        assert (again.id, again.resumed, again.was_status) == (run.id, True, "FAILED")
        assert (again.project, again.name) == ("proj", "run")
        assert rig.status(run.id) == "RUNNING"
        assert (rig.tags(run.id), rig.config(run.id)) == (["a"], {"x": 1})

    def test_resume_of_a_live_run_says_so(self, rig: Rig) -> None:
        run, _ = self.begin(rig)
        again = opened(rig.backend.open(self.ask(rig, "k2", want="resume", id=run.id, external_id=None)))
        assert (again.was_status, again.resumed) == ("RUNNING", True)

    @pytest.mark.parametrize("ids", [{"id": 999}, {"display_id": "XYZ-9"}, {"external_id": "nobody"}])
    def test_resume_of_an_unknown_run_is_refused(self, rig: Rig, ids: dict[str, Any]) -> None:
        result = rig.backend.open(self.ask(rig, want="resume", **({"external_id": None} | ids)))
        assert isinstance(result, Refused)
        assert result.error == "RunNotFoundError"
        assert rig.run_count() == 0

    # --- forks --------------------------------------------------------------------------------------

    def test_fork_names_its_parent_and_what_can_be_inherited(self, rig: Rig) -> None:
        parent, _ = self.begin(rig, tags=("a",), config=b'{"x":1}')
        fork, _ = self.begin(rig, "k2", parent=RunRef(id=parent.id), fork_step=0, config=b'{"y":2}')
        assert (fork.fork_run_id, fork.fork_step, fork.resumed) == (parent.id, 0, False)
        assert json.loads(fork.parent_config) == {"x": 1}
        assert fork.parent_tags == ("a",)
        assert rig.config(fork.id) == {"y": 2}

    def test_fork_from_an_unknown_parent_is_refused(self, rig: Rig) -> None:
        result = rig.backend.open(self.ask(rig, parent=RunRef(id=999), fork_step=0))
        assert isinstance(result, Refused)
        assert result.error == "ForkError"
        assert rig.run_count() == 0

    # --- delivery -----------------------------------------------------------------------------------

    def test_metrics_arrive(self, rig: Rig) -> None:
        """G6"""
        run, handle = self.begin(rig)
        assert rig.backend.register(handle, {"loss": "METRIC", "acc": "METRIC"}) == Delivered()
        batch = cut("metrics", METRIC, {**METRIC, "step": 1, "data": {"loss": 0.25}})
        assert rig.backend.deliver(handle, batch) == Delivered()
        assert rig.points(run.id) == {"loss": {0: 0.5, 1: 0.25}, "acc": {0: 1.0}}

    def test_repeated_metrics_do_not_show(self, rig: Rig) -> None:
        """G6: at least once."""
        run, handle = self.begin(rig)
        rig.backend.register(handle, {"loss": "METRIC", "acc": "METRIC"})
        for _ in range(2):
            assert rig.backend.deliver(handle, cut("metrics", METRIC)) == Delivered()
        assert rig.points(run.id) == {"loss": {0: 0.5}, "acc": {0: 1.0}}

    def test_data_and_console_arrive_in_order(self, rig: Rig) -> None:
        """G6"""
        run, handle = self.begin(rig)
        rig.backend.register(handle, {"note": "DATA"})
        first, second = cut("console", LINE), {**LINE, "message": "", "lineNumber": 2}
        assert rig.backend.deliver(handle, cut("data", DATA, {**DATA, "data": "y"})) == Delivered()
        assert rig.backend.deliver(handle, first) == Delivered()
        assert rig.backend.deliver(handle, cut("console", second, behind=first)) == Delivered()
        assert rig.data(run.id) == [("note", 3, "x"), ("note", 3, "y")]
        assert rig.console(run.id) == ["hello", ""]

    def test_files_arrive_whole_with_their_names(self, rig: Rig, tmp_path: Path) -> None:
        """G6: large, and empty."""
        run, handle = self.begin(rig)
        rig.backend.register(handle, {"media/a": "ARTIFACT", "b": "TEXT"})
        lines = [
            file_line(tmp_path / "one", b"1" * 100_000, "media/a", "one-0.bin"),
            file_line(tmp_path / "two", b"", "b", "two-0.txt"),
        ]
        batch = cut("files", *lines)
        assert rig.backend.deliver(handle, batch) == Delivered()
        assert rig.files(run.id) == [("media/a", "one-0.bin", b"1" * 100_000), ("b", "two-0.txt", b"")]

    def test_a_line_without_its_file_is_refused_and_named(self, rig: Rig, tmp_path: Path) -> None:
        """G6: before anything of the batch is sent, so that its neighbours are delivered once."""
        run, handle = self.begin(rig)
        rig.backend.register(handle, {"m": "FILE"})
        good = file_line(tmp_path / "good", b"x", "m", "good-0")
        for bad in (
            good | {"path": str(tmp_path / "gone"), "fileName": "bad"},
            good | {"path": ""},
            {"a": 1},
        ):
            outcome = rig.backend.deliver(handle, cut("files", good, bad))
            assert isinstance(outcome, Rejected)
            assert outcome.good == 1
        assert rig.backend.deliver(handle, cut("files", good)) == Delivered()
        assert rig.files(run.id) == [("m", "good-0", b"x")]

    def test_batch_without_lines_is_delivered(self, rig: Rig) -> None:
        _, handle = self.begin(rig)
        assert rig.backend.deliver(handle, cut("metrics")) == Delivered()

    # --- control --------------------------------------------------------------------------------------

    def test_names_may_be_registered_again(self, rig: Rig) -> None:
        _, handle = self.begin(rig)
        for _ in range(2):
            assert rig.backend.register(handle, {"loss": "METRIC", "note": "DATA"}) == Delivered()
        assert rig.backend.register(handle, {}) == Delivered()

    @pytest.mark.parametrize(
        ("change", "then"),
        [
            (TagsChange(("b", "c"), ("a",)), ["b", "c"]),
            (TagsChange((), ("a",)), []),
            (TagsChange(("b",), None), ["b", "a"]),
            (TagsChange(("b",), ()), ["b", "a"]),
            (TagsChange((), None, ("a",)), []),
            (TagsChange(("b",), ("b",)), ["a"]),
            (TagsChange(("a",), ("a",), ("unknown",)), ["a"]),
        ],
    )
    def test_what_is_wanted_of_tags_is_done_to_those_that_are_there(
        self, rig: Rig, change: TagsChange, then: list[str]
    ) -> None:
        """G9: what others did to them stays."""
        run, handle = self.begin(rig, tags=("a",))
        assert isinstance(rig.backend.put_tags(handle, change), Delivered)
        assert rig.tags(run.id) == then

    def test_config_is_merged_deeply(self, rig: Rig) -> None:
        run, handle = self.begin(rig, config=b'{"opt":{"lr":1,"eps":2},"l":[1]}')
        for _ in range(2):
            assert rig.backend.merge_config(handle, b'{"opt":{"lr":3},"l":[2],"new":null}') == Delivered()
        assert rig.config(run.id) == {"opt": {"lr": 3, "eps": 2}, "l": [2], "new": None}

    def test_status_comes_with_its_reason(self, rig: Rig) -> None:
        run, handle = self.begin(rig)
        for _ in range(2):
            self.end(rig, handle, "FAILED")
            assert rig.status(run.id) == "FAILED"
            assert rig.reason(run.id) == {"why": "end"}

    def test_later_report_without_a_reason_clears_the_old_one(self, rig: Rig) -> None:
        run, handle = self.begin(rig)
        self.end(rig, handle, "FAILED")
        opened(rig.backend.open(self.ask(rig, want="resume", id=run.id, external_id=None)))
        report = StatusReport("COMPLETED", None, NOW_MS)
        assert isinstance(rig.backend.report(handle, report), Delivered)
        assert (rig.status(run.id), rig.reason(run.id)) == ("COMPLETED", None)

    def test_beat_tells_the_status(self, rig: Rig) -> None:
        _, handle = self.begin(rig)
        beat = rig.backend.beat(handle)
        assert (beat.outcome, beat.status) == (Delivered(), "RUNNING")

    def test_an_alert_is_taken(self, rig: Rig) -> None:
        _, handle = self.begin(rig)
        assert rig.backend.alert(handle, Alert(1_000, "title", "body", "INFO")) == Delivered()

    def test_revive_takes_the_monitors_verdict_back(self, rig: Rig) -> None:
        """G7: a server that could not be reached is no failure of the training."""
        run, handle = self.begin(rig)
        rig.reap(run.id)
        for _ in range(2):
            assert isinstance(rig.backend.revive(handle), Delivered)
            assert rig.status(run.id) == "RUNNING"
        self.end(rig, handle)
        assert rig.status(run.id) == "COMPLETED"

    @pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "CANCELLED"])
    def test_revive_leaves_an_end_alone_that_was_reported(self, rig: Rig, status: Status) -> None:
        """G8"""
        run, handle = self.begin(rig)
        self.end(rig, handle, status)
        assert isinstance(rig.backend.revive(handle), Delivered)
        assert (rig.status(run.id), rig.reason(run.id)) == (status, {"why": "end"})


class ServerContract(BackendContract):
    """Of a backend that others change Runs at."""

    def test_a_lost_attempt_has_made_the_run_and_others_have_tagged_it_since(self, rig: Rig) -> None:
        """Their tags are not said to be ours, so no later change takes them away."""
        for want in ("create", "either"):
            made, handle = self.begin(rig, f"k-{want}", want=want, tags=("a", "b"))
            theirs = TagsChange(("b", "c"), ("a", "b"))
            assert isinstance(rig.backend.put_tags(handle, theirs), Delivered)
            again = self.ask(rig, f"k-{want}", want=want, tags=("a", "b"), asked_s=1.0)
            found = opened(rig.backend.open(again))
            assert (found.id, found.resumed, found.tags) == (made.id, False, ("b",))

    def test_what_another_node_has_made_of_a_shared_run_is_told(self, rig: Rig) -> None:
        for want in ("create", "either"):
            made, _ = self.begin(rig, f"k-{want}", want=want, tags=("a",), shared=True)
            asked = self.ask(rig, f"k-{want}", want=want, tags=("b",), shared=True, asked_s=1.0)
            found = opened(rig.backend.open(asked))
            assert (found.id, found.resumed, found.tags) == (made.id, True, ("a",))
