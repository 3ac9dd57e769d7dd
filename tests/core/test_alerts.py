"""Alerts: at most once at the server, one of a title in a minute, an event in any case."""

from __future__ import annotations

import pytest

from pluto_dist.core.rules.alerts import EVERY_S, TITLES, TitleLimit
from pluto_dist.core.values.backend import Outcome, Rejected, Retry, Unknown
from tests.core.processes import LOCAL
from tests.core.world import World


def mailed(world: World) -> list[str]:
    """What the server has told people."""
    (run,) = world.server.runs.values()
    return [alert.body for alert in run.alerts]


def test_an_alert_is_an_event_and_a_request() -> None:
    world = World()
    world.process("owner").init("x").alert(email=False)
    (run,) = world.server.runs.values()
    (alert,) = run.alerts
    assert (alert.title, alert.body, alert.level, alert.email) == (
        "loss is NaN", "at step 3", "WARNING", False,
    )  # fmt: skip
    (event,) = world.notes(world.run(), "alert")
    assert (event["title"], event["message"], event["level"]) == ("loss is NaN", "at step 3", "WARNING")


def test_without_a_server_or_if_so_wanted_it_is_an_event_alone() -> None:
    world = World(LOCAL)
    world.process("owner").init("x", target=LOCAL).alert()
    assert len(world.notes(world.run(), "alert")) == 1
    assert world.server.said("alert") == []
    other = World()
    other.process("owner").init("x").alert(remote=False)
    assert len(other.notes(other.run(), "alert")) == 1
    assert other.server.said("alert") == []


def test_of_one_title_one_goes_out_in_a_minute_over_all_processes() -> None:
    world = World()
    owner = world.process("owner").init("x").alert()
    side = world.process("eval").attach("x", label="eval").alert().alert().alert("other", "b")
    assert mailed(world) == ["at step 3", "b"]
    world.wait(EVERY_S + 1)
    owner.alert(more=5)
    assert mailed(world)[2:] == ["at step 3 (7 more of this title before)"]
    assert [note.get("more") for note in world.notes(world.run(), "alert")] == [None, None, "7"]
    side.close()


@pytest.mark.parametrize(
    ("answer", "expected"), [(Retry("refused"), 1), (Unknown("timeout"), 0), (Rejected("no such Run"), 0)]
)
def test_it_is_sent_again_only_if_the_server_has_certainly_not_seen_it(
    answer: Outcome, expected: int
) -> None:
    world = World()
    owner = world.process("owner").init("x")
    world.server.answer("alert", answer)
    owner.alert()
    world.wait(120)
    assert len(mailed(world)) == expected
    assert len(world.server.said("alert")) == 1 + expected
    owner.finish().exit()
    world.wait(5)
    assert world.run().reported


@pytest.mark.parametrize("deaths", range(8))
def test_whenever_the_coordinator_dies_it_is_sent_once_at_most(deaths: int) -> None:
    world = World()
    owner = world.process("owner").init("x")
    world.die_after(deaths)
    owner.alert()
    world.wait(30)
    world.restart()
    world.wait(30)
    assert len(world.server.said("alert")) <= 1
    assert len(world.notes(world.run(), "alert")) == 1
    assert not [key for table, key in world.saves if table == "alerts"]


def test_the_last_word_of_a_job_goes_out_before_its_status() -> None:
    """R11: who leaves last waits for it."""
    world = World()
    owner = world.process("owner").init("x")
    world.hold = {"Control"}
    owner.alert().finish()
    assert not owner.view.drained
    world.release()
    world.wait(5)
    assert world.server.said("alert", "report") == ["alert", "report"]
    assert owner.view.drained


def test_a_server_that_is_down_gets_them_later_and_not_without_a_bound() -> None:
    world = World()
    owner = world.process("owner").init("x")
    world.server.down = True
    for number in range(102):
        owner.alert(f"title {number}", str(number))
    world.server.down = False
    world.wait(600)
    assert mailed(world) == [str(number) for number in range(100)]
    dropped = [note["title"] for note in world.notes(world.run(), "alert_dropped")]
    assert dropped == ["title 100", "title 101"]


def test_a_limit_forgets_old_titles() -> None:
    limit = TitleLimit()
    assert [limit.admit(str(number), 0.0) for number in range(TITLES + 1)] == [0] * (TITLES + 1)
    assert limit.admit("0", 1.0) == 0
    assert limit.admit("1000", 1.0) is None
    assert limit.admit("1000", 61.0) == 1
