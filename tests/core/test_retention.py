"""What stays: nothing that grows with time (G12: and nothing that is needed goes)."""

from __future__ import annotations

import gc
from collections.abc import Sized
from typing import Any

import msgspec
import pytest

from pluto_dist.core.machine.settle import Idle
from pluto_dist.core.values.document import read, restore, show
from pluto_dist.core.values.messages import Answer, Refusal
from tests.core.processes import LOCAL
from tests.core.world import World

DAY_S = 24 * 3600.0


def sizes(part: object, seen: set[int] | None = None, path: str = "core") -> dict[str, int]:
    """Sizes of all containers below the coordinator, by where they hang."""
    seen = set() if seen is None else seen
    found: dict[str, int] = {}
    for name, value in vars(part).items():
        if id(value) in seen:
            continue
        seen.add(id(value))
        where = f"{path}.{name}"
        if isinstance(value, dict | set | list) and isinstance(value, Sized):
            found[where] = len(value)
        elif type(value).__module__.startswith("pluto_dist.core") and not isinstance(value, msgspec.Struct):
            found.update(sizes(value, seen, where))
    return found


def held(part: object, seen: set[int] | None = None, path: str = "core") -> dict[str, str]:
    """Words that are keys or elements of containers below the coordinator's parts, and where they hang."""
    seen = set() if seen is None else seen
    found: dict[str, str] = {}
    for name, value in vars(part).items():
        if id(value) in seen:
            continue
        seen.add(id(value))
        where = f"{path}.{name}"
        if isinstance(value, dict | set | list):
            for element in value:
                found.update(
                    {
                        word: where
                        for word in (element if isinstance(element, tuple) else (element,))
                        if isinstance(word, str)
                    }
                )
        elif type(value).__module__.startswith("pluto_dist.core.machine"):
            found.update(held(value, seen, where))
    return found


def live_a_day(world: World, number: int) -> None:
    """Some Runs in all ways, and a day after them."""
    for name in range(3):
        launch = world.launch(f"{number}.{name}", ranks=2, max_restarts=1)
        for process in launch.start():
            process.init().log(loss=1.0).log(loss=2.0)
        side = world.process("eval").attach(list(world.book.runs)[-1].external_id, label="eval").log(acc=1.0)
        for process in launch.restart():
            process.init().log(loss=3.0, stream="console").add_tags("t").update_config(a=1)
        side.close().exit()
        for process in launch.ranks.values():
            process.log(loss=1.0, poison=True).finish().exit()
        launch.launcher.exit()
    world.server.down = True
    world.process("cut off").init("cut off").log(loss=1.0).finish().exit()
    world.wait(20)
    world.server.down = False
    world.process("refused").init("nowhere", resume=True).exit()
    world.process("gone").attach("nowhere").kill()
    world.wait(150)
    world.suspend(2 * DAY_S)


@pytest.mark.parametrize("target", ["pluto", "local"])
def test_nothing_grows_from_day_to_day(target: str) -> None:
    """A coordinator may live for months."""
    world = World(LOCAL) if target == "local" else World()
    watchers = world.process("notebook").init("always")
    live_a_day(world, 0)
    gc.collect()
    first = sizes(world.core)
    live_a_day(world, 1)
    second = sizes(world.core)
    assert {name: size for name, size in second.items() if size > first.get(name, 0)} == {}
    assert len(world.saves) < 20
    assert watchers.role == "owner"


@pytest.mark.parametrize("target", ["pluto", "local"])
def test_no_part_remembers_a_run_that_is_forgotten(target: str) -> None:
    """Not under its key, nor under one of its leases; whoever has `forget` is asked to."""
    world = World(LOCAL) if target == "local" else World()
    world.process("notebook").init("always")
    copies: list[str] = []
    world.observers.append(lambda effect: copies.append(type(effect).__name__))
    live_a_day(world, 0)
    known = {*(run.key for run in world.book.runs), *(lease.lease_id for lease in world.book.leases)}
    words = held(world.core)
    assert words
    assert {
        word: where
        for word, where in words.items()
        if word not in known and (word.startswith("run-") or word in world.owners)
    } == {}
    assert ("KeepCopies" in copies) == (target == "pluto")


def test_a_run_is_remembered_for_a_day() -> None:
    """People ask for it; the store and the server keep it for ever."""
    world = World()
    world.process("keep").init("keep")
    world.process("owner").init("x").finish().exit()
    world.suspend(DAY_S - 7200)
    assert {run.external_id for run in world.book.runs} == {"keep", "x"}
    world.suspend(3 * 7200)
    assert {run.external_id for run in world.book.runs} == {"keep"}


