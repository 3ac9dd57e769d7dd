"""What a leaving process is told, and when it need not wait any more (R11, G5)."""

from __future__ import annotations

import pytest

from pluto_dist.core.machine.views import SPREAD_S
from tests.core.processes import LOCAL, Process
from tests.core.world import World


def waits(process: Process) -> bool:
    """What the client does at its end: the last one out waits until everything is safe."""
    return process.view.last_out and not process.view.drained


@pytest.mark.parametrize("code", [0, 1])
def test_the_end_of_a_notebooks_kernel_waits_for_no_exit_code(code: int) -> None:
    """R9, R11: whatever the kernel's own exit code is, its restart is a stop, told while it still exits."""
    world = World()
    kernel = world.process("kernel").init(notebook=True).log(loss=1.0)
    kernel.finish(at_exit=True)
    assert world.server.only().status == "TERMINATED"
    assert not waits(kernel)
    kernel.exit(code)
    world.wait(60)
    assert world.server.only().status == "TERMINATED"
    assert world.server.only().values("loss") == [1.0]


def test_earlier_leavers_never_wait() -> None:
    """R11: else ranks could wait for each other."""
    world = World()
    launch = world.launch(ranks=3)
    for process in launch.start():
        process.init().log(loss=1.0)
    world.hold.add("Ship")
    for process in launch.ranks.values():
        process.log(loss=2.0)
    launch.rank(0).finish()
    launch.rank(1).finish()
    assert not waits(launch.rank(0))
    assert not waits(launch.rank(1))
    launch.rank(2).finish()
    assert waits(launch.rank(2))


def test_the_last_one_waits_until_the_status_is_accepted() -> None:
    """R11"""
    world = World()
    launch = world.launch(ranks=2)
    for process in launch.start():
        process.init().log(loss=1.0)
    world.hold |= {"Ship", "Control"}
    launch.rank(0).finish()
    launch.rank(1).finish()
    last = launch.rank(1)
    assert waits(last)
    world.release("Ship")
    assert waits(last)
    world.release("Control")
    assert not waits(last)
    assert world.server.only().status == "COMPLETED"


@pytest.mark.parametrize("end", ["finish", "raises", "sigterm"])
def test_a_lone_owner_waits_for_everything(end: str) -> None:
    """G5"""
    world = World()
    owner = world.process("owner").init().log(loss=1.0).add_tags("a")
    world.hold |= {"Ship", "Control"}
    owner.log(loss=2.0)
    if end == "raises":
        owner.evidence("exception", type="KeyError")
    if end == "sigterm":
        owner.evidence("signal", signal="SIGTERM")
    owner.finish()
    assert waits(owner)
    world.release()
    world.wait(2)
    assert not waits(owner)


def test_local_mode_waits_for_the_store() -> None:
    """R11: the document is the Run."""
    world = World(LOCAL)
    owner = world.process("owner").init()
    world.store_broken = True
    owner.finish()
    assert waits(owner)
    world.store_broken = False
    world.wait(2)
    assert not waits(owner)


def test_a_broken_store_holds_up_nobody_whose_run_is_on_the_server() -> None:
    """R11"""
    world = World()
    owner = world.process("owner").init()
    world.store_broken = True
    owner.finish()
    assert not waits(owner)
    owner.exit()
    world.wait(100)
    assert world.stopped is not None


def test_who_closes_waits_for_records_and_not_for_a_status() -> None:
    """R6, R11: the Run may be taken up again."""
    world = World()
    owner = world.process("owner").init().log(loss=1.0)
    world.hold.add("Ship")
    owner.log(loss=2.0)
    owner.close()
    assert waits(owner)
    world.release()
    assert not waits(owner)
    assert world.run().status == "RUNNING"


