"""The hard end of a torchrun job: what is left of the node dies with it, and the server knows all (R11)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal

import pytest

from tests.process.served import Served
from tests.process.told import check_end
from tests.process.torchjob import UNDER, TorchJob

pytest.importorskip("torch", reason="torch is not installed here: pip install torch==2.13.0")

START = """
run = pluto.init(run_id="job", project="torchrun")
train(run, 4)
meet()
"""


def end_everything(served: Served) -> None:
    """All that is left on the node dies in the very moment, and its folders go."""
    for pid in served.coordinators():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(served.home)


@pytest.mark.parametrize(
    ("under", "end", "code", "status", "said"),
    [
        ((), "run.finish(); leave()", 0, "COMPLETED", {}),
        ((*UNDER, "--run-id=job", "--"), "run.finish(); leave()", 0, "COMPLETED", {}),
        (
            (),
            "if RANK == 1: os.kill(os.getpid(), signal.SIGKILL)\ntrain_for_ever(run)",
            1,
            "FAILED",
            {"rank": 1, "signal": "SIGKILL"},
        ),
        (
            (),
            "if RANK == 0: os.kill(os.getppid(), signal.SIGTERM)\ntrain_for_ever(run)",
            1,
            "TERMINATED",
            {"signal": "SIGTERM"},
        ),
    ],
    ids=["success", "success_under_the_launcher", "sigkill_of_rank_1", "sigterm_to_agent"],
)
def test_the_end_is_told_before_the_job_is_gone(
    served: Served, under: tuple[str, ...], end: str, code: int, status: str, said: dict[str, object]
) -> None:
    """R10, R11: the last rank out waits for the server, so SIGKILL of everything takes nothing away."""
    job = TorchJob(served, "job", START + end + "\n", under=under)
    assert job.wait() == code
    end_everything(served)
    run = check_end(served, "job", status, document=False)
    failure = (run["statusMetadata"] or {}).get("first_failure") or {}
    assert {key: failure[key] for key in said} == said
    logged = [json.loads(line)[2]["seen"] for line in served.ledger.read_text().splitlines()]
    assert len(logged) == 8
    assert sorted(row["data"] for row in served.server.data(run["id"])) == sorted(logged)
    assert [line for line in served.missing("job") if " seen@" not in line] == []
    steps = {name: set(points) for name, points in served.series("job").items() if name.startswith("loss")}
    assert steps == {"loss": {0, 1, 2, 3}, "loss/rank1": {0, 1, 2, 3}}