def test_a_person_deletes_a_run_that_has_ended_and_is_delivered_and_no_other() -> None:
    """G1, G3: not one that goes on, is looked at, or has records left."""
    world = World()
    owner = world.process("owner").init("x")
    side = world.process("eval").attach("x", label="eval")

    def refused(force: bool) -> str:
        answer = world.forget("x", force=force)
        assert world.run("x")
        return refused_of(answer)

    assert "live processes: owner (pid" in refused(force=True)
    owner.finish().exit()
    assert "live processes: eval" in refused(force=True)
    world.server.down = True
    side.log(acc=1.0).close().exit()
    assert "its server has not taken yet" in refused(force=False)
    world.server.down = False
    world.wait(120)
    assert isinstance(world.forget("x"), Answer)
    assert not list(world.book.runs)
    assert "knows no Run" in refused_of(world.forget("x"))


def refused_of(answer: Answer | Refusal | None) -> str:
    assert isinstance(answer, Refusal)
    return answer.message


@pytest.mark.parametrize("target", ["pluto", "local"])
@pytest.mark.parametrize("held_back", [("Ship",), ("Control",), ("Ship", "WriteDocument", "KeepCopies"), ()])
def test_a_run_that_a_person_deletes_by_force_leaves_nothing_whatever_is_on_its_way(
    target: str, held_back: tuple[str, ...]
) -> None:
    """Answers to what was asked before come to nobody; no folder is left that would be found again."""
    world = World(LOCAL) if target == "local" else World()
    world.process("notebook").init("always")
    owner = world.process("owner").init("x")
    key, leases = world.run("x").key, {lease.lease_id for lease in world.book.leases}
    world.server.down = not held_back
    world.hold |= set(held_back)
    owner.log(loss=1.0).log(loss=2.0, stream="files").publish("t", {"a": 1}).add_tags("t").finish().exit()
    world.wait(5)
    assert isinstance(world.forget("x", force=True), Answer)
    world.server.down = False
    world.release()
    world.wait(300)
    gone = leases - {lease.lease_id for lease in world.book.leases}
    assert gone
    assert owner.spool.lease_id in gone
    assert [run.external_id for run in world.book.runs] == ["always"]
    words = held(world.core)
    assert not {word: where for word, where in words.items() if word in {key, *gone}}
    world.restart()
    world.wait(60)
    assert [run.external_id for run in world.book.runs] == ["always"]


def test_what_was_not_reported_is_never_forgotten() -> None:
    """G5"""
    world = World()
    world.process("keep").init("keep")
    owner = world.process("owner").init("x")
    world.server.down = True
    owner.finish().exit()
    world.suspend(5 * DAY_S)
    assert world.run("x").reported is False
    world.server.down = False
    world.wait(200)
    assert world.server.called("x").status == "COMPLETED"


def test_a_folder_whose_removal_was_cut_short_is_removed_by_the_next_coordinator() -> None:
    """G12"""
    world = World()
    owner = world.process("owner").init("x").log(loss=1.0)
    spool = owner.spool
    owner.finish().exit()
    assert not world.spools
    world.spools[spool.lease_id] = spool
    world.restart()
    assert not world.spools
    assert len(list(world.book.runs)) == 1


def test_the_book_is_the_same_after_loading() -> None:
    """G12: whatever is known beside it can be derived from it."""
    world = World()
    launch = world.launch(ranks=2, max_restarts=1)
    for process in launch.start():
        process.init(config={"lr": 1}, tags=("a",)).log(loss=1.0)
    world.process("eval").attach(label="eval").log(loss=2.0)
    loaded = world.load()
    for name, table in world.book.tables.items():
        assert {key: table[key] for key in table.all_keys()} == {
            key: loaded.tables[name][key] for key in loaded.tables[name].all_keys()
        }
    run = world.run()
    assert loaded.series_of(run.key) == world.book.series_of(run.key)
    assert loaded.unregistered(run.key) == world.book.unregistered(run.key)
    assert {lease.lease_id for lease in loaded.live_leases} == {
        lease.lease_id for lease in world.book.live_leases
    }
    assert loaded.count_points(run.key) == world.book.count_points(run.key) == 3


