"""`rank_metrics="reduce"` in the coordinator: what all ranks log is one series, whatever dies (R7)."""

from __future__ import annotations

from typing import Any

import pytest

from pluto_dist.core.rules.series import HOLD_S, FinalNames, Names
from pluto_dist.core.rules.together import STATISTICS, WAIT_S, series_of, statistics
from pluto_dist.core.rules.verdict import DETACHED_S
from tests.core.processes import LOCAL, Launch
from tests.core.test_relays import node_job
from tests.core.test_series import document_of
from tests.core.world import World

Series = dict[str, dict[int, float]]


def job(world: World, ranks: int = 3, **fields: Any) -> Launch:
    """A running job whose ranks are reduced."""
    launch = world.launch(ranks=ranks, **fields)
    for process in launch.start():
        process.init(rank_metrics="reduce")
    return launch


def end(launch: Launch) -> None:
    for process in reversed(launch.ranks.values()):
        if process.alive:
            process.finish().exit()
    launch.world.wait(3)


def shown(world: World) -> Series:
    """The last value of each step, as the server has it."""
    series = world.server.only().series
    return {name: {point.step: point.value for point in points} for name, points in series.items()}


def together(**names: dict[int, dict[int, float]]) -> Series:
    """Name -> step -> values by rank, as series."""
    return {
        final: {step: statistics(values)[index] for step, values in steps.items()}
        for name, steps in names.items()
        for final, index in series_of(name).items()
    }


def test_what_all_ranks_log_is_one_series() -> None:
    """R7: the plain name is the mean; no rank has a series of its own, and nothing stays behind."""
    world = World()
    launch = job(world)
    for step in range(3):
        for rank, process in launch.ranks.items():
            process.log(loss=rank + step)
    world.wait(1)
    assert shown(world) == together(
        loss={step: {rank: rank + step for rank in range(3)} for step in range(3)}
    )
    end(launch)
    assert world.server.only().status == "COMPLETED"
    assert len(world.server.only().names) == len(STATISTICS)
    assert not world.spools


def test_the_status_waits_for_what_ranks_say_together() -> None:
    """G6: a step that waited for a rank goes out when that has ended, before the status."""
    world = World()
    launch = job(world)
    launch.rank(0).log(loss=1.0)
    launch.rank(1).log(loss=3.0)
    world.hold.add("ReduceRanks")
    end(launch)
    assert world.run().ended
    assert world.server.only().reports == []
    world.release()
    world.wait(1)
    assert shown(world)["loss"] == {0: 2.0}
    assert world.server.only().status == "COMPLETED"
    world.wait(1)
    assert not world.spools


def test_a_step_waits_for_a_rank_that_lives_but_not_for_ever() -> None:
    world = World()
    launch = job(world, 2)
    launch.rank(0).log(loss=1.0)
    world.wait(WAIT_S - 1)
    assert shown(world) == {}
    world.wait(2)
    assert shown(world)["loss/count"] == {0: 1}
    launch.rank(1).log(loss=3.0)
    world.wait(1)
    assert world.server.only().values("loss") == [1.0, 2.0]
    assert world.server.only().values("loss/count") == [1, 2]


def test_a_killed_rank_is_not_waited_for_and_what_it_logged_counts() -> None:
    world = World()
    launch = job(world)
    for process in launch.ranks.values():
        process.log(loss=6.0)
    launch.rank(2).log(loss=9.0).kill()
    launch.rank(0).log(loss=0.0)
    launch.rank(1).log(loss=0.0)
    world.wait(1)
    assert shown(world)["loss"] == {0: 6.0, 1: 3.0}
    end(launch)
    assert world.server.only().status == "FAILED"
    assert not world.spools


def test_a_side_and_what_is_no_number_have_names_as_ever() -> None:
    """G10: the side gets a suffix although it logged first; texts of ranks are not reduced."""
    world = World()
    launch = job(world, 2)
    side = world.process("eval").attach(label="eval")
    side.log(loss=5.0)
    for process in launch.ranks.values():
        process.log(loss=1.0)
    world.wait(HOLD_S)
    assert set(shown(world)) == {*series_of("loss"), "loss/eval"}
    assert [note["final"] for note in world.notes(world.run(), "series_renamed")] == ["loss/eval"]


