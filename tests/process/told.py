"""What the emulator was told about a Run of a job, beside what the ranks and the store say (G3, G7, R10)."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from tests.process.served import Served

CREATE, REPORT = "/api/runs/create", "/api/runs/status/update"


def bodies(served: Served, path: str) -> list[dict[str, Any]]:
    """What was sent to an address."""
    return [json.loads(entry["body"]) for entry in served.server.requests() if entry["path"] == path]


def check_end(served: Served, run_id: str, status: str, *, document: bool = True) -> dict[str, Any]:
    """Created once, RUNNING until its one terminal report, which says what the store says.

    Args:
        document: whether the store is still there to compare with.

    Returns:
        The server's Run.
    """
    run = served.ended_remotely(run_id)
    changes = [(event["fromStatus"], event["toStatus"]) for event in served.server.history(run["id"])]
    assert changes == [(None, "RUNNING"), ("RUNNING", status)]
    assert [sent["status"] for sent in bodies(served, REPORT) if sent["runId"] == run["id"]] == [status]
    assert len([sent for sent in bodies(served, CREATE) if sent["externalId"] == run_id]) == 1
    if document:
        found = served.ended(run_id)
        assert (found["id"], found["display_id"], found["status"]) == (run["id"], run["displayId"], status)
        verdict = found["verdict"]
        said = {name: verdict[name] for name in ("reason", "first_failure")} | {"attempts": found["attempts"]}
        assert run["statusMetadata"] == (None if status == "COMPLETED" else said)
    return run


def check_points(served: Served, run_id: str, steps: Mapping[int, int]) -> None:
    """Every `log()` of the ranks that returned is at the server, under the series of its rank, and no other.

    Args:
        steps: how many each rank logged.
    """
    leases = {lease["lease_id"] for lease in served.document(run_id)["leases"]}
    records = [json.loads(line) for line in served.ledger.read_text().splitlines()]
    logged = [(step, data) for lease_id, step, data in records if lease_id in leases]
    assert Counter(_rank(data) for _, data in logged) == dict(steps)
    expected: dict[str, dict[int, float]] = defaultdict(dict)
    for step, data in logged:
        rank = _rank(data)
        expected["loss" if rank == min(steps) else f"loss/rank{rank}"][step] = data["loss"]
    series = {name: points for name, points in served.series(run_id).items() if name.startswith("loss")}
    assert series == expected
    texts = [row["data"] for row in served.server.data(served.remote(run_id)["id"])]
    assert sorted(texts) == sorted(data["seen"] for _, data in logged)


def _rank(data: Mapping[str, Any]) -> int:
    return int(data["seen"].split(".")[0])
