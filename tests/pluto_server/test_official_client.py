"""The official client against the emulator: its data arrives, and its known faults show as client defects.

Each script runs in a process of its own, with its own home and staging folder; at `step()` it waits for
the test.
"""

import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.official import OFFICIAL_PYTHON, needs_official_client
from tests.patience import PATIENCE_S, wait_until

from .server import PlutoServer
from .talk import Client

pytestmark = [pytest.mark.process, needs_official_client]

_PRELUDE = """
import os, sys
import pluto

def step():
    sys.stdin.readline()

def init(**given):
    return pluto.init(**{"project": "p", "name": "n", "dir": os.getcwd(), **given})
"""


class Official:
    """A process that uses the official client."""

    def __init__(self, server: PlutoServer, folder: Path, script: str, **env: str) -> None:
        self._folder = folder
        folder.mkdir()
        own = {"HOME": str(folder), "PLUTO_DISABLE_TELEMETRY": "1", **server.env(), **env}
        self._env = os.environ | own
        self._script = _PRELUDE + script

    def __enter__(self) -> Self:
        self._output = (self._folder / "output").open("wb")
        self._process = subprocess.Popen(
            [str(OFFICIAL_PYTHON), "-c", self._script],
            env=self._env,
            cwd=self._folder,
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        return self

    def step(self) -> None:
        """Let the script go on to its next `step()`."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def ended(self) -> int:
        """The exit code, once the script is through."""
        return self._process.wait(PATIENCE_S)

    def output(self) -> str:
        """What it printed."""
        return (self._folder / "output").read_text()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._output.close()


def run_to_the_end(server: PlutoServer, folder: Path, script: str, **env: str) -> Official:
    """Run a script without steps; it must succeed."""
    with Official(server, folder, script, **env) as process:
        assert process.ended() == 0, process.output()
    return process


def kinds(server: PlutoServer) -> set[str]:
    """The kinds of defects found in the end."""
    return {defect.kind for defect in server.operator.check()}


def has_arrived(server: PlutoServer, name: str, run_id: int = 1) -> bool:
    """Whether the server has points of this name."""
    return bool(server.operator.runs()) and name in server.operator.metric_counts(run_id)


def test_one_process_delivers_everything_and_has_no_defects(server: PlutoServer, tmp_path: Path) -> None:
    """Create, log, upload, finish: what a single process does is right."""
    script = """
run = init(run_id="e", tags=["a"], config={"lr": 1})
for number in range(5):
    run.log({"loss": number / 2, "odd": float("nan")}, step=number)
with open("hello.txt", "w") as file:
    file.write("hello")
run.log({"greeting": pluto.File("hello.txt")})
print("a line for the console")
run.finish()
"""
    run_to_the_end(server, tmp_path / "one", script)
    [run] = server.operator.runs()
    assert (run["status"], run["tags"], run["config"], run["externalId"]) == (
        "COMPLETED",
        ["a"],
        {"lr": 1},
        "e",
    )
    points = server.operator.metrics(1)
    assert [(step, value) for step, _, value in points["loss"]] == [(n, n / 2) for n in range(5)]
    assert len(points["odd"]) == 5
    assert [stored["size"] for stored in server.operator.objects().values()] == [5]
    assert "a line for the console" in [row["message"] for row in server.operator.logs(1)]
    assert run["lastSeenMs"] is not None
    assert kinds(server) == set()


@pytest.fixture
def two_ranks(server: PlutoServer, tmp_path: Path) -> PlutoServer:
    """Two processes in one run: they log, one changes tags and finishes, the other logs on and crashes."""
    common = {"PLUTO_RUN_ID": "shared"}
    sampling = 'settings={"x_sys_sampling_interval": 1}'
    first = f"""
run = init(tags=["first"], {sampling})
run.log({{"loss": 1.0, "first": 1.0}})
step()
run.log({{"late": 1.0}})
step()
raise RuntimeError("crash of one rank")
"""
    second = f"""
run = init(tags=["second"], {sampling})
run.log({{"loss": 2.0, "second": 1.0}})
run.add_tags("more")
step()
run.finish()
"""
    with Official(server, tmp_path / "first", first, **common) as one:
        wait_until(lambda: has_arrived(server, "first"))
        with Official(server, tmp_path / "second", second, **common) as two:
            wait_until(lambda: has_arrived(server, "second"))
            wait_until(lambda: "more" in server.operator.run(1)["tags"])
            wait_until(lambda: "6.3.10" in {d.kind for d in server.operator.defects()})
            two.step()
            assert two.ended() == 0, two.output()
        one.step()
        wait_until(lambda: has_arrived(server, "late"))
        one.step()
        one.ended()
    return server


def test_two_processes_of_one_run_damage_each_other(two_ranks: PlutoServer) -> None:
    """Tags, series, system metrics, end and heartbeats: each process believes that the run is its own."""
    operator = two_ranks.operator
    found: dict[str, list[Any]] = {}
    for defect in operator.check():
        found.setdefault(defect.kind, []).append(defect)
    # The second one's tags erase the first one's.
    assert [defect.names for defect in found["6.3.6"]] == [("first",)]
    assert operator.run(1)["tags"] == ["second", "more"]
    # The same name at the same automatic step, and system metrics without a host or rank.
    overwritten = {name for defect in found["6.3.3"] for name in defect.names}
    assert "loss" in overwritten
    assert any(name.startswith("sys/") for name in overwritten)
    # One finish ended the run for both; what the other then logs comes after the end.
    assert any("late" in defect.names for defect in found["6.3.2"])
    # One process said COMPLETED, the other FAILED.
    assert any("FAILED reported after COMPLETED" in defect.text for defect in found["6.3.5"])
    assert operator.run(1)["status"] == "FAILED"
    # Each sends its own heartbeats and creates the run again.
    assert "6.3.10" in found
    assert "6.3.8" in found


def test_resume_by_id_keeps_the_callers_project(server: PlutoServer, client: Client, tmp_path: Path) -> None:
    """All data is accepted and nobody sees it."""
    run_id = client.api("create", runName="r", projectName="train", externalId="e").json["runId"]
    script = (
        f'run = init(project="other", run_id={run_id}, resume=True)\nrun.log({{"loss": 1.0}})\nrun.finish()\n'
    )
    run_to_the_end(server, tmp_path / "one", script)
    assert server.operator.metrics(run_id) == {}
    assert ("org1", "other", run_id) in server.operator.addresses()
    assert "6.3.1" in kinds(server)


def test_the_refusal_of_an_existing_id_comes_after_the_server_reopened_it(
    server: PlutoServer, client: Client, tmp_path: Path
) -> None:
    """A finished run is RUNNING again, and nobody will end it."""
    run_id = client.api("create", runName="r", projectName="p", externalId="taken").json["runId"]
    client.api("status/update", runId=run_id, status="COMPLETED")
    with Official(server, tmp_path / "one", 'init(run_id="taken")\n') as process:
        assert process.ended() != 0
    assert "RunExistsError" in process.output()
    assert server.operator.run(run_id)["status"] == "RUNNING"
    assert kinds(server) == {"6.3.8", "6.3.12"}


def test_one_file_under_two_names_is_uploaded_to_one_of_them(server: PlutoServer, tmp_path: Path) -> None:
    """URLs are told apart by file name only; the other object never exists."""
    script = """
with open("same.txt", "w") as file:
    file.write("same")
run = init(run_id="e")
run.log({"one": pluto.File("same.txt"), "two": pluto.File("same.txt")})
run.finish()
"""
    run_to_the_end(server, tmp_path / "one", script)
    assert len(server.operator.files(1)) == 2
    assert len(server.operator.objects()) == 1
    assert [d.text.split(":")[0] for d in server.operator.check()] == ["presigned, never uploaded"]


def test_every_retry_of_an_upload_presigns_again(server: PlutoServer, tmp_path: Path) -> None:
    """A failing store leaves rows of files that do not exist. One presign is good for four tries in 7 s."""
    server.operator.add_fault(kind="status", service="storage", status=503, count=4)
    script = """
with open("some.txt", "w") as file:
    file.write("some")
run = init(run_id="e")
run.log({"one": pluto.File("some.txt")})
run.finish()
"""
    run_to_the_end(server, tmp_path / "one", script)
    assert len(server.operator.files(1)) == 2
    assert kinds(server) == {"6.3.4"}


def test_one_bad_step_repeats_the_rows_before_it_and_loses_those_after_it(
    server: PlutoServer, tmp_path: Path
) -> None:
    """The batch fails as a whole, its prefix is stored with each try."""
    script = """
run = init(run_id="e")
run.log({"before": "text"}, step=0)
run.log({"bad": "text"}, step=-1)
run.log({"after": "text"}, step=1)
run.finish()
"""
    run_to_the_end(server, tmp_path / "one", script)
    names = [row["log_name"] for row in server.operator.data(1)]
    assert names.count("before") > 1
    assert "after" not in names
    assert kinds(server) == {"6.3.4"}


def test_an_unknown_exit_code_sends_no_status(server: PlutoServer, tmp_path: Path) -> None:
    """The run stays RUNNING until the monitor finds it dead."""
    run_to_the_end(server, tmp_path / "one", 'run = init(run_id="e")\nrun.finish(3)\n')
    assert server.operator.run(1)["status"] == "RUNNING"
    server.operator.advance(200)
    assert server.operator.monitor_cycle() == [1]
    assert server.operator.run(1)["status"] == "FAILED"
