"""Ranks of a job find each other and one of them owns the Run, whatever gates a script has (R4)."""

from __future__ import annotations

from typing import Any

import pytest

from pluto_dist.core.rules.claims import RANK_ZERO_S as RANK_ZERO_AFTER_S
from tests.patience import NEVER_S
from tests.process.harness import Child, Launcher, Node, lease, wait_until

RANK_ZERO_S = "pluto_dist.core.rules.claims.RANK_ZERO_S"
ON_ALL = """
run = pluto.init({arguments})
log(run, {{f"own_{{os.environ['RANK']}}": 1.0, "shared": 2.0}}, 0)
tell_json("ready", facts(run))
while (line := hear()) not in ("", "end"):
    exec(line)
    tell("done")
"""


def start_all(launcher: Launcher, body: str, **more: Any) -> list[Child]:
    """One process per rank, the last one first: order says nothing."""
    ranks = [launcher.rank(rank, body, **more) for rank in reversed(range(launcher.world))]
    return ranks[::-1]


def end_all(ranks: list[Child]) -> None:
    """Last lines, rank 0 last."""
    for rank in reversed(ranks):
        rank.say("end")
        assert rank.wait() == 0


@pytest.mark.parametrize("wrapped", [False, True], ids=["direct", "wrapper_script_per_rank"])
def test_init_on_every_rank_gives_one_run(node: Node, wrapped: bool) -> None:
    """R4: same ids everywhere, rank 0 owns, the others work; a shell around each rank changes nothing."""
    ranks = start_all(node.launcher(4), ON_ALL.format(arguments="config={'lr': 1}"), wrapped=wrapped)
    told = [rank.expect_json("ready") for rank in ranks]
    assert [each["role"] for each in told] == ["owner", "worker", "worker", "worker"]
    assert [each["label"] for each in told] == ["rank0", "rank1", "rank2", "rank3"]
    for name in ("id", "display_id", "run_id", "name", "project", "epoch"):
        assert len({each[name] for each in told}) == 1, name
    assert len({each["lease_id"] for each in told}) == 4
    end_all(ranks)
    found = node.ended(told[0]["run_id"])
    assert (found["status"], len(node.documents())) == ("COMPLETED", 1)
    assert not node.lost(told[0]["run_id"])
    names = {point.name for point in node.points(told[0]["run_id"])}
    own = {f"own_{rank}" for rank in range(4)}
    assert names == own | {"shared", "shared/rank1", "shared/rank2", "shared/rank3"}


def test_two_launches_of_one_script_are_two_runs(node: Node) -> None:
    """R4: MASTER_ADDR and PORT are the same and run ids are "none": the launcher tells them apart."""
    body = ON_ALL.format(arguments="")
    jobs = [start_all(node.launcher(2), body) for _ in range(2)]
    told = [[rank.expect_json("ready") for rank in ranks] for ranks in jobs]
    assert [[each["role"] for each in ranks] for ranks in told] == [["owner", "worker"]] * 2
    assert told[0][0]["run_id"] == told[0][1]["run_id"] != told[1][0]["run_id"] == told[1][1]["run_id"]
    for ranks in jobs:
        end_all(ranks)
    assert [node.ended(ranks[0]["run_id"])["status"] for ranks in told] == ["COMPLETED"] * 2


def test_init_on_rank_0_only_waits_for_nobody(node: Node) -> None:
    """R4: the usual gate; the other ranks are no members and nobody misses them."""
    node.constants({RANK_ZERO_S: NEVER_S})
    launcher = node.launcher(2)
    gated = launcher.rank(0, ON_ALL.format(arguments="run_id='gated'"))
    other = launcher.rank(1, "tell('ready'); hear()")
    other.expect("ready")
    assert gated.expect_json("ready")["role"] == "owner"
    gated.say("end")
    assert gated.wait() == 0
    assert node.ended("gated")["status"] == "COMPLETED"


