"""The store as a backend keeps the contract, together with the documents that the coordinator writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pluto_dist.backend.local import LocalBackend
from pluto_dist.backend.local.store import Store
from pluto_dist.core.rules.changes import merge_json, merge_tags
from pluto_dist.core.values.backend import (
    Alert,
    BackendRun,
    Batch,
    Beat,
    Delivered,
    LogType,
    OpenRequest,
    OpenResult,
    Outcome,
    Refused,
    Reopened,
    Retry,
    RunOpened,
    Status,
    StatusReport,
    TagsChange,
)
from pluto_dist.core.values.document import Document, read
from pluto_dist.core.values.ids import Scheduled
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.core.values.records import Verdict
from pluto_dist.spool.frames import segment_name
from pluto_dist.spool.reader import list_streams, read_cut
from tests.adapters import documents
from tests.adapters.backend_contract import METRIC, BackendContract, cut, file_line, opened


class Kept:
    """The local backend and the coordinator's part: what the server would be told is in the document."""

    def __init__(self, root: Path) -> None:
        self.local = LocalBackend(root)
        self.store = Store(root)

    def open(self, request: OpenRequest) -> OpenResult:
        result = self.local.open(request)
        if isinstance(result, RunOpened) and self.store.document(request.key) is None and not result.resumed:
            self._write(_document(request, result))
        elif isinstance(result, RunOpened) and result.resumed:
            self._change(read(result.record).key, status="RUNNING")
        return result

    def deliver(self, run: BackendRun, batch: Batch) -> Outcome:
        return self.local.deliver(run, batch)

    def register(self, run: BackendRun, names: dict[str, LogType]) -> Outcome:
        return self.local.register(run, names)

    def report(self, run: BackendRun, report: StatusReport) -> Outcome:
        reason = report.metadata.decode() if report.metadata else ""
        self._change(run.key, status=report.status, verdict=Verdict(report.status, reason))
        return self.local.report(run, report)

    def put_tags(self, run: BackendRun, change: TagsChange) -> Outcome:
        tags = read(self.store.document(run.key) or b"").tags
        merged = merge_tags(tags, change.base or (), change.wanted, change.removed)
        self._change(run.key, tags=merged)
        return self.local.put_tags(run, change)

    def merge_config(self, run: BackendRun, patch: bytes) -> Outcome:
        config = read(self.store.document(run.key) or b"").config
        self._change(run.key, config=msgspec.Raw(merge_json(bytes(config), patch)))
        return self.local.merge_config(run, patch)

    def alert(self, run: BackendRun, alert: Alert) -> Outcome:
        return self.local.alert(run, alert)

    def beat(self, run: BackendRun) -> Beat:
        beat = self.local.beat(run)
        return Beat(beat.outcome, read(self.store.document(run.key) or b"").status)

    def seat_epoch(self, run: BackendRun) -> int | Outcome:
        return self.local.seat_epoch(run)

    def revive(self, run: BackendRun) -> Outcome:
        return self.local.revive(run)

    def put_back(self, reopened: Reopened) -> Outcome:
        return self.local.put_back(reopened)

    def close(self) -> None:
        self.local.close()

    def _change(self, key: str, **changes: Any) -> None:
        self._write(msgspec.structs.replace(read(self.store.document(key) or b""), **changes))

    def _write(self, document: Document) -> None:
        self.store.write_document(document.key, msgspec.json.encode(document))


class LocalRig:
    """Looks into the store's files."""

    def __init__(self, root: Path) -> None:
        self.backend = Kept(root)
        self.store = self.backend.store
        self.target = Target(mode="local", store=str(root))

    def status(self, run_id: int) -> Status:
        return self._document(run_id).status

    def reap(self, run_id: int) -> None:
        """Nobody watches local Runs."""

    def reason(self, run_id: int) -> dict[str, Any] | None:
        verdict = self._document(run_id).verdict
        return msgspec.json.decode(verdict.reason) if verdict and verdict.reason else None  # type: ignore[no-any-return]

    def tags(self, run_id: int) -> list[str]:
        return list(self._document(run_id).tags)

    def config(self, run_id: int) -> dict[str, Any]:
        return msgspec.json.decode(self._document(run_id).config)  # type: ignore[no-any-return]

    def points(self, run_id: int) -> dict[str, dict[int, float]]:
        points: dict[str, dict[int, float]] = {}
        for record in self._records(run_id, "metrics"):
            for name, value in record["data"].items():
                points.setdefault(name, {})[record["step"]] = value
        return points

    def data(self, run_id: int) -> list[tuple[str, int, str]]:
        return [(row["logName"], row["step"], row["data"]) for row in self._records(run_id, "data")]

    def console(self, run_id: int) -> list[str]:
        return [row["message"] for row in self._records(run_id, "console")]

    def files(self, run_id: int) -> list[tuple[str, str, bytes]]:
        key = self.store.key_of_id(run_id)
        assert key is not None
        root = self.store.run(key) / "files"
        return [
            (row["logName"], row["fileName"], (root / row["logName"] / row["fileName"]).read_bytes())
            for row in self._records(run_id, "files")
        ]

    def run_count(self) -> int:
        return len(self.store.keys())

    def _document(self, run_id: int) -> Document:
        key = self.store.key_of_id(run_id)
        assert key is not None
        return read(self.store.document(key) or b"")

    def _records(self, run_id: int, stream: str) -> list[dict[str, Any]]:
        key = self.store.key_of_id(run_id)
        assert key is not None
        found: list[dict[str, Any]] = []
        for folder in self.store.streams(key):
            for number in sorted(list_streams(str(folder)).get(stream, {})):
                lines = read_cut(str(folder), stream, number, 0).lines
                found.extend(msgspec.json.decode(line) for line in lines)
        return found


