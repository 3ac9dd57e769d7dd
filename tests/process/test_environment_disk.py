"""A disk that is full, and has room again (R13, section 7): training goes on, what was dropped is counted."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pluto_dist.spool.reader import list_streams
from tests.process.harness import Node, Script, look, wait_until

MIB = 1 << 20
TRAINER = """
    run = pluto.init(run_id="full", quiet=True)
    tell("up")
    step = 0
    def train(records):
        global step
        for _ in range(records):
            run.log({"loss": float(step)}, step)
            step += 1
    while (order := hear()):
        if order == "tag":
            run.add_tags("said while it was full")
        elif order == "finish":
            run.finish()
            tell_json("end", {"steps": step})
            break
        else:
            train(int(order))
        tell("done")
"""


@pytest.fixture
def small(node: Node) -> Node:
    """A node whose runtime and spool are on a small tmpfs of their own."""
    if not node.mount("size=100m"):
        pytest.skip("mounting a tmpfs takes root")
    node.set(
        PLUTO_DIST_SPOOL_QUOTA="1g",
        PLUTO_DIST_CONSOLE="off",
        PLUTO_DIST_HEARTBEAT_S="0.5",
        PLUTO_DIST_SEGMENT_SIZE="64k",
    )
    return node


def fill(node: Node) -> Path:
    """Takes the last byte of the node's disk."""
    path = node.home / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (MIB, 4096, 1):
            block = b"\0" * size
            try:
                while file.write(block) == size:
                    pass
            except OSError:
                continue
    return path


def test_a_full_spool_stops_no_training_and_logging_recovers(small: Node) -> None:
    """G3, G4: drops are counted, told at the time and at the end; what was accepted arrives."""
    script = small.start(TRAINER)
    script.expect("up")
    train(script, "100")
    filler = fill(small)
    train(script, "3000")
    wait_until(lambda: "takes no records now" in script.stderr, "the user is told")
    train(script, "tag")
    filler.unlink()
    train(script, "1")  # may still be one of those that are dropped
    wait_until(lambda: train(script, "10") or "takes records again" in script.stderr, "it recovers")
    train(script, "200")
    script.say("finish")
    end = script.expect_json("end")
    assert script.wait() == 0
    found = small.ended("full")
    assert found["status"] == "COMPLETED"
    assert found["tags"] == ["said while it was full"]
    assert found["dropped"] > 0
    steps = [point.step for point in small.points("full")]
    assert len(set(steps)) == len(steps) == found["points"] == end["steps"] - found["dropped"]
    assert set(range(100)) <= set(steps)
    assert set(range(end["steps"] - 200, end["steps"])) <= set(steps)
    assert script.stderr.count("takes no records now") == 1
    assert f"{found['dropped']} records were dropped" in script.stderr


def test_a_disk_that_is_full_at_the_start_stops_no_training_that_asks_for_its_run(small: Node) -> None:
    """G4: what the process knows of its Run it says by itself; the cause is told in words."""
    filler = fill(small)
    script = small.start("""
        import pluto_dist.client.lease
        pluto_dist.client.lease.UNANSWERED_S = 0.5
        run = pluto.init(run_id="full", project="digits", name="a name", config={"lr": 0.1}, tags=["a"])
        run.update_config({"batch": 8})
        run.add_tags("b")
        run.log({"loss": 1.0}, 0)
        tell_json("known", {  # nobody is waited for a second time: that wait would be endless
            "names": [run.run_id, run.project, run.name, run.role], "config": run.config, "tags": run.tags,
            "server": [run.id, run.display_id, run.url, run.status],
        })
        hear()
        from tests.patience import wait_until
        wait_until(lambda: run.display_id, "the Run's display id")
        tell_json("later", [run.display_id, run.config])
    """)
    known = script.expect_json("known")
    assert known == {
        "names": ["full", "digits", "a name", "owner"],
        "config": {"lr": 0.1, "batch": 8},
        "tags": ["a", "b"],
        "server": [None, None, "", "RUNNING"],
    }
    assert f"the disk of {small.home / 'run'} is full: free some space" in script.stderr
    filler.unlink()
    wait_until(small.coordinators, "one is started when there is room")
    wait_until(small.documents, "the Run is there")
    script.say()
    assert script.expect_json("later") == ["DIG-1", {"lr": 0.1, "batch": 8}]
    assert script.wait() == 0
    assert small.ended("full")["status"] == "COMPLETED"


