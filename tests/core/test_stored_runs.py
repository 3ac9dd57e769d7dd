"""Local Runs that come back from the store, with everything that was known of them (G12)."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from pluto_dist.core.machine.store import ALIVE_S
from pluto_dist.core.values.backend import RunOpened, Unavailable
from pluto_dist.core.values.document import read
from pluto_dist.core.values.effects import WriteDocument
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.sync.plan import FRESH_S
from tests.core.processes import LOCAL, PLUTO
from tests.core.server import made_elsewhere
from tests.core.world import World


def stored(world: World, *, ended: bool = True) -> tuple[World, RunOpened]:
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
    opened = RunOpened(
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
    after.server.runs[opened.id] = made_elsewhere(opened.id, "x", key)
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
    after.server.forget_answers()
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


@pytest.mark.parametrize("target", [LOCAL, PLUTO], ids=["local", "pluto"])
def test_the_document_of_a_run_that_lives_is_never_older_than_a_minute(target: Target) -> None:
    """Other hosts see by it that the Run lives, and how far it is; after its end it stands."""
    world = World(target)
    process = world.process("train").init("r").log(loss=1.0)
    written: list[float] = []
    world.observers.append(
        lambda effect: written.append(world.now) if isinstance(effect, WriteDocument) else None
    )
    began = world.now
    while world.now < began + 600:
        world.wait(10)
    times = [began, *written, world.now]
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) <= ALIVE_S + 10
    assert ALIVE_S < FRESH_S / 2
    process.finish().exit()
    world.wait(10)
    written.clear()
    world.wait(600)
    assert written == []
