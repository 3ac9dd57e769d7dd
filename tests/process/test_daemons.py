"""A script that opens a Run and then becomes a daemon goes on with it (R5)."""

from __future__ import annotations

import pytest

from tests.process.harness import Node, wait_until

DAEMON = """
run = pluto.init(run_id="daemon", config={"lr": 1})
log(run, {"loss": 0.0})
opener = os.getpid()
if os.fork():
    EXIT
os.setsid()
if os.fork(): os._exit(0)
os.closerange(3, 256)  # as python-daemon does
foreign = os.open(os.devnull, os.O_RDWR), os.open("foreign", os.O_RDWR | os.O_CREAT)
tell("pid", os.getpid())
hear()
for step in range(3): log(run, {"loss": 1.0 + step})
for each in foreign: os.write(each, b"theirs")
tell_json("foreign", os.pread(foreign[1], 10000, 0).decode())
tell_json("daemon", [run.role, run.run_id, run.lease_id, run.config])
hear()
END
"""


@pytest.mark.parametrize(
    ("exit_by", "late", "end", "status"),
    [
        ("os._exit(0)", False, "run.finish()", "COMPLETED"),
        ("sys.exit(0)", True, "raise ValueError('in the daemon')", "FAILED"),
    ],
)
def test_a_daemon_holds_the_run_of_its_script(
    node: Node, exit_by: str, late: bool, end: str, status: str
) -> None:
    """R5, R9: although the process that opened it is gone, before or after the Run has ended for that."""
    script = node.start(DAEMON.replace("EXIT", exit_by).replace("END", end))
    pid = int(script.expect("pid"))
    assert script.wait() == 0
    if late:
        assert node.ended("daemon")["status"] == "COMPLETED"
    script.say()
    assert script.expect_json("foreign") == "theirs"
    role, run_id, _, config = script.expect_json("daemon")
    assert (role, run_id, config) == ("owner", "daemon", {"lr": 1})
    wait_until(lambda: node.document("daemon")["status"] == "RUNNING", "the daemon holds the Run")
    script.say()
    found = wait_until(
        lambda: (d := node.ended("daemon"))["epoch"] == 2 and d["status"] == status and d, "its end"
    )
    assert found["leases"][-1]["pid"] == pid
    assert not node.lost("daemon")
    steps = sorted((point.step, point.name) for point in node.points("daemon"))
    assert steps == [(step, "loss") for step in range(4)]


def test_a_forked_child_in_the_session_of_its_parent_is_no_daemon(node: Node) -> None:
    """R5, G3: an orphan that logs on changes nothing of the end."""
    script = node.start(
        """
        run = pluto.init(run_id="orphan")
        log(run, {"loss": 1.0}, 0)
        parent = os.getpid()
        if os.fork() == 0:
            while os.getppid() == parent: time.sleep(0.005)
            for step in range(20): log(run, {"orphan": float(step)}, step)
            tell("role", run.role)
            os._exit(0)
        os._exit(0)
        """
    )
    assert script.expect("role") == "owner"
    found = node.ended("orphan")
    assert (found["status"], found["epoch"], len(found["leases"])) == ("COMPLETED", 1, 1)
    wait_until(lambda: not node.lost("orphan"), "the child's points")
