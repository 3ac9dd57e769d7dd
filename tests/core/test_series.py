"""Whose plain name a series is (R7, G10)."""

from __future__ import annotations

import msgspec
import pytest

from pluto_dist.core.rules.participants import late_participant
from pluto_dist.core.rules.series import HOLD_S, FinalNames, Names, treatment
from pluto_dist.core.values.document import Document, read, show
from pluto_dist.core.values.ids import Job
from pluto_dist.core.values.lifecycle import RankMetrics
from tests.core.processes import LOCAL, Launch
from tests.core.world import World


def job(world: World, ranks: int = 3, **fields: int) -> Launch:
    """A running job."""
    launch = world.launch(ranks=ranks, **fields)
    for process in launch.start():
        process.init()
    return launch


def arrived(world: World) -> dict[str, set[str]]:
    """Final name -> who wrote it, as the server has it."""
    return {name: {point.writer for point in points} for name, points in world.server.only().series.items()}


def test_the_owner_has_the_plain_name() -> None:
    """R7: also if a worker was there first, within the hold of two seconds."""
    world = World()
    launch = job(world)
    launch.rank(2).log(loss=2.0)
    world.wait(HOLD_S - 0.5)
    launch.rank(0).log(loss=0.0)
    launch.rank(1).log(loss=1.0)
    world.wait(HOLD_S)
    assert arrived(world) == {"loss": {"rank0"}, "loss/rank1": {"rank1"}, "loss/rank2": {"rank2"}}


def test_held_names_go_on_as_soon_as_the_owner_has_spoken() -> None:
    """R7"""
    world = World()
    launch = job(world)
    launch.rank(1).log(loss=1.0)
    assert arrived(world) == {}
    launch.rank(0).log(loss=0.0)
    assert arrived(world) == {"loss": {"rank0"}, "loss/rank1": {"rank1"}}


def test_without_the_owner_the_lowest_rank_has_the_plain_name() -> None:
    """R7: of those that came within the hold."""
    world = World()
    launch = job(world)
    launch.rank(2).log(loss=2.0)
    launch.rank(1).log(loss=1.0)
    world.wait(HOLD_S)
    assert arrived(world) == {"loss": {"rank1"}, "loss/rank2": {"rank2"}}


def test_a_rank_comes_before_a_side_and_the_first_side_before_the_second() -> None:
    """R7"""
    world = World()
    launch = job(world, 2)
    sides = [world.process(name).attach(label=name) for name in ("one", "two")]
    sides[0].log(acc=1.0, loss=1.0)
    sides[1].log(acc=2.0)
    launch.rank(1).log(loss=3.0)
    world.wait(HOLD_S)
    assert arrived(world) == {"acc": {"one"}, "acc/two": {"two"}, "loss": {"rank1"}, "loss/one": {"one"}}


def test_what_was_given_is_never_renamed_back() -> None:
    """R7: the owner came too late."""
    world = World()
    launch = job(world)
    launch.rank(1).log(loss=1.0)
    world.wait(HOLD_S + 0.1)
    launch.rank(0).log(loss=0.0)
    launch.rank(1).log(loss=1.1)
    assert arrived(world) == {"loss": {"rank1"}, "loss/owner": {"rank0"}}


def test_collisions_are_told_once() -> None:
    """G10"""
    world = World()
    launch = job(world)
    for _ in range(3):
        launch.rank(0).log(loss=0.0)
        launch.rank(1).log(loss=1.0)
    renamed = world.notes(world.run(), "series_renamed")
    assert renamed == [{"name": "loss", "participant": "rank1", "final": "loss/rank1"}]


def test_names_are_the_same_after_a_restart_of_the_coordinator() -> None:
    """R7, G12"""
    world = World()
    launch = job(world, 2)
    launch.rank(1).log(loss=1.0)
    world.wait(HOLD_S)
    launch.rank(0).log(loss=0.0)
    world.restart()
    launch.rank(0).log(loss=0.1)
    launch.rank(1).log(loss=1.1)
    assert arrived(world) == {"loss": {"rank1"}, "loss/owner": {"rank0"}}


def test_names_are_the_same_in_the_next_attempt() -> None:
    """R7: series belong to participants, not to leases."""
    world = World()
    launch = job(world, 2, max_restarts=1)
    launch.rank(0).log(loss=0.0)
    launch.rank(1).log(loss=1.0)
    for process in launch.restart():
        process.init().log(loss=5.0)
    assert arrived(world) == {"loss": {"rank0", "rank0.1"}, "loss/rank1": {"rank1", "rank1.1"}}


def test_a_name_that_looks_like_a_suffix() -> None:
    """R7, G10: neither another participant nor the same one shares the suffixed series."""
    world = World()
    launch = job(world, 2)
    launch.rank(0).log(loss=0.0)
    launch.rank(1).log(loss=1.0)
    launch.rank(0).log(**{"loss/rank1": 7.0})
    launch.rank(1).log(**{"loss/rank1": 8.0})
    run = world.server.only()
    assert {name: run.values(name) for name in run.series} == {
        "loss": [0.0],
        "loss/rank1": [1.0],
        "loss/rank1/owner": [7.0],
        "loss/rank1/rank1": [8.0],
    }


def test_a_suffix_that_somebody_has_as_a_plain_name() -> None:
    """R7, G10"""
    world = World()
    launch = job(world, 2)
    launch.rank(0).log(**{"loss/rank1": 7.0, "loss": 0.0})
    launch.rank(1).log(loss=1.0)
    assert arrived(world) == {"loss/rank1": {"rank0"}, "loss": {"rank0"}, "loss/rank1/rank1": {"rank1"}}


