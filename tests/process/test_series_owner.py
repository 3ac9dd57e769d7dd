"""Whose plain name a series is when a job ends before anything was delivered (R7)."""

from __future__ import annotations

import pytest

from tests.process.harness import Node, wait_until


@pytest.mark.parametrize("first", [0, 1, 2])
def test_the_owner_has_the_plain_name_however_short_the_job_was(node: Node, first: int) -> None:
    """R7: an owner that has ended may still have declared the name; workers wait until it is read."""
    launcher = node.launcher(3)
    body = """
        run = pluto.init(run_id="short")
        tell("up")
        hear()
        log(run, {"loss": float(os.environ["RANK"])}, 0)
        run.finish()
        tell("done")
    """
    ranks = [launcher.rank(number, body) for number in range(3)]
    for rank in ranks:
        rank.expect("up")  # a rank that claims when the Run has ended is a side
    for rank in (*ranks[first:], *ranks[:first]):
        rank.say()
    assert [rank.wait() for rank in ranks] == [0, 0, 0]
    node.ended("short")
    wait_until(lambda: len(node.points("short")) == 3, "all points")
    named = {point.name: point.value for point in node.points("short")}
    assert named == {"loss": 0.0, "loss/rank1": 1.0, "loss/rank2": 2.0}
