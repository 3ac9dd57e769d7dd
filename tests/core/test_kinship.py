"""Whose Run is it? Children, trials, and jobs that are started again (R4, R5)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pluto_dist.core.rules.claims import RANK_ZERO_S
from pluto_dist.core.rules.kinship import asks_for_another, parent_of, predecessor
from pluto_dist.core.values.ids import Job, RunRef, Scheduled
from pluto_dist.core.values.lifecycle import Fork
from tests.core.builders import claim, identity, job, member, run
from tests.core.processes import LOCAL, Process
from tests.core.world import World

PARENT = member(None, opened=claim(name="main", config=msgspec.Raw(b'{"lr":1}')))
RUN = run(name="main", project="demo")


def child(**fields: Any) -> Any:
    """A claim of a child of the owner."""
    return claim(identity=identity(500), job=Job(key="own"), parents=(identity(100),), **fields)


ASKS: list[tuple[str, dict[str, Any], bool]] = [
    ("nothing", {}, False),
    ("the same name", {"name": "main"}, False),
    ("another name", {"name": "t0"}, True),
    ("the same project", {"project": "demo"}, False),
    ("no project", {"project": "pluto"}, False),
    ("another project", {"project": "other"}, True),
    ("the same config", {"config": msgspec.Raw(b'{"lr":1}')}, False),
    ("another config", {"config": msgspec.Raw(b'{"lr":2}')}, True),
    ("tags and a label", {"tags": ("a",), "label": "loader"}, False),
    ("the parent's run_id", {"run": RunRef(external_id="x")}, False),
    ("the parent's run_id and a name", {"run": RunRef(external_id="x"), "name": "t0"}, False),
    ("the parent's run_id, inherited", {"run": RunRef(external_id="x"), "run_from_env": True}, False),
    (
        "an inherited run_id and a name",
        {"run": RunRef(external_id="x"), "run_from_env": True, "name": "t0"},
        True,
    ),
    ("another run_id of the environment", {"run": RunRef(external_id="y"), "run_from_env": True}, True),
    ("another run_id", {"run": RunRef(external_id="y")}, True),
    ("a fork", {"fork": Fork(RunRef(id=7), 4)}, True),
    ("ownership", {"wanted": "owner"}, True),
    ("to be a worker", {"wanted": "worker"}, False),
    ("after a Run of its own", {"again": True}, True),
]


@pytest.mark.parametrize(("fields", "another"), [row[1:] for row in ASKS], ids=[row[0] for row in ASKS])
def test_a_child_joins_if_it_asks_for_what_its_parent_asked_for(
    fields: dict[str, Any], *, another: bool
) -> None:
    """R4"""
    assert asks_for_another(child(**fields), PARENT, RUN) is another


def test_ranks_of_one_job_may_differ_in_their_configs() -> None:
    """R4: each knows its own rank, and they are no trials."""
    rank = msgspec.structs.replace(child(config=msgspec.Raw(b'{"rank":1}')), job=job(1))
    assert not asks_for_another(rank, PARENT, RUN)


def test_the_newest_run_of_the_nearest_parent_counts() -> None:
    """R4: as for the module's log()."""
    first = member(None, lease_id="first", opened=claim(at=1.0))
    second = member(None, lease_id="second", opened=claim(at=2.0))
    above = member(None, lease_id="above", opened=claim(at=3.0, identity=identity(7)))
    deep = claim(identity=identity(500), job=Job(key="own"), parents=(identity(100), identity(7)))
    assert parent_of(deep, (first, second, above)) is second
    assert parent_of(deep, (above,)) is above
    side = msgspec.structs.replace(second, role="side")
    assert parent_of(deep, (side,)) is None


def test_the_parent_is_who_had_a_run_when_the_child_asked() -> None:
    """R4: a pool's worker that was ended within its `init()` is found when its parent has finished."""
    done = member(None, state="ended", end_reason="finished", left_at=5.0, ended_at=5.5, opened=claim(at=1.0))

    def asks(at: float) -> Any:
        return msgspec.structs.replace(child(), at=at)

    assert parent_of(asks(3.0), (done,)) is done
    assert parent_of(asks(6.0), (done,)) is None
    assert parent_of(asks(0.5), (done,)) is None
    assert parent_of(asks(3.0), (msgspec.structs.replace(done, state="refused"),)) is None
    killed = msgspec.structs.replace(done, left_at=None)
    assert parent_of(asks(5.2), (killed,)) is killed


