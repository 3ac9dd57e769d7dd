"""The emulator as a process of its own, driven over the control interface."""

import inspect
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.patience import wait_until

from .client import Control, ControlError, ServerProcess
from .operator import Operator
from .talk import Client, send

NOW = int(time.time() * 1000)
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def process() -> Iterator[ServerProcess]:
    """One process for this module; tests use runs of their own."""
    with ServerProcess() as running:
        yield running


def new_run(process: ServerProcess, name: str) -> int:
    """A run in project `p`."""
    created = Client(process.urls).api("create", runName=name, projectName="p", externalId=name)
    run_id: int = created.json["runId"]
    return run_id


def test_control_has_every_operation() -> None:
    """What the operator can do in process, a test can do from outside, with the same parameters."""
    for name, method in vars(Operator).items():
        if name.startswith("_"):
            continue
        own = inspect.signature(method).parameters
        other = inspect.signature(getattr(Control, name)).parameters
        assert set(own) - {"predicate"} == set(other), name


def test_state_is_read_over_control(process: ServerProcess) -> None:
    """Runs, points with non-finite values, rows, files, objects, history, requests."""
    run_id = new_run(process, "state")
    client, control = Client(process.urls), process.control
    client.ingest("metrics", [{"time": NOW, "step": 1, "data": {"m": math.inf}}], run_id)
    client.ingest("logs", [{"time": NOW, "message": "m", "lineNumber": 1, "logType": "INFO"}], run_id)
    client.ingest(
        "data", [{"time": NOW, "step": 1, "data": "d", "dataType": "table", "logName": "t"}], run_id
    )
    file = {"fileName": "a", "logName": "f", "fileSize": 3, "fileType": "bin", "step": 0, "time": NOW}
    [[entry]] = client.presign([file], run_id).json.values()
    send(entry["a"], "PUT", b"abc")
    assert control.run(run_id)["name"] == "state"
    assert control.metrics(run_id) == control.raw_metrics(run_id) == {"m": [(1, NOW, math.inf)]}
    assert control.metric_counts(run_id) == {"m": 1}
    assert [row["message"] for row in control.logs(run_id)] == ["m"]
    assert [row["log_name"] for row in control.data(run_id)] == ["t"]
    assert [row["file_name"] for row in control.files(run_id)] == ["a"]
    assert control.object_bytes(f"org1/p/{run_id}/f/a") == b"abc"
    assert control.objects()[f"org1/p/{run_id}/f/a"]["size"] == 3
    assert [event["toStatus"] for event in control.history(run_id)] == ["RUNNING"]
    assert ("org1", "p", run_id) in control.addresses()
    assert control.requests()[-1]["service"] == "storage"


def test_time_faults_and_the_monitor_are_driven_over_control(process: ServerProcess) -> None:
    """The server's time moves, a run is reaped, a fault hits and is removed."""
    run_id = new_run(process, "driven")
    control = process.control
    before = control.now_ms()
    assert control.advance(1801) - before >= 1_801_000
    assert run_id in control.monitor_cycle()
    control.seed_faults(1)
    fault_id = control.add_fault(kind="status", service="py", status=503)
    assert Client(process.urls).beat(run_id).status == 503
    assert [fault["hits"] for fault in control.faults()] == [1]
    control.remove_fault(fault_id)
    control.cancel(run_id)
    assert Client(process.urls).beat(run_id).json["status"] == "CANCELLED"
    control.configure(read_lag_s=0)
    control.set_at_limit(False)


def test_defects_are_read_and_waived_over_control(process: ServerProcess) -> None:
    """The same values as in process."""
    control = process.control
    control.clear_defects()
    run_id = new_run(process, "defects")
    Client(process.urls).ingest("metrics", [{"time": 5, "step": 1, "data": {"m": 1}}], run_id)
    [found] = control.defects(["6.3.9"])
    assert (found.kind, found.run_id, found.names) == ("6.3.9", run_id, ("m",))
    control.waive("6.3.9", name="m", run_id=run_id)
    assert control.defects(["6.3.9"]) == []
    assert [defect.kind for defect in control.waived()] == ["6.3.9"]
    assert [defect.kind for defect in control.check() if defect.run_id == run_id] == ["6.3.7"]
    assert control.crashes() == []


