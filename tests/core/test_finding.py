"""Which Run a claim means: not only those of its own folder, server and key (R4, R5)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pluto_dist.core.machine.admission import Finder
from pluto_dist.core.values.backend import OpenRequest, OpenResult
from pluto_dist.core.values.book import Book
from pluto_dist.core.values.ids import RunRef
from pluto_dist.core.values.records import Run, Verdict
from tests.core.builders import claim, job, run
from tests.core.processes import LOCAL, PLUTO
from tests.core.server import Server
from tests.core.world import World

X = RunRef(external_id="x")
ELSEWHERE = msgspec.structs.replace(LOCAL, store="/elsewhere")
OTHER_KEY = msgspec.structs.replace(PLUTO, key_id="key2")
DONE = Verdict("COMPLETED", "done")


def known(*runs: Run) -> Finder:
    """A node that knows these Runs."""
    book = Book()
    for each in runs:
        book.runs.put(each.key, each)
    return Finder(book)


def found(finder: Finder, **fields: Any) -> str | None:
    """Key of the Run that a process of another launch means, standing in another folder."""
    meant = finder.find(claim(**{"target": ELSEWHERE, "job": job(key="other"), **fields}))
    return meant.key if meant is not None else None


LIVE = run(key="live", target=LOCAL)
ENDED = run(key="ended", target=LOCAL, verdict=DONE, status="COMPLETED")


@pytest.mark.parametrize("target", [ELSEWHERE, PLUTO, LOCAL])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"verb": "attach"}, "live"),
        ({"verb": "attach", "run": X}, "live"),
        ({"verb": "attach", "project": "demo"}, "live"),
        ({"verb": "attach", "run": X, "project": "demo"}, "live"),
        ({"verb": "attach", "run": RunRef(display_id="DEM-1"), "project": "any"}, "live"),
        ({"verb": "attach", "run": RunRef(display_id="DEM-1")}, "live"),
        ({"run": X, "run_from_env": True}, "live"),
        ({"run": X, "run_from_env": True, "project": "pluto"}, "live"),
        ({"run": X, "wanted": "side"}, "live"),
        ({"wanted": "side"}, "live"),
        ({"verb": "attach", "run": RunRef(external_id="y")}, None),
        ({"verb": "attach", "run": X, "project": "another"}, None),
        ({"verb": "attach", "run": X, "project": "another", "project_lent": True}, "live"),
        ({"verb": "attach", "project": "another"}, None),
        ({"run": X, "run_from_env": True, "project": "another"}, None),
    ],
)
def test_whoever_joins_need_not_share_the_target(target: Any, fields: dict[str, Any], expected: str) -> None:
    """R5: an eval in another folder, without the key, or with another one."""
    assert found(known(LIVE), target=target, **fields) == expected


@pytest.mark.parametrize("fields", [{"run": X}, {"run": X, "resume": True}, {}])
def test_a_new_run_goes_where_its_own_target_is(fields: dict[str, Any]) -> None:
    """Two Runs with different targets never mix."""
    assert found(known(LIVE), **fields) is None


def test_an_ended_run_of_another_folder_is_joined_by_attach_alone() -> None:
    """R5: an id from the environment is taken up again in the job's own folder."""
    assert found(known(ENDED), verb="attach", run=X) == "ended"
    assert found(known(ENDED), run=X, run_from_env=True) is None
    assert found(known(ENDED), run=X, run_from_env=True, target=LOCAL) == "ended"


def test_the_own_target_comes_first() -> None:
    there = run(key="there", target=ELSEWHERE)
    for fields in ({"verb": "attach"}, {"verb": "attach", "run": X}, {"run": X, "run_from_env": True}):
        assert found(known(LIVE, there), **fields) == "there"
        assert found(known(LIVE, there), target=OTHER_KEY, **fields) is None


