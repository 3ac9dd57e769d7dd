"""Runs on their backend: created once, reopened only where that is meant, kept whatever it says (R8, G8)."""

from __future__ import annotations

import msgspec
import pytest

from pluto_dist.core.document import read
from pluto_dist.core.ids import RunRef
from pluto_dist.core.lifecycle import Fork
from pluto_dist.core.requests import Opened, Refused, Unavailable
from tests.core.processes import LOCAL
from tests.core.server import ServerRun
from tests.core.world import World


def existing(world: World, external: str = "x", status: str = "COMPLETED") -> ServerRun:
    """A Run that somebody else has made on the server."""
    number = len(world.server.runs) + 1
    run = ServerRun(number, "demo", external, "another-key", status=status)  # type: ignore[arg-type]
    run.tags, run.config = ("old",), b'{"old":1,"lr":1}'
    world.server.runs[number] = run
    return run


def test_eight_ranks_ask_once() -> None:
    """R8"""
    world = World()
    for process in world.launch(ranks=8).start():
        process.init("x")
    assert world.server.calls == ["open create x"]


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
    assert world.server.calls == [f"open resume {run}"]
    assert [process.role for process in launch.ranks.values()] == ["owner", "worker", "worker"]


def test_joining_keeps_what_was_there() -> None:
    """G8, G9: tags and config of the Run stay, those of the claim are added."""
    world = World()
    there = existing(world)
    world.process("owner").init("x", resume=True, tags=("new",), config={"lr": 2})
    assert there.tags == ("old", "new")
    assert msgspec.json.decode(there.config) == {"old": 1, "lr": 2}
    assert (there.status, there.reopened) == ("RUNNING", 1)
    assert world.run().resumed


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
    waiting = world.process("eval").attach("x")
    world.wait(20)
    assert [process.role for process in launch.ranks.values()] == ["refused"] * 3
    assert waiting.role == "waiting"
    assert world.server.calls.count("open create x") == 1
    assert not list(world.book.runs)
    for process in launch.ranks.values():
        process.exit(1)
    assert len(world.spools) == 1


def test_a_later_claim_after_a_refused_one_is_asked_anew() -> None:
    """R8"""
    world = World()
    existing(world)
    assert world.process("first").init("x").role == "refused"
    assert world.process("second").init("x", resume=True).role == "owner"


def test_a_server_that_is_down_makes_the_run_provisional() -> None:
    """R8: granted after the wait, asked again with the same id, delivered when the server is there."""
    world = World()
    world.server.down = True
    owner = world.process("owner").init("x", wait_s=3.0)
    world.wait(2.9)
    assert owner.role == "waiting"
    world.wait(0.2)
    assert owner.role == "owner"
    assert owner.view.run is not None
    assert owner.view.run.provisional
    owner.log(loss=1.0).add_tags("a").update_config(lr=2)
    world.server.down = False
    world.wait(60)
    run = world.server.only()
    assert (run.external_id, run.values("loss"), run.tags) == ("x", [1.0], ("a",))
    assert msgspec.json.decode(run.config) == {"lr": 2}
    assert not owner.view.run.provisional


def test_changes_while_the_open_is_on_its_way_are_not_lost() -> None:
    """G9: the request carries what was there when it was sent."""
    world = World()
    world.hold.add("OpenRun")
    owner = world.process("owner").init("x", wait_s=1.0, tags=("a",), config={"lr": 1})
    world.wait(2)
    owner.add_tags("b").update_config(wd=2)
    world.hold.clear()
    opened = Opened(id=1, display_id="DEM-1", project="demo", url="", resumed=False, tags=("a",))
    world.server.answer("open", opened)
    world.server.runs[1] = ServerRun(1, "demo", "x", world.run().key, tags=("a",), config=b'{"lr":1}')
    world.release()
    assert world.server.only().tags == ("a", "b")
    assert msgspec.json.decode(world.server.only().config) == {"lr": 1, "wd": 2}


