"""Signs of life and the last question before a status: G7, R10."""

from __future__ import annotations

import pytest

from pluto_dist.core.machine.beats import BEAT_S, KNOWN_S, LAST_S, POLL_S
from pluto_dist.core.rules.verdict import ORPHAN_S
from pluto_dist.core.values.backend import Beat, Delivered, Retry, Unknown
from pluto_dist.core.values.effects import BeatRun, Effect
from tests.core.world import World

SETTLE_S = ORPHAN_S + 2.0


def test_signs_of_life_come_while_the_job_lives_and_not_after() -> None:
    """G7: a coordinator whose job is dead never keeps the Run alive."""
    world = World()
    owner = world.process("owner").init()
    world.wait(10 * POLL_S)
    beats = world.server.only().beats
    assert 10 <= beats <= 12
    owner.kill()
    world.wait(5)
    dead = world.server.only().beats
    world.wait(100)
    assert world.server.only().beats == dead


def test_signs_of_life_while_detached() -> None:
    """R6"""
    world = World()
    world.process("owner").init().close().exit()
    world.wait(1000)
    assert world.server.only().beats > 40
    assert world.run().status == "RUNNING"
    world.wait(3000)
    assert world.server.only().status == "TERMINATED"


def test_a_server_that_hangs_is_asked_once_and_one_in_trouble_more_rarely() -> None:
    """R10: what waits in a queue would all be asked when the server wakes up."""
    world = World()
    world.process("owner").init()
    world.hold.add("BeatRun")
    world.wait(60)
    held = world.server.only().beats
    world.release()
    world.wait(0.1)
    assert world.server.only().beats <= held + 2
    world.server.down = True
    sent: list[Effect] = []
    world.observers.append(lambda effect: sent.append(effect) if isinstance(effect, BeatRun) else None)
    world.wait(200)
    assert 200 / BEAT_S <= len(sent) <= 200 / BEAT_S + 6


@pytest.mark.parametrize(("runs", "seconds"), [(1, 5.0), (8, 5.0), (40, 20.0)])
def test_a_cancel_is_noticed_soon_and_a_node_with_many_runs_asks_no_more_often(
    runs: int, seconds: float
) -> None:
    """One request for each Run and node in four seconds; four in a second at most."""
    world = World()
    for number in range(runs):
        world.process(f"p{number}").init(f"x{number}")
    world.wait(30)
    before = sum(run.beats for run in world.server.runs.values())
    world.wait(100)
    beats = sum(run.beats for run in world.server.runs.values()) - before
    assert beats <= min(runs * 26, 4.5 * 100)
    for run in world.server.runs.values():
        run.cancelled = True
    world.wait(seconds)
    assert {run.status for run in world.book.runs} == {"CANCELLED"}


def test_a_cancel_on_the_server_ends_the_run_here() -> None:
    """R10: the one thing that changes a verdict; it is not reported back."""
    world = World()
    owner = world.process("owner").init()
    world.server.only().cancelled = True
    world.wait(5)
    assert world.run().status == "CANCELLED"
    assert owner.view.run is not None
    assert owner.view.run.cancelled
    owner.finish().exit()
    world.wait(100)
    assert not world.server.only().reports


@pytest.mark.parametrize("end", ["kill", "raises", "finish"])
def test_a_cancel_that_meets_the_end_unseen_is_the_end(end: str) -> None:
    """R10: the server is asked before the status; what failed stays readable, and no status replaces it."""
    world = World()
    owner = world.process("owner").init()
    world.server.only().cancelled = True
    getattr(owner, end)()
    world.wait(SETTLE_S)
    run = world.run()
    assert run.status == world.server.only().status == "CANCELLED"
    assert run.reported
    assert not world.server.only().reports
    assert run.verdict is not None
    assert run.verdict.reason.startswith("cancelled on the server")
    assert (run.verdict.first_failure is not None) == (end != "finish")
    assert ("failed first" in run.verdict.reason) == (end != "finish")


def test_a_cancel_while_no_coordinator_runs_is_found_by_the_next_one() -> None:
    """R10, G12: neither the cancel nor the death was seen by anybody when it happened."""
    world = World()
    owner = world.process("owner").init()
    world.kill()
    world.server.only().cancelled = True
    owner.kill()
    world.wait(200)
    world.start()
    world.give_key(world.target)
    world.wait(SETTLE_S)
    assert world.run().status == world.server.only().status == "CANCELLED"