@pytest.mark.parametrize("target", [LOCAL, ELSEWHERE, PLUTO])
def test_a_run_that_is_there_comes_before_the_one_that_is_asked_for(target: Any) -> None:
    """R5: the eval waits, in no project, for a training that then starts in one, or in another folder."""
    world = World(target)
    early = world.process("eval").attach("x", project="pluto")
    owner = world.process("training").init("x", project="digits", target=LOCAL)
    world.wait(5.0)
    assert (owner.role, early.role) == ("owner", "side")
    assert [found.project for found in world.book.runs] == ["digits"]


def test_an_id_of_two_projects_is_a_choice() -> None:
    """R5: `attach()` lists both, and a project that is named decides."""
    finder = known(LIVE, run(key="namesake", target=LOCAL, project="digits", display_id="DIG-1"))
    joins = {"verb": "attach", "run": X, "target": ELSEWHERE, "project": "pluto"}
    assert found(finder, **joins) is None
    assert finder.choices(claim(**joins)) == ("DEM-1 (project demo)", "DIG-1 (project digits)")
    assert found(finder, **joins | {"project": "digits"}) == "namesake"
    assert found(finder, **joins | {"run": None, "project": "digits"}) == "namesake"


def test_ranks_of_one_launch_share_a_run_wherever_they_stand() -> None:
    """R4: a script may change its folder before init()."""
    world = World(LOCAL)
    launch = world.launch(ranks=3)
    first, second, third = launch.start()
    first.init()
    second.init(target=ELSEWHERE)
    third.init(target=ELSEWHERE)
    assert [process.role for process in (first, second, third)] == ["owner", "worker", "worker"]
    assert world.run().target == LOCAL
    named = world.launch("named", ranks=2)
    one, two = named.start()
    one.init("mine")
    two.init("mine", target=ELSEWHERE)
    assert [process.role for process in (one, two)] == ["owner", "worker"]


class Stores(Server):
    """Two folders: each store knows its own Runs only."""

    def __init__(self) -> None:
        super().__init__()
        self.by_folder: dict[str, Server] = {}

    def open(self, request: OpenRequest) -> OpenResult:
        return self.by_folder.setdefault(request.target.store, Server()).open(request)


def two_folders() -> World:
    world = World(LOCAL)
    world.server = Stores()
    return world


def test_an_attach_that_comes_before_its_training_waits_for_it() -> None:
    """R5: although a Run of that id has ended in another folder: points would go into the wrong Run."""
    world = two_folders()
    world.process("before").init("x").finish().exit()
    early = world.process("eval").attach("x", target=ELSEWHERE, patience_s=30.0)
    world.wait(5.0)
    assert early.role == "waiting"
    owner = world.process("training").init("x", target=ELSEWHERE)
    world.wait(3.0)
    assert (owner.role, early.role) == ("owner", "side")
    assert world.lease(early).run == world.lease(owner).run


def test_an_ended_run_of_another_folder_is_joined_if_no_other_comes() -> None:
    """R5: half of the caller's time is left to say so."""
    world = two_folders()
    old = world.process("before").init("x").finish().exit()
    late = world.process("eval").attach("x", target=ELSEWHERE, patience_s=30.0)
    world.wait(14.0)
    assert late.role == "waiting"
    world.wait(2.0)
    assert (late.role, world.lease(late).run) == ("side", world.lease(old).run)
    assert [run.key for run in world.book.runs] == [world.lease(old).run]  # nothing is looked for any more


def test_a_living_run_comes_before_one_that_has_ended() -> None:
    """R5: both in other folders than the eval's."""
    third = run(key="third", target=msgspec.structs.replace(LOCAL, store="/third"))
    assert found(known(ENDED, third), verb="attach", run=X) == "third"


def test_an_ended_run_of_the_same_server_is_joined_at_once() -> None:
    """R5: there is only one Run of that id, wherever the eval stands."""
    ended = run(key="ended", target=OTHER_KEY, verdict=DONE, status="COMPLETED")
    place = msgspec.structs.replace(PLUTO, store="/elsewhere")
    meant = known(ended).find(claim(verb="attach", run=X, target=place, patience_s=30.0), None, 0.0)
    assert meant is ended
