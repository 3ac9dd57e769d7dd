"""What the backend is told: one request at a time, differences, the status last and once (G6, G9)."""

from __future__ import annotations

import msgspec
import pytest

from pluto_dist.core.values.backend import Outcome, Rejected, Retry, Status, Unknown
from pluto_dist.core.values.document import read
from pluto_dist.core.values.effects import Control, Effect
from pluto_dist.core.values.messages import Answer, Refusal
from tests.core.world import World


def requests(world: World) -> list[str]:
    """Operations as they are sent from now on."""
    sent: list[str] = []

    def see(effect: Effect) -> None:
        if isinstance(effect, Control):
            sent.append(effect.operation)

    world.observers.append(see)
    return sent


def test_one_request_at_a_time() -> None:
    """G9: the server's merges are not locked."""
    world = World()
    owner = world.process("owner").init()
    world.hold.add("Control")
    sent = requests(world)
    owner.add_tags("a")
    owner.update_config(lr=1)
    owner.add_tags("b")
    assert sent == ["tags"]
    world.release()
    assert sent == ["tags", "tags", "config"]
    assert world.server.only().tags == ("a", "b")


def test_a_change_while_a_request_is_on_its_way_is_sent_after_it() -> None:
    """G9"""
    world = World()
    owner = world.process("owner").init()
    world.hold.add("Control")
    owner.update_config(a=1)
    owner.update_config(b=2)
    owner.remove_tags("never there")
    world.release()
    assert world.server.only().config == {"a": 1, "b": 2}
    assert world.run().config_patch == b""


def test_updates_of_all_participants_are_merged_and_seen_by_all() -> None:
    """G9"""
    world = World()
    owner = world.process("owner").init(tags=("t",), config={"opt": {"lr": 1}})
    side = world.process("eval").attach(label="eval")
    owner.add_tags("a")
    side.add_tags("b", "t")
    side.remove_tags("a")
    owner.update_config(opt={"wd": 2})
    side.update_config(opt={"lr": 3})
    assert owner.view.run is not None
    assert owner.view.run.tags == ("t", "b")
    assert world.server.only().tags == ("t", "b")
    assert world.server.only().config == {"opt": {"lr": 3, "wd": 2}}


@pytest.mark.parametrize("outcome", [Unknown("no answer"), Retry("busy")])
@pytest.mark.parametrize("operation", ["names", "tags", "config", "status"])
def test_a_lost_answer_means_that_the_difference_is_sent_again(operation: str, outcome: Outcome) -> None:
    """G6, G9"""
    world = World()
    world.server.answer(operation, outcome)
    world.process("owner").init().add_tags("a").update_config(lr=1).log(loss=1.0).finish().exit()
    world.wait(60)
    run = world.server.only()
    assert (run.status, run.tags, run.names) == ("COMPLETED", ("a",), {"loss": "METRIC"})
    assert world.run().reported


def test_what_the_server_will_not_take_is_noted_and_not_sent_again() -> None:
    """G6: it does not hold up the rest."""
    world = World()
    owner = world.process("owner").init()
    world.server.answer("put_tags", Rejected("too many"))
    sent = requests(world)
    owner.add_tags("a")
    owner.finish().exit()
    world.wait(60)
    assert sent == ["tags", "status"]
    assert world.notes(world.run(), "tags_refused") == [{"why": "too many"}]


def test_a_request_that_fails_does_not_hold_up_another() -> None:
    """G6"""
    world = World()
    owner = world.process("owner").init()
    world.server.answer("put_tags", *[Retry("500")] * 50)
    owner.add_tags("a")
    owner.update_config(lr=1)
    world.wait(1)
    assert world.server.only().config == {"lr": 1}


def test_a_change_that_cannot_be_made_leaves_everything_as_it_was() -> None:
    """G9"""
    world = World()
    owner = world.process("owner").init(tags=("group:a",))
    owner.add_tags("group:b")
    owner.add_tags("c")
    assert world.run().tags == ("group:a", "c")
    assert len(world.notes(world.run(), "change_refused")) == 1
    assert "both groups" in world.lease(owner).refused  # who asked for it is told