def test_a_start_gives_each_rank_to_one_process() -> None:
    """R4: the same rank in another process is the next start; `exec` is the same process."""
    held = member(1)
    assert predecessor(claim(1, identity=identity(500)), (held,)) is held
    assert predecessor(claim(1), (held,)) is None
    assert predecessor(claim(2), (held,)) is None
    assert predecessor(claim(1, identity=identity(500), job=job(1, attempt=1)), (held,)) is None
    assert predecessor(claim(None, identity=identity(500)), (member(None),)) is None


# --- trials ---------------------------------------------------------------------------------------------


def trial(process: Process, **fields: Any) -> Process:
    """`init()`, `log()`, `finish()`."""
    return process.init(**fields).log(loss=1.0).finish()


@pytest.mark.parametrize("target", [LOCAL, None], ids=["local", "pluto"])
@pytest.mark.parametrize("named", [True, False])
def test_children_of_a_parent_without_a_run_have_a_run_each(target: Any, *, named: bool) -> None:
    """R4: two pool processes, six trials; a crash in a later one is its own."""
    world = World(*([target] if target else []))
    parent = world.process("sweep")
    pool = [world.child(parent) for _ in range(2)]
    for number in range(6):
        trial(pool[number % 2], **({"name": f"t{number}"} if named else {}))
    last = world.child(parent).init().raises()
    world.wait(5.0)
    assert len(list(world.book.runs)) == 7
    assert world.run(world.lease(last).run).status == "FAILED"
    assert [each.status for each in world.book.runs].count("COMPLETED") == 6


def test_children_that_are_trials_at_the_same_time_have_a_run_each() -> None:
    world = World()
    parent = world.process("sweep")
    trials = [world.child(parent).init() for _ in range(3)]
    assert [each.role for each in trials] == ["owner"] * 3


@pytest.mark.parametrize("named", [{}, {"env": "job-7"}], ids=["unnamed", "PLUTO_RUN_ID"])
def test_folds_below_a_run_have_a_run_each_and_their_parents_is_its_own(named: dict[str, str]) -> None:
    """R4: one fold that crashes fails its own Run; an id in the environment is their parent's."""
    world = World()
    parent = world.process("main").init(name="main", **named)
    folds = [world.child(parent).init(name=f"fold{number}", **named) for number in range(2)]
    folds[0].raises()
    folds[1].finish().exit()
    parent.finish().exit()
    world.wait(15.0)
    assert [world.run(name).status for name in ("main", "fold0", "fold1")] == [
        "COMPLETED",
        "FAILED",
        "COMPLETED",
    ]


def test_a_child_that_joined_and_finished_has_a_run_of_its_own_next() -> None:
    """R4: "this rank is done" was its word; who only closes may come back."""
    world = World()
    parent = world.process("main").init()
    visitor, worker = world.child(parent), world.child(parent)
    assert [visitor.init().role, visitor.close().init().role] == ["worker", "worker"]
    assert [worker.init().role, worker.finish().init().role] == ["worker", "owner"]


def test_a_child_that_leaves_its_handle_open_joins_again() -> None:
    """R4: tasks of a pool that call `init()` and never end it."""
    world = World()
    child = world.child(world.process("main").init())
    assert [child.init().role, child.init().role] == ["worker", "worker"]


def test_grandchildren_join_where_their_parent_did() -> None:
    world = World()
    parent = world.process("main").init()
    child = world.child(parent)
    assert world.child(child).init().role == "worker"
    child.init(name="t0")
    grandchild = world.child(child).init()
    assert (grandchild.role, world.lease(grandchild).run) == ("worker", world.lease(child).run)


def test_children_of_a_side_are_nobodys_workers() -> None:
    """R4: only a parent that owns, or works for the Run, has children there."""
    world = World()
    world.process("train").init("x")
    side = world.process("eval").attach("x")
    assert world.child(side).init().role == "owner"