def test_the_question_is_the_last_thing_before_the_status() -> None:
    """R10: what delivering takes is time in which a cancel still counts."""
    world = World()
    owner = world.process("owner").init()
    world.hold.add("Ship")
    owner.log(loss=1.0)
    owner.finish().exit()
    world.wait(SETTLE_S)
    assert world.run().status == "COMPLETED"
    world.server.only().cancelled = True
    world.release()
    world.wait(SETTLE_S)
    assert world.run().status == world.server.only().status == "CANCELLED"


def test_before_an_exit_the_question_is_asked_ahead() -> None:
    """R10, R11: what is killed with the last process's exit has time for the status, and for nothing else."""
    world = World()
    owner = world.process("owner").init()
    world.hold.add("BeatRun")
    owner.finish(at_exit=True)
    assert owner.view.last_out
    assert not owner.view.drained
    world.release()
    assert owner.view.drained
    beats = world.server.beats
    world.wait(KNOWN_S / 2)
    owner.exit(3)
    world.wait(SETTLE_S)
    assert world.server.only().status == "FAILED"
    assert world.server.beats == beats


def test_an_old_answer_is_asked_for_again() -> None:
    """R10: an exit that hangs leaves people time to press stop."""
    world = World()
    owner = world.process("owner").init()
    owner.finish(at_exit=True)
    assert owner.view.drained
    world.server.only().cancelled = True
    world.wait(KNOWN_S)
    owner.exit(0)
    world.wait(SETTLE_S)
    assert world.run().status == world.server.only().status == "CANCELLED"


def test_an_exit_waits_for_the_answer_only_for_a_while() -> None:
    """G5"""
    world = World()
    owner = world.process("owner").init()
    world.hold.add("BeatRun")
    owner.finish(at_exit=True)
    world.wait(LAST_S + 0.1)
    assert owner.view.drained


def test_a_question_asked_ahead_that_nobody_answered_is_waited_for_again_at_the_end() -> None:
    """R10: the answer that is late may tell of a cancel that came before the process died."""
    world = World()
    owner = world.process("owner").init()
    world.hold.add("BeatRun")
    owner.finish(at_exit=True)
    world.wait(LAST_S + 0.1)
    owner.exit(3)
    world.wait(1.0)
    assert world.server.only().status == "RUNNING"
    world.server.only().cancelled = True
    world.release()
    world.wait(SETTLE_S)
    assert world.server.only().status == "CANCELLED"


def test_a_cancel_after_the_status_changes_nothing() -> None:
    """R10: the Run has ended, here and there; nobody asks any more."""
    world = World()
    world.process("owner").init().finish().exit()
    world.wait(SETTLE_S)
    world.server.only().cancelled = True
    world.wait(200)
    assert world.run().status == world.server.only().status == "COMPLETED"


def test_the_status_waits_for_the_answer_only_for_a_while() -> None:
    """G5: a service that does not answer holds up no end."""
    world = World()
    owner = world.process("owner").init()
    world.hold.add("BeatRun")
    owner.finish().exit()
    world.wait(LAST_S / 2)
    assert not world.server.only().reports
    world.wait(LAST_S)
    assert world.server.only().status == "COMPLETED"


@pytest.mark.parametrize("outcome", [Retry("503"), Unknown("no answer")])
def test_a_question_that_fails_is_asked_again(outcome: Retry | Unknown) -> None:
    """R10: within the time that the status waits."""
    world = World()
    owner = world.process("owner").init()
    world.server.only().cancelled = True
    world.server.answer("beat", outcome)
    owner.kill()
    world.wait(SETTLE_S + LAST_S)
    assert world.run().status == world.server.only().status == "CANCELLED"


def test_before_a_status_is_tried_again_the_question_is_asked_again() -> None:
    """R10: an outage leaves people time to press stop."""
    world = World()
    owner = world.process("owner").init()
    world.server.answer("report", Retry("503"))
    owner.finish().exit()
    world.server.only().cancelled = True
    world.wait(60)
    assert world.run().status == world.server.only().status == "CANCELLED"
    assert not world.server.only().reports


def test_a_question_that_could_not_be_asked_is_asked_before_the_next_try() -> None:
    """R10: a sign of life hung when the status was due, and nobody knows whether the status arrived."""
    world = World()
    owner = world.process("owner").init()
    world.hold.add("BeatRun")
    world.wait(POLL_S + 1)
    owner.finish().exit()
    world.server.answer("report", Unknown("no answer"))
    world.wait(LAST_S)
    assert world.server.said("report") == ["report"]
    world.server.only().cancelled = True
    world.release()
    world.wait(SETTLE_S)
    assert world.run().status == "CANCELLED"
    assert world.server.said("report") == ["report"]


