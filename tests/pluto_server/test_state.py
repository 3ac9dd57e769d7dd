"""The state rules of the server that the recording does not cover, or only for one case."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import pytest

from .runs import prefix_of
from .server import PlutoServer
from .talk import Client, point, send
from .test_replay import create_at_once

NOW = int(time.time() * 1000)
TERMINAL = ["COMPLETED", "TERMINATED", "CANCELLED", "FAILED"]  # by severity


class TestCreate:
    """Runs, projects, numbers."""

    def test_racing_creates_of_one_external_id_make_one_run_and_burn_numbers(
        self, server: PlutoServer, client: Client, run_id: int
    ) -> None:
        """In an existing project all answer 200; the losers attach."""
        server.operator.configure(race_window=8)
        assert create_at_once(server, "p", "new") == [200] * 8
        first, raced = server.operator.runs()
        assert first["id"] == run_id
        assert 2 <= raced["number"] <= 9
        later = client.api("create", runName="r", projectName="p", externalId="later").json
        assert raced["number"] < later["number"] <= 10
        assert later["number"] > 3, "no loser burned a number"

    def test_racing_first_creates_of_a_project_fail_and_leave_nothing(
        self, server: PlutoServer, client: Client
    ) -> None:
        """Some answer 500; there is one project and one run, and a retry attaches."""
        server.operator.configure(race_window=8)
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
        server.operator.configure(race_window=2)
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


class TestFound:
    """Ways to find a run without touching it."""

    @staticmethod
    def listed(client: Client, **query: Any) -> list[int]:
        asked = {
            name: value if isinstance(value, str) else json.dumps(value) for name, value in query.items()
        }
        return [row["id"] for row in client.read(f"list?{urlencode({'projectName': 'p', **asked})}")["runs"]]

    def made(self, client: Client, external_id: str, **fields: Any) -> int:
        given = {"runName": "r", "projectName": "p", "externalId": external_id} | fields
        run_id: int = client.api("create", **given).json["runId"]
        return run_id

    def test_a_value_of_the_system_metadata_finds_its_run_at_once(self, client: Client) -> None:
        """Text by text; equality with what reads as a number compares numbers."""
        ids = {
            value: self.made(client, value, systemMetadata=json.dumps({"our": {"id": value}}))
            for value in ("a", "A", "1e2", "100")
        }
        field = "systemMetadata.our.id"
        assert self.listed(client, filter={field: "a"}) == [ids["a"]]
        assert self.listed(client, filter={field: {"$in": ["1e2"]}}) == [ids["1e2"]]
        assert self.listed(client, filter={field: "1e2"}) == [ids["100"], ids["1e2"]]
        assert self.listed(client, filter={"$and": [{field: "a"}, {"status": "running"}]}) == []
        assert self.listed(client, filter={"$or": [{field: "a"}, {field: "A"}]}) == [ids["A"], ids["a"]]
        assert self.listed(client, filter={"$not": {field: {"$in": ["100", "1e2"]}}}) == [ids["A"], ids["a"]]

    def test_runs_without_a_key_are_listed_by_themselves(self, client: Client) -> None:
        """Structured terms."""
        self.made(client, "mine", systemMetadata='{"our":{"id":"x"}}')
        other = self.made(client, "theirs")
        term = {"source": "systemMetadata", "key": "our.id", "dataType": "text", "values": []}
        assert self.listed(client, fieldFilters=[term | {"operator": "not exists"}]) == [other]

    def test_the_index_may_come_after_the_answer(self, server: PlutoServer, client: Client) -> None:
        """A filter may miss what was just made."""
        server.operator.configure(index_lag_s=5)
        run_id = self.made(client, "x", systemMetadata='{"our":{"id":"x"}}')
        assert self.listed(client, filter={"systemMetadata.our.id": "x"}) == []
        server.operator.advance(5)
        assert self.listed(client, filter={"systemMetadata.our.id": "x"}) == [run_id]

    @pytest.mark.parametrize(
        ("query", "text"),
        [
            ({"projectName": ""}, "projectName is required unless konduktorJobPrefix is provided"),
            ({"filter": "{"}, "filter must be valid JSON"),
            ({"filter": [1]}, "filter must be an object"),
            ({"filter": {"runName": "x"}}, "unknown filter field: runName"),
            ({"filter": {"name": {"$like": "x"}}}, "unknown leaf operator: $like"),
            ({"filter": {"$xor": []}}, "unknown boolean operator: $xor"),
            ({"fieldFilters": {"a": 1}}, "fieldFilters has invalid shape"),
            ({"status": "DONE"}, "invalid status value(s): DONE"),
        ],
    )
    def test_a_question_that_makes_no_sense_is_refused(
        self, server: PlutoServer, query: dict[str, Any], text: str
    ) -> None:
        """400 with a text."""
        asked = {
            name: value if isinstance(value, str) else json.dumps(value) for name, value in query.items()
        }
        url = f"{server.urls.api}/api/runs/list?{urlencode({'projectName': 'p', **asked})}"
        answer = send(url, "GET", None, {"Authorization": f"Bearer {server.key}"})
        assert answer.status == 400
        assert answer.json["error"].startswith(text)

    @pytest.mark.parametrize(
        ("path", "status", "text"),
        [
            ("details/abc", 400, "Expected number, received nan"),
            ("details/1.5", 500, "Internal Server Error"),
            (f"details/{2**64}", 500, "Internal Server Error"),
            ("details/-1", 404, "Run not found"),
            ("details/by-display-id/x", 400, "Invalid display ID format."),
            ("details/by-display-id/P-9", 404, "Run not found"),
            (
                "details/by-display-id/P-1",
                409,
                "Display ID 'P-1' is ambiguous across multiple projects",
            ),
        ],
    )
    def test_ids_that_name_no_run(
        self, server: PlutoServer, client: Client, run_id: int, path: str, status: int, text: str
    ) -> None:
        """Some answer 500, as an outage would."""
        client.api("create", runName="r", projectName="P", externalId="e")
        headers = {"Authorization": f"Bearer {server.key}"}
        answer = send(f"{server.urls.api}/api/runs/{path}", "GET", None, headers)
        assert answer.status == status
        assert text in answer.text

    def test_a_deleted_run_is_gone_from_every_route(
        self, server: PlutoServer, client: Client, run_id: int
    ) -> None:
        """Control and py services answer 404; ingest never knew."""
        server.operator.delete(run_id)
        calls = {
            "resume": {},
            "status/update": {"status": "COMPLETED"},
            "tags/update": {"tags": ["a"]},
            "config/update": {"config": '{"a":1}'},
            "logName/add": {"logName": ["m"], "logType": "METRIC"},
        }
        assert {client.api(path, runId=run_id, **body).status for path, body in calls.items()} == {404}
        assert client.beat(run_id).status == 404
        assert client.read("list?projectName=p") == {"runs": [], "total": 0}

    @pytest.mark.parametrize("bad", ["\ud800", "a\0b"])
    def test_what_the_database_cannot_hold_answers_500(self, client: Client, run_id: int, bad: str) -> None:
        """Halves of surrogate pairs and NUL: faults of the request that look like an outage."""
        create = {"runName": "r", "projectName": "p", "externalId": "e"}
        ended = {"runId": run_id, "status": "FAILED"}
        calls: list[tuple[str, dict[str, Any]]] = [
            ("create", create | {"config": json.dumps({"a": bad})}),
            ("create", create | {"runName": bad}),
            ("create", create | {"tags": [bad]}),
            ("create", create | {"projectName": bad}),
            ("create", create | {"externalId": bad}),
            ("config/update", {"runId": run_id, "config": json.dumps({"a": bad})}),
            ("tags/update", {"runId": run_id, "tags": [bad]}),
            ("logName/add", {"runId": run_id, "logName": [bad], "logType": "METRIC"}),
            ("status/update", ended | {"statusMetadata": json.dumps({"a": bad})}),
        ]
        assert [client.api(path, **body).status for path, body in calls] == [500] * len(calls)


def _query(asked: dict[str, Any]) -> str:
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in asked.items()}
    return urlencode({"projectName": "p"} | texts)