def test_init_on_the_last_rank_only_owns_after_five_seconds(node: Node) -> None:
    """R4: it trains and logs from the start; after 5 s it owns, and a late rank 0 is a worker."""
    launcher = node.launcher(2)
    node.constants({RANK_ZERO_S: NEVER_S})
    last = launcher.rank(
        1,
        """
        run = pluto.init(run_id="pipeline", settings={"heartbeat_s": 0.2})
        run.update_config({"seen": True})
        for step in range(100): log(run, {"loss": step / 3}, step)
        tell("trained")
        hear()
        tell_json("config", run.config)
        tell_json("ready", facts(run))
        hear()
        """,
    )
    last.expect("trained")
    node.coordinator()
    assert RANK_ZERO_AFTER_S == 5.0
    node.constants({RANK_ZERO_S: 0.0})  # as if five seconds were over
    node.kill_coordinator()
    last.say()
    assert last.expect_json("config") == {"seen": True}
    assert last.expect_json("ready")["role"] == "owner"
    late = launcher.rank(0, ON_ALL.format(arguments="run_id='pipeline'"))
    assert late.expect_json("ready")["role"] == "worker"
    late.say("end")
    late.wait()
    last.say()
    assert last.wait() == 0
    found = node.ended("pipeline")
    assert (found["status"], lease(found, role="owner")["rank"]) == ("COMPLETED", 1)
    assert not node.lost("pipeline")


def test_a_rank_that_insists_owns_at_once(node: Node) -> None:
    """R4: `role="owner"` on the last rank needs no wait, and rank 0 beside it is a worker."""
    node.constants({RANK_ZERO_S: NEVER_S})
    launcher = node.launcher(2)
    role = "run_id='insist', role='owner' if os.environ['RANK'] == '1' else None"
    last = launcher.rank(1, ON_ALL.format(arguments=role))
    assert last.expect_json("ready")["role"] == "owner"
    first = launcher.rank(0, ON_ALL.format(arguments=role))
    assert first.expect_json("ready")["role"] == "worker"
    end_all([last, first])
    assert node.ended("insist")["status"] == "COMPLETED"


