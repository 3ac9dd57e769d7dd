"""What the server did not take in time is in the store, and gets to the server from there (R11)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.process.harness import Script, look, wait_until
from tests.process.served import Served

SYNC = [sys.executable, "-c", "from pluto_dist.cli.main import app; app(prog_name='pluto-dist')", "sync"]
STORY = """
    run = pluto.init(run_id="cut", config={"lr": 0.1}, tags=["a"])
    tell("ready")
    hear()
    for step in range(300):
        log(run, {"loss": float(step)}, step)
    for step in range(20):
        run.log({"note": f"row {step}"}, step=step)
    run.add_tags("b")
    tell("logged")
    hear()
"""


def sync(served: Served, *arguments: str, home: Path | None = None, **variables: str) -> list[dict[str, Any]]:
    """`pluto-dist sync --json`; by default on a home of its own, without runtime and spool."""
    done = run_sync(served, "--json", *arguments, home=home, **variables)
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


def run_sync(
    served: Served, *arguments: str, home: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """`pluto-dist sync`, however it ends."""
    return subprocess.run(
        [*SYNC, *arguments],
        env=served.env() | {"PLUTO_DIST_HOME": str(home or served.base / "nowhere")} | variables,
        cwd=served.base,
        capture_output=True,
        text=True,
        check=False,
    )


def copies(served: Served) -> list[str]:
    """Names of the segments in the store."""
    return sorted(path.name for path in look(served.store, "runs/*/streams/*/*"))


def rows(served: Served) -> list[str]:
    return [row["data"] for row in served.server.data(served.remote("cut")["id"])]


def kill_all(served: Served, *scripts: Script) -> None:
    """Everything of the job on this node, as a scheduler does it."""
    for script in scripts:
        if not script.gone:
            script.kill()
    for pid in served.coordinators():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not served.coordinators(), "the coordinator is dead")


def cut_off_in_the_middle(served: Served, **env: str) -> Script:
    """A job whose server goes away before it logs anything of worth."""
    script = served.start(STORY, env={"PLUTO_DIST_EXIT_WAIT_S": "1", **env})
    script.expect("ready")
    served.cut_off()
    script.say()
    script.expect("logged")
    return script


@pytest.mark.parametrize("known", [True, False])
def test_with_the_server_down_everything_is_in_the_store_and_there_after_sync(
    served: Served, known: bool
) -> None:
    """G3, R11: the last process exits, the node is gone, home and spool with it."""
    if not known:
        served.cut_off()
    script = cut_off_in_the_middle(served, PLUTO_DIST_OPEN_WAIT_S="0")
    script.say()
    assert script.wait() == 0
    wait_until(lambda: served.document("cut")["verdict"] and len(copies(served)) == 2, "all is in the store")
    kill_all(served, script)
    shutil.rmtree(served.home)
    served.back()
    (result,) = sync(served)
    assert (result["state"], result["repeats"]) == ("uploaded", 0)
    run = served.remote("cut")
    assert (run["status"], run["tags"], run["config"]) == ("COMPLETED", ["a", "b"], {"lr": 0.1})
    assert served.missing("cut") == []
    assert rows(served) == [f"row {n}" for n in range(20)]
    assert copies(served) == []
    before = len(served.server.requests())
    assert sync(served)[0]["state"] == "up to date"
    assert served.paths(before) == []


def test_on_a_terminal_people_see_what_is_waited_for(served: Served) -> None:
    """R11: a job's end means that everything is there, so it may take a while."""
    leader, follower = os.openpty()
    terminal = f"os.dup2(os.open({os.ttyname(follower)!r}, os.O_RDWR), 2)"
    script = served.start(f"    {terminal}{STORY}")
    script.expect("ready")
    served.cut_off()
    script.say()
    script.expect("logged")
    script.say()
    seen = bytearray()

    def look() -> bool:
        seen.extend(os.read(leader, 4096))
        return b"MB left" in seen

    wait_until(look, "the line")
    served.back()
    assert script.wait() == 0
    assert served.ended_remotely("cut")["status"] == "COMPLETED"
    os.close(follower)
    os.close(leader)


def test_copies_go_when_the_server_is_back(served: Served) -> None:
    """G3: what was copied into the store because the server was away leaves it again once it is delivered."""
    script = cut_off_in_the_middle(served, PLUTO_DIST_SEGMENT_SIZE="65536")
    script.say()
    wait_until(lambda: copies(served), "copies in the store")
    served.back()
    assert script.wait() == 0
    assert served.ended_remotely("cut")["status"] == "COMPLETED"
    wait_until(lambda: not copies(served), "the copies are gone")
    assert served.missing("cut") == []
    assert rows(served) == [f"row {n}" for n in range(20)]
    wait_until(lambda: not look(served.home, "spool/leases/*"), "the spool is empty")


def test_closed_segments_are_copied_while_the_job_runs(served: Served) -> None:
    """G3: a node that dies later takes less with it."""
    script = served.start(
        """
        run = pluto.init(run_id="cut")
        tell("ready")
        hear()
        for step in range(3000):
            log(run, {"loss": float(step)}, step)
        tell("logged")
        hear()
    """,
        env={"PLUTO_DIST_SEGMENT_SIZE": "65536"},
    )
    script.expect("ready")
    served.cut_off()
    script.say()
    script.expect("logged")
    wait_until(lambda: len(copies(served)) >= 2, "closed segments in the store")
    served.back()
    script.say()
    assert script.wait() == 0
    served.ended_remotely("cut")
    assert served.missing("cut") == []
    wait_until(lambda: not copies(served), "the copies are gone")


