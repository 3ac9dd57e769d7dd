"""Runs whose server does not answer: granted, kept, and told when it does (R8, G4, G5)."""

from __future__ import annotations

from pluto_dist.core.values.backend import Refused, RunOpened
from tests.core.server import made_elsewhere
from tests.core.test_opening import existing
from tests.core.world import World


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
    assert run.config == {"lr": 2}
    assert not owner.view.run.provisional


def test_changes_while_the_open_is_on_its_way_are_not_lost() -> None:
    """G9: the request carries what was there when it was sent."""
    world = World()
    world.hold.add("OpenRun")
    owner = world.process("owner").init("x", wait_s=1.0, tags=("a",), config={"lr": 1})
    world.wait(2)
    owner.add_tags("b").update_config(wd=2)
    world.hold.clear()
    opened = RunOpened(id=1, display_id="DEM-1", project="demo", url="", resumed=False, tags=("a",))
    world.server.answer("open", opened)
    world.server.runs[1] = made_elsewhere(1, "x", world.run().key, tags=("a",), config={"lr": 1})
    world.release()
    assert world.server.only().tags == ("a", "b")
    assert world.server.only().config == {"lr": 1, "wd": 2}


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
    world.server.asked.clear()
    world.wait(60)
    assert not world.server.asked
    owner.sync()
    assert world.server.asked[0] == "open create x"
