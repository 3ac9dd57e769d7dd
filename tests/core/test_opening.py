"""Runs on their backend: created once, reopened only where that is meant, kept whatever it says (R8, G8)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pluto_dist.core.values.backend import (
    Reached,
    Refused,
    Rejected,
    Reopened,
    Retry,
    RunOpened,
    Status,
    Unavailable,
    Unknown,
)
from pluto_dist.core.values.effects import OpenRun
from pluto_dist.core.values.ids import Job, RunRef
from pluto_dist.core.values.lifecycle import Fork, Origin
from tests.adapters.memory_backend import StoredRun
from tests.core.server import made_elsewhere
from tests.core.world import World


def existing(world: World, external: str = "x", status: Status = "COMPLETED") -> StoredRun:
    """A Run that somebody else has made on the server."""
    number = len(world.server.runs) + 1
    run = made_elsewhere(number, external, status=status, tags=("old",), config={"old": 1, "lr": 1})
    world.server.runs[number] = run
    return run


def test_eight_ranks_ask_once() -> None:
    """R8"""
    world = World()
    for process in world.launch(ranks=8).start():
        process.init("x")
    assert world.server.asked == ["open create x"]


@pytest.mark.parametrize("run", [7, "DEM-7"])
def test_ranks_that_resume_by_id_ask_once(run: int | str) -> None:
    """R8: also while the id of the Run is not known yet."""
    world = World()
    for _ in range(7):
        existing(world, "other")
    launch = world.launch(ranks=3)
    for process in launch.start():
        process.init(run, resume=True)
    world.wait(1)
    assert world.server.asked == [f"open resume {run}"]
    assert [process.role for process in launch.ranks.values()] == ["owner", "worker", "worker"]


def test_joining_keeps_what_was_there() -> None:
    """G8, G9: tags and config of the Run stay, those of the claim are added."""
    world = World()
    there = existing(world)
    world.process("owner").init("x", resume=True, tags=("new",), config={"lr": 2})
    assert there.tags == ("old", "new")
    assert there.config == {"old": 1, "lr": 2}
    assert (there.status, there.reopened) == ("RUNNING", 1)
    assert world.run().resumed


def test_a_run_that_is_refused_leaves_nothing_in_the_store() -> None:
    """R8: while the server is asked there is no document that would stay RUNNING for ever."""
    world = World()
    existing(world)
    world.hold.add("OpenRun")
    process = world.process("owner").init("x")
    world.wait(2)
    assert not world.documents
    world.hold.clear()
    world.wait(2)
    assert process.view.state == "refused"
    assert not world.documents


def test_a_clash_of_tags_with_an_existing_run_is_noted() -> None:
    """G9: it is no reason to fall over."""
    world = World()
    existing(world).tags = ("group:a",)
    owner = world.process("owner").init("x", resume=True, tags=("group:b",))
    assert owner.role == "owner"
    assert world.run().tags == ("group:a",)
    assert world.notes(world.run(), "change_refused")


def test_a_refused_create_leaves_nothing_that_anybody_finds() -> None:
    """R8: the ranks that waited for it are refused with it."""
    world = World()
    existing(world)
    launch = world.launch(ranks=3)
    world.hold.add("OpenRun")
    for process in launch.start():
        process.init("x")
    world.release()
    assert not list(world.book.runs)
    world.wait(20)
    assert [process.role for process in launch.ranks.values()] == ["refused"] * 3
    assert world.server.asked.count("open create x") == 1
    for process in launch.ranks.values():
        process.exit(1)
    assert not world.spools


def test_a_later_claim_after_a_refused_one_is_asked_anew() -> None:
    """R8"""
    world = World()
    existing(world)
    assert world.process("first").init("x").role == "refused"
    assert world.process("second").init("x", resume=True).role == "owner"


def reopened_by_asking(world: World) -> StoredRun:
    """A create that met an ended Run which nobody had looked at."""
    there = existing(world)
    there.status = "RUNNING"
    taken = Refused("RunExistsError", "it exists", Reopened(there.id, "demo", "COMPLETED", 5))
    world.server.answer("open", taken)
    return there


def test_what_asking_has_reopened_is_put_back() -> None:
    """R8, G8: the caller is refused, and the end comes back."""
    world = World()
    there = reopened_by_asking(world)
    process = world.process("owner").init("x")
    assert (process.view.state, there.status) == ("refused", "COMPLETED")
    assert world.server.asked == ["open create x", "put_back"]


@pytest.mark.parametrize("trouble", [Retry("503"), Unknown("no answer")])
def test_a_debt_outlives_outages_and_coordinators(trouble: Retry | Unknown) -> None:
    """R8, G12: it is on disk from the moment it is known, and nobody leaves before it is paid."""
    world = World(idle_exit_s=5.0)
    there = reopened_by_asking(world)
    world.server.answer("put_back", *[trouble] * 9)
    world.process("owner").init("x").exit()
    world.wait(2)
    assert there.status == "RUNNING"
    world.restart()
    world.wait(10)
    assert (world.stopped, there.status) == (None, "RUNNING")  # without a key nobody can pay
    world.give_key(world.target)
    world.wait(600)
    assert there.status == "COMPLETED"
    assert world.stopped is not None
    assert not any(table == "restorations" for table, _ in world.saves)


@pytest.mark.parametrize("effects", range(12))
def test_a_coordinator_killed_in_front_of_any_effect_still_pays(effects: int) -> None:
    """R8, G12"""
    world = World()
    there = reopened_by_asking(world)
    world.die_after(effects)
    world.process("owner").init("x")
    world.hello()
    world.wait(60)
    assert there.status == "COMPLETED"


def test_a_debt_that_the_server_will_never_take_is_forgotten() -> None:
    """The Run was deleted."""
    world = World()
    reopened_by_asking(world)
    world.server.answer("put_back", Rejected("Run not found"))
    world.process("owner").init("x")
    assert "put_back_refused" in world.said
    assert world.core.deadline() is None or not world.book.restorations.all_keys()


def test_a_provisional_run_pays_too() -> None:
    """R8: its data is kept under another id, and the Run that it met is ended again."""
    world = World()
    world.server.down = True
    owner = world.process("owner").init("x", wait_s=1.0)
    world.wait(5)
    world.server.down = False
    there = reopened_by_asking(world)
    world.wait(60)
    assert there.status == "COMPLETED"
    assert owner.view.run is not None
    assert owner.view.run.external_id.startswith("x-")


def test_it_is_known_since_when_the_server_may_have_been_asked() -> None:
    """R8, G12: the next coordinator too; what certainly reached nobody does not count."""
    world = World()
    refused, lost = Unavailable("connection refused", untouched=True), Unavailable("no answer")
    world.server.answer("open", refused, lost, lost, lost)
    world.process("owner").init("x", wait_s=100.0)
    world.wait(1)
    asked_at = world.run().asked_ms
    world.restart()
    world.wait(30)
    ages = [request.asked_s for request in world.server.opens]
    assert ages[:2] == [None, None]
    later = [age for age in ages[2:] if age is not None]
    assert len(later) == 3
    assert later == sorted(set(later))
    assert later[-1] > 1.0
    assert asked_at > 0
    assert world.run().asked_ms == 0


def test_a_run_that_resume_does_not_find_is_made() -> None:
    """As with the official client: on every rank the same line, whether it is the first start or not."""
    world = World()
    launch = world.launch(ranks=3)
    for process in launch.start():
        process.init("new", resume=True)
    assert world.server.asked == ["open either new"]
    assert [process.role for process in launch.ranks.values()] == ["owner", "worker", "worker"]
    assert not world.run().resumed


@pytest.mark.parametrize("run", [1, "DEM-1"])
def test_a_number_and_a_display_id_mean_a_run_that_exists(run: int | str) -> None:
    """Nobody can give them to a new one."""
    world = World()
    first = world.process("first").init("x")
    first.finish().exit()
    world.wait(1)
    again = world.process("again").init(run)
    assert (again.role, world.run().resumed) == ("owner", True)
    beside = world.process("beside").init(run)
    assert beside.role == "side"


def test_a_run_is_as_old_as_its_claim() -> None:
    """A server that was down at `init()` dates it by when it was begun, not by when it is told."""
    world = World()
    world.server.down = True
    begun_ms = world.wall_ms
    world.process("owner").init("x", wait_s=1.0)
    world.wait(3600)
    world.server.down = False
    world.wait(60)
    assert world.server.opens[-1].created_ms == pytest.approx(begun_ms, abs=1000)


def test_reopening_is_asked_once_and_only_if_the_server_was_told() -> None:
    """R8, G8"""
    world = World()
    world.process("first").init("x").finish().exit()
    world.process("second").init("x", resume=True, config={"lr": 3}, tags=("again",))
    run = world.server.only()
    assert world.server.asked.count("open resume 1") == 1
    assert (run.status, run.tags, run.config) == ("RUNNING", ("again",), {"lr": 3})


def test_a_refused_reopening_leaves_the_run_as_it_was() -> None:
    """R8"""
    world = World()
    first = world.process("first").init("x")
    first.raises()
    before = world.run()
    world.server.answer("open", Refused("RunNotFoundError", "deleted"))
    second = world.process("second").init("x", resume=True)
    assert second.role == "refused"
    after = world.run()
    assert (after.status, after.verdict, after.ended_ms, after.job_key) == (
        before.status,
        before.verdict,
        before.ended_ms,
        before.job_key,
    )
    assert len(world.server.only().reports) == 1


def test_close_after_reopening_puts_the_old_outcome_back() -> None:
    """R6, R8: with its time, also if the Run was ended by another coordinator or host."""
    world = World()
    world.process("first").init("x").raises("KeyError")
    before = world.run()
    world.wait(100)
    world.process("second").init("x", resume=True).close().exit()
    assert (world.run().verdict, world.run().ended_ms) == (before.verdict, before.ended_ms)
    assert [report.status for report in world.server.only().reports] == ["FAILED", "FAILED"]
    another = World()
    there = existing(another, status="FAILED")
    another.process("owner").init("x", resume=True).close().exit()
    assert there.status == "FAILED"


def test_finish_after_reopening_is_a_new_end() -> None:
    """R6"""
    world = World()
    world.process("first").init("x").finish().exit()
    before = world.run()
    world.wait(100)
    world.process("second").init("x", resume=True).finish().exit()
    assert world.run().status == "COMPLETED"
    assert world.run().ended_ms != before.ended_ms


def test_the_same_run_under_two_ids_is_one() -> None:
    """G2: by its number, while another process opens it by its name."""
    world = World()
    existing(world, status="RUNNING")
    world.hold.add("OpenRun")
    first = world.process("first").init(env="x")
    second = world.process("second").init(1, resume=True)
    world.release()
    world.wait(1)
    assert (first.role, second.role) == ("owner", "side")
    assert len(list(world.book.runs)) == 1
    assert world.process("third").attach(1).role == "side"


def test_a_fork_starts_from_its_parents_config_and_tags() -> None:
    """Lineage"""
    world = World()
    world.process("parent").init("x").finish().exit()
    child = RunOpened(
        id=9,
        display_id="DEM-9",
        project="demo",
        url="",
        resumed=False,
        tags=("mine",),
        fork_run_id=1,
        fork_step=5,
        parent_config=b'{"lr":1,"opt":{"wd":2}}',
        parent_tags=("theirs",),
    )
    world.server.runs[9] = made_elsewhere(9, "fork", tags=("mine",))
    world.server.answer("open", child)
    fork = Fork(RunRef(external_id="x"), 5, inherit_config=True, inherit_tags=True)
    world.process("fork").init(fork=fork, tags=("mine",), config={"opt": {"wd": 3}})
    assert world.server.runs[9].tags == ("theirs", "mine")
    assert world.server.runs[9].config == {"lr": 1, "opt": {"wd": 3}}


def test_a_fork_keeps_its_own_group() -> None:
    """As on the server: a group of its own replaces the parent's, and no tag of its own is lost."""
    world = World()
    own = ("c", "group:c")
    child = RunOpened(
        id=9,
        display_id="DEM-9",
        project="demo",
        url="",
        resumed=False,
        tags=own,
        fork_run_id=1,
        fork_step=5,
        parent_tags=("p1", "group:p"),
    )
    world.server.runs[9] = made_elsewhere(9, "fork", tags=own)
    world.server.answer("open", child)
    fork = Fork(RunRef(id=1), 5, inherit_config=False, inherit_tags=True)
    world.process("fork").init(fork=fork, tags=own)
    assert world.server.runs[9].tags == ("p1", "c", "group:c")
    assert world.run().tags == ("p1", "c", "group:c")


