"""Several processes, one Run at the server: nobody overwrites, ends or slows down anybody else."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pluto_dist.core.machine.beats import POLL_S
from tests.patience import NEVER_S
from tests.process.harness import wait_until
from tests.process.served import Served

OWNER = """
    run = pluto.init(run_id="shared")
    log(run, {"loss": 1.0}, 0)
    tell("ready")
    hear()
"""


@pytest.mark.parametrize(
    "end",
    [
        'raise ValueError("eval broke")',
        "sys.exit(3)",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "run.finish(code=1)",
    ],
)
def test_whatever_becomes_of_a_side_the_run_completes(served: Served, end: str) -> None:
    """G1: the server would never let COMPLETED replace FAILED."""
    served.server.waive("6.3.2", name="*eval*")
    owner = served.start(OWNER)
    owner.expect("ready")
    side = served.start(f"""
        run = pluto.attach("shared", label="eval")
        log(run, {{"eval_loss": 1.0}}, 0)
        tell("ready")
        hear()
        {end}
    """)
    side.expect("ready")
    side.say()
    side.wait()
    owner.say()
    assert owner.wait() == 0
    run = served.ended_remotely("shared")
    assert [event["toStatus"] for event in served.server.history(run["id"])] == ["RUNNING", "COMPLETED"]
    assert served.paths().count("/api/runs/status/update") == 1
    wait_until(lambda: served.missing("shared") == [], "all points")


@pytest.mark.parametrize(
    ("code", "status"),
    [(0, "COMPLETED"), (2, "TERMINATED"), (15, "TERMINATED"), (77, "FAILED")],
)
def test_every_code_of_finish_reaches_the_server(served: Served, code: int, status: str) -> None:
    script = served.start(f"""
        run = pluto.init(run_id="coded")
        run.finish(code={code})
        tell("status", run.status)
    """)
    assert script.expect("status") == status
    assert served.remote("coded")["status"] == status
    assert script.wait() == 0


def test_config_and_tags_of_all_ranks_are_merged_one_after_the_other(served: Served) -> None:
    """G9: the server merges without a lock and overwrites tags."""
    served.server.add_fault(kind="latency", service="api", seconds=0.05)
    launcher = served.launcher(4)
    body = """
        run = pluto.init(run_id="merged", tags=["start"])
        rank = os.environ["RANK"]
        for number in range(3):
            run.update_config({f"rank{rank}": {f"n{number}": number}})
            run.add_tags(f"tag{rank}.{number}")
        tell("ready")
        hear()
    """
    ranks = [launcher.rank(number, body) for number in range(4)]
    for rank in ranks:
        rank.expect("ready")
    for rank in ranks:
        rank.say()
    assert [rank.wait() for rank in ranks] == [0] * 4
    run = served.ended_remotely("merged")
    assert run["config"] == {f"rank{r}": {f"n{n}": n for n in range(3)} for r in range(4)}
    assert set(run["tags"]) == {"start", *(f"tag{r}.{n}" for r in range(4) for n in range(3))}
    updates = [entry for entry in served.server.requests() if entry["path"] == "/api/runs/config/update"]
    for before, after in pairwise(updates):
        assert before["finished_at"] <= after["at"]


def test_data_goes_to_the_project_that_the_run_is_in(served: Served) -> None:
    """A Run is resumed by number from a script that names another project."""
    first = served.start('run = pluto.init(project="right", run_id="mine"); run.finish()')
    assert first.wait() == 0
    number = served.remote("mine")["id"]
    other = served.beside()
    second = other.start(f"""
        run = pluto.init(project="wrong", run_id={number}, resume=True)
        run.log({{"loss": 1.0}}, step=0)
        tell("project", run.project)
        run.finish()
    """)
    assert second.expect("project") == "right"
    assert second.wait() == 0
    assert set(served.series("mine")) == {"loss"}
    other.close()


def test_new_names_do_not_slow_down_training(served: Served) -> None:
    """G4: registering them is the coordinator's work; here it takes for ever."""
    script = served.start("""
        run = pluto.init(run_id="names")
        tell("ready")
        hear()
        for number in range(200):
            run.log({f"metric{number}": 1.0}, step=0)
        tell("logged")
        run.finish()
    """)
    script.expect("ready")
    served.server.add_fault(kind="latency", service="api", seconds=NEVER_S)
    script.say()
    script.expect("logged")
    served.back()
    assert script.wait() == 0
    run = served.ended_remotely("names")
    assert len(run["logNames"]) == 200
    assert len(served.series("names")) == 200


