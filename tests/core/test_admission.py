"""Claims become roles: what the coordinator makes of the table (R2, R4, R5, G2, G10)."""

from __future__ import annotations

import msgspec
import pytest

from pluto_dist.core.rules.claims import OWNER_WAIT_S, RANK_ZERO_S
from pluto_dist.core.values.backend import Refused
from tests.core.world import World


def test_a_second_launch_below_an_owner_gets_a_run_of_its_own() -> None:
    """R4: being somebody's descendant says nothing about another job."""
    world = World()
    notebook = world.process("notebook").init()
    launch = world.launch(ranks=1)
    launch.start()
    launch.rank(0).ancestors += (notebook.identity,)
    launch.rank(0).init()
    assert launch.rank(0).role == "owner"
    assert len(list(world.book.runs)) == 2


def test_lowest_rank_owns_when_rank_0_does_not_come() -> None:
    """R4"""
    world = World()
    launch = world.launch(ranks=4)
    launch.start()
    for number in (3, 1, 2):
        launch.rank(number).init()
    world.wait(RANK_ZERO_S - 0.1)
    assert not list(world.book.runs)
    world.wait(0.2)
    assert [launch.rank(number).role for number in (1, 2, 3)] == ["owner", "worker", "worker"]
    assert launch.rank(0).init().role == "worker"


def test_the_wait_for_rank_0_starts_anew_in_each_attempt() -> None:
    """R4"""
    world = World()
    launch = world.launch(ranks=2, max_restarts=1)
    for process in launch.start(1, 0):
        process.init()
    launch.rank(0).kill()
    launch.rank(1).kill()
    world.wait(10)
    launch.restart()
    launch.rank(1).init()
    world.wait(1)
    assert launch.rank(1).role == "waiting"
    assert launch.rank(0).init().role == "owner"
    assert launch.rank(1).role == "worker"


def test_a_dead_owner_that_nobody_noticed_is_found_before_a_claim_is_decided() -> None:
    """R5, G2"""
    world = World()
    first = world.process("first").init("x")
    first.vanish()
    second = world.process("second").init("x", resume=True)
    assert second.role == "owner"
    assert second.view.epoch == 2
    assert world.lease(first).end_reason == "died"
    assert world.server.only().reopened == 0


def test_rank_0_of_another_job_waits_and_owns_when_the_owner_goes() -> None:
    """R5"""
    world = World()
    first = world.process("first").init("x")
    launch = world.launch(ranks=1)
    (rank,) = launch.start()
    rank.init("x", resume=True)
    world.wait(5)
    assert rank.role == "waiting"
    first.close()
    assert rank.role == "owner"


def test_rank_0_of_another_job_is_told_who_owns_after_its_wait() -> None:
    """R5"""
    world = World()
    world.process("first").init("x")
    (rank,) = world.launch(ranks=1).start()
    rank.init("x", resume=True)
    world.wait(OWNER_WAIT_S + 1)
    assert rank.role == "refused"
    assert rank.view.error is not None
    assert rank.view.error[0] == "OwnerExistsError"


def test_exec_ends_the_lease_of_the_former_program() -> None:
    """R2: what it had written is read first."""
    world = World()
    process = world.process("script").init("x")
    world.nudges = False
    process.add_tags("last word")
    world.nudges = True
    process.identity = msgspec.structs.replace(process.identity, nonce="new")
    former = process.spool.lease_id
    process.init("x", resume=True)
    assert process.role == "owner"
    assert world.book.leases[former].end_reason == "died"
    assert world.run().tags == ("last word",)


def test_two_sides_with_one_label_are_told_apart() -> None:
    """G10"""
    world = World()
    world.process("owner").init()
    sides = [world.process("eval").attach(label="eval") for _ in range(3)]
    assert [side.view.label for side in sides] == ["eval", "eval-2", "eval-3"]
    sides[0].close()
    assert world.process("eval").attach(label="eval").view.participant == "eval"


@pytest.mark.parametrize("label", ["owner", "rank1", "attempt0", "node"])
def test_a_label_that_looks_like_another_participant_is_changed(label: str) -> None:
    """G10"""
    world = World()
    world.process("owner").init()
    assert world.process("side").attach(label=label).view.participant == f"side-{label}"


def test_pool_workers_have_series_of_their_own() -> None:
    """G10, R4"""
    world = World()
    owner = world.process("owner").init()
    pool = [world.child(owner, "pool").init() for _ in range(2)]
    assert [each.role for each in pool] == ["worker", "worker"]
    assert [each.view.participant for each in pool] == ["worker", "worker-2"]


def test_attach_without_id_joins_the_only_live_run() -> None:
    """R5"""
    world = World()
    first = world.process("first").init("x")
    assert world.process("eval").attach().view.run.external_id == "x"  # type: ignore[union-attr] # it has one
    world.process("second").init("y")
    assert world.process("eval").attach().role == "refused"
    first.finish()
    assert world.process("eval").attach().view.run.external_id == "y"  # type: ignore[union-attr] # it has one


def test_a_refused_claim_is_told_also_when_it_was_decided_later() -> None:
    """R5: a claim that waited gets its refusal unasked."""
    world = World()
    world.hold.add("OpenRun")
    waiting = world.process("late").init("x")
    assert waiting.role == "waiting"
    world.server.answer("open", Refused("RunExistsError", "it is there"))
    world.release()
    assert waiting.role == "refused"
    assert waiting.view.error == ("RunExistsError", "it is there")


def test_many_claims_that_are_looked_into_do_not_multiply() -> None:
    """A claim under examination is not asked again by every other event."""
    world = World()
    world.process("owner").init("x")
    looks: list[str] = []
    world.observers.append(lambda effect: looks.append(type(effect).__name__))
    for _ in range(8):
        world.process("side").init("x", resume=True)
    assert looks.count("CheckLiveness") == 8


def test_an_older_protocol_is_refused() -> None:
    """A typed refusal, and the lease leaves nothing behind."""
    world = World()
    world.nudges = False
    process = world.process("newer").init("x")
    process.spool.entries[0] = msgspec.structs.replace(process.spool.entries[0], protocol=99)
    process.sync()
    assert process.view.error is not None
    assert process.view.error[0] == "VersionMismatchError"
    process.exit()
    assert not world.spools