def test_opening_is_asked_again_ever_more_rarely() -> None:
    """G4"""
    world = World()
    world.server.down = True
    world.process("owner").init("x")
    world.wait(600)
    assert 20 < len(world.server.asked) < 60
    world.server.answer("open", Unavailable("busy", after_s=500.0))
    world.wait(31)
    asked = len(world.server.asked)
    world.wait(400)
    assert len(world.server.asked) == asked


def test_a_run_that_nobody_comes_to_own_does_not_go_on_for_ever() -> None:
    """G7: ranks that mean different Runs."""
    world = World()
    launch = world.launch(ranks=2)
    launch.start()
    world.hold.add("OpenRun")
    launch.rank(1).init()
    world.wait(6)
    launch.rank(0).init(env="x")
    world.release()
    world.wait(1)
    (left,) = [run for run in world.book.runs if run.external_id != "x"]
    assert (left.status, left.reported) == ("TERMINATED", True)
    assert world.run("x").status == "RUNNING"


def test_a_fork_goes_on_behind_the_step_it_was_made_from() -> None:
    """Its points at steps up to that one would be hidden behind its parent's."""
    world = World()
    parent = world.process("parent").init("parent")
    parent.log(step=30, loss=1.0).finish().exit()
    ref = RunRef(id=world.server.only().id)
    world.server.runs[2] = made_elsewhere(2, "child")
    world.server.answer("open", opened_fork(ref, step=10))
    child = world.process("child").init(fork=Fork(ref, 10))
    assert child.view.next_step == 11


