"""Containers: processes in pid namespaces of their own, and a trainer that is pid 1 (R2, R9, R11)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.process.harness import Node, Script, events, lease, wait_until

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def _works() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not _works(), reason="unshare --pid takes Linux and root"
)


class Container(Script):
    """A script that is pid 1 of its own pid namespace."""

    @classmethod
    def start(cls, node: Node, body: str, name: str, **env: str) -> Container:
        """Starts it; `pid` is that of `unshare`, which ends with the code of the script."""
        argv = [*UNSHARE, *node.command(body, name)]
        made: Container = node.keep(cls(name, *node.spawn(argv, name, env=env)))
        return made

    @property
    def inner(self) -> int:
        """The script's pid as it is seen from outside."""
        return int(wait_until(lambda: _children(self.pid), "the script")[0])


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


OUTSIDE = 'run = pluto.init(run_id="outside", quiet=True); tell("up"); hear()'


def test_the_death_of_an_owner_in_another_namespace_is_noticed_through_its_lock(node: Node) -> None:
    """R2, G7: no pidfd reaches there, the kernel drops the lock; the cause is not guessed."""
    outside = node.start(OUTSIDE, name="outside")
    outside.expect("up")
    inside = Container.start(
        node,
        """
        run = pluto.init(run_id="inside", quiet=True)
        log(run, {"loss": 1.0}, 0)
        tell("up", os.getpid())
        hear()
        """,
        "inside",
    )
    assert inside.expect("up") == "1"
    killed_ms = time.time_ns() // 1_000_000
    os.kill(inside.inner, signal.SIGKILL)
    found = node.ended("inside")
    assert found["status"] == "FAILED"
    assert found["verdict"]["first_failure"]["kind"] == "vanished"
    dead = lease(found, role="owner")
    assert dead["end_reason"] == "died"
    assert dead["ended_at"] >= killed_ms
    assert not node.lost("inside")
    assert len(node.said("started")) == 1


def test_a_stopped_process_in_another_namespace_is_not_dead(node: Node) -> None:
    """R2: it misses its heartbeats and holds its lock; a missed heartbeat alone is never death."""
    outside = node.start(OUTSIDE, name="outside")
    outside.expect("up")
    body = """
        run = pluto.attach("outside", label="inside")
        log(run, {"note": 1.0}, 0)
        tell("up")
        hear()
        log(run, {"note": 2.0}, 1)
    """
    inside = Container.start(node, body, "inside", PLUTO_DIST_HEARTBEAT_S="0.1")
    inside.expect("up")
    os.kill(inside.inner, signal.SIGSTOP)
    wait_until(lambda: len(node.points("outside")) == 1, "its first point")
    wait_until(lambda: is_suspect(node, "inside"), "its missed heartbeats")
    assert not events(node.document("outside"), "side_died")
    os.kill(inside.inner, signal.SIGCONT)
    inside.say()
    assert inside.wait() == 0
    wait_until(lambda: len(node.points("outside")) == 2, "its second point")
    assert lease(node.document("outside"), label="inside")["end_reason"] == "closed"


def is_suspect(node: Node, label: str) -> bool:
    """Whether `ps` shows a process as one that has not been heard of for too long."""
    attached = json.loads(node.cli("ps", "--json"))["processes"]
    return bool(next(process["suspect"] for process in attached if process["label"] == label))


def test_a_trainer_that_is_pid_1_ends_terminated_under_sigterm(node: Node) -> None:
    """R9, R11: exit 143, evidence, status and every point in the store before the namespace is gone."""
    trainer = Container.start(
        node,
        """
        run = pluto.init(run_id="container", quiet=True)
        for step in range(500):
            log(run, {"loss": float(step)}, step)
        import json
        line = open(os.environ["PLUTO_DIST_HOME"] + "/run/coordinator.log").readline()
        stat = open(f"/proc/{json.loads(line)['pid']}/stat").read()
        tell("up", os.getpid(), stat.rpartition(")")[2].split()[1])
        while True:
            time.sleep(0.05)
        """,
        "trainer",
    )
    assert trainer.expect("up") == "1 1", "the coordinator is a child of pid 1"
    os.kill(trainer.inner, signal.SIGTERM)
    assert trainer.wait() == 143
    assert not node.coordinators()
    found = node.document("container")
    assert found["status"] == "TERMINATED"
    assert found["verdict"]["first_failure"]["signal"] == "SIGTERM"
    assert found["points"] == 500
    assert not node.lost("container")


def test_a_users_handler_of_pid_1_decides_how_it_ends(node: Node) -> None:
    """R9: the handler that was there before is called; here it saves and leaves with a code of its own."""
    trainer = Container.start(
        node,
        """
        def save(number, frame):
            log(run, {"saved": 1.0}, 100)
            sys.exit(7)
        signal.signal(signal.SIGTERM, save)
        run = pluto.init(run_id="saving", quiet=True)
        tell("up")
        while True:
            time.sleep(0.05)
        """,
        "trainer",
    )
    trainer.expect("up")
    os.kill(trainer.inner, signal.SIGTERM)
    assert trainer.wait() == 7
    found = node.document("saving")
    assert found["status"] == "TERMINATED"
    assert [point.name for point in node.points("saving")] == ["saved"]


def test_the_coordinator_of_a_namespace_dies_with_it_and_another_takes_over(node: Node) -> None:
    """G12: started inside, it is killed with pid 1; one outside starts the next, which sees the death."""
    inside = Container.start(
        node,
        'run = pluto.init(run_id="inside", quiet=True); log(run, {"a": 1.0}, 0); tell("up"); hear()',
        "in",
    )
    inside.expect("up")
    outside = node.start(
        'run = pluto.init(run_id="outside", quiet=True); tell("up"); hear(); tell("status", run.status)',
        name="outside",
        env={"PLUTO_DIST_HEARTBEAT_S": "0.2"},
    )
    outside.expect("up")
    assert len(node.said("started")) == 1
    os.kill(inside.inner, signal.SIGKILL)
    found = node.ended("inside")
    assert found["status"] == "FAILED"
    assert len(node.said("started")) == 2
    outside.say()
    assert outside.expect("status") == "RUNNING"
    assert outside.wait() == 0
    assert node.ended("outside")["status"] == "COMPLETED"