def test_the_end_of_a_run_gets_through_once_there_is_room(small: Node) -> None:
    """G5, R1: finish() on a full disk waits, bounded; its entry is written when the disk takes it."""
    script = small.start(TRAINER)
    script.expect("up")
    train(script, "50")
    wait_until(lambda: len(small.points("full")) == 50, "everything is delivered")
    filler = fill(small)
    train(script, "2000")
    script.say("finish")
    wait_until(lambda: "takes no records now" in script.stderr, "it is full")
    filler.unlink()
    script.expect("end")
    assert script.wait() == 0
    assert small.ended("full")["status"] == "COMPLETED"


def test_a_coordinator_on_a_full_disk_serves_on_and_keeps_what_it_decided(small: Node) -> None:
    """R1, G12: nothing leaves before it is kept; a new process is granted as soon as there is room."""
    script = small.start(TRAINER)
    script.expect("up")
    filler = fill(small)
    late = small.start('tell("late", pluto.attach("full", label="late").role)', name="late")
    train(script, "500")
    filler.unlink()
    assert late.expect("late") == "side"
    assert late.wait() == 0
    script.say("finish")
    script.expect("end")
    assert script.wait() == 0
    assert small.ended("full")["status"] == "COMPLETED"


def test_a_spool_over_its_quota_drops_and_goes_on_when_it_is_emptied(node: Node) -> None:
    """Section 7: the quota is a limit for the spool, not for the training."""
    node.set(
        PLUTO_DIST_CONSOLE="off",
        PLUTO_DIST_SPOOL_QUOTA="1m",
        PLUTO_DIST_SEGMENT_SIZE="64k",
        PLUTO_DIST_HEARTBEAT_S="0.5",
    )
    script = node.start(TRAINER)
    script.expect("up")
    coordinator = node.coordinator()
    os.kill(coordinator, signal.SIGSTOP)  # a log() that waits for it waits for ever
    train(script, "40000")
    wait_until(lambda: "takes no records now (quota)" in script.stderr, "the user is told")
    spool = sum(path.stat().st_size for path in look(node.home, "**/metrics*"))
    assert spool < 3 * MIB
    os.kill(coordinator, signal.SIGCONT)
    wait_until(lambda: train(script, "10") or "takes records again" in script.stderr, "it recovers")
    train(script, "100")
    script.say("finish")
    end = script.expect_json("end")
    assert script.wait() == 0
    found = node.ended("full")
    assert found["dropped"] > 0
    assert len(node.points("full")) == found["points"] == end["steps"] - found["dropped"]


def train(script: Script, order: str) -> None:
    """Lets the trainer do something, and waits until it has."""
    script.say(order)
    script.expect("done")


@pytest.mark.parametrize("kept", [2, 4])
def test_so_many_delivered_segments_stay_as_was_asked_for(node: Node, kept: int) -> None:
    """G4: the oldest go as soon as they are delivered; none outlives its process."""
    env = {
        "PLUTO_DIST_SEGMENT_SIZE": "64k",
        "PLUTO_DIST_RETENTION_SEGMENTS": str(kept),
        "PLUTO_DIST_CONSOLE": "off",
    }
    script = node.start(
        """
        run = pluto.init(run_id="kept", quiet=True)
        for step in range(8000):
            run.log({"loss": float(step)}, step)
        run.flush()
        tell("delivered")
        hear()
        """,
        env=env,
    )
    script.expect("delivered")

    def segments() -> int:
        (folder,) = node.home.glob("spool/leases/*")
        return len(list_streams(str(folder))["metrics"])

    wait_until(lambda: segments() == kept, f"{kept} segments")
    script.say()
    assert script.wait() == 0
    assert node.ended("kept")["points"] == 8000
    wait_until(lambda: not look(node.home, "spool/leases/*"), "the folder is gone")
