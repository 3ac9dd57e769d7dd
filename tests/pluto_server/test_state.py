"""The state rules of the server that the recording does not cover, or only for one case."""

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from .runs import prefix_of
from .server import PlutoServer
from .talk import Client, send
from .test_replay import create_at_once

NOW = int(time.time() * 1000)
TERMINAL = ["COMPLETED", "TERMINATED", "CANCELLED", "FAILED"]  # by severity


def point(step: int, value: float, time_ms: int = NOW, name: str = "m") -> dict[str, Any]:
    """A metrics line."""
    return {"time": time_ms, "step": step, "data": {name: value}}


class TestCreate:
    """Runs, projects, numbers."""

    def test_racing_creates_of_one_external_id_make_one_run_and_burn_numbers(
        self, server: PlutoServer, client: Client, run_id: int
    ) -> None:
        """In an existing project all answer 200; the losers attach."""
        server.operator.configure(race_window_s=0.05)
        assert create_at_once(server, "p", "new") == [200] * 8
        first, raced = server.operator.runs()
        assert first["id"] == run_id
        assert 2 <= raced["number"] <= 9
        later = client.api("create", runName="r", projectName="p", externalId="later").json
        assert later["number"] == 10

    def test_racing_first_creates_of_a_project_fail_and_leave_nothing(
        self, server: PlutoServer, client: Client
    ) -> None:
        """Some answer 500; there is one project and one run, and a retry attaches."""
        server.operator.configure(race_window_s=0.05)
        statuses = create_at_once(server, "fresh", "x")
        assert 1 <= statuses.count(500) <= 7
        assert statuses.count(200) + statuses.count(500) == 8
        assert [row["runCount"] for row in client.read("projects")["projects"]] == [1]
        assert client.api("create", runName="r", projectName="fresh", externalId="x").json["resumed"] is True

    def test_attach_reopens_merges_config_and_keeps_the_rest(
        self, server: PlutoServer, client: Client
    ) -> None:
        """Name, tags and metadata of the first create stay."""
        first = {"runName": "one", "projectName": "p", "externalId": "e", "tags": ["a"]}
        run_id = client.api("create", **first, config='{"n": {"x": 1}}', systemMetadata='{"h": 1}').json[
            "runId"
        ]
        client.api("status/update", runId=run_id, status="FAILED", statusMetadata='{"t": 1}')
        second = {"runName": "two", "projectName": "p", "externalId": "e", "tags": ["b"]}
        answer = client.api("create", **second, config='{"n": {"y": 2}}', systemMetadata='{"h": 2}')
        assert (answer.json["resumed"], answer.json["runId"]) == (True, run_id)
        run = server.operator.run(run_id)
        assert (run["name"], run["tags"], run["systemMetadata"]) == ("one", ["a"], {"h": 1})
        assert (run["config"], run["status"]) == ({"n": {"x": 1, "y": 2}}, "RUNNING")
        assert run["statusMetadata"] == {"t": 1}
        assert [event["source"] for event in server.operator.history(run_id)] == ["api", "api", "resume"]

    def test_attach_with_bad_config_fails_after_reopening(self, client: Client, run_id: int) -> None:
        """The flip has happened; only the merge fails."""
        client.api("status/update", runId=run_id, status="COMPLETED")
        answer = client.api("create", runName="r", projectName="p", externalId="e1", config="{")
        assert (answer.status, answer.json) == (500, {"error": "Internal Server Error"})
        assert client.read(f"details/{run_id}")["status"] == "RUNNING"

    def test_concurrent_config_merges_can_lose_keys(self, server: PlutoServer, run_id: int) -> None:
        """The merge is read, then written, without a lock; the race window shows it."""
        server.operator.configure(race_window_s=0.1)
        client = Client(server.urls)

        def update(key: str) -> int:
            return client.api("config/update", runId=run_id, config=json.dumps({key: 1})).status

        assert _at_once(update, ["a", "b"]) == [200, 200]
        assert len(server.operator.run(run_id)["config"]) == 1

    def test_the_limit_refuses_new_runs_only(self, server: PlutoServer, client: Client, run_id: int) -> None:
        """Attach and resume still work."""
        server.operator.set_at_limit(True)
        refused = client.api("create", runName="r", projectName="p", externalId="new")
        assert (refused.status, refused.json) == (400, {"error": "Organization is at limit"})
        assert client.api("create", runName="r", projectName="p", externalId="e1").json["runId"] == run_id
        assert client.api("resume", runId=run_id).status == 200

    def test_fork_inherits_config_at_the_top_level_and_the_last_group(
        self, server: PlutoServer, client: Client
    ) -> None:
        """Shallow merge, union of tags."""
        parent = client.api(
            "create",
            runName="p",
            projectName="f",
            externalId="p",
            tags=["t", "group:g"],
            config='{"n": {"x": 1}}',
        ).json["runId"]
        fork = {"projectName": "f", "forkRunId": parent, "forkStep": 5}
        child = client.api(
            "create", **fork, runName="c", tags=["u", "group:h"], config='{"n": {"y": 2}}', inheritTags=True
        ).json["runId"]
        run = server.operator.run(child)
        assert run["config"] == {"n": {"y": 2}}
        assert run["tags"] == ["t", "u", "group:h"]

    def test_fork_beyond_the_newest_visible_step_is_refused(
        self, server: PlutoServer, client: Client
    ) -> None:
        """Points that readers do not see yet do not count."""
        parent = client.api("create", runName="p", projectName="f", externalId="p").json["runId"]
        server.operator.configure(read_lag_s=5)
        client.ingest("metrics", [point(1, 1.0)], run_id=parent, project="f")
        fork = {"runName": "c", "projectName": "f", "forkRunId": parent, "forkStep": 3}
        assert client.api("create", **fork, externalId="c1").status == 200
        server.operator.advance(5)
        assert client.api("create", **fork, externalId="c2").json == {
            "error": "forkStep (3) exceeds the parent run's max step (1)"
        }

    PREFIXES = (
        ("my-ml-project", "MMP"),
        ("training", "TRA"),
        ("other project", "OPR"),
        ("a b c d e", "ABCD"),
        ("x", "X"),
        ("", "RUN"),
        ("--", "RUN"),
        ("a b", "AB"),
    )

    @pytest.mark.parametrize(("name", "prefix"), PREFIXES)
    def test_prefix_of_display_ids(self, name: str, prefix: str) -> None:
        """Three letters of one word, initials of several."""
        assert prefix_of(name) == prefix


