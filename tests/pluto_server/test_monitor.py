"""Heartbeats, cancels and the stale-run monitor, on the server's own time."""

import json
import time

import pytest

from .server import PlutoServer
from .talk import Client, point

NOW = int(time.time() * 1000)


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