def test_one_heartbeat_and_one_status_for_all_ranks(served: Served) -> None:
    """Every rank of the official client polls every four seconds and reports an end of its own."""
    launcher = served.launcher(4)
    body = """
        run = pluto.init(run_id="quiet", settings={"system_metrics_s": 0})
        tell("ready")
        hear()
    """
    ranks = [launcher.rank(number, body) for number in range(4)]
    for rank in ranks:
        rank.expect("ready")
    for rank in ranks:
        rank.say()
    assert [rank.wait() for rank in ranks] == [0] * 4
    served.ended_remotely("quiet")
    paths = served.paths()
    assert paths.count("/api/runs/create") == 1
    assert served.too_often("/api/runs/trigger", POLL_S) == 0
    assert paths.count("/api/runs/status/update") == 1


def test_records_go_on_when_the_process_that_came_first_is_gone(served: Served) -> None:
    """G12: nobody's uploader dies with somebody else."""
    first = served.start(OWNER + "    run.close()\n")
    first.expect("ready")
    second = served.start("""
        run = pluto.attach("shared", label="late")
        tell("ready")
        hear()
        for step in range(20):
            log(run, {"late": float(step)}, step)
        run.flush()
        tell("flushed")
        hear()
        run.close()
    """)
    second.expect("ready")
    first.kill()
    served.kill_coordinator()
    served.server.waive("6.3.2", name="*late*")
    second.say()
    second.expect("flushed")
    assert served.missing("shared") == []
    second.say()
    assert second.wait() == 0
    assert served.ended_remotely("shared")["status"] == "FAILED"


def test_a_run_that_the_monitor_gave_up_is_running_again_when_the_server_is_back(served: Served) -> None:
    """G7: the network was away for longer than the server waits, the training was not."""
    script = served.start(OWNER)
    script.expect("ready")
    run = served.remote("shared")
    wait_until(lambda: "/api/runs/trigger" in served.paths(), "the first heartbeat")
    wait_until(lambda: served.missing("shared") == [], "the first point")
    served.cut_off()
    served.server.waive("6.3.10")  # the silence
    served.server.waive("6.3.2")  # what arrives before the Run is taken back
    served.server.advance(200)
    assert served.server.monitor_cycle() == [run["id"]]
    served.kill_coordinator()  # the next one beats at once, not 20 s after the last one
    served.back()
    wait_until(lambda: served.remote("shared")["status"] == "RUNNING", "the Run is taken back")
    script.say()
    assert script.wait() == 0
    run = served.ended_remotely("shared")
    assert (run["status"], run["statusMetadata"]) == ("COMPLETED", None)


@pytest.mark.parametrize("setting", ["warn", "interrupt"])
def test_a_cancel_interrupts_only_who_asked_for_it(served: Served, setting: str) -> None:
    served.server.waive("6.3.2")
    script = served.start(
        """
        run = pluto.init(run_id="cancel")
        tell("ready")
        try:
            while not run.cancelled:
                time.sleep(0.01)
            time.sleep(0.5 if run._lease.settings.on_cancel == "warn" else NEVER_S)
            tell("end", "went on")
        except KeyboardInterrupt:
            tell("end", "interrupted", run.cancelled)
    """,
        env={"PLUTO_DIST_ON_CANCEL": setting, "PLUTO_DIST_HEARTBEAT_S": "0.2"},
    )
    script.expect("ready")
    served.server.cancel(served.remote("cancel")["id"])
    assert script.expect("end") == ("went on" if setting == "warn" else "interrupted True")
    assert script.wait() == 0
    assert served.remote("cancel")["status"] == "CANCELLED"
