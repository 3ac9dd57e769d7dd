"""The tables of a Run's stages, and what becomes of an illegal move."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from pluto_dist.core.machine.context import Context
from pluto_dist.core.rules.states import (
    ENDING,
    NO_END,
    OPENING,
    PHASES,
    ending_of,
    illegal,
    opening_of,
    reaches,
)
from pluto_dist.core.rules.verdict import DETACHED_S, ORPHAN_S, Phase
from pluto_dist.core.values.book import Book
from pluto_dist.core.values.records import Run, Verdict
from tests.core.processes import PLUTO
from tests.core.world import World

RUN = Run(
    key="k", target=PLUTO, project="p", name="n", external_id="r", job_key="j", created_ms=1, boot_id="b"
)
WELL = Verdict("COMPLETED", "the owner ended and nobody failed")
FAILED = Verdict("FAILED", "rank 1 failed first")

OPENINGS = {
    "asked": RUN,
    "provisional": msgspec.structs.replace(RUN, provisional=True),
    "open": msgspec.structs.replace(RUN, opening=False),
}
ENDINGS = {
    "none": RUN,
    "decided": msgspec.structs.replace(RUN, verdict=WELL),
    "sent": msgspec.structs.replace(RUN, verdict=WELL, telling=True),
    "reported": msgspec.structs.replace(RUN, verdict=WELL, telling=True, reported=True),
}


def test_a_run_that_goes_on_has_no_trace_of_its_end() -> None:
    """A field of an end that stays behind would make the next one another end."""
    fresh = {name: getattr(RUN, name) for name in NO_END}
    assert fresh == NO_END
    ended = msgspec.structs.replace(
        RUN, verdict=FAILED, status="FAILED", telling=True, reported=True, forced=True, cancelled=True,
        ended_ms=5, found_ms=9, server_status="COMPLETED",
    )  # fmt: skip
    assert msgspec.structs.replace(ended, **NO_END) == RUN


def test_every_record_is_in_one_stage() -> None:
    assert {name: opening_of(run) for name, run in OPENINGS.items()} == {name: name for name in OPENINGS}
    assert {name: ending_of(run) for name, run in ENDINGS.items()} == {name: name for name in ENDINGS}


@pytest.mark.parametrize("after", OPENINGS)
@pytest.mark.parametrize("before", OPENINGS)
def test_openings_move_as_the_table_says(before: str, after: str) -> None:
    legal = before == after or (before, after) in OPENING
    assert (illegal(OPENINGS[before], OPENINGS[after]) == "") == legal


@pytest.mark.parametrize("after", ENDINGS)
@pytest.mark.parametrize("before", ENDINGS)
def test_endings_move_as_the_table_says(before: str, after: str) -> None:
    legal = before == after or (before, after) in ENDING
    assert (illegal(ENDINGS[before], ENDINGS[after]) == "") == legal


@pytest.mark.parametrize("but", ["cancelled", "forced", "round", None])
def test_a_verdict_is_frozen_unless_somebody_says_otherwise(but: str | None) -> None:
    """R10."""
    after = msgspec.structs.replace(ENDINGS["reported"], verdict=FAILED, status="FAILED")
    if but is not None:
        after = msgspec.structs.replace(after, **{but: 1 if but == "round" else True})
    assert (illegal(ENDINGS["reported"], after) == "") == (but is not None)


def test_an_illegal_move_is_refused_and_noted_once() -> None:
    """In production: the record stays what it is, and the Run's history says what was to happen."""
    context = Context(Book(), "b")
    run = context.book.runs.put(RUN.key, RUN)
    for _ in range(2):
        assert context.change_run(run, telling=True, verdict=WELL, name="other") is run
    assert context.book.runs["k"] is run
    assert context.take_changes()[0] == ()
    assert [event.detail for event in context.book.histories["k"].events] == [
        {"why": "its ending would go from none to sent"}
    ]


def orphaned(world: World) -> None:
    world.process("train").init("r").log(loss=1.0).kill()
    world.process("train").init("r", resume=True).kill()
    world.wait(ORPHAN_S + 1)
    world.process("again").init("r", resume=True)


def detached(world: World) -> None:
    world.process("train").init("r").close()
    world.process("again").init("r", resume=True).close()
    world.wait(DETACHED_S + 1)


def restarted(world: World) -> None:
    launch = world.launch("j", ranks=2, max_restarts=2)
    for process in launch.start():
        process.init()
    launch.ranks[1].kill()
    for process in launch.restart():
        process.init()
    launch.ranks[1].kill()
    launch.ranks[0].kill()
    world.wait(ORPHAN_S + 1)
    launch.launcher.exit()


def cancelled(world: World) -> None:
    world.process("train").init("r")
    world.force_finish("r", "CANCELLED")


def exit_code_awaited(world: World) -> None:
    launch = world.launch("j", ranks=2, max_restarts=1)
    owner, _ = (process.init() for process in launch.start())
    owner.finish(at_exit=True)
    owner.exit(1)


def started_again_early(world: World) -> None:
    launch = world.launch("j", ranks=1, max_restarts=1)
    launch.start()[0].init().finish(at_exit=True)
    launch.attempt += 1
    launch.start()[0].init()


STORIES = (
    orphaned,
    detached,
    restarted,
    cancelled,
    exit_code_awaited,
    started_again_early,
)


def moves_of(story: Callable[[World], None]) -> set[tuple[Phase, Phase]]:
    """The moves that a story shows, looked at after each event."""
    world = World()
    moves: set[tuple[Phase, Phase]] = set()
    last: dict[str, Phase] = {}

    def look(event: object) -> None:
        for run in world.book.runs:
            phase = world.core._context.situation(run).phase
            before = last.setdefault(run.key, phase)
            moves.add((before, phase))
            last[run.key] = phase

    world.invariants.check = look  # type: ignore[method-assign]
    story(world)
    return {move for move in moves if move[0] != move[1]}


def test_the_picture_of_the_phases_is_what_happens() -> None:
    """Each move of the table in a story, and no other one that no path of the table explains."""
    seen = {move for story in STORIES for move in moves_of(story)}
    assert set(PHASES) - seen == set()
    assert {move for move in seen if not reaches(*move)} == set()