def test_a_bad_call_says_what_is_wrong(process: ServerProcess) -> None:
    """Unknown operation, unknown run, wrong argument."""
    with pytest.raises(ControlError, match="no run 999"):
        process.control.run(999)
    with pytest.raises(ControlError, match="no fault 'slow'"):
        process.control.add_fault(kind="slow")
    assert "no operation POST 'nope'" in send(f"{process.urls.control}/nope").text


def test_environment_names_all_services(process: ServerProcess) -> None:
    """Only the app's address is not on loopback: nobody listens there, and `.invalid` never resolves."""
    env = process.env()
    assert env["PLUTO_API_KEY"] == process.key
    urls = {name: url for name, url in env.items() if name.startswith("PLUTO_URL_")}
    assert set(urls) == {f"PLUTO_URL_{name}" for name in ("APP", "API", "INGEST", "PY")}
    assert len(set(urls.values())) == 4
    assert all(url.startswith("http://127.0.0.1:") for name, url in urls.items() if name != "PLUTO_URL_APP")


def test_the_sender_of_a_request_is_its_process(process: ServerProcess, tmp_path: Path) -> None:
    """Two processes that erase each other's tags are told apart; a child shares its parent's knowledge."""
    process.control.clear_defects()
    run_id = new_run(process, "senders")
    update = (
        "import http.client, json, os, subprocess, sys\n"
        "tags, child = json.loads(sys.argv[1]), sys.argv[2:]\n"
        "c = http.client.HTTPConnection(os.environ['PLUTO_URL_API'].removeprefix('http://'))\n"
        f"body = json.dumps({{'runId': {run_id}, 'tags': tags}})\n"
        "h = {'Authorization': 'Bearer ' + os.environ['PLUTO_API_KEY'], 'Content-Type': 'application/json'}\n"
        "c.request('POST', '/api/runs/tags/update', body, h)\n"
        "assert c.getresponse().status == 200\n"
        "if child: subprocess.run([sys.executable, __file__, *child], check=True)\n"
    )
    script = tmp_path / "update.py"
    script.write_text(update)

    def update_tags(*arguments: str) -> None:
        env = os.environ | process.env()
        subprocess.run([sys.executable, str(script), *arguments], check=True, env=env)

    update_tags('["a"]', '["b"]')
    assert process.control.defects(["6.3.6"]) == []
    update_tags('["c"]')
    assert [defect.names for defect in process.control.defects(["6.3.6"])] == [("b",)]


def test_it_is_fast_enough_to_be_no_bottleneck(process: ServerProcess) -> None:
    """20,000 records of ten values: it computes at most twenty times as long as decoding them takes."""
    run_id = new_run(process, "fast")
    lines = [
        {"time": NOW, "step": step, "data": {f"m{n}": step / 7 for n in range(10)}} for step in range(2000)
    ]
    body = "\n".join(map(json.dumps, lines))
    headers = {"Authorization": f"Bearer {process.key}", "X-Run-Id": str(run_id), "X-Project-Name": "p"}
    before, mine = computed_s(process.pid), time.process_time()
    for _ in range(10):
        assert send(f"{process.urls.ingest}/ingest/metrics", "POST", body, headers).status == 200
    spent, sending = computed_s(process.pid) - before, time.process_time()
    for _ in range(10):
        assert len([json.loads(line) for line in body.splitlines()]) == 2000
    decoding = time.process_time() - sending
    print(f"{spent:.2f} s in the server; {decoding:.2f} s to decode, {sending - mine:.2f} s to send")
    assert spent < 20 * decoding
    assert process.control.metric_counts(run_id)["m0"] == 20_000


def computed_s(pid: int) -> float:
    """User and system time of a process."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def test_a_ready_file_appears_complete(tmp_path: Path) -> None:
    """For starters that cannot pass a descriptor."""
    file = tmp_path / "ready"
    command = [sys.executable, "-m", "tests.pluto_server", "--ready-file", str(file)]
    running = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)
    try:
        wait_until(file.exists)
        assert set(json.loads(file.read_text())) == {"api", "ingest", "py", "storage", "control", "app"}
    finally:
        running.kill()
        running.wait()