def test_a_parent_that_has_ended_its_run_has_no_children_there() -> None:
    world = World()
    parent = world.process("main").init().finish()
    assert world.child(parent).init().role == "owner"


def test_a_child_waits_for_its_parents_role() -> None:
    """R4: a rank that waits for rank 0 has children already."""
    world = World()
    launch = world.launch(ranks=2)
    _, one = launch.start()
    one.init()
    loader = world.child(one, job=one.job).init()
    assert loader.role == "waiting"
    launch.rank(0).init()
    assert [one.role, loader.role] == ["worker", "side"]


def test_a_program_that_a_rank_starts_may_want_a_run_of_its_own() -> None:
    """R4: what it has inherited of the job, its rank and the name of its Run, is not its own."""
    world = World()
    launch = world.launch(ranks=2)
    zero, one = launch.start()
    zero.init()
    child = world.process("eval", zero.job, (zero.identity, *zero.ancestors))
    assert child.init(name="eval").role == "owner"
    assert one.init().role == "worker"
    assert world.lease(one).run == world.lease(zero).run != world.lease(child).run


def test_ranks_that_a_parent_with_a_run_starts_are_its_workers() -> None:
    """R4, R7: `ddp_spawn`; the plain name is rank 0's, whoever comes first."""
    world = World()
    parent = world.process("main").init()
    ranks = [
        world.child(parent, f"rank{rank}", Job(key="spawned", rank=rank, world_size=3)) for rank in (1, 2, 0)
    ]
    for rank in ranks:
        rank.init()
    for rank in ranks:
        rank.log(0, loss=1.0)
    world.wait(5.0)
    assert [rank.role for rank in ranks] == ["worker"] * 3
    assert [rank.view.participant for rank in ranks] == ["rank1", "rank2", "rank0"]
    assert world.book.series_of(world.run().key)["loss"].participant == "rank0"


def test_ranks_that_ask_for_another_run_than_their_parents_share_that() -> None:
    """R4: children of one job stay one job."""
    world = World()
    parent = world.process("sweep").init(name="sweep")
    ranks = [world.child(parent, "rank", Job(key="spawned", rank=rank, world_size=2)) for rank in range(2)]
    assert [rank.init(name="fold").role for rank in ranks] == ["owner", "worker"]
    assert len(list(world.book.runs)) == 2


# --- a job that is started again ------------------------------------------------------------------------


def start(world: World, key: str = "job", size: int = 2) -> list[Process]:
    """Processes with the same ranks of the same job as those before them."""
    return [world.process(f"rank{rank}", Job(key=key, rank=rank, world_size=size)) for rank in range(size)]


def fail(process: Process) -> None:
    process.raises()


def succeed(process: Process) -> None:
    process.finish().exit()


def be_killed(process: Process) -> None:
    process.kill()


def close(process: Process) -> None:
    process.close().exit()


@pytest.mark.parametrize("first", [fail, succeed, be_killed, close])
@pytest.mark.parametrize("pause", [0.0, 1.0, 60.0])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_next_start_of_a_job_has_a_run_of_its_own(first: Any, pause: float, order: Any) -> None:
    """R4: its ranks find each other, whichever is first, and however soon they come."""
    world = World()
    for process in start(world):
        process.init()
    for process in world.processes[:2]:
        first(process)
    world.wait(pause)
    again = start(world)
    for number in order:
        again[number].init()
    assert [process.role for process in again] == ["owner", "worker"]
    assert world.lease(again[0]).run == world.lease(again[1]).run != world.lease(world.processes[0]).run
    for process in again:
        succeed(process)
    world.wait(15.0)
    assert list(world.book.runs)[-1].status == "COMPLETED"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_start_that_had_two_owners_in_turn_is_one_start(order: Any) -> None:
    """R4: a rank that left before the second owner came was there, too."""
    world = World()
    zero, one = start(world)
    one.init()
    world.wait(RANK_ZERO_S + 1)
    one.close().exit()
    zero.init()
    assert zero.role == one.role == "owner"
    succeed(zero)
    world.wait(1.0)
    again = start(world)
    for number in order:
        again[number].init()
    world.wait(1.0)
    assert [process.role for process in again] == ["owner", "worker"]
    assert world.lease(again[0]).run != world.lease(zero).run == world.lease(one).run


