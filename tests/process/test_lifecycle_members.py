"""Ranks and sides in every order of exit: who ends the Run, and what a failure beside the owner means.

Each job is a launcher with two ranks that do what they are told, one deed after the other; what only has to
pass (graces, the drain) passes for all jobs together. Each test then looks at one story.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from tests.patience import NEVER_S
from tests.process.harness import Launcher, Node, Script, events, lease, wait_until

OBEDIENT = """
run = pluto.{verb}
log(run, {{f"loss_{{run.label}}": 1.0}}, 0)
tell_json("ready", facts(run))
while (line := hear()) not in ("", "end"):
    exec(line)
    tell("done")
"""


SLOW_DEEDS = dict.fromkeys(  # the deeds of a story belong together, however long they take
    ("pluto_dist.core.rules.verdict.RANKING_WINDOW_S", "pluto_dist.core.rules.verdict.DRAIN_S"), NEVER_S
)


class Story(NamedTuple):
    """What the ranks do, in this order, and how the Run ends.

    Attributes:
        deeds: rank and what it does; "end" is its last line, "SIGKILL" comes from outside.
        failure: what the first failure must say, empty for none.
    """

    deeds: tuple[tuple[int, str], ...]
    status: str
    failure: Mapping[str, Any] = {}


STORIES = {
    "owner_last": Story(((1, "end"), (0, "end")), "COMPLETED"),
    "owner_first": Story(((0, "end"), (1, "end")), "COMPLETED"),
    "owner_finishes_first": Story(((0, "run.finish()"), (0, "end"), (1, "end")), "COMPLETED"),
    "worker_finishes": Story(((1, "run.finish()"), (1, "end"), (0, "end")), "COMPLETED"),
    "worker_finishes_with_a_code": Story(((1, "run.finish(code=1)"), (1, "end"), (0, "end")), "COMPLETED"),
    "worker_closes_and_exits_3": Story(((1, "run.close()"), (1, "sys.exit(3)"), (0, "end")), "COMPLETED"),
    "worker_raises": Story(
        ((1, "raise ValueError('bad batch')"), (0, "end")),
        "FAILED",
        {"role": "worker", "rank": 1, "kind": "exception", "type": "ValueError", "message": "bad batch"},
    ),
    "worker_exits_3_after_the_owner": Story(
        ((0, "end"), (1, "sys.exit(3)")), "FAILED", {"rank": 1, "kind": "exit", "exit_code": 3}
    ),
    "worker_killed": Story(((1, "SIGKILL"), (0, "end")), "FAILED", {"rank": 1, "signal": "SIGKILL"}),
    "worker_leaves_by_os_exit_5": Story(
        ((1, "os._exit(5)"), (0, "end")), "FAILED", {"rank": 1, "kind": "exit", "exit_code": 5}
    ),
    "owner_killed_worker_lives": Story(((0, "SIGKILL"),), "FAILED", {"rank": 0, "signal": "SIGKILL"}),
    "owner_killed_worker_ends": Story(
        ((0, "SIGKILL"), (1, "end")), "FAILED", {"role": "owner", "rank": 0, "signal": "SIGKILL"}
    ),
    "owner_is_the_victim_of_a_killed_worker": Story(
        ((1, "SIGKILL"), (0, "raise ConnectionResetError('peer')")),
        "FAILED",
        {"rank": 1, "signal": "SIGKILL"},
    ),
    "worker_is_the_victim_of_a_killed_owner": Story(
        ((0, "SIGKILL"), (1, "raise RuntimeError('NCCL: remote process exited')")),
        "FAILED",
        {"rank": 0, "signal": "SIGKILL"},
    ),
    "victim_arrives_before_the_cause": Story(
        ((0, "raise ConnectionResetError('peer')"), (1, "raise ValueError('nan')")),
        "FAILED",
        {"rank": 1, "type": "ValueError"},
    ),
    "both_asked_to_stop": Story(
        ((0, "SIGTERM"), (1, "SIGTERM")), "TERMINATED", {"rank": 0, "signal": "SIGTERM"}
    ),
    "failure_after_sigterm": Story(
        ((1, "SIGTERM"), (0, "raise RuntimeError('peer gone')")),
        "TERMINATED",
        {"rank": 1, "signal": "SIGTERM"},
    ),
    "sigterm_after_a_failure": Story(
        ((1, "raise ValueError('bad batch')"), (0, "SIGTERM")), "FAILED", {"rank": 1, "type": "ValueError"}
    ),
    "owner_says_failed": Story(((0, "run.finish(code=1)"), (1, "end"), (0, "end")), "FAILED"),
}


def worker_ended(document: dict[str, Any]) -> dict[str, Any] | None:
    """The document, if its worker's lease has ended."""
    ended = any(each["role"] == "worker" and each["ended_at"] for each in document["leases"])
    return document if ended else None