class TestLocalBackend(BackendContract):
    """The contract, and what only a folder does."""

    @pytest.fixture
    def rig(self, tmp_path: Path) -> LocalRig:
        return LocalRig(tmp_path / ".pluto")

    def test_a_run_of_the_store_tells_how_far_its_streams_are(self, rig: LocalRig) -> None:
        """G10: after a SIGKILL of everything the document is older than the streams beside it."""
        run, handle = self.begin(rig)
        rig.backend._change(handle.key, leases=(documents.lease("a" * 16, "rank3", last_step=4),))
        rig.backend.deliver(handle, cut("metrics", METRIC, {**METRIC, "step": 41}))
        again = opened(rig.backend.open(self.ask(rig, "k2", want="resume", id=run.id, external_id=None)))
        assert again.reached.participants == {"rank3": 42}

    def test_a_part_has_the_ids_that_another_store_has_given(self, rig: LocalRig) -> None:
        """R12: and a new Run of this store gets another number; what is here keeps its own."""
        part = self.ask(rig, "k1", want="join", id=7, display_id="PRO-7", part_of="first", shared=True)
        for _ in range(2):  # the answer was lost
            found = opened(rig.backend.local.open(part))
            assert (found.id, found.display_id, found.part_of, found.resumed) == (7, "PRO-7", "first", True)
        assert opened(rig.backend.open(self.ask(rig, "k2"))).id == 8
        taken = self.ask(rig, "k3", want="join", id=8, display_id="PRO-8", part_of="other", shared=True)
        assert opened(rig.backend.local.open(taken)).id == 8
        assert [rig.store.key_of_id(number) for number in (7, 8)] == ["k1", "k2"]

    def test_the_first_part_is_told_by_its_own_key(self, rig: LocalRig) -> None:
        """R12: also where its Run is taken up again, by another coordinator."""
        ask = self.ask(rig, "k1", want="either", shared=True)
        assert opened(rig.backend.open(ask)).part_of == "k1"
        again = opened(rig.backend.open(msgspec.structs.replace(ask, key="k2")))
        assert (again.resumed, again.part_of) == (True, "k1")
        assert rig.store.parts("proj", "ext-k1") == ["k1"]

    def test_a_part_goes_on_behind_what_the_store_has_of_its_run(self, rig: LocalRig) -> None:
        """R8, R12: the coordinator that wrote the part before is gone, and its database with it."""
        part = self.ask(rig, "k1", want="join", id=7, display_id="PRO-7", part_of="first", shared=True)
        first = opened(rig.backend.local.open(part))
        rig.backend._write(_document(part, first))
        rig.backend._change("k1", leases=(documents.lease("a" * 16, "rank2"),))
        run = BackendRun("k1", rig.target, 7, "proj")
        rig.backend.deliver(run, cut("metrics", METRIC, {**METRIC, "step": 41}))
        again = opened(rig.backend.local.open(msgspec.structs.replace(part, key="k9")))
        assert again.reached.participants == {"rank2": 42}

    def test_a_new_run_may_not_have_the_id_of_one_that_another_node_has_made(self, rig: LocalRig) -> None:
        """R5, R12: `run_id=` of a Run that exists, without `resume`; a job from the queue goes on."""
        ask = self.ask(rig, "k1", want="create", id=7, display_id="PRO-7", part_of="first", shared=True)
        refused = rig.backend.open(ask)
        assert isinstance(refused, Refused)
        assert (refused.error, "PRO-7" in refused.message) == ("RunExistsError", True)
        queued = msgspec.structs.replace(ask, scheduled=Scheduled("slurm c 7", 1))
        assert opened(rig.backend.local.open(queued)).part_of == "first"

    def test_store_that_takes_nothing_means_later(self, rig: LocalRig) -> None:
        """G6: a full or unmounted store loses nothing."""
        _, handle = self.begin(rig)
        rig.store.root.joinpath("runs", "k1", "streams").write_text("in the way")
        assert isinstance(rig.backend.deliver(handle, cut("metrics", METRIC)), Retry)

    def test_file_that_is_in_the_store_need_not_be_in_the_spool(self, rig: LocalRig, tmp_path: Path) -> None:
        """G6: a repeat after a crash; the spool may have given its room back already."""
        run, handle = self.begin(rig)
        batch = cut("files", file_line(tmp_path / "f", b"content", "a/b", "f-0"))
        assert rig.backend.deliver(handle, batch) == Delivered()
        (tmp_path / "f").unlink()
        assert rig.backend.deliver(handle, batch) == Delivered()
        assert rig.files(run.id) == [("a/b", "f-0", b"content")]

    def test_what_a_killed_coordinator_had_begun_does_not_stay(self, rig: LocalRig, tmp_path: Path) -> None:
        """G12: half of a large file in the store would never be seen, and take its room for ever."""
        run, handle = self.begin(rig)
        folder = rig.store.run("k1") / "files" / "m"
        folder.mkdir(parents=True)
        for name in ("f-0", "f-1"):
            (folder / f".{name}.0123456789abcdef.part").write_bytes(b"cont")
        rig.backend.deliver(handle, cut("files", file_line(tmp_path / "f", b"content", "m", "f-0")))
        assert rig.files(run.id) == [("m", "f-0", b"content")]
        assert sorted(path.name for path in folder.iterdir()) == [".f-1.0123456789abcdef.part", "f-0"]

    @pytest.mark.parametrize("linked", [True, False])
    def test_file_in_the_store_is_private_and_the_only_one_there(
        self, rig: LocalRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
    ) -> None:
        """G11; on another filesystem it is copied."""
        run, handle = self.begin(rig)
        if not linked:
            monkeypatch.setattr(os, "link", _refuse)
        line = file_line(tmp_path / "f", b"content", "m", "f-0")
        (tmp_path / "f").chmod(0o600)
        rig.backend.deliver(handle, cut("files", line))
        (path,) = [each for each in rig.store.run("k1").glob("files/**/*") if each.is_file()]
        assert path.stat().st_mode & 0o777 == 0o600
        assert rig.files(run.id) == [("m", "f-0", b"content")]

    @pytest.mark.parametrize(
        "name", ["../../../out", "/etc/out", "..", "a/../../b", ".hidden", "a\nb", "x" * 300]
    )
    def test_no_name_leads_out_of_the_runs_folder(self, rig: LocalRig, tmp_path: Path, name: str) -> None:
        """G11"""
        _, handle = self.begin(rig)
        for log_name, file_name in ((name, "f"), ("m", name)):
            batch = cut("files", file_line(tmp_path / "f", b"x", log_name, file_name))
            assert rig.backend.deliver(handle, batch) == Delivered()
        files = [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"x"]
        inside = [path for path in files if path.resolve().is_relative_to(rig.store.run("k1") / "files")]
        assert (len(files), len(inside)) == (4, 2)  # with the user's own, and the object that both are

    def test_a_segment_of_the_same_filesystem_is_not_copied(self, rig: LocalRig) -> None:
        """G3: the store's name is one of the spool's own file, and outlives the spool's."""
        run, handle = self.begin(rig)
        batch = cut("metrics", METRIC)
        spooled = Path(batch.folder, segment_name("metrics", 0))
        assert rig.backend.deliver(handle, batch) == Delivered()
        kept = rig.store.run("k1") / "streams" / batch.lease_id / spooled.name
        assert kept.samefile(spooled)
        spooled.unlink()
        assert rig.points(run.id) == {"loss": {0: 0.5}, "acc": {0: 1.0}}

    def test_a_segment_that_is_gone_leaves_nothing_behind(self, rig: LocalRig) -> None:
        _, handle = self.begin(rig)
        batch = cut("metrics", METRIC)
        Path(batch.folder, segment_name("metrics", 0)).unlink()
        assert isinstance(rig.backend.deliver(handle, batch), Retry)
        assert rig.store.streams("k1") == []

    @pytest.mark.parametrize("links", [True, False])
    def test_copy_may_be_repeated_over_a_shorter_one(
        self, rig: LocalRig, links: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """G6: a batch that was cut short by a crash is written again at its place."""
        run, handle = self.begin(rig)
        if not links:
            monkeypatch.setattr(os, "link", _refuse)
        first, second = cut("metrics", METRIC), {**METRIC, "step": 1}
        rig.backend.deliver(handle, first)
        for _ in range(2):
            rig.backend.deliver(handle, cut("metrics", second, behind=first))
        assert rig.points(run.id) == {"loss": {0: 0.5, 1: 0.5}, "acc": {0: 1.0, 1: 1.0}}


def _refuse(*_: object, **__: object) -> None:
    raise OSError(18, "Invalid cross-device link")


def _document(request: OpenRequest, opened: RunOpened) -> Document:
    return msgspec.structs.replace(
        documents.document(key=request.key, project=request.project, scheduled=request.scheduled),
        id=opened.id,
        display_id=opened.display_id,
        run_id=request.external_id or request.key,
        name=request.name,
        tags=request.tags,
        config=msgspec.Raw(request.config),
    )