@pytest.mark.parametrize("first", [fail, be_killed, close])
@pytest.mark.parametrize("pause", [0.0, 1.0, 60.0])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_next_start_of_a_named_run_goes_on_in_it(first: Any, pause: float, order: Any) -> None:
    """R4, R5: with an id from the environment it ends as the last start did; the first end is kept."""
    world = World()
    for process in start(world):
        process.init(env="x")
    for process in world.processes[:2]:
        first(process)
    world.wait(pause)
    again = start(world)
    for number in order:
        again[number].init(env="x")
        world.wait(1.0)
    world.wait(3.0)
    assert [process.role for process in again] == ["owner", "worker"]
    for process in again:
        succeed(process)
    world.wait(15.0)
    found = world.run("x")
    assert (found.status, len(found.attempts)) == ("COMPLETED", 1)


def test_the_next_start_waits_for_what_is_left_of_the_first() -> None:
    """R4: one rank starts again by itself while rank 0 still hangs in a collective."""
    world = World()
    zero, one = start(world)
    zero.init(env="x")
    one.init(env="x").raises()
    again = start(world)
    again[1].init(env="x")
    world.wait(60.0)
    assert again[1].role == "waiting"
    zero.raises()
    again[0].init(env="x")
    world.wait(5.0)
    assert [process.role for process in again] == ["owner", "worker"]


def test_one_rank_that_starts_again_without_a_name_leaves_the_first_run() -> None:
    """R4: after 5 s it owns the next one; a rank 0 that comes later is its worker."""
    world = World()
    zero, one = start(world)
    zero.init()
    one.init().raises()
    again = start(world)
    again[1].init()
    world.wait(RANK_ZERO_S + 1)
    zero.raises()
    again[0].init()
    assert [process.role for process in again] == ["worker", "owner"]


def test_a_rank_zero_that_comes_when_others_have_ended_is_of_the_same_start() -> None:
    """R4: it owns the Run then; the next start leaves all of it, also a rank that ended before it came."""
    world = World()
    zero, one = start(world)
    one.init()
    world.wait(RANK_ZERO_S + 1)
    one.finish(at_exit=True)
    zero.init().finish().exit()
    one.exit()
    again = start(world)
    again[1].init()
    again[0].init()
    assert [process.role for process in again] == ["owner", "worker"]
    assert world.lease(again[1]).run == world.lease(again[0]).run != world.lease(zero).run


def test_a_rank_that_lives_is_not_started_again() -> None:
    """R4, R5: two programs with one rank at once, as variables left in a shell make them."""
    world = World()
    train, other = (world.process(name, Job(key="job", rank=0, world_size=2)) for name in ("train", "other"))
    named = world.process("eval", Job(key="job", rank=0, world_size=2))
    train.init(env="x")
    assert named.init(env="x").role == "side"
    assert other.init().role == "owner"
    refused = world.process("wrong", Job(key="job", rank=0, world_size=2)).init("x")
    assert refused.view.error is not None
    assert refused.view.error[0] == "RunExistsError"


@pytest.mark.parametrize(
    ("first", "role"), [(fail, "owner"), (be_killed, "owner"), (succeed, "refused"), (close, "owner")]
)
def test_an_explicit_id_is_taken_up_where_its_job_left_it_undone(first: Any, role: str) -> None:
    """R5: a retry goes on; what is done is another's."""
    world = World()
    (zero,) = start(world, size=1)
    first(zero.init("x"))
    world.wait(5.0)
    (again,) = start(world, size=1)
    assert again.init("x").role == role


def test_two_launches_that_were_given_one_id_are_told() -> None:
    """R12: torchrun keeps the id from both; a launch that names its Run, or comes later, is no concern."""
    world = World()
    zeros = [Job(key=f"launch{number}", rank=0, world_size=2, given_id="job7") for number in range(4)]
    first, second, named, later = (world.process(job.key, job) for job in zeros)
    named.init("x")
    first.init()
    assert first.view.namesake == ""
    second.init()
    world.hello()
    runs = [world.run(world.lease(process).run) for process in (first, second)]
    told = [process.view for process in (first, second, named)]
    assert [view.namesake for view in told] == [runs[1].display_id, runs[0].display_id, ""]
    assert told[0].given_id == "job7"
    for process in (first, second):
        succeed(process)
    world.wait(5.0)
    assert later.init().view.namesake == ""