def test_the_status_comes_last_and_once() -> None:
    """G6: after the records of owner and workers, however slow; a side is not waited for."""
    world = World()
    launch = world.launch(ranks=2)
    for process in launch.start():
        process.init()
    side = world.process("eval").attach(label="eval")
    world.hold.add("Ship")
    for process in (*launch.ranks.values(), side):
        process.log(loss=1.0)
    for process in launch.ranks.values():
        process.finish().exit()
    world.wait(20)
    assert world.run().status == "COMPLETED"
    assert not world.server.only().reports
    side.log(loss=2.0)
    world.release()
    world.wait(3)
    assert [report.status for report in world.server.only().reports] == ["COMPLETED"]
    world.restart()
    world.wait(100)
    assert len(world.server.only().reports) == 1


def test_a_failure_is_reported_with_its_reason_and_culprit() -> None:
    """G7"""
    world = World()
    world.process("owner").init().raises("KeyError")
    (report,) = world.server.only().reports
    assert report.status == "FAILED"
    metadata = msgspec.json.decode(report.metadata or b"")
    assert "KeyError: boom" in metadata["reason"]
    assert metadata["first_failure"]["type"] == "KeyError"


def test_a_status_that_lost_its_race_with_a_person_is_not_taken_for_the_persons() -> None:
    """R10: the answer to the old report says nothing about the new one."""
    world = World()
    world.hold.add("Control")
    world.process("owner").init("x").finish().exit()
    world.force_finish("x", "FAILED")
    world.release()
    assert [report.status for report in world.server.only().reports] == ["COMPLETED", "FAILED"]
    assert world.run().reported


def test_a_run_whose_end_is_on_its_way_is_not_reopened_before_the_answer() -> None:
    """R5, R8: else the late report would end the reopened Run."""
    world = World()
    world.hold.add("Control")
    world.process("first").init("x").finish().exit()
    second = world.process("second").init("x", resume=True)
    assert second.role == "waiting"
    world.release()
    assert second.role == "owner"
    assert world.server.only().status == "RUNNING"
    assert world.server.only().reopened == 1


def test_a_run_whose_end_may_have_been_told_is_reopened_on_the_server() -> None:
    """R8, G12: the coordinator died before the answer came."""
    world = World()
    world.process("first").init("x")
    world.server.answer("report", Unknown("no answer"))
    first = world.processes[0]
    first.finish().exit()
    world.server.only().status = "COMPLETED"
    second = world.process("second").init("x", resume=True)
    assert second.role == "owner"
    assert world.server.only().status == "RUNNING"


ENDS: list[Status] = ["COMPLETED", "TERMINATED", "CANCELLED", "FAILED"]  # by severity


@pytest.mark.parametrize("there", ["TERMINATED", "FAILED"])
def test_what_the_server_says_instead_is_told(there: Status) -> None:
    """G7: somebody else has ended the Run there, and the server ignores a lower severity with a 200."""
    world = World()
    owner = world.process("owner").init("x")
    world.server.only().status = there
    owner.finish().exit()
    run = world.run()
    assert (run.status, run.reported, run.server_status) == ("COMPLETED", True, there)
    assert owner.view.run is not None
    assert owner.view.run.server_status == there
    assert read(world.documents[run.key]).server_status == there
    assert world.notes(run, "server_says") == [{"status": there}]


@pytest.mark.parametrize("there", ["COMPLETED", "TERMINATED", "FAILED"])
def test_an_end_that_somebody_else_has_reported_is_told_while_the_job_goes_on(there: Status) -> None:
    """G7: FAILED may be the monitor's, which is looked into once."""
    world = World()
    owner = world.process("owner").init("x")
    sent = requests(world)
    world.server.only().status = there
    world.wait(60)
    assert (world.run().status, world.run().server_status) == ("RUNNING", there)
    assert sent == (["revive"] if there == "FAILED" else [])
    world.server.only().status = "RUNNING"
    world.wait(5)
    assert world.run().server_status is None
    assert owner.view.run is not None
    assert owner.view.run.server_status is None


