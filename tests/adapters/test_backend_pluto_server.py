"""The backend against the strict emulator of the server: the contract, and the server's traps."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest

from pluto_dist.backend.pluto import PlutoBackend
from pluto_dist.backend.pluto.client import Http
from pluto_dist.backend.pluto.exchange import Answer, Broken
from pluto_dist.backend.pluto.files import Row, Upload
from pluto_dist.backend.pluto.opening import Others
from pluto_dist.core.rules import shipment
from pluto_dist.core.rules.shipment import Manifest
from pluto_dist.core.values.backend import (
    BackendRun,
    Batch,
    Delivered,
    Refused,
    Rejected,
    Retry,
    RunOpened,
    Status,
    StatusReport,
    TagsChange,
    Told,
    Unavailable,
    Unknown,
)
from pluto_dist.core.values.ids import RunRef
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.secret import Secret
from pluto_dist.spool.file_lines import FileLine, Part, encode_line
from pluto_dist.spool.sources import ChangedError, Source, seen_in
from tests.adapters.backend_contract import DATA, LINE, METRIC, ServerContract, cut, opened
from tests.pluto_server.clock import Clock
from tests.pluto_server.server import PlutoServer
from tests.pluto_server.talk import Client

NO_TAGS = TagsChange((), ())


def _dying(after: int) -> Callable[..., Answer | Broken]:
    """Storage can be reached so often."""
    real, count = Http.put, itertools.count()

    def put(*more: Any) -> Answer | Broken:
        return real(*more) if next(count) < after else Broken("unsent", "refused")

    return put


class ServerRig:
    """A backend connected to an emulator; `server.operator` looks inside."""

    def __init__(self, server: PlutoServer, behind_s: list[float] | None = None) -> None:
        self.server = server
        self.behind_s = behind_s if behind_s is not None else [0.0]
        self.operator = server.operator
        self.key = server.key
        urls = server.urls
        self.target = Target(
            mode="pluto", store="/s", url_api=urls.api, url_ingest=urls.ingest, url_py=urls.py
        )
        self.backend = self.another()

    def another(self) -> PlutoBackend:
        """A backend of another coordinator."""
        return PlutoBackend(self.target, lambda: Secret(self.key))

    def fault(self, kind: str, **fields: Any) -> None:
        """Makes the next request fail."""
        self.operator.add_fault(kind=kind, count=1, **fields)

    def made_elsewhere(self, external_id: str, project: str = "proj") -> int:
        """A Run that another client makes: without our mark."""
        sender = Client(self.server.urls, "another client")
        answer = sender.api("create", runName="r", projectName=project, externalId=external_id)
        run_id: int = answer.json["runId"]
        return run_id

    def hide(self, run_id: int) -> None:
        """As if the project had so many Runs of other clients that this one was not looked at."""
        others = self.backend._opening._lookup._others.setdefault("proj", Others())
        others.learn(run_id, None)

    def status(self, run_id: int) -> Status:
        status: Status = self.operator.run(run_id)["status"]
        return status

    def reap(self, run_id: int) -> None:
        self.backend.beat(BackendRun("", self.target, run_id, ""))
        self.operator.advance(200)
        assert run_id in self.operator.monitor_cycle()

    def reason(self, run_id: int) -> dict[str, Any] | None:
        reason: dict[str, Any] | None = self.operator.run(run_id)["statusMetadata"]
        return reason

    def tags(self, run_id: int) -> list[str]:
        tags: list[str] = self.operator.run(run_id)["tags"]
        return tags

    def config(self, run_id: int) -> dict[str, Any]:
        config: dict[str, Any] | None = self.operator.run(run_id)["config"]
        return config or {}

    def points(self, run_id: int) -> dict[str, dict[int, float]]:
        series = self.operator.metrics(run_id)
        return {name: {step: value for step, _, value in points} for name, points in series.items()}

    def data(self, run_id: int) -> list[tuple[str, int, str]]:
        return [(row["log_name"], row["step"], row["data"]) for row in self.operator.data(run_id)]

    def console(self, run_id: int) -> list[str]:
        return [row["message"] for row in self.operator.logs(run_id)]

    def files(self, run_id: int) -> list[tuple[str, str, bytes]]:
        objects = self.server.state.objects.objects
        rows = self.operator.files(run_id)
        return [(row["log_name"], row["file_name"], objects[row["object_key"]]) for row in rows]

    def run_count(self) -> int:
        return len(self.operator.runs())

    def paths(self) -> list[str]:
        """The requests so far."""
        return [entry["path"] for entry in self.operator.requests()]


class TestPlutoBackend(ServerContract):
    """The contract, and what only this server does."""

    @pytest.fixture
    def rig(self) -> Iterator[ServerRig]:
        behind_s = [0.0]
        with PlutoServer(Clock(lambda: time.time() - behind_s[0])) as server:
            rig = ServerRig(server, behind_s)
            yield rig
            rig.backend.close()

    # --- opening (R8) -------------------------------------------------------------------------------

    @pytest.mark.parametrize("fault", [{"kind": "reset", "when": "after"}, {"kind": "truncate"}])
    def test_lost_answer_to_create_leads_to_one_run(self, rig: ServerRig, fault: dict[str, Any]) -> None:
        """R8: the external id finds it again, the key tells that it is ours."""
        rig.fault(**fault, service="api", route="/api/runs/create")
        asked = self.ask(rig, config=b'{"lr":1}', tags=("a",))
        assert isinstance(rig.backend.open(asked), Unavailable)
        assert rig.run_count() == 1
        run = opened(rig.backend.open(asked))
        assert not run.resumed
        assert (rig.run_count(), rig.config(run.id), rig.tags(run.id)) == (1, {"lr": 1}, ["a"])
        assert rig.status(run.id) == "RUNNING"

    def test_lost_answer_is_found_again_by_the_next_coordinator(self, rig: ServerRig) -> None:
        """G12"""
        rig.fault("reset", when="after", service="api", route="/api/runs/create")
        assert isinstance(rig.backend.open(self.ask(rig)), Unavailable)
        again = rig.another()
        assert not opened(again.open(self.ask(rig))).resumed
        again.close()

    def test_own_run_that_was_reaped_meanwhile_goes_on(self, rig: ServerRig) -> None:
        """R8: the answer was lost, the server away for an hour, the Run marked FAILED: still ours."""
        rig.fault("reset", when="after", service="api", route="/api/runs/create")
        assert isinstance(rig.backend.open(self.ask(rig)), Unavailable)
        rig.operator.advance(3600)
        rig.operator.monitor_cycle()
        assert rig.status(1) == "FAILED"
        run = opened(rig.backend.open(self.ask(rig)))
        assert (run.id, run.resumed, rig.status(1)) == (1, False, "RUNNING")

    @pytest.mark.parametrize("maker", ["we", "another client"])
    @pytest.mark.parametrize("status", ["RUNNING", "COMPLETED", "FAILED"])
    def test_create_with_a_taken_id_changes_nothing(self, rig: ServerRig, maker: str, status: Status) -> None:
        """R8, G8: asking never writes, whoever made the Run."""
        run_id = rig.made_elsewhere("taken") if maker == "another client" else self.begin_as(rig, "taken")
        if status != "RUNNING":
            rig.operator.set_status(run_id, status)
        before, history = rig.operator.run(run_id), rig.operator.history(run_id)
        result = rig.backend.open(self.ask(rig, "k2", external_id="taken"))
        assert isinstance(result, Refused)
        assert (result.error, result.reopened) == ("RunExistsError", None)
        assert (rig.operator.run(run_id), rig.operator.history(run_id)) == (before, history)
        assert rig.operator.check() == []

    def begin_as(self, rig: ServerRig, external_id: str) -> int:
        run, _ = self.begin(rig, external_id=external_id)
        return run.id

    def test_launches_of_two_machines_with_one_given_id_see_each_other(self, rig: ServerRig) -> None:
        """Only while the other one runs, and not a Run itself."""
        first, handle = self.begin(rig, external_id="a", given_id="job7")
        second, _ = self.begin(rig, external_id="b", given_id="job7")
        other, _ = self.begin(rig, external_id="c", given_id="job8")
        assert (first.namesake, second.namesake, other.namesake) == ("", first.display_id, "")
        self.end(rig, handle)
        rig.operator.set_status(second.id, "FAILED")
        third, _ = self.begin(rig, external_id="d", given_id="job7")
        assert third.namesake == ""

    def test_a_run_is_found_although_the_index_is_late(self, rig: ServerRig) -> None:
        """R8: the server fills what filters see after it has answered."""
        rig.operator.configure(index_lag_s=3600)
        run, handle = self.begin(rig, external_id="x")
        self.end(rig, handle)
        joined = opened(rig.backend.open(self.ask(rig, "k2", want="join", external_id="x")))
        assert (joined.id, joined.was_status) == (run.id, "COMPLETED")

    @pytest.mark.parametrize("reaped", [False, True])
    def test_what_create_has_reopened_all_the_same_is_put_back(self, rig: ServerRig, reaped: bool) -> None:
        """R8, G1: of a Run that was not looked at, with its time, also after the monitor has failed it."""
        run_id = rig.made_elsewhere("taken")
        rig.operator.set_status(run_id, "COMPLETED")
        before = rig.operator.run(run_id)
        rig.hide(run_id)
        result = rig.backend.open(self.ask(rig, external_id="taken"))
        assert isinstance(result, Refused)
        assert result.reopened is not None
        assert rig.status(run_id) == "RUNNING"
        if reaped:
            rig.reap(run_id)
        assert rig.backend.put_back(result.reopened) == Delivered()
        after = rig.operator.run(run_id)
        same = ("status", "statusUpdated", "config", "tags", "name")
        assert {name: after[name] for name in same} == {name: before[name] for name in same}
        assert rig.backend.put_back(result.reopened) == Delivered()
        rig.operator.waive("6.3.12")

    def test_racing_first_creates_end_in_one_run(self, rig: ServerRig) -> None:
        """R8: all but one of them may get a 500; it leaves nothing behind."""
        rig.fault("status", status=500, service="api", route="/api/runs/create")
        assert isinstance(rig.backend.open(self.ask(rig, want="either")), Unavailable)
        self.begin(rig, want="either")
        assert rig.run_count() == 1

    def test_looking_for_a_run_changes_nothing(self, rig: ServerRig) -> None:
        """G8: reads only."""
        run, handle = self.begin(rig)
        self.end(rig, handle)
        backend = rig.backend
        assert backend.details(RunRef(id=run.id)).status == "COMPLETED"  # type: ignore[union-attr]
        assert len(backend.history(run.id)) == 2  # type: ignore[arg-type]
        assert isinstance(backend.details(RunRef(id=99)), Rejected)
        assert rig.status(run.id) == "COMPLETED"

    def test_resume_uses_the_true_project(self, rig: ServerRig) -> None:
        """Ingest with another project's name is accepted and invisible."""
        run, handle = self.begin(rig, project="true one")
        self.end(rig, handle)
        again = opened(rig.backend.open(self.ask(rig, want="resume", project="default", id=run.id)))
        assert again.project == "true one"

    @pytest.mark.parametrize("want", ["resume", "either", "join"])
    def test_a_run_that_exists_tells_how_far_it_has_come(self, rig: ServerRig, want: str) -> None:
        """G10: nothing of it must be overwritten."""
        run, handle = self.begin(rig, external_id="x")
        rig.backend.register(handle, {"loss": "METRIC", "acc": "METRIC"})
        for step in (0, 41):
            rig.backend.deliver(handle, cut("metrics", {**METRIC, "step": step}))
        rig.backend.deliver(handle, cut("console", LINE, {**LINE, "lineNumber": 7}))
        self.end(rig, handle)
        ids = {"id": run.id, "external_id": None} if want == "resume" else {"external_id": "x"}
        again = opened(rig.backend.open(self.ask(rig, "k2", want=want, **ids)))
        assert again.reached.series == dict.fromkeys(rig.points(run.id), 41)
        assert (again.reached.lines, again.reached.last_line) == (2, 7)
        rig.operator.waive("6.3.12")

    def test_ambiguous_display_id_is_refused_or_narrowed(self, rig: ServerRig) -> None:
        first, _ = self.begin(rig, "k1", project="my-ml-project")
        second, _ = self.begin(rig, "k2", project="my_ml_project")
        assert first.display_id == second.display_id
        by_display = {"want": "resume", "display_id": first.display_id, "external_id": None}
        found = opened(rig.backend.open(self.ask(rig, "k3", project="my_ml_project", **by_display)))
        assert found.id == second.id
        result = rig.backend.open(self.ask(rig, "k3", project="third", **by_display))
        assert isinstance(result, Refused)
        assert result.error == "AmbiguousRunError"

    def test_project_name_is_the_same_at_create_and_at_ingest(self, rig: ServerRig) -> None:
        run, handle = self.begin(rig, project="проект é/x ")
        assert run.project == handle.project == "------ -/x"
        rig.backend.register(handle, {"loss": "METRIC", "acc": "METRIC"})
        assert rig.backend.deliver(handle, cut("metrics", METRIC)) == Delivered()
        assert rig.points(run.id)["loss"] == {0: 0.5}

    def test_what_would_be_a_500_is_none(self, rig: ServerRig) -> None:
        """Over-long names, NUL, NaN: all accepted after mending."""
        run, handle = self.begin(
            rig, project="p" * 300, name="n" * 300, external_id="e" * 300, config=b'{"a":"\\u0000","b":NaN}'
        )
        assert rig.config(run.id) == {"a": "", "b": "NaN"}
        report = StatusReport("FAILED", b'{"trace":"a\\u0000b","loss":Infinity}', rig.operator.now_ms())
        assert rig.backend.report(handle, report) == Told(status="FAILED")
        assert rig.reason(run.id) == {"trace": "ab", "loss": "Infinity"}

    def test_full_organization_is_refused(self, rig: ServerRig) -> None:
        rig.operator.set_at_limit(True)
        result = rig.backend.open(self.ask(rig))
        assert isinstance(result, Refused)
        assert result.error == "ServerRefusedError"

    def test_backfilled_run_is_not_reaped(self, rig: ServerRig) -> None:
        run, _ = self.begin(rig, created_ms=1_600_000_000_000, updated_ms=1_600_000_000_000)
        assert rig.operator.monitor_cycle() == []
        assert rig.operator.run(run.id)["createdAt"] == "2020-09-13T12:26:40.000Z"

    def test_fork_beyond_the_parents_steps_is_refused(self, rig: ServerRig) -> None:
        parent, _ = self.begin(rig)
        rig.operator.add_points(parent.id, "loss", [(step, METRIC["time"], 0.5) for step in range(6)])
        ref = self.ask(rig, "k2", parent=RunRef(id=parent.id), fork_step=6)
        result = rig.backend.open(ref)
        assert isinstance(result, Refused)
        assert result.error == "ForkError"

    # --- what is said was read back (G7) ---------------------------------------------------------------

    LOWER = (("FAILED", "COMPLETED"), ("FAILED", "TERMINATED"), ("FAILED", "CANCELLED"))
    LOWER += (("CANCELLED", "COMPLETED"), ("CANCELLED", "TERMINATED"), ("TERMINATED", "COMPLETED"))

    @pytest.mark.parametrize(("there", "wanted"), LOWER)
    def test_a_lower_severity_is_ignored_and_that_is_told(
        self, rig: ServerRig, there: Status, wanted: Status
    ) -> None:
        """G7: the server answers 200 all the same."""
        run, handle = self.begin(rig)
        rig.operator.set_status(run.id, there)
        report = StatusReport(wanted, None, rig.operator.now_ms())
        assert rig.backend.report(handle, report) == Told(status=there)
        assert rig.status(run.id) == there
        rig.operator.waive("6.3.5")

    @pytest.mark.parametrize(("there", "wanted"), LOWER)
    def test_a_persons_word_holds(self, rig: ServerRig, there: Status, wanted: Status) -> None:
        """G1: resume, then the status; a cancel comes back only if somebody polls again."""
        run, handle = self.begin(rig)
        rig.operator.set_status(run.id, there)
        at_ms = rig.operator.now_ms() - 5_000
        report = StatusReport(wanted, b'{"reason":"said so"}', at_ms, force=True)
        assert rig.backend.report(handle, report) == Told(status=wanted)
        assert (rig.status(run.id), rig.reason(run.id)) == (wanted, {"reason": "said so"})
        history = [event["toStatus"] for event in rig.operator.history(run.id)]
        assert sorted(history) == sorted(["RUNNING", there, "RUNNING", wanted])
        rig.operator.waive("6.3.5")

    def test_an_end_that_the_monitor_has_made_gives_way(self, rig: ServerRig) -> None:
        """G7: nobody meant it."""
        run, handle = self.begin(rig)
        rig.reap(run.id)
        report = StatusReport("COMPLETED", None, rig.operator.now_ms())
        assert rig.backend.report(handle, report) == Told(status="COMPLETED")
        rig.operator.waive("6.3.5")
        rig.operator.waive("6.3.10")

    def test_a_report_that_cannot_be_read_back_is_tried_again(self, rig: ServerRig) -> None:
        run, handle = self.begin(rig)
        rig.fault("status", status=503, service="api", route=f"/api/runs/details/{run.id}")
        report = StatusReport("COMPLETED", None, rig.operator.now_ms())
        assert isinstance(rig.backend.report(handle, report), Unknown)  # the server has it, for all we know
        assert rig.backend.report(handle, report) == Told(status="COMPLETED")

    def test_a_deleted_run_is_a_no(self, rig: ServerRig) -> None:
        run, handle = self.begin(rig)
        rig.operator.delete(run.id)
        for outcome in (
            rig.backend.report(handle, StatusReport("COMPLETED", None, 0)),
            rig.backend.put_tags(handle, TagsChange(("a",), ())),
            rig.backend.beat(handle).outcome,
        ):
            assert isinstance(outcome, Rejected)
            assert "Run not found" in outcome.reason

    def test_a_tag_that_is_only_on_the_page_is_removed(self, rig: ServerRig) -> None:
        """G9"""
        run, handle = self.begin(rig, tags=("a",))
        rig.operator.set_tags(run.id, ["a", "page", "other"])
        change = TagsChange(("a",), ("a",), ("page",))
        assert rig.backend.put_tags(handle, change) == Told(tags=("a", "other"))

    def test_tags_beyond_fifty_are_a_no(self, rig: ServerRig) -> None:
        run, handle = self.begin(rig, tags=("a",))
        rig.operator.set_tags(run.id, [f"page{number}" for number in range(49)] + ["a"])
        outcome = rig.backend.put_tags(handle, TagsChange(("a", "b"), ("a",)))
        assert isinstance(outcome, Rejected)
        assert "51 tags" in outcome.reason
        assert len(rig.tags(run.id)) == 50

    # --- the key ------------------------------------------------------------------------------------

    @pytest.mark.parametrize("key", ["mlps_EXPIRED", "mlps_REVOKED", "mlps_UNKNOWN", "nonsense"])
    def test_refused_key_is_a_key_problem_everywhere(self, rig: ServerRig, key: str) -> None:
        """Everything waits for another key; nothing is rejected because of it."""
        _, handle = self.begin(rig)
        rig.key = key
        result = rig.backend.open(self.ask(rig, "k2"))
        assert isinstance(result, Refused)
        assert result.error == "KeyRefusedError"
        outcomes = [
            rig.backend.deliver(handle, cut("metrics", METRIC)),
            rig.backend.put_tags(handle, NO_TAGS),
        ]
        assert all(isinstance(outcome, Retry) and outcome.key_problem for outcome in outcomes)
        rig.key = rig.server.key
        assert rig.backend.put_tags(handle, NO_TAGS) == Told(tags=())

    def test_nothing_secret_is_logged(
        self, rig: ServerRig, caplog: pytest.LogCaptureFixture, tmp_path: Path
    ) -> None:
        """G11: not by the HTTP library either."""
        caplog.set_level(logging.DEBUG)
        _, handle = self.begin(rig)
        assert rig.backend.deliver(handle, _file(tmp_path)) == Delivered()
        assert rig.key not in caplog.text
        assert "X-Amz-Signature" not in caplog.text

    # --- delivery (G6) --------------------------------------------------------------------------------

    @pytest.mark.parametrize("kind", ["metrics", "data", "console"])
    def test_overloaded_server_is_not_bad_data(self, rig: ServerRig, kind: Any) -> None:
        """G6: ingest wraps its own trouble into 422."""
        run, handle = self.begin(rig)
        batch = cut(kind, {"metrics": METRIC, "data": DATA, "console": LINE}[kind])
        rig.fault("database_error")
        assert isinstance(rig.backend.deliver(handle, batch), Retry)
        assert rig.backend.deliver(handle, batch) == Delivered()
        assert len(rig.console(run.id)) + len(rig.data(run.id)) == (0 if kind == "metrics" else 1)

    @pytest.mark.parametrize(
        "fault",
        [
            {"kind": "reset", "when": "before"},
            {"kind": "reset", "when": "after"},
            {"kind": "truncate"},
            {"kind": "status", "status": 503, "when": "before"},
            {"kind": "status", "status": 502, "when": "after"},
        ],
    )
    def test_answer_that_proves_nothing_is_unknown(self, rig: ServerRig, fault: dict[str, Any]) -> None:
        """G6"""
        _, handle = self.begin(rig)
        rig.fault(**fault, service="ingest")
        assert isinstance(rig.backend.deliver(handle, cut("console", LINE)), Unknown)

    def test_server_that_is_gone_is_retry(self) -> None:
        """G6: nothing was sent."""
        server = PlutoServer()
        server.start()
        rig = ServerRig(server)
        server.stop()
        handle = BackendRun("k", rig.target, 1, "p")
        assert isinstance(rig.backend.deliver(handle, cut("console", LINE)), Retry)
        assert isinstance(rig.backend.open(self.ask(rig)), Unavailable)
        rig.backend.close()

    def test_bad_line_commits_nothing(self, rig: ServerRig) -> None:
        """G6: the server alone would keep the first line, and each search for the bad one would repeat it."""
        run, handle = self.begin(rig)
        batch = cut("console", LINE, {**LINE, "lineNumber": -1}, LINE)
        assert isinstance(rig.backend.deliver(handle, batch), Rejected)
        assert rig.console(run.id) == []

    def test_bad_metric_line_is_rejected_with_the_servers_reason(self, rig: ServerRig) -> None:
        """G6: its predecessors are stored; to repeat them is harmless."""
        run, handle = self.begin(rig)
        outcome = rig.backend.deliver(handle, cut("metrics", METRIC, {**METRIC, "step": -1}))
        assert isinstance(outcome, Rejected)
        assert "StreamDecodingError" in outcome.reason
        assert rig.points(run.id)["loss"] == {0: 0.5}

    def test_nan_and_infinity_arrive(self, rig: ServerRig) -> None:
        run, handle = self.begin(rig)
        record = {**METRIC, "data": {"a": float("nan"), "b": float("-inf")}}
        assert rig.backend.deliver(handle, cut("metrics", record)) == Delivered()
        points = rig.points(run.id)
        assert points["a"][0] != points["a"][0]
        assert points["b"] == {0: float("-inf")}

    def test_proxy_of_the_environment_is_not_used_on_loopback(
        self, rig: ServerRig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("http_proxy", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        backend = rig.another()
        assert isinstance(backend.open(self.ask(rig)), RunOpened)
        backend.close()

    # --- files ----------------------------------------------------------------------------------------

    def test_file_arrives_with_one_metadata_row(self, rig: ServerRig, tmp_path: Path) -> None:
        """G6"""
        run, handle = self.begin(rig)
        rig.backend.register(handle, {"media": "FILE"})
        rig.fault("status", status=503, service="storage")
        rig.fault("reset", when="after", service="storage")
        batch = _file(tmp_path)
        assert isinstance(rig.backend.deliver(handle, batch), Retry)
        assert isinstance(rig.backend.deliver(handle, batch), Retry)
        assert rig.backend.deliver(handle, batch) == Delivered()
        assert [row["file_size"] for row in rig.operator.files(run.id)] == [5]
        assert [stored["size"] for stored in rig.operator.objects().values()] == [5]
        assert rig.paths().count("/files") == 1
        assert rig.operator.check() == []

    def test_expired_address_is_asked_for_again_and_counted(self, rig: ServerRig, tmp_path: Path) -> None:
        """G6: the second row shows, so it is counted."""
        run, handle = self.begin(rig)
        rig.fault("status", status=503, service="storage")
        batch = _file(tmp_path)
        assert isinstance(rig.backend.deliver(handle, batch), Retry)
        rig.operator.expire_urls()
        assert isinstance(rig.backend.deliver(handle, batch), Retry)
        assert rig.backend.deliver(handle, batch) == Delivered()
        assert rig.backend.files.renewed == 1
        assert len(rig.operator.files(run.id)) == 2
        assert len(rig.operator.objects()) == 1

    def test_lost_answer_to_presign_is_unknown(self, rig: ServerRig, tmp_path: Path) -> None:
        """G6: the row is there already."""
        run, handle = self.begin(rig)
        rig.fault("reset", when="after", service="ingest", route="/files")
        assert isinstance(rig.backend.deliver(handle, _file(tmp_path)), Unknown)
        assert len(rig.operator.files(run.id)) == 1

    def folder_batch(self, tmp_path: Path, *sizes: int) -> Batch:
        """A folder that was logged, as the coordinator gives it to a backend."""
        (tmp_path / "spool").mkdir()
        parts = []
        for number, size in enumerate(sizes):
            path = tmp_path / f"rank{number}.pt"
            path.write_bytes(b"%d" % number * size)
            parts.append(Part(f"shards/rank{number}.pt", str(path), size))
        line = FileLine(
            *("x", "step3-3-abc", "pt", "ckpt", 3, METRIC["time"]),
            log_type="ARTIFACT",
            parts=tuple(parts),
            id="a" * 32,
        )
        batch = cut("files", json.loads(encode_line(line)))
        return msgspec.structs.replace(batch, notes=str(tmp_path / "spool"))

    def test_a_folder_arrives_with_a_manifest_of_its_checksums(self, rig: ServerRig, tmp_path: Path) -> None:
        """G6: larger files in parts, the manifest last."""
        run, handle = self.begin(rig)
        rig.backend.register(handle, {"ckpt": "ARTIFACT"})
        batch = self.folder_batch(tmp_path, 10, 100, 250)
        with mock.patch.multiple(shipment, PUT_LIMIT=100, PIECE=100):
            assert rig.backend.deliver(handle, batch) == Delivered()
        files = rig.files(run.id)
        assert [name for _, name, _ in files][:-1] == [
            f"step3-3-abc.0000{n}-rank{min(n, 2)}.pt" for n in range(5)
        ]
        assert [len(body) for _, _, body in files][:-1] == [10, 100, 100, 100, 50]
        _, name, body = files[-1]
        assert name == "step3-3-abc.manifest.json"
        manifest = msgspec.json.decode(body, type=Manifest)
        stored = {name: body for _, name, body in files}
        for number, file in enumerate(manifest.files):
            whole = b"".join(stored[each] for each in file.objects)
            assert (file.name, file.size) == (f"shards/rank{number}.pt", len(whole))
            assert file.sha256 == hashlib.sha256(whole).hexdigest()

    @pytest.mark.parametrize("after", range(5))
    def test_another_coordinator_goes_on_where_the_last_one_died(
        self, rig: ServerRig, tmp_path: Path, after: int
    ) -> None:
        """G12, G6: no second address, no second upload, whichever of the requests was the last."""
        run, handle = self.begin(rig)
        rig.backend.register(handle, {"ckpt": "ARTIFACT"})
        batch = self.folder_batch(tmp_path, 10, 20, 30)
        with mock.patch.object(Http, "put", autospec=True, side_effect=_dying(after)):
            outcome = rig.backend.deliver(handle, batch)
        assert isinstance(outcome, Retry) == (after < 4)
        rig.backend.close()
        rig.backend = rig.another()
        assert rig.backend.deliver(handle, batch) == Delivered()
        assert len(rig.files(run.id)) == len(rig.operator.files(run.id)) == 4
        assert [grant.uploads for grant in rig.server.state.objects.put_grants()] == [1] * 4

    def test_a_file_that_was_changed_is_not_stored_as_what_it_was(
        self, rig: ServerRig, tmp_path: Path
    ) -> None:
        """G3: in the middle of its upload; what is out then is no object."""
        _, handle = self.begin(rig)
        rig.backend.register(handle, {"ckpt": "ARTIFACT"})
        path = tmp_path / "large"
        path.write_bytes(b"x" * (3 << 20))
        line = FileLine(
            *(str(path), "f", "pt", "ckpt", 3, METRIC["time"], 3 << 20, "ARTIFACT"),
            source=str(path),
            seen=seen_in(path.stat()),
        )
        real = Source.pieces

        def changing(source: Source, *more: int) -> Iterator[bytes]:
            for number, piece in enumerate(real(source, *more)):
                if number == 1:
                    os.utime(path, ns=(1, 1))
                yield piece

        batch = cut("files", json.loads(encode_line(line)))
        with mock.patch.object(Upload, "read"), mock.patch.object(Source, "pieces", changing):
            outcome = rig.backend.deliver(handle, batch)
        assert isinstance(outcome, Rejected)
        assert f"{path} was written to" in outcome.reason
        assert rig.operator.objects() == {}

    def test_file_that_changes_size_meanwhile_breaks_nothing(self, rig: ServerRig, tmp_path: Path) -> None:
        """What it has grown by is left out; one that has shrunk is not stored."""
        _, handle = self.begin(rig)
        path = tmp_path / "changing"
        path.write_bytes(b"bytes")
        urls = rig.backend.files.presign(handle, [Row("f", "txt", 5, "media", 0, METRIC["time"])])
        assert isinstance(urls, tuple)
        http = Http()
        with pytest.raises(ChangedError, match="has 5 of 9 bytes"):
            http.put(urls[0], Source(str(path), 9).pieces(), 9)
        assert rig.operator.objects() == {}
        for size, stored in ((3, b"byt"), (0, b""), (5, b"bytes")):
            assert isinstance(http.put(urls[0], Source(str(path), size).pieces(), size), Answer)
            assert list(rig.server.state.objects.objects.values()) == [stored]
        http.close()

    # --- the end --------------------------------------------------------------------------------------

    def test_cancel_of_the_web_page_is_learnt_from_the_beat(self, rig: ServerRig) -> None:
        run, handle = self.begin(rig)
        rig.operator.cancel(run.id)
        assert rig.backend.beat(handle).status == "CANCELLED"

    def test_whole_run_leaves_no_defect(self, rig: ServerRig) -> None:
        """Create, log, tag, configure, beat, end: the strict emulator has nothing to complain about."""
        now_ms = int(time.time() * 1000)
        _, handle = self.begin(rig, tags=("a",), config=b'{"lr":1}')
        backend = rig.backend
        assert backend.register(handle, {"loss": "METRIC", "acc": "METRIC", "note": "DATA"}) == Delivered()
        for kind, record in (("metrics", METRIC), ("data", DATA), ("console", LINE)):
            batch = cut(kind, {**record, "time": now_ms})  # type: ignore[arg-type]
            assert backend.deliver(handle, batch) == Delivered()
        assert backend.put_tags(handle, TagsChange(("a", "b"), ())) == Told(tags=("a", "b"))
        assert backend.merge_config(handle, b'{"x":1}') == Delivered()
        assert backend.beat(handle).outcome == Delivered()
        assert backend.report(handle, StatusReport("COMPLETED", None, now_ms)) == Told(status="COMPLETED")
        assert rig.operator.check() == []
        assert rig.status(handle.id) == "COMPLETED"


def _file(folder: Path) -> Any:
    path = folder / "photo.txt"
    path.write_bytes(b"bytes")
    line = {"path": str(path), "fileName": "photo.txt", "fileType": "txt", "fileSize": 5}
    return cut("files", line | {"logName": "media", "step": 0, "time": METRIC["time"]})