def test_a_side_that_outlives_its_rank_and_the_run_is_named() -> None:
    """torchrun signals the process groups that it still has; what a dead rank had started gets nothing."""
    world = World()
    zero, one = start(world)
    zero.init()
    one.init()
    helper = world.process("helper", ancestors=(one.identity,)).attach(label="eval")
    polite = world.process("polite", ancestors=(one.identity,)).attach(label="uploader")
    stranger = world.process("stranger").attach(label="notebook")
    one.kill()
    zero.raises()
    world.wait(10.0)
    run = world.run()
    assert run.status == "FAILED"
    polite.close().exit()
    world.wait(60.0)
    world.hello()
    (told,) = world.notes(run, "left_over")
    assert (told["label"], told["started_by"], told["pid"]) == ("eval", "rank1", str(helper.identity.pid))
    assert [each.view.left_over for each in (helper, stranger)] == ["rank1", ""]
    world.wait(60.0)
    assert len(world.notes(run, "left_over")) == 1


# --- a job that its scheduler puts back into the queue --------------------------------------------------


def queued(world: World, restarts: int, job: str = "slurm 77", size: int = 0) -> list[Process]:
    """Processes of one start of a scheduler's job: one without a rank, or so many ranks."""
    scheduled = Scheduled(job, restarts)
    ranks = [{"rank": rank, "world_size": size} for rank in range(size)] or [{"rank": None}]
    key = f"{job}-{restarts}-{len(world.processes)}"
    return [world.process("train", Job(key=key, scheduled=scheduled, **rank)) for rank in ranks]


@pytest.mark.parametrize("target", [LOCAL, None], ids=["local", "pluto"])
@pytest.mark.parametrize("size", [0, 2])
@pytest.mark.parametrize(
    ("first", "role"), [(fail, "owner"), (be_killed, "owner"), (succeed, "refused"), (close, "owner")]
)
def test_a_requeued_job_goes_on_in_the_run_that_it_left(
    target: Any, size: int, first: Any, role: str
) -> None:
    """R5: with an id in the script and no `resume`; what is done is not done again."""
    world = World(*([target] if target else []))
    before = queued(world, 0, size=size)
    for process in before:
        process.init("x").log(loss=1.0)
    for process in before:
        first(process)
    world.wait(60.0)
    again = queued(world, 1, size=size)
    for process in reversed(again):
        process.init("x")
    world.wait(6.0)
    assert again[0].role == role
    if role == "owner":
        assert [each.role for each in again[1:]] == ["worker"] * (len(again) - 1)
        for process in again:
            succeed(process)
        world.wait(15.0)
        assert (world.run("x").status, len(list(world.book.runs))) == ("COMPLETED", 1)


@pytest.mark.parametrize(
    ("job", "restarts"), [("slurm 78", 1), ("slurm 77", 0)], ids=["another", "the same start"]
)
def test_nobody_else_takes_up_an_explicit_id(job: str, restarts: int) -> None:
    """R5: also not a second program of the same start."""
    world = World()
    fail(queued(world, 0)[0].init("x"))
    world.wait(60.0)
    assert queued(world, restarts, job)[0].init("x").role == "refused"


def test_a_requeued_job_does_not_push_a_living_one_aside() -> None:
    """G2: the scheduler has ended the former start before it begins the next one."""
    world = World()
    (before,), (again,) = queued(world, 0), queued(world, 1)
    before.init("x")
    assert again.init("x").view.error[0] == "RunExistsError"
    be_killed(before)
    assert queued(world, 2)[0].init("x").role == "owner"


def test_a_late_rank_that_was_never_there_is_a_side() -> None:
    """R4: as before."""
    world = World()
    zero, one = start(world)
    succeed(zero.init())
    world.wait(1.0)
    assert one.init().role == "side"