class TestStatus:
    """Severity, events, metadata, times."""

    @pytest.mark.parametrize("new", TERMINAL)
    @pytest.mark.parametrize("old", TERMINAL)
    def test_a_terminal_status_gives_way_to_equal_or_higher_severity(
        self, server: PlutoServer, client: Client, run_id: int, old: str, new: str
    ) -> None:
        """The rest is ignored whole, with 200."""
        client.api("status/update", runId=run_id, status=old, statusMetadata='{"by": "old"}')
        answer = client.api("status/update", runId=run_id, status=new, statusMetadata='{"by": "new"}')
        assert (answer.status, answer.json) == (200, {"success": True})
        applied = TERMINAL.index(new) >= TERMINAL.index(old)
        run = server.operator.run(run_id)
        assert run["status"] == (new if applied else old)
        assert run["statusMetadata"] == {"by": "new" if applied else "old"}
        assert len(server.operator.history(run_id)) == 2 + (applied and new != old)

    def test_times_of_a_repeated_status(self, server: PlutoServer, client: Client, run_id: int) -> None:
        """RUNNING refreshes the time, a terminal status keeps it; neither makes an event."""
        client.api("status/update", runId=run_id, status="RUNNING", statusUpdated=NOW)
        assert server.operator.run(run_id)["statusUpdated"] is not None
        client.api("status/update", runId=run_id, status="FAILED", statusUpdated=NOW + 1)
        first = server.operator.run(run_id)["statusUpdated"]
        client.api("status/update", runId=run_id, status="FAILED", statusUpdated=NOW + 2)
        assert server.operator.run(run_id)["statusUpdated"] == first
        assert {event["toStatus"] for event in server.operator.history(run_id)} == {"RUNNING", "FAILED"}
        assert len(server.operator.history(run_id)) == 2

    METADATA = ((None, None), ("null", None), ("", {"k": 1}), ('{"k": 2}', {"k": 2}))

    @pytest.mark.parametrize(("given", "stored"), METADATA)
    def test_metadata_is_left_cleared_or_replaced(
        self, server: PlutoServer, client: Client, run_id: int, given: str | None, stored: Any
    ) -> None:
        """null clears, an empty string leaves."""
        client.api("status/update", runId=run_id, status="FAILED", statusMetadata='{"k": 1}')
        client.api("status/update", runId=run_id, status="FAILED", statusMetadata=given)
        assert server.operator.run(run_id)["statusMetadata"] == stored

    def test_logger_settings_are_merged(self, server: PlutoServer, client: Client, run_id: int) -> None:
        """Deeply, and null leaves them."""
        for settings in ('{"a": {"x": 1}}', '{"a": {"y": 2}}', None):
            client.api("status/update", runId=run_id, status="RUNNING", loggerSettings=settings)
        assert server.operator.run(run_id)["loggerSettings"] == {"a": {"x": 1, "y": 2}}

    def test_ingest_is_accepted_in_any_status(self, server: PlutoServer, client: Client, run_id: int) -> None:
        """The data path does not look at the run."""
        for status in TERMINAL:
            client.api("status/update", runId=run_id, status=status)
            assert client.ingest("metrics", [point(TERMINAL.index(status), 1.0)]).status == 200
        assert len(server.operator.metrics(run_id)["m"]) == 4


