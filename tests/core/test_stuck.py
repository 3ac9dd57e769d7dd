"""Which ranks are stuck: a table. Nothing is ended because of it."""

from __future__ import annotations

import pytest

from pluto_dist.core.machine.stragglers import Pace, stuck_ranks
from tests.core.world import World

NOW, THRESHOLD = 10_000.0, 600.0


def pace(silent_s: float, step: int = 100, *, moves: int = 50, longest_s: float = 1.0) -> Pace:
    """A rank that wrote its last record so many seconds ago."""
    return Pace(moves=moves, at=NOW - silent_s, longest_s=longest_s, step=step)


@pytest.mark.parametrize(
    ("paces", "stuck"),
    [
        pytest.param([pace(1), pace(1)], (), id="all go on"),
        pytest.param([pace(1), pace(700)], (1,), id="one is silent, one goes on"),
        pytest.param([pace(1), pace(599)], (), id="not for long enough"),
        pytest.param([pace(1), pace(700), pace(800)], (1, 2), id="two are silent"),
        pytest.param([pace(700, 101), pace(701, 100)], (1,), id="all wait for the one that is behind"),
        pytest.param([pace(700, 101), pace(700, 101), pace(701, 99)], (2,), id="of three"),
        pytest.param([pace(700), pace(700)], (), id="all silent at one step: a long evaluation"),
        pytest.param([pace(1), pace(700, longest_s=300)], (), id="it has paused for long before"),
        pytest.param([pace(1), pace(1000, longest_s=300)], (1,), id="but never so long"),
        pytest.param([pace(1), pace(5000, moves=2)], (), id="it wrote only at the start"),
        pytest.param([pace(700)], (), id="nobody waits"),
        pytest.param([pace(601, 100), pace(600.5, 100)], (), id="one look apart"),
        pytest.param([], (), id="nobody"),
    ],
)
def test_who_is_stuck(paces: list[Pace], stuck: tuple[int, ...]) -> None:
    assert stuck_ranks(paces, NOW, THRESHOLD) == stuck


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