def opened_fork(parent: RunRef, step: int) -> RunOpened:
    """What the server says of a new fork."""
    return RunOpened(
        id=2, display_id="DEM-2", project="demo", url="", resumed=False, fork_run_id=parent.id, fork_step=step
    )


def origins_asked_with(world: World) -> list[Origin | None]:
    """What goes with each request to open a Run, as they come."""
    found: list[Origin | None] = []
    world.observers.append(
        lambda effect: found.append(effect.origin) if isinstance(effect, OpenRun) else None
    )
    return found


def test_what_a_process_says_of_itself_goes_with_the_request_that_makes_the_run() -> None:
    """Only then a server takes it; afterwards it is not kept with each lease of the Run."""
    world = World()
    origins = origins_asked_with(world)
    existing(world)
    said = Origin(known=msgspec.Raw(b'{"process":{"pid":1}}'), folder="/code")
    launch = world.launch(ranks=2)
    for process in launch.start():
        process.init(origin=said)
    world.process("eval").attach("x", origin=said)
    world.process("again").init("x", resume=True, origin=said)
    assert origins == [said, None, None]
    assert [lease.opened.origin for lease in world.book.leases] == [None] * 4


def test_it_is_kept_while_the_server_is_down() -> None:
    """The Run is made later, perhaps by another coordinator."""
    world = World()
    origins = origins_asked_with(world)
    world.server.down = True
    said = Origin(folder="/code")
    owner = world.process("owner").init(origin=said, wait_s=1.0)
    world.wait(5)
    assert owner.role == "owner"
    world.kill()
    world.start()
    world.server.down = False
    world.wait(60)
    assert world.run().id is not None
    assert len(origins) > 1
    assert all(each == said for each in origins)