class TestMetrics:
    """Two tables: every write, and one point a step."""

    def test_the_largest_time_wins_and_every_write_is_kept(
        self, server: PlutoServer, client: Client, run_id: int
    ) -> None:
        """A later write with an older time loses; equal times go to the later write."""
        lines = [point(1, 1.0), point(1, 2.0, NOW - 1), point(0, 3.0), point(0, 4.0)]
        client.ingest("metrics", lines)
        assert server.operator.metrics(run_id)["m"] == [(0, NOW, 4.0), (1, NOW, 1.0)]
        assert [value for _, _, value in server.operator.raw_metrics(run_id)["m"]] == [1.0, 2.0, 3.0, 4.0]

    def test_readers_get_flags_for_non_finite_values(self, client: Client, run_id: int) -> None:
        """Value 0 and a flag in one route, bits in the other."""
        client.ingest("metrics", [point(0, math.nan), point(1, math.inf), point(2, -math.inf), point(3, 0.5)])
        rows = client.read(f"metrics?runId={run_id}&projectName=p")["metrics"]
        assert [(row["value"], row["valueFlag"]) for row in rows] == [
            (0, "NaN"),
            (0, "Inf"),
            (0, "-Inf"),
            (0.5, ""),
        ]
        raw = client.read(f"metrics/raw?runId={run_id}&projectName=p&logName=m")
        assert [row["nonFiniteFlags"] for row in raw["rows"]] == [1, 2, 4, 0]
        assert raw["truncated"] is False

    def test_reads_are_limited_sampled_and_filtered(self, client: Client, run_id: int) -> None:
        """First and last stay; steps and names select."""
        client.ingest("metrics", [point(step, step, name="g/m") for step in range(100)])
        path = f"metrics?runId={run_id}&projectName=p"
        sampled = [row["step"] for row in client.read(f"{path}&limit=5")["metrics"]]
        assert (len(sampled), sampled[0], sampled[-1]) == (5, 0, 99)
        assert len(client.read(f"{path}&stepMin=10&stepMax=19&logName=g/m&logGroup=g")["metrics"]) == 10
        assert client.read(f"{path}&logName=other")["metrics"] == []

    def test_read_lag_hides_rows_from_readers_until_it_is_over(
        self, server: PlutoServer, client: Client, run_id: int
    ) -> None:
        """Metrics and console rows alike; the operator sees every accepted write."""
        client.ingest("metrics", [point(0, 1.0)])
        server.operator.configure(read_lag_s=5)
        client.ingest("metrics", [point(1, 1.0)])
        client.ingest("logs", [{"time": NOW, "message": "m", "lineNumber": 1, "logType": "INFO"}])
        assert len(server.operator.metrics(run_id)["m"]) == 1
        assert len(server.operator.raw_metrics(run_id)["m"]) == 2
        logs = f"logs?runId={run_id}&projectName=p"
        assert client.read(logs)["total"] == 0
        server.operator.advance(5)
        assert len(server.operator.metrics(run_id)["m"]) == 2
        assert client.read(logs)["total"] == 1

    def test_a_read_without_run_or_project_is_a_schema_violation(self, server: PlutoServer) -> None:
        """400 with issues, as for bodies."""
        headers = {"Authorization": f"Bearer {server.key}"}
        answer = send(f"{server.urls.api}/api/runs/metrics?runId=1", "GET", None, headers)
        assert (answer.status, answer.json["error"]["name"]) == (400, "ZodError")