def test_a_document_says_everything_and_gives_it_back() -> None:
    """One format for people, the store and the next coordinator."""
    world = World()
    launch = world.launch(ranks=2)
    for process in launch.start():
        process.init(config={"lr": 1}, tags=("a",)).log(loss=1.0).log(loss=2.0)
    world.process("eval").attach(label="eval", config={"k": 5}).log(loss=3.0)
    run = world.run()
    body = show(world.book, run, phase="running")
    found = read(body)
    assert (found.key, found.status, found.phase, found.tags) == (run.key, "RUNNING", "running", ("a",))
    assert msgspec.json.decode(bytes(found.config)) == {"lr": 1}
    assert {label: msgspec.json.decode(bytes(config)) for label, config in found.side_configs.items()} == {
        "eval": {"k": 5}
    }
    assert [(lease.role, lease.participant) for lease in found.leases] == [
        ("owner", "owner"),
        ("worker", "rank1"),
        ("side", "eval"),
    ]
    assert found.series == {"loss": {"rank1": "loss/rank1", "eval": "loss/eval"}}
    assert found.points == 5
    papers = restore(body)
    assert papers.run == run
    assert papers.series == dict(world.book.series_of(run.key))
    assert papers.steps == {"owner": 2, "rank1": 2, "eval": 1}
    assert papers.points.series == found.summary


def test_a_document_of_a_newer_format_is_refused() -> None:
    """The error has the value, the limit and the way out."""
    world = World()
    world.process("owner").init()
    document: dict[str, Any] = msgspec.json.decode(show(world.book, world.run()))
    with pytest.raises(ValueError, match="format 99"):
        read(msgspec.json.encode({**document, "format": 99}))


def test_a_store_that_fails_is_tried_again_and_told_once() -> None:
    """R13"""
    world = World()
    owner = world.process("owner").init()
    world.store_broken = True
    owner.add_tags("a")
    world.wait(30)
    assert world.notes(world.run(), "store_trouble") == [{"why": "disk full"}]
    world.store_broken = False
    world.wait(3)
    assert read(world.documents[world.run().key]).tags == ("a",)


def test_a_document_is_written_once_a_second_at_most() -> None:
    """G4: a slow store is not flooded."""
    world = World()
    owner = world.process("owner").init()
    world.wait(2)
    written: list[str] = []
    world.observers.append(lambda effect: written.append(type(effect).__name__))
    for number in range(50):
        owner.add_tags(f"t{number % 40}")
        world.wait(0.1)
    assert 3 <= written.count("WriteDocument") <= 7


def test_idle_exit() -> None:
    """R3: not while anybody is attached, anything undelivered or a Run detached."""
    world = World(idle_exit_s=60.0)
    world.wait(59)
    assert world.stopped is None
    owner = world.process("owner").init("x")
    world.wait(1000)
    assert world.stopped is None
    owner.close().exit()
    world.wait(1000)
    assert world.stopped is None
    world.force_finish("x", "COMPLETED")
    world.wait(59)
    assert world.stopped is None
    world.wait(2)
    assert world.stopped is not None


def test_an_idle_exit_that_is_not_heeded_is_said_again_later() -> None:
    """Nobody spins."""
    idle = Idle(60.0)
    assert not idle.long_enough(True, 0.0)
    assert idle.long_enough(True, 60.0)
    assert not idle.long_enough(True, 60.1)
    assert idle.deadline() == 120.0


def test_after_a_reboot_what_was_is_long_ago() -> None:
    """Instants of another boot are never in the future; processes of that boot are found dead."""
    world = World()
    launch = world.launch(ranks=2)
    for process in launch.start():
        process.init("x")
    launch.rank(1).finish().exit()
    launch.launcher.kill()
    world.kill()
    for process in world.processes:
        process.status = process.status or (None, "")
    world.boot, world.now = "boot-2", 50.0
    world.start()
    world.give_key(world.target)
    world.wait(5)
    assert world.run("x").status == "FAILED"
    assert world.run("x").reported


def test_a_wait_for_rank_0_survives_a_reboot() -> None:
    """R4: its deadline is not days away."""
    world = World()
    launch = world.launch(ranks=2)
    launch.start()
    launch.rank(1).init("x")
    world.kill()
    world.boot, world.now = "boot-2", 50.0
    world.start()
    world.wait(10)
    assert launch.rank(1).role == "owner"


def test_a_process_whose_claim_waits_leaves_no_folder() -> None:
    """G3: its forked child ended before the backend said which Run the claim has."""
    world = World()
    world.hold.add("OpenRun")
    process = world.process("train").init("x").log(loss=1.0)
    process.family = True
    process.kill()
    world.released(process.spool)
    assert process.role == "waiting"
    world.hold.clear()
    world.release()
    world.wait(60)
    assert world.lease(process).removed