def test_what_the_monitor_has_made_of_a_silent_run_is_taken_back() -> None:
    """G7"""
    world = World()
    owner = world.process("owner").init("x")
    world.server.only().status, world.server.only().reaped = "FAILED", True
    world.wait(5)
    assert (world.server.only().status, world.run().server_status) == ("RUNNING", None)
    world.server.only().status, world.server.only().reaped = "FAILED", True
    owner.finish().exit()
    assert (world.server.only().status, world.run().server_status) == ("COMPLETED", None)


@pytest.mark.parametrize("there", ENDS)
@pytest.mark.parametrize("wanted", ENDS)
def test_a_persons_word_holds_at_the_server_too(there: Status, wanted: Status) -> None:
    """G1: also where it has a higher severity, and where both agree here but not there."""
    world = World()
    world.process("owner").init("x").finish().exit()
    world.server.only().status = there
    world.force_finish("x", "FAILED")
    world.server.only().status = there
    world.force_finish("x", wanted)
    assert (world.run().status, world.run().server_status) == (wanted, None)
    assert world.server.only().status == (there if wanted == "FAILED" else wanted)


def test_a_run_whose_word_holds_is_ended_by_its_evidence_when_it_goes_on() -> None:
    """G1: the next owner's end is no person's word."""
    world = World()
    world.process("owner").init("x").finish().exit()
    world.force_finish("x", "FAILED")
    world.process("second").init("x", resume=True).finish().exit()
    assert not world.server.only().reports[-1].force
    assert world.server.only().status == "COMPLETED"


def test_a_run_that_was_deleted_on_the_page_is_told() -> None:
    """G7: the status counts as told, and everybody sees that nobody has it."""
    world = World()
    owner = world.process("owner").init("x")
    gone = Rejected("Run not found (HTTP 404)")
    world.server.answer("report", gone)
    owner.finish().exit()
    run = world.run()
    assert (run.reported, run.refusals) == (True, {"status": gone.reason})
    assert owner.view.run is not None
    assert owner.view.run.refusals == run.refusals
    assert read(world.documents[run.key]).refusals == run.refusals


def test_a_heartbeat_tells_that_the_run_was_deleted() -> None:
    world = World()
    world.process("owner").init("x")
    world.server.gone.add(1)
    world.wait(5)
    assert world.run().refusals == {"heartbeat": "Run not found"}


def test_tags_that_the_server_refuses_are_none() -> None:
    """G9: forty-nine were added on the page; what is not there is not believed in."""
    world = World()
    owner = world.process("owner").init("x", tags=("mine",))
    world.server.only().tags = ("mine", *(f"page{number}" for number in range(49)))
    owner.add_tags("more")
    assert world.run().tags == ("mine",)
    assert "50 tags" in world.run().refusals["tags"]
    assert owner.view.run is not None
    assert owner.view.run.tags == ("mine",)
    world.server.only().tags = ("mine",)
    owner.add_tags("more")
    assert world.server.only().tags == ("mine", "more")
    assert world.run().refusals == {}


def test_a_tag_that_was_added_on_the_page_can_be_removed() -> None:
    """G9"""
    world = World()
    owner = world.process("owner").init("x", tags=("mine",))
    world.server.only().tags = ("mine", "page", "other")
    owner.remove_tags("page")
    assert world.server.only().tags == ("mine", "other")
    assert world.run().tags == ("mine", "other")
    assert world.run().untagged == ()
    owner.remove_tags("page")
    owner.add_tags("page")
    assert world.server.only().tags == ("mine", "other", "page")


def test_tags_of_the_page_are_known_after_the_next_change() -> None:
    """G9: whoever reads `run.tags` sees what the server has."""
    world = World()
    owner = world.process("owner").init("x", tags=("mine",))
    world.server.only().tags = ("mine", "page")
    world.hold.add("Control")
    owner.add_tags("first")
    owner.add_tags("second")
    world.release()
    assert sorted(world.server.only().tags) == ["first", "mine", "page", "second"]
    assert world.run().tags == world.server.only().tags


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "TERMINATED", "CANCELLED"])
def test_a_person_ends_a_run(status: str) -> None:
    """G1: a take-over with a new epoch; the members live on and can end it no more."""
    world = World()
    owner = world.process("owner").init("x")
    epoch = world.run().epoch
    world.force_finish("x", status)
    assert world.server.only().status == status
    assert world.run().epoch == epoch + 1
    owner.log(loss=1.0)
    owner.raises()
    world.wait(60)
    assert world.run().status == status
    assert world.server.only().values("loss") == [1.0]


