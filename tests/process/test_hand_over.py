"""R14, G13 with real processes: a trainer, evals that are killed, a coordinator that is killed."""

from __future__ import annotations

import os
import signal
from collections import defaultdict

from tests.process.harness import Node, Script, wait_until

TRAINER = """
    run = pluto.init(run_id="shared", quiet=True)
    tell("up")
    step = 0
    while hear() == "more":
        for _ in range(5):
            path = f"{os.getcwd()}/step{step}"
            open(path, "w").close()
            run.checkpoint(path, step, loss=1 / (step + 1))
            step += 1
        tell("handed", step)
    run.finish()
"""
EVAL = """
    run = pluto.attach("shared", label=sys.argv[1], quiet=True)
    tell("up", run.label)
    for checkpoint in run.checkpoints(group="evals"):
        assert os.path.exists(checkpoint.path)
        tell_json("took", [checkpoint.number, checkpoint.step])
        if hear() == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
    tell("over")
"""


def more(trainer: Script) -> int:
    """Five checkpoints more; how many there are."""
    trainer.say("more")
    return int(trainer.expect("handed"))


def test_two_evals_share_what_a_trainer_hands_over_whoever_dies(node: Node) -> None:
    """G12, G13: each checkpoint at least once, in order per member but for what the dead one had."""
    node.set(PLUTO_DIST_HEARTBEAT_S="0.2")
    trainer = node.start(TRAINER, name="trainer")
    trainer.expect("up")
    more(trainer)
    taken: dict[str, list[int]] = defaultdict(list)
    evals = {name: node.start(EVAL, name, name=name) for name in ("a", "b")}
    for name, each in evals.items():
        each.expect("up")
        taken[name].append(each.expect_json("took")[0])
    assert {*taken["a"], *taken["b"]} == {1, 2}
    node.kill_coordinator()
    assert more(trainer) == 10
    evals["a"].say()
    taken["a"].append(evals["a"].expect_json("took")[0])
    evals["a"].say("crash")
    left_behind = taken["a"][-1]
    node.kill_coordinator()
    trainer.say("end")
    while len(taken["b"]) < 9:  # all but the one that the other has done
        evals["b"].say()
        number, step = evals["b"].expect_json("took")
        assert step == number - 1
        taken["b"].append(number)
    evals["b"].say()
    evals["b"].expect("over")
    assert (trainer.wait(), evals["b"].wait()) == (0, 0)
    in_order = [number for number in taken["b"] if number != left_behind]
    assert in_order == sorted(set(in_order)), "rising, and nothing twice"
    assert {taken["a"][0], *taken["b"]} == {*range(1, 11)}
    shown = node.ended("shared")["topics"]["checkpoints"]
    assert (shown["last"], shown["readers"][0]["done"], shown["readers"][0]["behind"]) == (10, 10, 0)
    assert node.ended("shared")["status"] == "COMPLETED"


def test_a_label_goes_on_where_it_was_killed_also_when_the_run_has_ended(node: Node) -> None:
    """G13: a late joiner gets the backlog; the same label after its SIGKILL the rest of it."""
    trainer = node.start(TRAINER, name="trainer")
    trainer.expect("up")
    more(trainer)
    trainer.say("end")
    assert trainer.wait() == 0
    body = EVAL.replace('group="evals"', "")
    first = node.start(body, "late", name="late")
    assert first.expect("up") == "late"
    for number in (1, 2, 3):
        assert first.expect_json("took") == [number, number - 1]
        first.say("crash" if number == 3 else "next")
    assert first.wait() == -signal.SIGKILL
    second = node.start(body, "late", name="late")
    assert second.expect("up") == "late"
    for number in (3, 4, 5):
        assert second.expect_json("took") == [number, number - 1]
        second.say()
    second.expect("over")
    assert second.wait() == 0


def test_a_trainer_hands_over_while_no_coordinator_can_be_had(node: Node) -> None:
    """G4, G12: what was handed over is on disk; the coordinator that comes numbers it."""
    trainer = node.start(TRAINER, name="trainer")
    trainer.expect("up")
    os.kill(node.coordinator(), signal.SIGSTOP)
    assert more(trainer) == 5
    trainer.kill()
    node.kill_coordinator()
    late = node.start(EVAL, "late", name="late")
    late.expect("up")
    for number in range(1, 6):
        assert late.expect_json("took")[0] == number
        late.say()
    late.expect("over")
    assert late.wait() == 0
    wait_until(lambda: node.ended("shared")["status"] == "FAILED", "the trainer was killed")