@pytest.mark.parametrize("effects", range(0, 100, 3))
def test_a_coordinator_that_dies_anywhere_loses_and_repeats_nothing(effects: int) -> None:
    """G3, G12: what it held is read again; what had gone out does not go out again."""
    world = World()
    launch = job(world, 2)
    for rank, process in launch.ranks.items():
        process.log(loss=rank)
    world.die_after(effects)
    for step in range(1, 5):
        launch.rank(0).log(loss=step)
        world.wait(1)
        launch.rank(1).log(loss=-step)
        if step == 2:
            launch.rank(1).spool.rotate()
            world.wait(WAIT_S + 1)
    world.restart()
    world.wait(1)
    end(launch)
    world.give_key(world.target)  # the last one may have died behind all ranks
    world.wait(60)
    ranks = {0: {0: 0.0, 1: 1.0}} | {step: {0: float(step), 1: float(-step)} for step in range(1, 5)}
    assert shown(world) == together(loss=ranks)
    by_step = [point.step for point in world.server.only().series["loss/count"]]
    assert len(by_step) == len(set(by_step))
    assert world.server.only().status == "COMPLETED"
    assert not world.spools


def test_a_correction_survives_a_kill_between_the_step_and_the_late_rank() -> None:
    """G3: the values that had gone out are needed for it."""
    world = World()
    launch = job(world, 2)
    launch.rank(0).log(loss=1.0)
    launch.rank(0).spool.rotate()
    world.wait(WAIT_S + 1)
    world.restart()
    world.wait(1)
    launch.rank(0).log(loss=2.0)
    launch.rank(1).log(loss=3.0)
    world.wait(1)
    assert world.server.only().values("loss") == [1.0, 2.0]