def test_without_force_nothing_happens_to_a_live_run() -> None:
    """G1"""
    world = World()
    world.process("owner").init("x")
    world.force_finish("x", "FAILED", force=False)
    assert world.run().status == "RUNNING"


def test_a_run_cannot_be_ended_as_running() -> None:
    """G1"""
    world = World()
    world.process("owner").init("x").finish().exit()
    world.force_finish("x", "RUNNING")
    assert world.run().status == "COMPLETED"


def test_a_run_that_has_ended_can_get_another_end_from_a_person() -> None:
    """R10: frozen, except for a take-over; asking for the same again changes nothing."""
    world = World()
    world.process("owner").init("x").finish().exit()
    world.force_finish("x", "FAILED")
    world.force_finish("x", "FAILED")
    assert [report.status for report in world.server.only().reports] == ["COMPLETED", "FAILED"]


@pytest.mark.parametrize("wanted", ["FAILED", "COMPLETED"])
def test_the_end_of_a_run_is_overturned_by_force_only(wanted: str) -> None:
    """G1, R10: the refusal names the present status; the same status again is no change and no refusal."""
    world = World()
    world.process("owner").init("x").finish().exit()
    answer = world.force_finish("x", wanted, force=False)
    if wanted == "COMPLETED":
        assert isinstance(answer, Answer)
    else:
        assert isinstance(answer, Refusal)
        assert answer.error == "RunEndedError"
        assert "DEM-1 has ended as COMPLETED" in answer.message
        assert "--force makes it FAILED" in answer.message
    assert [report.status for report in world.server.only().reports] == ["COMPLETED"]
    assert world.run().epoch == 1


def test_a_run_that_is_ended_by_a_person_and_resumed_has_one_owner() -> None:
    """G2: the old owner lives on, and what it writes has a name of its own."""
    world = World()
    first = world.process("first").init("x").log(loss=1.0)
    world.force_finish("x", "FAILED")
    second = world.process("second").init("x", resume=True).log(loss=2.0)
    assert second.role == "owner"
    assert world.lease(first).end_reason == "superseded"
    first.log(loss=3.0)
    first.finish()
    assert world.run().status == "RUNNING"
    assert world.server.only().values("loss") == [1.0, 2.0]
    assert world.server.only().values("loss/attempt0") == [3.0]


def test_the_launcher_of_a_job_that_had_the_run_before_says_nothing() -> None:
    """R10: a notebook has taken the Run over from a torchrun that then ends."""
    world = World()
    launch = world.launch(ranks=1)
    launch.start()
    launch.rank(0).init("x").close().exit()
    notebook = world.process("notebook").init("x", resume=True)
    launch.launcher.exit(1)
    world.wait(100)
    assert notebook.role == "owner"
    assert world.run().status == "RUNNING"


def test_tags_that_a_worker_gives_at_init_are_added() -> None:
    """G9: ranks may tag the Run with what only they know; a side changes nothing by joining (G8)."""
    world = World()
    launch = world.launch(ranks=3)
    ranks = launch.start()
    for process in ranks:
        process.init(env="x", tags=("ddp", f"rank{process.job.rank}"))
    side = world.process("eval").init(env="x", tags=("side",))
    world.wait(1)
    assert [process.role for process in (*ranks, side)] == ["owner", "worker", "worker", "side"]
    assert world.run().tags == world.server.only().tags == ("ddp", "rank0", "rank1", "rank2")


def test_a_tag_that_was_taken_away_does_not_come_back_with_the_next_rank() -> None:
    """G9: all ranks run one script, so what they give at init is the owner's again."""
    world = World()
    launch = world.launch(ranks=2)
    launch.start()
    launch.rank(0).init(tags=("draft", "ddp")).remove_tags("draft")
    launch.rank(1).init(tags=("draft", "ddp"))
    world.wait(1)
    assert world.run().tags == ("ddp",)