def tell_to(script: Script, deed: str) -> None:
    """Has a script do something; returns when it has done it, or is gone."""
    if deed.startswith("SIG"):
        script.signal(signal.Signals[deed])
    else:
        script.say(deed)
    if deed.startswith("run."):
        script.expect("done")
    else:
        wait_until(lambda: script.gone, f"{script.name} is gone")


@pytest.fixture(scope="module")
def jobs(shared_node: Node) -> dict[str, list[Script]]:
    """Both ranks of each story's job; all deeds are done."""
    shared_node.constants(SLOW_DEEDS)
    with ThreadPoolExecutor(3) as pool:
        return dict(zip(STORIES, pool.map(lambda name: play(shared_node, name), STORIES), strict=True))


def play(node: Node, name: str) -> list[Script]:
    """One story from its start to its last deed."""
    launcher: Launcher = node.launcher(2)
    body = OBEDIENT.format(verb=f"init(run_id={name!r}, project='jobs')")
    ranks: list[Script] = [launcher.rank(rank, body, name=name) for rank in range(2)]
    for rank in ranks:
        rank.expect("ready")
    for number, deed in STORIES[name].deeds:
        tell_to(ranks[number], deed)
    return ranks


@pytest.mark.parametrize("name", STORIES)
def test_status_follows_from_all_members(shared_node: Node, jobs: dict[str, list[Script]], name: str) -> None:
    """G7, R10: the culprit is named, victims and consequences are not, and no order of exit changes it."""
    story = STORIES[name]
    found = shared_node.ended(name)
    assert found["status"] == story.status
    failure = found["verdict"]["first_failure"]
    if story.failure:
        assert {key: failure[key] for key in story.failure} == story.failure
        assert failure["pid"] == jobs[name][story.failure["rank"]].pid
    else:
        assert failure is None
    assert lease(found, role="owner")["rank"] == 0
    assert lease(found, role="worker")["rank"] == 1
    assert {each["epoch"] for each in found["leases"]} == {1}
    assert not shared_node.lost(name)
    assert {point.name for point in shared_node.points(name)} == {"loss_rank0", "loss_rank1"}


def test_a_run_lives_as_long_as_its_owner(node: Node) -> None:
    """G1: a worker's `finish()` says that this rank is done, and nothing about the Run."""
    launcher = node.launcher(2)
    body = OBEDIENT.format(verb="init(run_id='job')")
    owner, worker = (launcher.rank(rank, body) for rank in range(2))
    assert owner.expect_json("ready")["role"] == "owner"
    assert worker.expect_json("ready")["role"] == "worker"
    tell_to(worker, "run.finish()")
    assert worker.stderr == ""
    found = wait_until(lambda: worker_ended(node.document("job")))
    assert (found["status"], found["phase"]) == ("RUNNING", "running")
    tell_to(owner, "end")
    assert node.ended("job")["status"] == "COMPLETED"
    assert node.document("job")["points"] == 2


def test_after_the_drain_a_worker_changes_nothing(node: Node) -> None:
    """R10: COMPLETED goes out 10 s after the owner's `finish()`; who is stopped or fails then is too late."""
    launcher = node.launcher(3)
    body = OBEDIENT.format(verb="init(run_id='job')")
    owner, stopped, late = (launcher.rank(rank, body) for rank in range(3))
    for rank in (owner, stopped, late):
        rank.expect("ready")
    stopped.signal(signal.SIGSTOP)
    tell_to(owner, "run.finish()")
    tell_to(owner, "end")
    wait_until(lambda: node.document("job")["phase"] == "finishing", "the drain")
    assert node.document("job")["status"] == "RUNNING"
    assert node.ended("job")["status"] == "COMPLETED"
    late.say("log(run, {'after': 2.0}, 1)")
    late.expect("done")
    tell_to(late, "raise ValueError('too late')")
    stopped.signal(signal.SIGCONT)
    tell_to(stopped, "end")
    whole = wait_until(
        lambda: (d := node.document("job")) and all(each["ended_at"] for each in d["leases"]) and d
    )
    assert (whole["status"], whole["verdict"]["first_failure"]) == ("COMPLETED", None)
    wait_until(lambda: not node.lost("job"), "what was logged after the end is delivered")


SIDES = {
    "last_line": ("end", 0),
    "close": ("run.close()", None),
    "raises": ("raise ValueError('eval broke')", 1),
    "exits_3": ("sys.exit(3)", 3),
    "finishes": ("run.finish()", None),
    "finishes_with_a_code": ("run.finish(code=1)", None),
    "killed": ("SIGKILL", -9),
    "terminated": ("SIGTERM", -15),
    "os_exit_5": ("os._exit(5)", 5),
}