# --- behind what there is -------------------------------------------------------------------------


def elsewhere(world: World, **reached: Any) -> None:
    """A Run that another node has made and ended; `reached` is how far it came."""
    opened = RunOpened(
        id=1,
        display_id="DEM-1",
        project="demo",
        url="",
        resumed=True,
        was_status="FAILED",
        tags=(),
        config=b"{}",
        reached=Reached(**reached),
    )
    existing(world)
    world.server.answer("open", opened)


@pytest.mark.parametrize(("was", "found_running"), [("RUNNING", True), ("FAILED", False)])
def test_who_takes_up_a_run_that_is_running_elsewhere_is_told(was: Status, found_running: bool) -> None:
    """G2: without a cluster store nothing says whether another node's owner lives."""
    world = World()
    existing(world)
    world.server.answer(
        "open",
        RunOpened(id=1, display_id="DEM-1", project="demo", url="", resumed=True, was_status=was, tags=()),
    )
    owner = world.process("owner").init("x", resume=True)
    assert (owner.role, owner.view.run.found_running) == ("owner", found_running)


def test_a_launch_is_told_of_one_elsewhere_with_the_same_given_id() -> None:
    """R12: torchrun has replaced the id for both, so they share no Run."""
    world = World()
    existing(world)
    asked: list[str] = []
    world.observers.append(
        lambda effect: asked.append(effect.request.given_id) if isinstance(effect, OpenRun) else None
    )
    world.server.answer(
        "open",
        RunOpened(id=1, display_id="DEM-1", project="demo", url="", resumed=False, tags=(), namesake="DEM-7"),
    )
    job = Job(key="launch", rank=0, world_size=2, given_id="job7")
    owner = world.process("launch", job).init()
    assert (asked, owner.view.namesake, owner.view.given_id) == (["job7"], "DEM-7", "job7")