def test_nobody_waits_for_a_verdict_that_a_restart_may_change() -> None:
    """R11, R10"""
    world = World()
    launch = world.launch(ranks=2, max_restarts=1)
    for process in launch.start():
        process.init()
    launch.rank(0).evidence("exception", type="KeyError").finish()
    launch.rank(1).evidence("exception", type="ConnectionError", communication=True).finish()
    assert launch.rank(1).view.last_out
    assert not waits(launch.rank(1))


def test_who_leaves_by_the_exit_hook_does_not_wait_for_its_own_exit_code() -> None:
    """R9, R11"""
    world = World()
    owner = world.process("owner").init()
    owner.finish(at_exit=True)
    assert not waits(owner)
    assert world.run().status == "RUNNING"
    owner.exit(3)
    assert world.run().status == "FAILED"


def test_a_side_waits_for_nobody_while_its_owner_lives() -> None:
    """R11"""
    world = World()
    world.process("owner").init()
    side = world.process("eval").attach()
    world.hold.add("Ship")
    side.log(loss=1.0)
    side.close()
    assert not waits(side)


def test_an_answer_comes_after_the_entries_have_been_read() -> None:
    """R1"""
    world = World()
    owner = world.process("owner").init()
    world.nudges = False
    owner.add_tags("a").add_tags("b")
    owner.sync()
    assert owner.view.folded == 3
    assert owner.view.run is not None
    assert owner.view.run.tags == ("a", "b")


def test_nobody_is_told_what_he_knows() -> None:
    """A heartbeat of one process and records of all cost the others nothing."""
    world = World()
    launch = world.launch(ranks=8)
    for process in launch.start():
        process.init().log(loss=1.0)
    world.wait(5)
    told: list[str] = []
    world.observers.append(lambda effect: told.append(type(effect).__name__))
    for process in launch.ranks.values():
        process.log(loss=1.0)
    assert "Send" not in told
    launch.rank(1).sync()
    assert told.count("Send") == 1


def test_everybody_is_told_when_something_matters() -> None:
    """G9"""
    world = World()
    launch = world.launch(ranks=3)
    for process in launch.start():
        process.init()
    launch.rank(2).add_tags("a")
    mine = launch.rank(2).view.run
    assert mine is not None
    assert mine.tags == ("a",)
    world.wait(SPREAD_S)  # the others a moment later
    assert all(process.view.run and process.view.run.tags == ("a",) for process in launch.ranks.values())


@pytest.mark.parametrize(("error", "status"), [(None, "COMPLETED"), ("ValueError", "FAILED")])
def test_who_leaves_by_the_exit_hook_is_told_what_the_status_will_be(error: str | None, status: str) -> None:
    """R9: only the kernel knows its exit code, but what it said of itself is known."""
    world = World()
    process = world.process("train").init("x")
    if error:
        process.evidence("exception", type=error, message="boom")
    process.finish(at_exit=True).sync()
    assert process.view.run is not None
    assert (process.view.run.status, process.view.run.expected) == ("RUNNING", status)
    assert ("ValueError: boom" in process.view.run.reason) == (error is not None)


def test_a_lease_says_how_its_process_ended() -> None:
    """R9: `finished` of a rank that raised is how its lease ended; a side's fault is kept too."""
    world = World()
    ranks = world.launch(ranks=3).start()
    for process in ranks:
        process.init()
    sides = [world.process(name).attach(label=name) for name in ("fails", "closes", "killed")]
    sides[0].evidence("exception", type="ValueError").close()
    sides[1].close()
    sides[2].exit(None, "SIGKILL")
    ranks[1].raises()
    ranks[2].sigterm()
    ranks[0].finish()
    faults = {lease.label: (lease.end_reason, lease.fault) for lease in world.book.leases}
    assert faults == {
        "rank0": ("finished", ""),
        "rank1": ("finished", "failed"),
        "rank2": ("finished", "stopped"),
        "fails": ("closed", "failed"),
        "closes": ("closed", ""),
        "killed": ("died", ""),
    }
