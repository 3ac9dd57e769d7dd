"""What readers get of ingested points and rows."""

import math
import time

from .server import PlutoServer
from .talk import Client, point, send

NOW = int(time.time() * 1000)


class TestMetrics:
    """Two tables: every write, and one point a step."""

    def test_the_largest_time_wins_and_every_write_is_kept(
        self, server: PlutoServer, client: Client, run_id: int
    ) -> None:
        """A later write with an older time loses; equal times go to the later write."""
        lines = [point(1, 1.0, NOW), point(1, 2.0, NOW - 1), point(0, 3.0, NOW), point(0, 4.0, NOW)]
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
        assert sampled == [0, 20, 40, 60, 80, 99]
        assert [row["step"] for row in client.read(f"{path}&limit=1")["metrics"]] == [0, 99]
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