def test_a_restart_by_the_launcher_is_no_next_start() -> None:
    """R10: it says itself which attempt it is; an elastic one starts all ranks anew in the same attempt."""
    world = World()
    launch = world.launch(ranks=2, max_restarts=2)
    for process in launch.start():
        process.init()
    for process in tuple(launch.ranks.values()):
        process.kill()
    world.wait(1.0)
    for process in launch.start():
        process.init()
    assert [launch.rank(number).role for number in range(2)] == ["owner", "worker"]
    assert len(list(world.book.runs)) == 1


def test_the_first_rank_of_another_job_leaves_ownership_to_its_rank_0() -> None:
    """R4, R5: also where the Run has ended long ago."""
    world = World()
    succeed(world.process("first").init("x"))
    world.wait(5.0)
    zero, one = start(world, "other")
    assert one.init(env="x").role == "waiting"
    zero.init(env="x")
    assert [zero.role, one.role] == ["owner", "worker"]


# --- below `pluto-dist run` -----------------------------------------------------------------------------


def below(world: World, launcher: Process, name: str) -> Process:
    return world.process(name, ancestors=(launcher.identity,))


def test_what_the_command_of_a_launcher_tries_once_more_counts() -> None:
    """R5, R10: `pluto-dist run -- sh -c "python train.py || python train.py"`."""
    world = World()
    launcher = world.process("launcher").init("x", launcher=True)
    lease = launcher.spool.lease_id
    below(world, launcher, "first").init(env="x", launched_by=lease).raises()
    again = below(world, launcher, "again").init(env="x", launched_by=lease)
    assert again.role == "worker"
    succeed(again)
    succeed(launcher)
    world.wait(15.0)
    found = world.run("x")
    assert (found.status, [end.status for end in found.attempts]) == ("COMPLETED", ["FAILED"])


def test_trials_of_a_launchers_command_have_runs_of_their_own() -> None:
    """R4: the launcher's Run is that of the command, not of each of its trials."""
    world = World()
    launcher = world.process("launcher").init("x", launcher=True)
    lease = launcher.spool.lease_id
    script = below(world, launcher, "script")
    pool = [world.child(script) for _ in range(2)]
    roles = [
        trial(pool[number % 2], env="x", name=f"t{number}", launched_by=lease).role for number in range(4)
    ]
    assert roles == ["owner"] * 4
    assert len(list(world.book.runs)) == 5


# --- names ----------------------------------------------------------------------------------------------


def test_unlabelled_participants_have_a_series_each_also_one_after_the_other() -> None:
    """G10: three pool workers in turn; the server would hide what has the same name and step."""
    world = World()
    parent = world.process("main").init()
    for _ in range(3):
        world.child(parent).init().log(0, loss=1.0).finish().exit()
    world.wait(5.0)
    series = world.book.series_of(world.run().key)
    assert {"loss", "loss/worker-2", "loss/worker-3"} <= set(series)


def test_an_unlabelled_process_that_comes_back_goes_on_with_its_series() -> None:
    """R7: a participant is a process here, over its leases."""
    world = World()
    child = world.child(world.process("main").init())
    names = [child.init().view.participant, child.close().init().view.participant]
    assert names == ["worker", "worker"]


def test_unlabelled_sides_too() -> None:
    world = World()
    world.process("main").init("x")
    labels = [world.process("eval").attach("x").close().view.label for _ in range(3)]
    assert labels == ["side", "side-2", "side-3"]


def test_names_of_an_earlier_session_are_taken() -> None:
    """R7: what is known of participants of an earlier coordinator counts."""
    world = World()
    world.process("main").init("x")
    world.core._context.change_run(world.run("x"), steps={"owner": 3, "side": 7})
    assert world.process("eval").attach("x").view.label == "side-2"


def test_the_process_of_a_launchers_command_goes_on_with_its_series() -> None:
    """R7: it has a place of its own, also in the next job that takes the Run up again."""
    world = World()
    for _ in range(2):
        launcher = world.process("launcher").init(env="x", launcher=True)
        script = below(world, launcher, "script").init(env="x", launched_by=launcher.spool.lease_id)
        assert script.view.participant == "worker"
        succeed(script)
        succeed(launcher)
        world.wait(15.0)