def test_a_run_that_ended_while_the_server_was_down_is_opened_delivered_and_reported() -> None:
    """G5, R8: also by the next coordinator."""
    world = World()
    world.server.down = True
    owner = world.process("owner").init("x", wait_s=1.0)
    world.wait(2)
    owner.log(loss=1.0).raises()
    world.wait(100)
    assert world.run().status == "FAILED"
    world.restart()
    world.give_key(world.target)
    world.server.down = False
    world.wait(100)
    run = world.server.only()
    assert (run.status, run.values("loss")) == ("FAILED", [1.0])
    assert not world.spools


def test_a_provisional_run_whose_id_is_taken_gets_one_of_its_own() -> None:
    """R8: the data is kept; everybody still finds it under the id that was asked for."""
    world = World()
    existing(world)
    world.server.down = True
    owner = world.process("owner").init("x", wait_s=1.0)
    world.wait(2)
    owner.log(loss=1.0)
    world.server.down = False
    world.wait(60)
    run = world.run()
    assert run.external_id.startswith("x-")
    assert world.server.called(run.external_id).values("loss") == [1.0]
    assert world.server.called("x").values("loss") == []
    assert world.process("eval").attach("x").role == "side"


def test_the_suffix_fits_the_servers_limit() -> None:
    """R8"""
    world = World()
    existing(world, "y" * 255)
    world.server.down = True
    world.process("owner").init("y" * 255, wait_s=1.0)
    world.wait(2)
    world.server.down = False
    world.wait(60)
    assert len(world.run().external_id) == 255
    assert world.run().id == 2


def test_a_provisional_run_that_is_not_there_to_be_resumed_becomes_a_new_one() -> None:
    """R8, G3: the data is kept."""
    world = World()
    world.server.down = True
    owner = world.process("owner").init(77, resume=True, wait_s=1.0)
    world.wait(2)
    owner.log(loss=1.0).finish().exit()
    world.server.down = False
    world.wait(100)
    assert world.server.only().values("loss") == [1.0]


def test_a_provisional_run_that_is_refused_for_another_reason_is_kept_and_offered_again() -> None:
    """G3: somebody may raise the limit."""
    world = World()
    world.server.down = True
    owner = world.process("owner").init("x", wait_s=1.0)
    world.wait(2)
    owner.log(loss=1.0)
    world.server.down = False
    world.server.answer("open", Refused("ServerRefusedError", "Organization is at limit"))
    world.wait(20)
    assert "limit" in owner.view.trouble
    world.wait(60)
    assert world.server.only().values("loss") == [1.0]
    assert owner.view.trouble == ""


def test_without_a_key_nothing_is_asked() -> None:
    """G11: after a restart the key has to be given again."""
    world = World()
    world.server.down = True
    owner = world.process("owner").init("x", wait_s=1.0)
    world.wait(2)
    world.server.down = False
    world.kill()
    world.start(hello=False)
    world.server.calls.clear()
    world.wait(60)
    assert not world.server.calls
    owner.sync()
    assert world.server.calls[0] == "open create x"