def test_what_sync_has_uploaded_the_next_coordinator_does_not_send_again(served: Served) -> None:
    """G6: the node comes back with its spool."""
    script = cut_off_in_the_middle(served)
    script.say()
    assert script.wait() == 0
    wait_until(lambda: served.document("cut")["verdict"] and len(copies(served)) == 2, "all is in the store")
    kill_all(served, script)
    served.back()
    assert sync(served)[0]["state"] == "uploaded"
    later = served.start('pluto.init(run_id="later").finish()')
    assert later.wait() == 0
    wait_until(lambda: not look(served.home, "spool/leases/*"), "the spool is empty")
    assert rows(served) == [f"row {n}" for n in range(20)]
    assert served.remote("cut")["status"] == "COMPLETED"


@pytest.mark.parametrize("same_key", [True, False])
def test_on_its_own_node_the_coordinator_delivers_or_hears_of_it(served: Served, same_key: bool) -> None:
    """G6, G12: after a restart it has no key, or the key was replaced; nothing is sent twice."""
    script = cut_off_in_the_middle(served)
    script.say()
    assert script.wait() == 0
    wait_until(lambda: served.document("cut")["verdict"], "the verdict is in the store")
    kill_all(served, script)
    served.back()
    key = {} if same_key else {"PLUTO_API_KEY": "mlpi_GOOD"}  # of the same organization
    (result,) = sync(served, home=served.home, **key)
    assert result["state"] == ("up to date" if same_key else "uploaded")
    wait_until(lambda: not look(served.home, "spool/leases/*"), "the spool is empty")
    wait_until(lambda: not copies(served), "the copies are gone")
    assert served.remote("cut")["status"] == "COMPLETED"
    assert served.missing("cut") == []
    assert rows(served) == [f"row {n}" for n in range(20)]


def test_a_run_of_another_server_is_skipped_with_one_story_and_an_exit_code(served: Served) -> None:
    """G6: nobody believes that it was uploaded; the coordinator of its own server is left alone."""
    script = cut_off_in_the_middle(served)
    script.say()
    assert script.wait() == 0
    wait_until(lambda: served.document("cut")["verdict"], "the verdict is in the store")
    kill_all(served, script)
    other = {"PLUTO_URL_API": "http://127.0.0.1:9", "PLUTO_API_KEY": "mlps_OTHER"}
    done = run_sync(served, home=served.home, **other)
    assert done.returncode == 1
    assert "it belongs to the server" in done.stdout
    assert "URL OR WHY" in done.stdout
    assert done.stderr.strip().splitlines() == [
        "1 of 1 Runs were not uploaded: see why in the last column (`why` in the JSON)"
    ]
    assert not served.coordinators()


def test_a_run_that_lives_is_left_for_later_unless_it_was_named(served: Served) -> None:
    """A sync of all that there is may come again; who names a Run wants it now."""
    script = served.start('pluto.init(run_id="alive", mode="local"); tell("up"); hear()')
    script.expect("up")
    assert run_sync(served).returncode == 0
    done = run_sync(served, "alive")
    assert done.returncode == 1
    assert "sync it when it has ended" in done.stdout
    script.say()
    assert script.wait() == 0


def test_after_the_last_rank_nothing_but_the_status_is_to_be_sent(served: Served) -> None:
    """R11: a scheduler gives 0.1 s until it kills whatever is left: time for one request and not for two."""
    launcher = served.launcher(3)
    body = """
        run = pluto.init(run_id="hard")
        rank = int(os.environ["RANK"])
        for step in range(500):
            log(run, {"loss": 1000.0 * rank + step}, step)
        tell("ready")
        hear()
    """
    ranks = [launcher.rank(number, body) for number in range(3)]
    for rank in ranks:
        rank.expect("ready")
    for rank in ranks:
        rank.say()
    wait_until(lambda: all(rank.gone for rank in ranks), "the last rank is gone")
    gone_at = time.time()
    assert served.ended_remotely("hard")["status"] == "COMPLETED"
    kill_all(served, launcher)
    requests = served.server.requests()
    told_at = min(entry["at"] for entry in requests if entry["path"] == "/api/runs/status/update")
    late = [entry for entry in requests if gone_at < entry["at"] < told_at]  # behind it, it may be read back
    asked = {entry["path"] for entry in late if entry["service"] != "ingest"}  # measurements of the node
    assert asked <= {"/api/runs/trigger"}  # a sign of life may be due
    assert served.missing("hard") == []


def test_a_sync_beside_a_coordinator_that_waits_for_a_restart_says_nothing(served: Served) -> None:
    """G1, R3: the Run is delivered and all have left, but its end is not decided; two would contradict."""
    launcher = served.launcher(1, max_restarts=1)
    rank = launcher.rank(0, 'run = pluto.init(run_id="again"); raise RuntimeError("the first attempt")')
    assert rank.wait() == 1
    wait_until(lambda: served.document("again")["phase"] == "restarting", "it waits for a restart")
    assert served.document("again")["expected"]["status"] == "FAILED"
    (result,) = sync(served, home=served.home)
    assert (result["state"], "this node's coordinator" in result["why"]) == ("skipped", True)
    (result,) = sync(served)  # from another machine, as far as it can know
    assert (result["state"], "its coordinator wrote" in result["why"]) == ("skipped", True)
    assert served.remote("again")["status"] == "RUNNING"
    second = launcher.rank(0, 'pluto.init(run_id="again").finish()', attempt=1)
    assert second.wait() == 0
    launcher.kill()
    assert served.ended_remotely("again")["status"] == "COMPLETED"