# --- children that their parent ends ----------------------------------------------------------------------


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
def test_a_worker_that_its_parent_ends_is_no_evidence(signal: str) -> None:
    """R9: `Process.terminate()`, `Process.kill()`, a pool that is left."""
    world = World()
    parent = world.process("main").init()
    parent.stops(world.child(parent).init(), signal)
    succeed(parent)
    world.wait(15.0)
    assert (world.run().status, world.notes(world.run(), "stopped_by_parent")[0]["signal"]) == (
        "COMPLETED",
        signal,
    )


@pytest.mark.parametrize(("signal", "status"), [("SIGTERM", "TERMINATED"), ("SIGKILL", "FAILED")])
def test_a_worker_that_somebody_else_ends_is_evidence(signal: str, status: str) -> None:
    """R9, R10: as before."""
    world = World()
    parent = world.process("main").init()
    child = world.child(parent).init()
    _ = child.sigterm() if signal == "SIGTERM" else child.kill()
    world.wait(0.1)
    succeed(parent)
    world.wait(15.0)
    assert world.run().status == status


def test_what_a_worker_said_before_its_parent_ended_it_counts() -> None:
    """R9: the other workers of a pool are stopped because one has raised."""
    world = World()
    parent = world.process("main").init()
    failing, other = world.child(parent).init(), world.child(parent).init()
    failing.evidence("exception", type="ValueError", message="boom")
    world.wait(0.1)
    parent.stops(failing, "SIGKILL").stops(other)
    succeed(parent)
    world.wait(15.0)
    failure = world.run().verdict and world.run().verdict.first_failure  # type: ignore[union-attr] # ended
    assert failure is not None
    assert (world.run().status, failure.type) == ("FAILED", "ValueError")


def test_what_ends_workers_after_their_parent_has_left_is_the_end_of_the_job() -> None:
    """R9: `multiprocessing` stops daemonic children after the exit hooks; an exception counts still."""
    for deed, status in (
        (Process.sigterm, "COMPLETED"),
        (Process.kill, "COMPLETED"),
        (Process.raises, "FAILED"),
    ):
        world = World()
        parent = world.process("main").init()
        child = world.child(parent).init()
        parent.finish(at_exit=True)
        world.wait(0.1)
        deed(child)
        parent.exit(0)
        world.wait(15.0)
        assert world.run().status == status


def test_a_job_that_is_stopped_from_outside_stays_terminated() -> None:
    """R10: parent and children get SIGTERM."""
    world = World()
    parent = world.process("main").init()
    child = world.child(parent).init()
    child.sigterm()
    parent.sigterm()
    world.wait(15.0)
    assert world.run().status == "TERMINATED"


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
def test_a_trial_that_its_parent_ends_was_stopped(signal: str) -> None:
    """R9: its own Run has not failed, but it was not completed either."""
    world = World()
    parent = world.process("main").init()
    child = world.child(parent).init(name="trial")
    parent.stops(child, signal)
    world.wait(15.0)
    assert world.run("trial").status == "TERMINATED"


def test_a_stop_is_remembered_until_the_claim_of_the_child_is_read() -> None:
    """R1: the coordinator may read the parent's stream first."""
    world = World()
    parent = world.process("main").init()
    child = world.child(parent)
    world.nudges = False
    child.init()
    world.nudges = True
    parent.stops(child)
    succeed(parent)
    world.wait(15.0)
    assert (world.lease(child).role, world.run().status) == ("worker", "COMPLETED")


def test_a_pid_that_comes_again_is_another_child() -> None:
    world = World()
    parent = world.process("main").init()
    first = world.child(parent).init()
    parent.stops(first, "SIGKILL")
    world.wait(1.0)
    again = world.child(parent)
    again.identity = msgspec.structs.replace(again.identity, pid=first.identity.pid)
    again.init().kill()
    world.wait(1.0)
    succeed(parent)
    world.wait(15.0)
    assert world.run().status == "FAILED"


# --- handles that come into other processes ---------------------------------------------------------------


def test_a_main_module_that_is_imported_again_joins_whatever_it_asks_for() -> None:
    """R4: names with a time or a pid in them are others in each process; the call is the parent's."""
    world = World()
    parent = world.process("main").init(name="at 12:00", config={"pid": 1})
    child = world.child(parent).init("other", name="at 12:01", config={"pid": 2}, via="import")
    assert (child.role, world.lease(child).run) == ("worker", world.lease(parent).run)
    assert child.view.joined == 0