def test_segments_stay_as_long_as_their_steps_may_be_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on memory is the bound on disk; what comes too late is told once."""
    monkeypatch.setattr("tests.core.reducer.Gathering.__init__.__kwdefaults__", {"late": 0, "limit": 4})
    world = World()
    launch = job(world, 2)
    for step in range(8):
        for process in launch.ranks.values():
            process.log(step, loss=1.0)
            process.spool.rotate()
        world.wait(1)
    kept = [number for number, segment in launch.rank(0).spool.streams["metrics"].items() if segment.size]
    assert kept == [7, 8]
    assert world.notes(world.run(), "reduced_without") == []
    launch.rank(1).log(0, loss=5.0).log(1, loss=5.0)
    world.wait(1)
    assert len(world.notes(world.run(), "reduced_without")) == 1
    assert shown(world)["loss"][0] == 1.0
    end(launch)
    assert not world.spools


def test_a_restarted_job_counts_with_what_it_logs_anew() -> None:
    """R7: a step that both starts have logged is that of the later one alone."""
    world = World()
    launch = job(world, 2, max_restarts=1)
    for step in range(3):
        for process in launch.ranks.values():
            process.log(step, loss=100.0)
    world.wait(1)
    launch.rank(1).kill()
    for process in launch.restart():
        process.init(rank_metrics="reduce")
    launch.rank(0).log(2, loss=1.0)
    launch.rank(1).log(2, loss=3.0)
    world.wait(1)
    end(launch)
    assert shown(world)["loss"] == {0: 100.0, 1: 100.0, 2: 2.0}
    assert world.server.only().status == "COMPLETED"
    assert not world.spools


def test_a_rank_that_comes_when_the_others_have_left_is_reduced_with_them() -> None:
    """R4: a short job whose last rank claims late."""
    world = World()
    launch = world.launch(ranks=2)
    launch.start(0)[0].init(rank_metrics="reduce").log(loss=1.0).close().exit()
    world.wait(1)
    assert shown(world)["loss"] == {0: 1.0}
    launch.start(1)[0].init(rank_metrics="reduce").log(loss=3.0)
    world.wait(1)
    assert shown(world)["loss"] == {0: 2.0}
    launch.rank(1).finish().exit()
    world.wait(DETACHED_S + 10)
    assert world.server.only().reports
    assert not world.spools


def test_a_disk_that_refuses_is_tried_again() -> None:
    """G3: the status waits as long."""
    world = World()
    launch = job(world, 2)
    for process in launch.ranks.values():
        process.log(loss=1.0)
    world.spool_broken = True
    end(launch)
    assert world.notes(world.run(), "reducing_trouble") == [{"why": "disk full"}]
    assert world.server.only().reports == []
    world.spool_broken = False
    world.wait(3)
    assert shown(world)["loss/count"] == {0: 2}
    assert world.server.only().status == "COMPLETED"


def test_a_rank_that_goes_on_after_the_end_holds_nothing_up() -> None:
    """G5: the owner is gone and the verdict made; what the rank still logs corrects steps."""
    world = World()
    launch = job(world, 2)
    launch.rank(0).log(loss=1.0).finish().exit()
    world.wait(30)
    assert world.server.only().reports
    assert shown(world)["loss/count"] == {0: 1}
    launch.rank(1).log(loss=3.0)
    world.wait(1)
    assert shown(world)["loss"] == {0: 2.0}
    launch.rank(1).finish().exit()
    world.wait(3)
    assert not world.spools


def test_one_process_is_not_reduced() -> None:
    world = World()
    launch = job(world, 1)
    launch.rank(0).log(loss=1.0)
    world.wait(1)
    assert shown(world) == {"loss": {0: 1.0}}
    world.process("alone").init("other", rank_metrics="reduce").log(loss=1.0)
    world.wait(1)
    assert set(world.server.called("other").series) == {"loss"}


def test_one_of_several_nodes_says_its_name() -> None:
    """R12: each node reduces its own ranks; no series claims to be that of all."""
    world = World()
    for rank in (0, 1):
        world.process(f"rank{rank}", node_job(rank)).init("x", rank_metrics="reduce").log(loss=rank)
    world.wait(1)
    assert set(shown(world)) == {f"{name}/node0" for name in series_of("loss")}
    assert shown(world)["loss/node0"] == {0: 0.5}


def test_ranks_are_left_out_of_what_is_read_and_uploaded() -> None:
    """R7: as the server would have got it; a text of theirs is not left out."""
    world = World(target=LOCAL)
    launch = job(world, 2)
    for process in launch.ranks.values():
        process.log(loss=1.0)
    world.wait(1)
    document = document_of(world)
    assert set(document.summary) == set(series_of("loss"))
    names = Names(document, {})
    for participant in ("owner", "rank1"):
        assert FinalNames(document).of(participant, "loss") is None
        assert FinalNames(document).of(participant, "new") is None
        assert names.final(participant, {"new": "METRIC"})["new"] is None
        assert FinalNames(document).of(participant, "note", "DATA") is not None
    assert FinalNames(document).of("reduced", "loss/max") == "loss/max"
    assert names.final("reduced", {"more": "METRIC"})["more"] == "more"


def test_a_run_that_one_process_takes_up_has_names_apart() -> None:
    """G10: the owner's numbers are left out no more, and the plain name is that of all ranks."""
    world = World()
    launch = job(world, 2)
    for process in launch.ranks.values():
        process.log(loss=1.0)
    end(launch)
    world.process("again").init(world.run().external_id, resume=True).log(7, loss=5.0)
    world.wait(HOLD_S)
    assert shown(world)["loss"] == {0: 1.0}
    assert shown(world)["loss/owner"] == {7: 5.0}


def test_what_a_childs_chain_gets_after_the_end_corrects_its_step() -> None:
    """G3: a forked child logs on when its parent is dead and the Run has ended."""
    world = World()
    launch = job(world, 2)
    launch.rank(0).log(loss=1.0)
    parent = launch.rank(1).log(loss=2.0)
    parent.family = True
    end(launch)
    assert world.server.only().reports
    parent.spool.log({"forked": 9.0}, 3, "metrics.p77")
    world.wait(2)
    parent.let_go()
    world.wait(3)
    assert shown(world)["forked"] == {3: 9.0}
    assert not world.spools


def test_one_statistic_of_a_name_has_the_plain_name() -> None:
    """R7; also over a kill, after which what had gone out is known by it."""
    world = World()
    launch = world.launch(ranks=2)
    for rank, process in enumerate(launch.start()):
        process.init(rank_metrics="reduce", reduce="tokens=sum,grad/*=max,seen/*=all,*=mean")
        process.log(tokens=rank + 1, loss=rank, **{"grad/w": rank, "seen/x": rank})
    world.wait(1)
    world.restart()
    launch.rank(0).log(0, tokens=5.0)
    world.wait(1)
    assert {name: values for name, values in shown(world).items() if not name.startswith("seen")} == {
        "tokens": {0: 7.0},
        "loss": {0: 0.5},
        "grad/w": {0: 1.0},
    }
    assert set(series_of("seen/x")) <= set(shown(world))
    assert [len(points) for points in world.server.only().series.values()].count(2) == 1