def test_every_rank_apart() -> None:
    """R7: `rank_metrics="suffix"`"""
    world = World()
    launch = world.launch(ranks=3)
    for process in launch.start():
        process.init(rank_metrics="suffix")
    launch.rank(1).log(acc=1.0)
    launch.rank(2).log(acc=2.0)
    assert arrived(world) == {"acc/rank1": {"rank1"}, "acc/rank2": {"rank2"}}
    assert "acc" not in world.server.only().names
    launch.rank(0).log(acc=0.0)
    assert arrived(world)["acc"] == {"rank0"}


def test_only_rank_0() -> None:
    """R7: `rank_metrics="rank0"`; what the others write is passed over, for good."""
    world = World()
    launch = world.launch(ranks=2)
    for process in launch.start():
        process.init(rank_metrics="rank0").log(loss=1.0)
    world.restart()
    for process in launch.ranks.values():
        process.log(loss=1.0).finish().exit()
    world.wait(1)
    assert arrived(world) == {"loss": {"rank0"}}
    assert not world.spools


def test_late_records_of_a_superseded_owner_have_a_series_of_their_own() -> None:
    """R7: from the fence on, also in a stream and a segment that came later."""
    world = World()
    launch = job(world, 2, max_restarts=1)
    old = launch.rank(0).log(loss=1.0)
    launch.attempt = 1
    launch.start()
    launch.rank(0).init().log(loss=10.0)
    assert world.lease(old).end_reason == "superseded"
    old.log(loss=2.0)
    old.spool.rotate()
    old.log(loss=3.0)
    world.restart()
    old.log(loss=4.0)
    old.log(stream="data", table=1.0)
    old.kill()
    world.wait(3)
    run = world.server.only()
    assert run.values("loss") == [1.0, 10.0]
    assert run.values("loss/attempt0") == [2.0, 3.0, 4.0]
    assert "table" in run.series
    assert old.spool.lease_id not in world.spools


def test_a_batch_that_ends_at_the_fence() -> None:
    """R7: what was written before it is the owner's, although it is delivered later."""
    world = World()
    launch = job(world, 1, max_restarts=1)
    world.hold.add("Ship")
    old = launch.rank(0).log(loss=1.0).log(loss=2.0)
    launch.attempt = 1
    launch.start()
    launch.rank(0).init()
    old.log(loss=3.0)
    world.release()
    old.kill()
    world.wait(3)
    assert world.server.only().values("loss") == [1.0, 2.0]
    assert world.server.only().values("loss/attempt0") == [3.0]


def test_a_superseded_worker_stays_apart_from_a_superseded_owner() -> None:
    """R7, G10"""
    assert late_participant("owner", 0) == "attempt0"
    assert late_participant("rank1", 0) == "rank1/attempt0"


@pytest.mark.parametrize("first", ["rank0", "rank1"])
def test_names_are_registered_before_records_arrive(first: str) -> None:
    """The server lists a name by when it was registered."""
    world = World()
    launch = job(world, 2)
    launch.ranks[int(first[-1])].log(loss=1.0)
    world.wait(HOLD_S)
    assert world.server.only().names == {"loss": "METRIC"}


ALL_WAYS = [("auto", "loss/rank1"), ("suffix", "loss/rank1"), ("rank0", None)]


@pytest.mark.parametrize(("mode", "final"), ALL_WAYS)
def test_what_ranks_asked_for_holds_on_every_way_out(mode: str, final: str | None) -> None:
    """R7: delivered now, after a restart of the coordinator, uploaded by `sync`, or read by `export`."""
    world = World(target=LOCAL)
    launch = world.launch(ranks=2)
    for process in launch.start():
        process.init(rank_metrics=mode)
        process.log(loss=1.0)
    world.wait(HOLD_S)
    document = document_of(world)
    assert set(document.summary) == {"loss", final} - {None}
    for known in (document, without_series(document)):
        assert FinalNames(known).of("owner", "loss") == "loss"
        assert FinalNames(known).of("rank1", "loss") in ((final, "loss") if mode == "auto" else (final,))
        names = Names(known, {})
        assert names.final("owner", {"loss": "METRIC"})["loss"] == "loss"
        assert names.final("rank1", {"loss": "METRIC"})["loss"] == final
    world.kill()
    world.start()
    launch.rank(1).log(loss=2.0)
    world.wait(HOLD_S)
    assert set(document_of(world).summary) == {"loss", final} - {None}


def test_what_a_rank_alone_logs_is_apart_or_left_out_too() -> None:
    """R7: nobody has settled these names, and nobody else uses them."""
    world = World(target=LOCAL)
    launch = world.launch(ranks=2)
    for process, mode in zip(launch.start(), ("auto", "rank0"), strict=True):
        process.init(rank_metrics=mode)
    document = without_series(document_of(world))
    assert FinalNames(document).of("rank1", "gpu") is None
    assert FinalNames(document).of("rank1/attempt0", "gpu") is None
    assert FinalNames(document).of("owner", "gpu") == "gpu"


def document_of(world: World) -> Document:
    return read(show(world.book, world.run()))


def without_series(document: Document) -> Document:
    """As after a power loss before anything was settled."""
    restore = msgspec.structs.replace(document.restore, series={})
    return msgspec.structs.replace(document, restore=restore)


@pytest.mark.parametrize("mode", ["auto", "suffix", "rank0", "reduce"])
def test_a_file_that_a_rank_names_its_own_keeps_its_name_in_every_mode(mode: RankMetrics) -> None:
    """R7: the shares of one checkpoint are no repeats of rank 0's, and readers find them by their names."""
    own = Job(key="", rank=3)
    for relayed in (False, True):
        assert treatment("ckpt/rank3", mode, own, "ARTIFACT", relayed=relayed) == "shared"
    assert treatment("ckpt/rank2", "rank0", own, "ARTIFACT", relayed=False) == "left out"