def test_a_main_module_that_is_imported_again_after_the_end_opens_nothing() -> None:
    """R4: a side of what is over; the loader of an evaluation after `finish()`."""
    world = World()
    parent = world.process("main").init()
    succeed_and_stay(parent)
    child = world.child(parent).init(via="import")
    assert (child.role, len(list(world.book.runs))) == ("side", 1)


def succeed_and_stay(process: Process) -> None:
    process.finish()
    process.world.wait(15.0)


@pytest.mark.parametrize(
    ("related", "role"), [(True, "worker"), (False, "side")], ids=["child", "any other process"]
)
def test_a_handle_that_travels_attaches_by_its_id(related: bool, role: str) -> None:
    """R4: in a child of who works for the Run it is a worker's, also if the parent has a newer Run."""
    world = World()
    parent = world.process("main").init("x")
    parent.init("newer")
    process = world.child(parent) if related else world.process("other")
    process.attach("x", via="handle")
    assert (process.role, world.lease(process).run) == (role, world.run("x").key)


def test_a_handle_in_a_rank_is_that_ranks() -> None:
    """R4, R7: Lightning's `ddp_spawn` with a Run that was opened above."""
    world = World()
    parent = world.process("main").init("x")
    rank = world.child(parent, "rank", Job(key="spawned", rank=1, world_size=2))
    assert rank.attach("x", via="handle").view.participant == "rank1"


def test_an_attach_in_a_child_is_a_sides() -> None:
    """R5: who calls attach() is asked for nothing else."""
    world = World()
    parent = world.process("main").init("x")
    assert world.child(parent).attach("x").role == "side"


# --- daemons ----------------------------------------------------------------------------------------------


def daemon_of(process: Process) -> Process:
    """A grandchild in a session of its own, whose parents are gone."""
    return process.world.process("daemon", Job(key="of its own"))


def leave_by_exit(process: Process) -> None:
    process.finish(at_exit=True).exit(0)


def leave_by_underscore_exit(process: Process) -> None:
    process.exit(0)


@pytest.mark.parametrize("leave", [leave_by_exit, leave_by_underscore_exit])
@pytest.mark.parametrize("pause", [0.0, 1.0, 60.0])
@pytest.mark.parametrize(("end", "status"), [(fail, "FAILED"), (succeed, "COMPLETED")])
def test_a_daemon_holds_the_run_of_the_process_that_it_was(
    leave: Any, pause: float, end: Any, status: str
) -> None:
    """R5: however soon it logs; the Run ends as it does."""
    world = World()
    opener = world.process("script").init("x")
    leave(opener)
    world.wait(pause)
    daemon = daemon_of(opener).init("x", resume=True, heir_of=opener.spool.lease_id)
    world.wait(30.0)
    assert (daemon.role, daemon.view.participant, world.run("x").status) == ("owner", "owner", "RUNNING")
    end(daemon)
    world.wait(15.0)
    assert world.run("x").status == status


def test_a_daemon_that_is_faster_than_its_parents_end_waits_for_it() -> None:
    """R5"""
    world = World()
    opener = world.process("script").init("x")
    daemon = daemon_of(opener).init("x", resume=True, heir_of=opener.spool.lease_id)
    world.wait(1.0)
    assert daemon.role == "waiting"
    leave_by_underscore_exit(opener)
    assert daemon.role == "owner"


def test_a_daemon_beside_the_process_that_it_was_is_a_side() -> None:
    """R5: a server that forks a helper goes on itself."""
    world = World()
    opener = world.process("script").init("x")
    daemon = daemon_of(opener).init("x", resume=True, heir_of=opener.spool.lease_id)
    world.wait(10.0)
    assert [opener.role, daemon.role] == ["owner", "side"]


@pytest.mark.parametrize("leave", [succeed, close])
def test_a_daemon_of_a_process_that_left_by_a_call_holds_nothing(leave: Any) -> None:
    """R6: `finish()` ended the Run, `close()` left it to others."""
    world = World()
    opener = world.process("script").init("x")
    leave(opener)
    daemon = daemon_of(opener).init("x", resume=True, heir_of=opener.spool.lease_id)
    assert daemon.role == "side"
