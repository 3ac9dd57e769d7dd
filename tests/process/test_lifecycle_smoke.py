"""The shortest stories: one process, one job of two ranks."""

from __future__ import annotations

from tests.process.harness import Node, lease


def test_a_script_that_ends_completes_its_run(node: Node) -> None:
    script = node.start("""
        run = pluto.init(run_id="plain")
        for step in range(5):
            log(run, {"loss": 1 / (step + 1)}, step)
        tell_json("ready", facts(run))
    """)
    ready = script.expect_json("ready")
    assert script.wait() == 0
    found = node.ended("plain")
    assert found["status"] == "COMPLETED"
    assert not node.lost("plain")
    assert len(node.points("plain")) == 5
    assert ready["role"] == "owner"


def test_ranks_of_a_job_share_one_run(node: Node) -> None:
    launcher = node.launcher(2)
    body = """
        run = pluto.init()
        log(run, {"loss": 1.0}, 0)
        tell_json("ready", facts(run))
        hear()
    """
    ranks = [launcher.rank(n, body) for n in range(2)]
    facts = [rank.expect_json("ready") for rank in ranks]
    for rank in ranks:
        rank.say()
    assert [rank.wait() for rank in ranks] == [0, 0]
    found = node.ended(facts[0]["run_id"])
    assert found["status"] == "COMPLETED"
    assert lease(found, role="worker")["rank"] == 1
    assert not node.lost(facts[0]["run_id"])