def test_no_side_ever_ends_a_run(node: Node) -> None:
    """G1: exit, crash, finish, SIGKILL of sides are events at most; the Run goes on and ends COMPLETED."""
    owner = node.start(OBEDIENT.format(verb="init(run_id='healthy')"), name="owner")
    told = owner.expect_json("ready")
    sides = {}
    for name, (deed, code) in SIDES.items():
        side = node.start(OBEDIENT.format(verb=f"attach('healthy', label={name!r})"), name=name)
        facts = side.expect_json("ready")
        assert (facts["role"], facts["label"], facts["id"]) == ("side", name, told["id"])
        tell_to(side, deed)
        if code is not None:
            assert side.wait() == code
        sides[name] = side

    def all_ended() -> dict[str, Any] | None:
        document = node.document("healthy")
        ended = [each["label"] for each in document["leases"] if each["ended_at"]]
        return document if set(ended) >= set(SIDES) else None

    found = wait_until(all_ended, "all sides ended")
    assert (found["status"], found["phase"], found["verdict"]) == ("RUNNING", "running", None)
    assert [each["label"] for each in events(found, "side_failed")] == ["raises", "exits_3", "terminated"]
    assert {lease(found, label=name)["end_reason"] for name in ("killed", "os_exit_5")} == {"died"}
    warning = sides["finishes"].stderr
    assert warning.count("reserved to the owner") == 1
    assert f"pid {owner.pid}" in warning
    tell_to(owner, "end")
    ended = node.ended("healthy")
    assert (ended["status"], ended["verdict"]["first_failure"]) == ("COMPLETED", None)
    wait_until(lambda: not node.lost("healthy"), "everything of the sides is delivered")


def test_strict_side_may_not_finish_and_goes_on(node: Node) -> None:
    """G1: with `strict` the side gets `FinishReservedError`, naming the owner, and its lease stays usable."""
    owner = node.start(OBEDIENT.format(verb="init(run_id='strict')"), name="owner")
    owner.expect("ready")
    side = node.start(
        """
        run = pluto.attach("strict", label="eval", strict=True)
        try: run.finish()
        except pluto.errors.FinishReservedError as error: tell("refused", error)
        log(run, {"after": 1.0}, 0)
        run.add_tags("judged")
        run.close()
        try: run.log({"late": 1.0})
        except pluto.errors.RunEndedError as error: tell("late", error)
        """
    )
    assert f"pid {owner.pid}" in side.expect("refused")
    assert "attach()" in side.expect("late")
    assert side.wait() == 0
    tell_to(owner, "end")
    found = node.ended("strict")
    assert (found["status"], found["tags"]) == ("COMPLETED", ["judged"])
    wait_until(lambda: not node.lost("strict"), "the side's point")


def test_a_stopped_process_is_not_dead(node: Node) -> None:
    """R2: SIGSTOP is silence, which makes a process suspect and never ends anything; SIGCONT goes on."""
    owner = node.start(
        OBEDIENT.format(verb="init(run_id='stopped', settings={'heartbeat_s': 0.1})"), name="owner"
    )
    owner.expect("ready")
    side = node.start(OBEDIENT.format(verb="attach('stopped')"), name="side")
    side.expect("ready")
    owner.signal(signal.SIGSTOP)
    side.say("log(run, {'beside': 1.0}, 1); run.add_tags('alive'); tell('status', run.status)")
    assert side.expect("status") == "RUNNING"
    wait_until(lambda: suspects(node) == {"owner": True, "side": False}, "the missed heartbeats")
    assert node.document("stopped")["status"] == "RUNNING"
    owner.signal(signal.SIGCONT)
    owner.say("log(run, {'after': 1.0}, 1)")
    owner.expect("done")
    tell_to(owner, "end")
    found = node.ended("stopped")
    assert (found["status"], found["epoch"]) == ("COMPLETED", 1)
    tell_to(side, "end")


def suspects(node: Node) -> dict[str, bool]:
    """By label, whether a process has not been heard of for too long."""
    attached = json.loads(node.cli("ps", "--json"))["processes"]
    return {process["label"]: process["suspect"] for process in attached}


def test_a_death_is_noticed_at_once(node: Node, record_property: pytest.RecordProperty) -> None:
    """G7: without waiting for a heartbeat; how soon that is the benchmarks measure."""
    launcher = node.launcher(2)
    body = OBEDIENT.format(verb="init(run_id='job', settings={'heartbeat_s': 60})")
    owner, worker = (launcher.rank(rank, body) for rank in range(2))
    for rank in (owner, worker):
        rank.expect("ready")
    owner.say("tell('clock', time.time_ns() // 1_000_000)")
    killed_at = int(owner.expect("clock"))
    worker.kill()
    found = wait_until(lambda: worker_ended(node.document("job")))
    noticed_ms = lease(found, role="worker")["ended_at"] - killed_at
    record_property("noticed_ms", noticed_ms)
    print(f"death noticed after {noticed_ms} ms")
    assert noticed_ms >= 0
    tell_to(owner, "end")
    assert node.ended("job")["status"] == "FAILED"