class TestRows:
    """Data and console rows are only ever appended."""

    def test_repeats_are_stored_again(self, server: PlutoServer, client: Client, run_id: int) -> None:
        """No de-duplication."""
        data = {"time": NOW, "step": 1, "data": "d", "dataType": "table", "logName": "t"}
        client.ingest("data", [data, data])
        assert len(server.operator.data(run_id)) == 2

    def test_console_rows_are_read_by_line_number(self, client: Client, run_id: int) -> None:
        """Whatever order they came in; a type selects."""
        rows = [(3, "ERROR"), (1, "INFO"), (2, "INFO")]
        lines = [{"time": NOW, "message": str(n), "lineNumber": n, "logType": kind} for n, kind in rows]
        client.ingest("logs", lines)
        answer = client.read(f"logs?runId={run_id}&projectName=p")
        assert [row["message"] for row in answer["logs"]] == ["1", "2", "3"]
        assert client.read(f"logs?runId={run_id}&projectName=p&logType=INFO&limit=1")["total"] == 2


class TestHeartbeatAndMonitor:
    """Who is found dead, and when."""

    def test_a_run_without_heartbeat_has_half_an_hour(self, server: PlutoServer, run_id: int) -> None:
        """1800 s from its last update."""
        server.operator.advance(1799)
        assert server.operator.monitor_cycle() == []
        server.operator.advance(2)
        assert server.operator.monitor_cycle() == [run_id]
        run = server.operator.run(run_id)
        assert (run["status"], run["statusMetadata"]["reason"]) == ("FAILED", "stale")
        assert server.operator.history(run_id)[-1]["source"] == "stale-monitor"

    def test_one_heartbeat_means_150_seconds_for_ever(
        self, server: PlutoServer, client: Client, run_id: int
    ) -> None:
        """Config, tags, data and logs are no signs of life."""
        client.beat(run_id)
        server.operator.advance(149)
        assert server.operator.monitor_cycle() == []
        client.api("config/update", runId=run_id, config='{"a": 1}')
        client.api("tags/update", runId=run_id, tags=["t"])
        client.ingest("logs", [{"time": NOW, "message": "m", "lineNumber": 1, "logType": "INFO"}])
        server.operator.advance(2)
        assert server.operator.monitor_cycle() == [run_id]
        assert server.operator.run(run_id)["statusMetadata"]["reason"] == "heartbeat-timeout"

    def test_metric_times_and_status_reports_are_signs_of_life(
        self, server: PlutoServer, client: Client, run_id: int
    ) -> None:
        """Metric times as the client gives them; a repeated RUNNING as well."""
        client.beat(run_id)
        server.operator.advance(151)
        client.ingest("metrics", [point(1, 1.0, server.operator.now_ms())])
        assert server.operator.monitor_cycle() == []
        server.operator.advance(151)
        client.api("status/update", runId=run_id, status="RUNNING")
        assert server.operator.monitor_cycle() == []
        server.operator.advance(151)
        assert server.operator.monitor_cycle() == [run_id]

    def test_heartbeats_are_stored_every_30_seconds(
        self, server: PlutoServer, client: Client, run_id: int
    ) -> None:
        """A beat 29 s after the stored one is not written: the run dies 150 s after the stored one."""
        client.beat(run_id)
        seen = server.operator.run(run_id)["lastSeenMs"]
        server.operator.advance(29)
        client.beat(run_id)
        assert server.operator.run(run_id)["lastSeenMs"] == seen
        server.operator.advance(2)
        client.beat(run_id)
        assert server.operator.run(run_id)["lastSeenMs"] > seen

    def test_a_backfilled_run_dies_at_once(self, server: PlutoServer, client: Client) -> None:
        """An old updatedAt is an old sign of life, unless there is a heartbeat."""
        old = {
            "runName": "b",
            "projectName": "p",
            "createdAt": NOW - 86_400_000,
            "updatedAt": NOW - 86_400_000,
        }
        dead, alive = (client.api("create", **old, externalId=name).json["runId"] for name in "ab")
        client.beat(alive)
        assert server.operator.monitor_cycle() == [dead]

    @pytest.mark.parametrize("before", ["RUNNING", "COMPLETED", "FAILED"])
    def test_a_cancel_is_applied_by_the_next_poll_from_any_status_and_again_after_resume(
        self, server: PlutoServer, client: Client, run_id: int, before: str
    ) -> None:
        """No event; the trigger row is never consumed."""
        client.api("status/update", runId=run_id, status=before)
        server.operator.cancel(run_id)
        assert server.operator.run(run_id)["status"] == before
        events = len(server.operator.history(run_id))
        assert client.beat(run_id).json == {"status": "CANCELLED", "triggers": None}
        assert len(server.operator.history(run_id)) == events
        client.api("resume", runId=run_id)
        assert server.operator.run(run_id)["status"] == "RUNNING"
        assert client.beat(run_id).json["status"] == "CANCELLED"

    def test_a_threshold_rule_cancels(self, server: PlutoServer, client: Client, run_id: int) -> None:
        """Of a RUNNING run, by the monitor."""
        rules = json.dumps({"trigger": {"m": {"operator": ">", "threshold": 5}}})
        client.api("status/update", runId=run_id, status="RUNNING", loggerSettings=rules)
        client.ingest("metrics", [point(1, 5.0)])
        server.operator.monitor_cycle()
        assert server.operator.run(run_id)["status"] == "RUNNING"
        client.ingest("metrics", [point(2, 5.1)])
        server.operator.monitor_cycle()
        assert server.operator.run(run_id)["status"] == "CANCELLED"
        assert server.operator.history(run_id)[-1]["source"] == "threshold-trigger"