def test_a_rank_that_is_gone_before_it_has_a_role_keeps_its_points(node: Node) -> None:
    """G3, R4: a rank may log and die within the 5 s; what it logged is in the Run all the same."""
    launcher = node.launcher(2)
    hasty = launcher.rank(
        1,
        """
        run = pluto.init(run_id="hasty")
        for step in range(10): log(run, {"early": step / 3}, step)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert hasty.wait() == -9
    owner = launcher.rank(0, ON_ALL.format(arguments="run_id='hasty'"))
    assert owner.expect_json("ready")["role"] == "owner"
    owner.say("end")
    owner.wait()
    found = node.ended("hasty")
    assert (found["status"], found["verdict"]["first_failure"]["rank"]) == ("FAILED", 1)
    assert not node.lost("hasty")


def test_a_child_of_a_rank_is_a_side(node: Node) -> None:
    """R4: it inherits the rank's variables and is no second rank 0."""
    launcher = node.launcher(1)
    child = (
        "from tests.process.stage import *; run = pluto.init(run_id='tree', label='eval'); "
        "log(run, {'eval': 1.0}, 0); tell('child', run.role); sys.exit(3)"
    )
    owner = launcher.rank(
        0,
        f"""
        import subprocess
        run = pluto.init(run_id="tree")
        log(run, {{"loss": 1.0}}, 0)
        tell("code", subprocess.run([sys.executable, "-c", {child!r}]).returncode)
        """,
    )
    assert owner.expect("child") == "side"
    assert owner.expect("code") == "3"
    assert owner.wait() == 0
    found = node.ended("tree")
    assert (found["status"], lease(found, role="side")["label"]) == ("COMPLETED", "eval")
    wait_until(lambda: not node.lost("tree"), "the child's point")


def test_a_restarted_job_goes_on_in_the_same_run(node: Node) -> None:
    """R4, R10: attempt 1 has the same Run and ids, a higher epoch, steps that continue, and a clean slate."""
    launcher = node.launcher(2, run_id="elastic", max_restarts=2)
    body = """
        run = pluto.init()
        log(run, {"loss": 1.0}); log(run, {"loss": 2.0})
        tell_json("ready", facts(run) | {"next": run.next_step})
        while (line := hear()) not in ("", "end"): exec(line)
    """
    first = [launcher.rank(rank, body) for rank in range(2)]
    before = [rank.expect_json("ready") for rank in first]
    first[1].say("raise ValueError('first attempt')")
    first[1].wait()
    run_id = before[0]["run_id"]
    wait_until(lambda: node.document(run_id)["phase"] in ("running", "restarting"))
    first[0].signal(15)
    first[0].wait()
    assert node.document(run_id)["status"] == "RUNNING"
    second = [launcher.rank(rank, body, attempt=1) for rank in range(2)]
    after = [rank.expect_json("ready") for rank in second]
    assert [each["role"] for each in after] == ["owner", "worker"]
    assert {each["id"] for each in after} == {before[0]["id"]}
    assert {each["epoch"] for each in after} == {before[0]["epoch"] + 1}
    assert [each["next"] for each in after] == [4, 4]
    for rank in reversed(second):
        rank.say("end")
        rank.wait()
    found = node.ended(run_id)
    assert (found["status"], found["attempt"], found["verdict"]["first_failure"]) == ("COMPLETED", 1, None)
    assert [end["status"] for end in found["attempts"]] == ["FAILED"]
    assert found["attempts"][0]["first_failure"]["message"] == "first attempt"
    assert not node.lost(run_id)
    points = node.points(run_id)
    assert sorted(point.step for point in points if point.name == "loss") == [0, 1, 2, 3]


def test_no_status_goes_out_while_the_launcher_may_restart(node: Node) -> None:
    """R10: all ranks are dead, the launcher lives: the Run waits; when the launcher goes, it has failed."""
    launcher = node.launcher(1, max_restarts=1)
    rank = launcher.rank(0, ON_ALL.format(arguments="run_id='again'"))
    rank.expect("ready")
    rank.kill()
    found = wait_until(lambda: (d := node.document("again"))["phase"] == "restarting" and d, "restarting")
    assert found["status"] == "RUNNING"
    launcher.kill()
    ended = node.ended("again")
    assert (ended["status"], ended["verdict"]["first_failure"]["signal"]) == ("FAILED", "SIGKILL")


@pytest.mark.parametrize("named", [False, True], ids=["without_id", "with_id"])
def test_the_next_start_of_one_job_is_no_side_of_the_first(node: Node, named: bool) -> None:
    """R4: `train.py || train.py`, `pretrain.py && finetune.py`: the same ranks again in one job step."""
    launcher = node.launcher(2)
    env = {"PLUTO_RUN_ID": "job"} if named else {}
    first = start_all(launcher, ON_ALL.format(arguments=""), env=env)
    before = [rank.expect_json("ready") for rank in first]
    first[1].say("end")
    first[0].say("raise ValueError('first')")
    assert [rank.wait() for rank in first] == [1, 0]
    second = start_all(launcher, ON_ALL.format(arguments=""), env=env)
    after = [rank.expect_json("ready") for rank in second]
    assert [each["role"] for each in after] == ["owner", "worker"]
    assert (after[0]["run_id"] == before[0]["run_id"]) is named
    assert after[0]["run_id"] == after[1]["run_id"]
    end_all(second)
    found = node.ended(after[0]["run_id"])
    assert found["status"] == "COMPLETED"
    if named:
        assert [end["first_failure"]["message"] for end in found["attempts"]] == ["first"]
    else:
        assert node.ended(before[0]["run_id"])["status"] == "FAILED"
