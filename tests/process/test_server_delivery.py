"""Records on their way to a server: what fails is tried again, what can never arrive is set aside (G6)."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.patience import NEVER_S
from tests.process.harness import look, wait_until
from tests.process.served import Served

CLI = [sys.executable, "-c", "from pluto_dist.cli.main import app; app(prog_name='pluto-dist')"]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "database_error", "service": "ingest"},
        {"kind": "status", "status": 503, "service": "ingest"},
        {"kind": "status", "status": 429, "retry_after": 0.1, "service": "ingest"},
        {"kind": "status", "status": 500, "service": "api", "route": "/api/runs/logName"},
        {"kind": "status", "status": 500, "service": "api", "route": "/api/runs/tags"},
        {"kind": "reset", "service": "ingest"},
    ],
)
def test_what_fails_again_and_again_is_not_given_up(served: Served, fault: dict[str, object]) -> None:
    """G6: also a 422 that only means that the server is overloaded."""
    script = served.start("""
        run = pluto.init(run_id="stubborn")
        tell("ready")
        hear()
        for step in range(50):
            log(run, {"loss": float(step)}, step)
        run.add_tags("t")
        tell("logged")
    """)
    script.expect("ready")
    served.server.add_fault(count=2, **fault)
    script.say()
    script.expect("logged")
    assert script.wait() == 0
    run = served.ended_remotely("stubborn")
    assert (run["status"], run["tags"], run["logNames"]) == ("COMPLETED", ["t"], {"loss": "METRIC"})
    assert served.missing("stubborn") == []
    document = served.document("stubborn")
    assert (document["rejected"], document["repeats"]) == (0, 0)


def test_a_name_that_the_server_cannot_take_does_not_hold_back_records_and_status(served: Served) -> None:
    """G6: a 500 for the request itself looks like an outage; everything else goes on."""
    script = served.start("""
        run = pluto.init(run_id="stubborn", settings={"exit_wait_s": 1})
        tell("ready")
        hear()
        log(run, {"loss": 1.0}, 0)
        tell("logged")
        run.finish()
    """)
    script.expect("ready")
    served.server.waive("6.3.7")
    served.server.add_fault(kind="status", status=500, service="api", route="/api/runs/logName")
    script.say()
    script.expect("logged")
    wait_until(lambda: served.missing("stubborn") == [], "the point")
    assert served.ended_remotely("stubborn")["status"] == "COMPLETED"
    served.back()
    assert script.wait() == 0


def test_a_bad_record_is_set_aside_with_its_reason_and_shown(served: Served) -> None:
    """G6: no client of ours writes one; a damaged or newer one must not hold up its neighbours."""
    script = served.start("""
        run = pluto.init(run_id="bad")
        for step in range(9):
            log(run, {"loss": float(step)}, step)
        run._lease.files.metrics.append(b'{"time":1767225600000,"step":-1,"data":{"loss":1.0}}\\n')
        run._lease.files.data.append(b'{"time":"now"}\\n')
        for step in range(9, 20):
            log(run, {"loss": float(step)}, step)
            run.log({"note": str(step)}, step=step)
    """)
    assert script.wait() == 0
    run = served.ended_remotely("bad")
    assert run["status"] == "COMPLETED"
    assert served.missing("bad") == []
    assert [row["data"] for row in served.server.data(run["id"])] == [str(n) for n in range(9, 20)]
    found = wait_until(lambda: served.document("bad")["rejected"] == 2 and served.document("bad"), "rejects")
    assert found["repeats"] == 0
    shown = subprocess.run(
        [*CLI, "show", "bad"], env=served.env(), cwd=served.base, capture_output=True, text=True, check=True
    )
    assert found["first_reject"] in shown.stdout
    set_aside = next(served.store.glob("runs/*/rejected.jsonl")).read_text()
    assert '\\"step\\":-1' in set_aside


def test_a_hanging_endpoint_holds_back_only_its_own_stream(served: Served) -> None:
    """G6: rows hang, metrics and status of another Run do not."""
    served.server.add_fault(kind="latency", service="ingest", route="/ingest/data", seconds=NEVER_S)
    slow = served.start("""
        run = pluto.init(run_id="slow")
        for step in range(3):
            run.log({"note": "x", "loss": 1.0}, step=step)
        tell("ready")
        hear()
        run.finish()
    """)
    slow.expect("ready")
    quick = served.start("""
        run = pluto.init(run_id="quick")
        log(run, {"loss": 1.0}, 0)
        run.finish()
        tell("done")
    """)
    quick.expect("done")
    assert served.remote("quick")["status"] == "COMPLETED"
    wait_until(lambda: len(served.series("slow").get("loss", {})) == 3, "metrics of the slow one")
    served.back()
    slow.say()
    assert slow.wait() == 0


def test_light_load_arrives_at_once(served: Served, record_property: pytest.RecordProperty) -> None:
    """It waits neither for more records nor for an end; how long it takes is recorded."""
    script = served.start("""
        run = pluto.init(run_id="light")
        while (word := hear()):
            log(run, {"loss": float(word)}, int(word))
            tell("logged")
    """)
    waits = []
    served.remote("light")
    for step in range(5):
        script.say(str(step))
        script.expect("logged")
        begin = time.monotonic()
        wait_until(lambda step=step: step in served.series("light").get("loss", {}), f"step {step}")
        waits.append(time.monotonic() - begin)
    script.say("")
    assert script.wait() == 0
    record_property("log_to_server_s", sorted(waits))


def test_finish_after_two_thousand_records_is_quick(served: Served) -> None:
    """What has piled up goes in a few requests, one behind the other; the time is the benchmarks'."""
    served.server.add_fault(kind="latency", service="ingest", seconds=NEVER_S)
    script = served.start("""
        run = pluto.init(run_id="many")
        for step in range(2000):
            run.log({"loss": float(step), "acc": 1.0}, step=step)
        tell("logged")
        run.finish()
    """)
    script.expect("logged")
    served.back()
    assert script.wait() == 0
    assert len(served.series("many")["loss"]) == 2000
    assert served.paths().count("/ingest/metrics") <= 4


def test_a_days_backlog_drains_in_large_requests_and_leaves_no_segment(served: Served) -> None:
    """Section 8: full speed, flat memory, an empty spool."""
    script = served.start(
        """
        run = pluto.init(run_id="backlog", settings={"system_metrics_s": 0})
        tell("ready")
        hear()
        for step in range(100_000):
            run.log({"loss": float(step), "acc": 1.0, "lr": 0.1}, step=step)
        tell("logged")
        hear()
        run.finish()
        tell("done")
    """,
        env={"PLUTO_DIST_SEGMENT_SIZE": "262144"},
    )
    script.expect("ready")
    served.cut_off()
    script.say()
    script.expect("logged")
    resident = served.coordinator_mb()
    before = len(served.server.requests())
    served.back()
    script.say()
    script.expect("done")
    sent = [entry for entry in served.server.requests()[before:] if entry["path"] == "/ingest/metrics"]
    accepted = [entry for entry in sent if entry["status"] == 200]
    assert len(accepted) < 60
    assert max(entry["size"] for entry in sent) <= (1 << 20) + (64 << 10)
    assert served.coordinator_mb() < resident + 40
    assert len(served.series("backlog")["loss"]) == 100_000
    assert script.wait() == 0
    wait_until(lambda: not look(served.home, "spool/leases/*"), "the spool is empty")