class TestControlBodies:
    """Bodies on routes that were not recorded."""

    def test_notes_and_model_graphs(self, server: PlutoServer, client: Client, run_id: int) -> None:
        """Notes are replaced, graphs pile up."""
        graph = {"format": "torch", "nodes": {"a": {"type": "Linear", "depth": 0, "edges": [["a", "b"]]}}}
        assert client.api("notes/update", runId=run_id, notes="hello").status == 200
        assert client.api("notes/update", runId=run_id, notes="x" * 1001).status == 400
        for _ in range(2):
            assert client.api("modelGraph/create", runId=run_id, graph=graph).status == 200
        assert client.api("modelGraph/create", runId=run_id, graph={"format": "t"}).status == 400
        run = server.operator.run(run_id)
        assert (run["notes"], run["graphs"]) == ("hello", 2)

    UNPARSED = (
        ("resume", 404),
        ("status/update", 500),
        ("logName/add", 500),
        ("tags/update", 500),
        ("config/update", 500),
        ("notes/update", 200),
    )

    @pytest.mark.parametrize(("route", "status"), UNPARSED)
    def test_a_body_of_another_type_is_not_parsed(
        self, server: PlutoServer, client: Client, run_id: int, route: str, status: int
    ) -> None:
        """The handler runs on nothing; for notes that clears all of the organization."""
        client.api("notes/update", runId=run_id, notes="hello")
        headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "text/plain"}
        answer = send(f"{server.urls.api}/api/runs/{route}", "POST", json.dumps({"runId": run_id}), headers)
        assert answer.status == status
        assert server.operator.run(run_id)["notes"] == (None if route == "notes/update" else "hello")

    def test_list_filters_and_pages(self, client: Client) -> None:
        """Newest first; any of the tags; total beyond the page."""
        for number in range(5):
            tags = ["even"] if number % 2 == 0 else ["odd"]
            client.api("create", runName=f"r{number}", projectName="l", externalId=str(number), tags=tags)
        page = client.read("list?projectName=l&tags=even&limit=2&offset=1")
        assert ([run["name"] for run in page["runs"]], page["total"]) == (["r2", "r0"], 3)
        assert client.read("list?projectName=l&status=FAILED")["total"] == 0
        assert client.read("list?projectName=l&search=R4")["total"] == 1
        assert client.read("list?projectName=none") == {"runs": [], "total": 0}


def _at_once(act: Any, arguments: list[str]) -> list[int]:
    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(act, arguments))