SERIES = {"loss": 99, "loss/rank1": 42, "acc/eval": 30, "train/acc": 5, "sys/cpu.percentage.0": 700}


def test_a_resumed_run_goes_on_behind_all_its_steps() -> None:
    """G10: owner and workers, whichever series was whose; what a node measures counts for itself."""
    world = World()
    elsewhere(world, series=SERIES)
    launch = world.launch(ranks=2)
    for process in launch.start():
        process.init("x", resume=True)
    assert [process.view.next_step for process in launch.ranks.values()] == [100, 100]
    side = world.process("eval").attach("x", label="eval")
    assert side.view.next_step == 0  # nobody has asked for this label when the Run was opened
    assert world.run().steps == {"rank1": 43, "node": 701}


def test_a_side_that_joins_elsewhere_goes_on_behind_its_own_series() -> None:
    """R12: the training beside it is another matter."""
    world = World()
    elsewhere(world, series=SERIES)
    side = world.process("eval").attach("x", label="eval")
    assert (side.role, side.view.next_step) == ("side", 31)


def test_ranks_of_another_node_go_on_behind_their_own_series_only() -> None:
    """R12: their job has begun at the same moment as the owner's, which may have logged already."""
    world = World()
    elsewhere(world, series=SERIES)
    ranks = [
        world.process(
            f"rank{rank}", Job(key="job", rank=rank, local_rank=rank - 1, node_rank=1, nodes=2, world_size=3)
        )
        for rank in (1, 2)
    ]
    for process in ranks:
        process.init("x", env="x")
    world.wait(6)
    assert [(each.role, each.view.next_step) for each in ranks] == [("worker", 43), ("worker", 0)]


def test_a_run_from_the_store_goes_on_behind_its_streams() -> None:
    """G10: its document may be older than they are."""
    world = World()
    elsewhere(world, participants={"owner": 12, "rank1": 9})
    owner = world.process("owner").init("x", resume=True)
    assert owner.view.next_step == 12
    assert world.run().steps == {"owner": 12, "rank1": 9}


@pytest.mark.parametrize(
    ("lines", "last_line", "then"),
    [(0, 0, 1), (40, 40, 41), (40, 57, 58), (40, 1_000_000_007, 41)],
)
def test_console_lines_go_on_behind_those_that_are_there(lines: int, last_line: int, then: int) -> None:
    """The server sorts by number alone; other nodes have blocks of their own."""
    world = World()
    elsewhere(world, lines=lines, last_line=last_line)
    world.process("owner").init("x", resume=True)
    assert world.run().next_line == then
