"""A server that is away, says no, or stops a Run: training goes on, people are told once (G4, R8)."""

from __future__ import annotations

import re

import pytest

from tests.process.harness import look, wait_until
from tests.process.served import Served

KEY_PROBLEM = "API key"


def test_server_that_is_down_at_init_delays_nobody_for_longer_than_said(served: Served) -> None:
    """R8: the Run is provisional, every process logs, and the ids appear when the server answers."""
    served.cut_off()
    env = {"PLUTO_DIST_OPEN_WAIT_S": "0"}
    launcher = served.launcher(2)
    body = """
        run = pluto.init(run_id="early")
        log(run, {"loss": float(os.environ["RANK"])}, 0)
        tell_json("ids", [run.id, run.display_id, run.run_id])
        hear()
        while run.id is None:
            time.sleep(0.01)
        tell_json("ids", [run.id, run.display_id, run.run_id])
        hear()
    """
    ranks = [launcher.rank(number, body, env=env) for number in range(2)]
    for rank in ranks:
        assert rank.expect_json("ids") == [None, None, "early"]
    assert "does not answer" in ranks[0].stderr
    served.back()
    for rank in ranks:
        rank.say()
    assert [rank.expect_json("ids")[0] for rank in ranks] == [1, 1]
    for rank in ranks:
        rank.say()
    assert [rank.wait() for rank in ranks] == [0, 0]
    assert served.ended_remotely("early")["status"] == "COMPLETED"
    assert served.missing("early") == []


def test_the_last_line_of_a_run_without_a_server_says_what_is_kept_and_how_to_upload_it(
    served: Served,
) -> None:
    """G5, R8: it has no page yet, and the point that was logged is not "0 points"."""
    served.cut_off()
    script = served.start(
        """
        run = pluto.init(run_id="early")
        log(run, {"loss": 1.0}, 0)
        run.finish(timeout_s=5.0)
        tell("finished")
        """,
        env={"PLUTO_DIST_OPEN_WAIT_S": "0", "PLUTO_DIST_CONSOLE": "off"},
    )
    script.expect("finished")
    last = script.stderr.splitlines()[-1]
    assert "COMPLETED, 0 points, 1 record not delivered yet; " in last
    assert last.endswith(f"kept in {served.store}; upload: pluto-dist sync")
    assert script.wait() == 0
    served.back()
    assert served.ended_remotely("early")["status"] == "COMPLETED"
    assert served.missing("early") == []


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        (
            'pluto.init(run_id="r", settings={"api_key": "mlps_WRONG"})',
            "KeyRefusedError",
            "key from init(settings={'api_key': …})",
        ),
        ('pluto.init(run_id="r")', "ServerRefusedError", "at limit"),
        ('pluto.init(run_id="DEM-77", resume=True)', "RunNotFoundError", "DEM-77"),
        ('pluto.init(run_id="r", fork_run_id=99, fork_step=1)', "ForkError", "99"),
    ],
)
def test_a_refusal_is_an_error_at_once_and_leaves_nothing(
    served: Served, body: str, error: str, says: str
) -> None:
    """R8: not an outage; nothing half open."""
    served.server.set_at_limit("limit" in says)
    script = served.start(f"""
        try:
            {body}
        except pluto.errors.PlutoDistError as error:
            tell("refused", type(error).__name__, error)
    """)
    refused = script.expect("refused")
    assert refused.startswith(error)
    assert says in refused
    assert "WRONG" not in refused
    if error == "KeyRefusedError":
        assert re.search(r"\(server http://127\.0\.0\.1:\d+, key from", refused)
        assert "set PLUTO_API_KEY" in refused
    assert script.wait() == 0
    assert served.server.runs() == []
    wait_until(lambda: not look(served.home, "spool/leases/*"), "the lease's folder is gone")


def test_a_key_that_is_refused_later_is_told_once_and_everything_waits(served: Served) -> None:
    """The key was revoked in the middle: one warning, training goes on, nothing is lost."""
    script = served.start("""
        run = pluto.init(run_id="revoked")
        log(run, {"loss": 0.0}, 0)
        tell("ready")
        hear()
        for step in range(1, 40):
            log(run, {"loss": float(step)}, step)
            time.sleep(0.05)
        tell("logged")
        hear()
    """)
    script.expect("ready")
    wait_until(lambda: served.missing("revoked") == [], "the first point")
    served.cut_off(kind="status", status=401)
    script.say()
    script.expect("logged")
    wait_until(lambda: KEY_PROBLEM in script.stderr, "the warning")
    served.back()
    script.say()
    assert script.wait() == 0
    assert script.stderr.count(KEY_PROBLEM) == 1
    assert served.missing("revoked") == []
    assert served.ended_remotely("revoked")["status"] == "COMPLETED"


def test_a_cancel_reaches_all_handles_and_training_decides(served: Served) -> None:
    """By default it is a warning and `run.cancelled`; nothing is killed and nothing unsent is lost."""
    served.server.waive("6.3.2")  # what it logs after the cancel still arrives
    launcher = served.launcher(2)
    body = """
        run = pluto.init(run_id="cancel")
        log(run, {"loss": float(os.environ["RANK"])}, 0)
        tell("ready")
        while not run.cancelled:
            time.sleep(0.01)
        log(run, {"loss": float(os.environ["RANK"])}, 1)
        tell("status", run.status)
    """
    ranks = [launcher.rank(number, body, env={"PLUTO_DIST_HEARTBEAT_S": "0.2"}) for number in range(2)]
    for rank in ranks:
        rank.expect("ready")
    served.server.cancel(served.remote("cancel")["id"])
    served.kill_coordinator()  # the next one beats at once, not 20 s after the last one
    assert [rank.expect("status") for rank in ranks] == ["CANCELLED", "CANCELLED"]
    assert [rank.wait() for rank in ranks] == [0, 0]
    assert served.remote("cancel")["status"] == "CANCELLED"
    assert served.missing("cancel") == []
    assert "cancelled" in ranks[0].stderr
