"""Automatic steps are one more than the participant's last, whoever gave that one."""

from __future__ import annotations

from tests.process.harness import Node


def test_automatic_steps_go_on_behind_given_ones(node: Node) -> None:
    script = node.start("""
        run = pluto.init(run_id="steps")
        log(run, {"a": 0.0}); log(run, {"a": 1.0})
        log(run, {"a": 2.0}, 2); log(run, {"a": 3.0})
        log(run, {"a": 10.0}, 10); log(run, {"a": 4.0}, 4); log(run, {"a": 11.0})
    """)
    assert script.wait() == 0
    node.ended("steps")
    assert {point.step: point.value for point in node.points("steps")} == {
        step: float(step) for step in (0, 1, 2, 3, 4, 10, 11)
    }
