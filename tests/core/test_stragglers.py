"""Which ranks are stuck: a table. Nothing is ended because of it."""

from __future__ import annotations

import pytest

from pluto_dist.core.machine.stragglers import Progress, stragglers_of
from tests.core.world import World

NOW, THRESHOLD = 10_000.0, 600.0


def progress(silent_s: float, step: int = 100, *, moves: int = 50, longest_s: float = 1.0) -> Progress:
    """A rank that wrote its last record so many seconds ago."""
    return Progress(moves=moves, at=NOW - silent_s, longest_s=longest_s, step=step)


@pytest.mark.parametrize(
    ("progresses", "stuck"),
    [
        pytest.param([progress(1), progress(1)], (), id="all go on"),
        pytest.param([progress(1), progress(700)], (1,), id="one is silent, one goes on"),
        pytest.param([progress(1), progress(599)], (), id="not for long enough"),
        pytest.param([progress(1), progress(700), progress(800)], (1, 2), id="two are silent"),
        pytest.param(
            [progress(700, 101), progress(701, 100)], (1,), id="all wait for the one that is behind"
        ),
        pytest.param([progress(700, 101), progress(700, 101), progress(701, 99)], (2,), id="of three"),
        pytest.param([progress(700), progress(700)], (), id="all silent at one step: a long evaluation"),
        pytest.param([progress(1), progress(700, longest_s=300)], (), id="it has paused for long before"),
        pytest.param([progress(1), progress(1000, longest_s=300)], (1,), id="but never so long"),
        pytest.param([progress(1), progress(5000, moves=2)], (), id="it wrote only at the start"),
        pytest.param([progress(700)], (), id="nobody waits"),
        pytest.param([progress(601, 100), progress(600.5, 100)], (), id="one look apart"),
        pytest.param([], (), id="nobody"),
    ],
)
def test_who_is_stuck(progresses: list[Progress], stuck: tuple[int, ...]) -> None:
    assert stragglers_of(progresses, NOW, THRESHOLD) == stuck


def test_participants_are_told_who_is_stuck_whatever_else_is_wrong() -> None:
    """A server that is down at the same time must not hide the hang; that it goes on is told too."""
    world = World()
    launch = world.launch(ranks=2)
    owner, hanging = (process.init(stuck_after_s=60.0) for process in launch.start())
    world.server.down = True
    for _ in range(5):
        owner.log(loss=1.0)
        hanging.log(loss=1.0)
        world.wait(2)
    for _ in range(40):
        owner.log(loss=1.0)
        world.wait(2)
    assert "rank1" in owner.view.stuck
    assert "rank1" not in owner.view.trouble
    hanging.log(loss=1.0)
    owner.log(loss=1.0)
    world.wait(10)
    assert owner.view.stuck == ""


def test_a_rank_whose_delivered_segments_are_given_back_still_goes_on() -> None:
    """What leaves the disk is no silence: what comes after it counts, also if it is less."""
    world = World()
    launch = world.launch(ranks=2)
    ranks = [process.init(stuck_after_s=60.0) for process in launch.start()]
    for _ in range(4):
        for _ in range(100):
            for rank in ranks:
                rank.log(loss=1.0)
        world.wait(1)
        for rank in ranks:
            rank.spool.rotate()
    for _ in range(60):
        ranks[0].log(loss=1.0).log(loss=1.0).log(loss=1.0)
        ranks[1].log(loss=1.0)
        world.wait(2)
        assert ranks[0].view.stuck == ""
    assert world.notes(world.run(), "ranks_stuck") == []
