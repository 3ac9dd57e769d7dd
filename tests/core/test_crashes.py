"""The coordinator is killed in front of an effect of a story, and the story ends the same (G12, R1).

Every fourth effect by default, every single one with `PLUTO_DIST_EXAMPLES` set.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec
import pytest

from pluto_dist.core.values.backend import Retry, Unknown
from tests.core.processes import LOCAL, PLUTO
from tests.core.world import World

Story = Callable[[World], None]
STRIDE = 1 if "PLUTO_DIST_EXAMPLES" in os.environ else 4


def ranks_and_a_side(world: World) -> None:
    """Two ranks, an eval that crashes, a bad record, tags and config of all."""
    launch = world.launch(ranks=2)
    for process in launch.start():
        process.init(env="x", tags=("t",), config={"lr": 1})
    side = world.process("eval").attach("x", label="eval")
    for step in range(3):
        for process in launch.ranks.values():
            process.log(loss=float(step))
    side.log(loss=9.0, poison=True).log(loss=10.0).add_tags("seen").update_config(k=1)
    side.raises()
    launch.rank(1).log(stream="console").finish().exit()
    launch.rank(0).remove_tags("t").finish().exit()


def a_restart(world: World) -> None:
    """SIGKILL of a rank, a restart by the launcher, an end by SIGTERM."""
    launch = world.launch(ranks=2, max_restarts=1)
    for process in launch.start():
        process.init(env="x").log(loss=1.0)
    launch.rank(1).kill()
    launch.rank(0).evidence("exception", type="ConnectionError", communication=True).finish().exit(1)
    for process in launch.restart():
        process.init(env="x").log(loss=2.0)
    for process in launch.ranks.values():
        process.sigterm()
    launch.launcher.exit()


def a_second_life(world: World) -> None:
    """Finished, resumed, closed; the old outcome is put back."""
    world.process("first").init("x").log(loss=1.0).raises("KeyError")
    world.process("second").init("x", resume=True, config={"wd": 2}).log(loss=2.0).close().exit()


def last_words(world: World) -> None:
    """Nothing is nudged; whoever dies has left its words on disk."""
    world.nudges = False
    owner = world.process("owner").init("x")
    world.nudges = True
    owner.sync()
    world.nudges = False
    owner.log(loss=1.0).add_tags("a").update_config(b=1).finish()
    world.nudges = True
    owner.exit()


STORIES = [ranks_and_a_side, a_restart, a_second_life, last_words]


def outcome(world: World) -> dict[str, object]:
    """What people see in the end; how often something was sent does not matter."""
    run = world.run("x")
    config = world.book.configs.get(run.key)
    failure = run.verdict.first_failure if run.verdict is not None else None
    series = world.book.series_of(run.key)
    seen: dict[str, object] = {
        "status": run.status,
        "first failure": failure.label if failure is not None else None,
        "tags": run.tags,
        "config": msgspec.json.decode(config.body) if config is not None else None,
        "attempts": [(end.attempt, end.status) for end in run.attempts],
        "series": {name: sorted(owner.others.items()) for name, owner in series.items()},
        "folders": sorted(world.spools),
    }
    if run.target.mode == "pluto":
        there = world.server.only()
        seen["there"] = (there.status, there.tags, there.config, sorted(there.names))
        seen["values"] = {name: sorted(set(there.values(name))) for name in there.series}
    return seen


def play(story: Story, world: World) -> dict[str, object]:
    """A story to its end."""
    story(world)
    world.give_key(PLUTO)
    world.wait(200)
    return outcome(world)


@pytest.mark.parametrize("story", STORIES)
def test_a_kill_in_front_of_any_effect_changes_nothing(story: Story) -> None:
    """G12, G3, G7, G9"""
    expected = play(story, World())
    assert expected["folders"] == []
    crashes = 0
    while True:
        world = World()
        world.die_after(crashes)
        found = play(story, world)
        if world.generation == 1:
            break
        assert found == expected, f"killed in front of effect {crashes}"
        crashes += STRIDE
    assert crashes > 20


@pytest.mark.parametrize("story", STORIES)
def test_a_coordinator_that_comes_when_all_are_dead_tells_the_same(story: Story) -> None:
    """G7, G12: from the files alone; only how they died may be unknown."""
    world = World()
    world.kill()
    story(world)
    world.start()
    world.give_key(PLUTO)
    world.wait(300)
    assert not world.spools
    assert world.run("x").ended
    assert world.run("x").reported


def test_local_runs_survive_kills_too() -> None:
    """G12"""
    expected = outcome_of_local(World(LOCAL))
    for crashes in range(0, 60, STRIDE):
        world = World(LOCAL)
        world.die_after(crashes)
        assert outcome_of_local(world) == expected, f"killed in front of effect {crashes}"


def outcome_of_local(world: World) -> dict[str, object]:
    """The same stories without a server."""
    a_restart(world)
    world.wait(200)
    return outcome(world)


def test_a_server_that_fails_every_other_time_changes_nothing() -> None:
    """G6"""
    expected = play(ranks_and_a_side, World())
    for answer in (Retry("busy"), Unknown("no answer")):
        world = World()
        for call in ("ship", "names", "tags", "config", "status"):
            world.server.answer(call, *[answer, None] * 8)
        assert play(ranks_and_a_side, world) == expected
