"""torchrun jobs at the server: the status history event by event, and the hard end (R10, R11)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from typing import Any

import pytest

from tests.process.served import Served
from tests.process.torchjob import OWN_STORE, TorchJob

pytest.importorskip("torch", reason="torch is not installed here: pip install torch==2.13.0")
pytestmark = pytest.mark.timeout(180)

START = """
run = pluto.init(run_id="job", project="torchrun")
train(run, 4, ATTEMPT * 4)
dist.barrier()
"""
FAILS_FIRST = """
if ATTEMPT == 0:
    if RANK == 1: cause(); raise ValueError("first time")
    train_for_ever(run)
"""
FINISHES = "cause(); run.finish(); leave()\n"
LAUNCHER = (
    sys.executable,
    "-P",
    "-c",
    "from pluto_dist.cli.main import app; app()",
    "run",
    "--run-id=job",
    "--",
)


def statuses(served: Served) -> list[tuple[str | None, str]]:
    """The Run's status events at the server: (from, to)."""
    return [
        (event["fromStatus"], event["toStatus"])
        for event in served.server.history(served.remote("job")["id"])
    ]


def logged_series(served: Served) -> dict[str, dict[int, float]]:
    """Series of the ranks, without those of the node."""
    return {name: points for name, points in served.series("job").items() if not name.startswith("sys/")}


def reports(served: Served) -> list[str]:
    """Statuses that were sent."""
    sent = [entry for entry in served.server.requests() if entry["path"] == "/api/runs/status/update"]
    return [json.loads(entry["body"])["status"] for entry in sent]


def end_everything(served: Served) -> None:
    """All that is left on the node dies in the very moment, and its folders go."""
    for pid in served.coordinators():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(served.home)


def check_whole(served: Served, status: str) -> dict[str, Any]:
    """One Run, created once, told its end once and without a detour; no point is missing."""
    run = served.remote("job")
    assert run["status"] == status
    assert statuses(served) == [(None, "RUNNING"), ("RUNNING", status)]
    assert reports(served) == [status]
    assert served.paths().count("/api/runs/create") == 1
    logged = [json.loads(line)[2] for line in served.ledger.read_text().splitlines()]
    assert sorted(row["data"] for row in served.server.data(run["id"])) == sorted(
        each["seen"] for each in logged
    )
    assert [line for line in served.missing("job") if " seen@" not in line] == []
    return run


@pytest.mark.parametrize("under", [(), LAUNCHER], ids=["torchrun", "launcher"])
def test_success_is_told_once_and_before_the_job_is_gone(served: Served, under: tuple[str, ...]) -> None:
    """R11: SIGKILL of everything when torchrun has ended takes nothing away."""
    job = TorchJob(served, "job", START + FINISHES, under=under)
    assert job.wait()[0] == 0
    end_everything(served)
    run = check_whole(served, "COMPLETED")
    assert run["statusMetadata"] is None
    assert {name: sorted(points) for name, points in logged_series(served).items()} == {
        name: [0, 1, 2, 3] for name in ("loss", "loss/rank1", "loss/rank2")
    }


@pytest.mark.parametrize(
    ("cause", "status", "said"),
    [
        ("if RANK == 1: os.kill(os.getpid(), signal.SIGKILL)", "FAILED", {"rank": 1, "signal": "SIGKILL"}),
        ("if RANK == 0: os.kill(os.getppid(), signal.SIGTERM)", "TERMINATED", {"signal": "SIGTERM"}),
    ],
    ids=["sigkill_of_rank_1", "sigterm_to_agent"],
)
def test_an_early_end_is_told_with_its_cause(
    served: Served, cause: str, status: str, said: dict[str, object]
) -> None:
    """R10, R11: the last rank to leave waits until the server knows, whoever was the first to fail."""
    job = TorchJob(served, "job", START + cause + "\ntrain_for_ever(run)\n")
    assert job.wait()[0] == 1
    end_everything(served)
    run = check_whole(served, status)
    failure = run["statusMetadata"]["first_failure"]
    assert {key: failure[key] for key in said} == said


def test_a_restart_is_invisible_at_the_server(served: Served) -> None:
    """R10: RUNNING all the time, whatever happened to the first attempt."""
    job = TorchJob(served, "job", START + FAILS_FIRST + FINISHES, "--max-restarts=2", env=OWN_STORE)
    assert job.wait()[0] == 0
    served.ended_remotely("job")
    check_whole(served, "COMPLETED")
    assert {name: sorted(points) for name, points in logged_series(served).items()} == {
        name: list(range(8)) for name in ("loss", "loss/rank1", "loss/rank2")
    }