def test_reopening_is_asked_once_and_only_if_the_server_was_told() -> None:
    """R8, G8"""
    world = World()
    world.process("first").init("x").finish().exit()
    world.process("second").init("x", resume=True, config={"lr": 3}, tags=("again",))
    run = world.server.only()
    assert world.server.calls.count("open resume 1") == 1
    assert (run.status, run.tags, run.config) == ("RUNNING", ("again",), b'{"lr":3}')


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
    child = Opened(
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
    world.server.runs[9] = ServerRun(9, "demo", "fork", "key", tags=("mine",))
    world.server.answer("open", child)
    fork = Fork(RunRef(external_id="x"), 5, inherit_config=True, inherit_tags=True)
    world.process("fork").init(fork=fork, tags=("mine",), config={"opt": {"wd": 3}})
    assert world.server.runs[9].tags == ("theirs", "mine")
    assert msgspec.json.decode(world.server.runs[9].config) == {"lr": 1, "opt": {"wd": 3}}


def test_opening_is_asked_again_ever_more_rarely() -> None:
    """G4"""
    world = World()
    world.server.down = True
    world.process("owner").init("x")
    world.wait(600)
    assert 20 < len(world.server.calls) < 60
    world.server.answer("open", Unavailable("busy", after_s=500.0))
    world.wait(31)
    asked = len(world.server.calls)
    world.wait(400)
    assert len(world.server.calls) == asked


# --- local Runs that come back from the store ------------------------------------------------------


def stored(world: World, *, ended: bool = True) -> tuple[World, Opened]:
    """Another coordinator, with nothing but the document of a local Run."""
    owner = world.process("owner").init("x", tags=("old",), config={"lr": 1}, target=LOCAL)
    owner.log(loss=1.0)
    side = world.process("eval").attach("x", label="eval", target=LOCAL).log(loss=2.0)
    if ended:
        side.close()
        owner.finish()
    world.wait(2)
    (key,) = world.documents
    found = read(world.documents[key])
    opened = Opened(
        id=found.id or 0,
        display_id=found.display_id or "",
        project=found.project,
        url="",
        resumed=True,
        name=found.name,
        was_status=found.status,
        tags=found.tags,
        config=bytes(found.config),
        record=world.documents[key],
    )
    after = World(LOCAL, leases=100)
    after.server.runs[opened.id] = ServerRun(opened.id, "demo", "x", key)
    return after, opened


def test_a_local_run_comes_back_with_everything_that_was_known_of_it() -> None:
    """G12: names, steps, points, lineage of owners, history; under its old key."""
    before = World(LOCAL)
    after, opened = stored(before)
    after.server.answer("open", opened)
    owner = after.process("owner").init("x", resume=True, config={"wd": 2})
    run = after.run()
    assert (run.key, run.epoch, run.tags) == (before.run().key, before.run().epoch + 1, ("old",))
    assert owner.view.next_step == 1
    after.process("eval").attach("x", label="eval").log(loss=3.0)
    owner.log(loss=4.0).finish().exit()
    after.wait(3)
    document = read(after.documents[run.key])
    assert {name: point.count for name, point in document.summary.items()} == {"loss": 2, "loss/eval": 2}
    assert msgspec.json.decode(bytes(document.config)) == {"lr": 1, "wd": 2}
    assert len(document.leases) == 4


def test_a_local_run_that_was_never_ended_is_not_put_back_as_running() -> None:
    """R6: there is no outcome to put back."""
    after, opened = stored(World(LOCAL), ended=False)
    after.server.answer("open", opened)
    after.process("owner").init("x", resume=True).close().exit()
    assert after.run().status == "RUNNING"
    after.wait(4000)
    assert after.run().status == "TERMINATED"


def test_a_local_run_that_was_provisional_keeps_its_leases_when_it_comes_back() -> None:
    """G2, G3: granted while the store did not answer."""
    after, opened = stored(World(LOCAL))
    after.server.answer("open", Unavailable("stale file handle"))
    after.hold.add("OpenRun")
    owner = after.process("owner").init("x", resume=True, wait_s=1.0)
    after.wait(2)
    assert owner.role == "owner"
    owner.add_tags("new").log(loss=5.0)
    after.server.next_answers.clear()
    after.server.answer("open", opened)
    after.release()
    after.wait(10)
    run = after.run()
    assert run.key == read(opened.record).key
    assert run.tags == ("old", "new")
    assert after.lease(owner).run == run.key
    assert after.lease(owner).epoch == run.epoch
    owner.finish().exit()
    after.wait(5)
    assert after.run().status == "COMPLETED"
    assert not after.spools


def test_a_local_run_is_found_again_after_the_loss_of_the_database() -> None:
    """G12: the same claim is asked anew, under the same key, and finds its own document."""
    world = World(LOCAL)
    _, opened = stored(world, ended=False)
    owner = world.processes[0]
    world.lose_database()
    world.server.answer("open", Unavailable("stale file handle"), opened)
    world.start()
    world.wait(60)
    assert owner.role == "owner"
    assert world.run().key == read(opened.record).key
    assert world.run().epoch > read(opened.record).epoch
    owner.finish().exit()
    world.wait(5)
    assert world.run().status == "COMPLETED"


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