def test_a_cancel_whose_answer_crosses_the_status_is_asked_for_once_more() -> None:
    """R10: the server may have taken both in either order; FAILED replaces CANCELLED there."""
    world = World()
    owner = world.process("owner").init()
    world.hold.add("BeatRun")
    world.wait(BEAT_S + 1.0)
    owner.kill()
    world.wait(SETTLE_S + LAST_S)
    assert world.server.only().status == "FAILED"
    world.server.only().cancelled = True
    world.server.answer("beat", Beat(Delivered(), "CANCELLED"))  # before the status, and its answer is late
    world.release()
    world.wait(SETTLE_S)
    assert world.run().status == world.server.only().status == "CANCELLED"


def test_a_person_with_force_has_the_last_word() -> None:
    """G1, R10: the command is later than any cancel on the page, so nobody asks."""
    world = World()
    world.process("owner").init("x")
    world.server.only().cancelled = True
    before = world.server.beats
    world.force_finish("x", "COMPLETED")
    assert world.run().status == world.server.only().status == "COMPLETED"
    assert world.server.beats == before


def test_the_end_after_a_person_with_force_is_asked_for_again() -> None:
    """R10: the word was about that end only."""
    world = World()
    world.process("first").init("x")
    world.force_finish("x", "FAILED")
    second = world.process("second").init("x", resume=True)
    world.server.only().cancelled = True
    second.finish().exit()
    world.wait(SETTLE_S)
    assert world.run().status == "CANCELLED"


def test_an_answer_is_about_one_end() -> None:
    """R10: the Run was taken up again while the server was asked."""
    world = World()
    first = world.process("first").init("x")
    world.hold.add("BeatRun")
    first.finish().exit()
    second = world.process("second").init("x", resume=True)
    assert second.role == "owner"
    world.release()
    world.server.only().cancelled = True
    second.finish().exit()
    world.wait(SETTLE_S)
    assert world.run().status == "CANCELLED"
    assert not world.server.only().reports


def test_a_run_that_the_monitor_has_ended_is_revived_before_its_status() -> None:
    """G7: the last question tells, so it need not be guessed from the time."""
    world = World()
    owner = world.process("owner").init()
    world.server.only().status, world.server.only().reaped = "FAILED", True
    owner.finish().exit()
    world.wait(SETTLE_S)
    assert world.server.said("revive", "report") == ["revive", "report"]
    assert world.run().status == world.server.only().status == "COMPLETED"


def test_an_end_that_a_person_has_set_is_not_asked_for_for_ever() -> None:
    """R10: it is no end of the monitor's, so nothing is revived, and the status goes out as it is."""
    world = World()
    owner = world.process("owner").init()
    world.server.only().status = "FAILED"
    owner.finish().exit()
    world.wait(SETTLE_S)
    assert world.server.said("revive", "report") == ["revive", "report"]


def test_after_an_answer_nothing_is_revived() -> None:
    """R10: a coordinator that starts late knows by the answer that the Run is RUNNING."""
    world = World()
    owner = world.process("owner").init()
    world.kill()
    owner.finish().exit()
    world.wait(120)
    world.start()
    world.give_key(world.target)
    world.wait(SETTLE_S)
    assert world.server.said("revive", "report") == ["report"]


def test_a_report_whose_answer_was_lost_is_not_made_twice() -> None:
    """R10: the next coordinator asks, and the answer is the very status that it wanted to send."""
    world = World()
    owner = world.process("owner").init()
    world.server.answer("report", Unknown("no answer"))
    owner.finish().exit()
    world.server.only().status = "COMPLETED"
    world.restart()
    world.give_key(world.target)
    world.wait(SETTLE_S)
    assert world.run().reported
    assert world.server.said("report") == ["report"]


def test_a_run_that_has_an_end_at_the_server_is_not_asked_about_again() -> None:
    """R10: a sign of life after it would be one of a Run that is over."""
    world = World()
    owner = world.process("owner").init()
    world.server.only().status, world.server.only().ended_by_person = "FAILED", True
    world.server.answer("report", Retry("503"), Unknown("no answer"), Retry("503"))
    before = world.server.beats
    owner.finish().exit()
    world.wait(60)
    assert world.server.said("report") == ["report"] * 4
    assert world.server.beats == before + 1
