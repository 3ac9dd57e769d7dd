"""Processes that stand in another folder, or come when the coordinator has forgotten the Run (R4, R5, G8)."""

from __future__ import annotations

from tests.process.harness import Node, wait_until

OWNER = """
    run = pluto.init(project="mine", run_id="train")
    log(run, {"loss": 1.0})
    tell("ready")
    hear()
    run.finish()
"""


def test_an_eval_in_another_folder_joins(node: Node) -> None:
    """R5: by attach(), with an id and without, and by init() with the id in the environment."""
    owner = node.start(OWNER)
    owner.expect("ready")
    elsewhere = {"PLUTO_DIR": str(node.base / "elsewhere")}
    for number, verb in enumerate(('attach("train")', "attach()", 'attach("MIN-1")', "init()")):
        env = elsewhere | ({"PLUTO_RUN_ID": "train"} if verb == "init()" else {})
        side = node.start(
            f'run = pluto.{verb}; log(run, {{"acc{number}": 1.0}}); tell("is", run.role)', env=env
        )
        assert side.expect("is") == "side"
        assert side.wait() == 0
    owner.say()
    assert owner.wait() == 0
    document = node.ended("train")
    assert document["status"] == "COMPLETED"
    assert len(node.documents()) == 1
    assert {f"acc{number}" for number in range(4)} <= set(document["summary"])
    assert not (node.base / "elsewhere" / ".pluto" / "runs").exists()


def test_ranks_that_change_their_folder_share_one_run(node: Node) -> None:
    """R4"""
    launcher = node.launcher(2)
    body = """
        folder = os.path.join(os.getcwd(), "outputs" + os.environ["RANK"])
        os.mkdir(folder)
        os.chdir(folder)
        os.environ.pop("PLUTO_DIR")
        run = pluto.init()
        log(run, {"loss": 1.0})
        run.finish()
        tell("is", run.role, run.display_id)
    """
    ranks = [launcher.rank(number, body) for number in range(2)]
    assert sorted(rank.expect("is") for rank in ranks) == ["owner PLU-1", "worker PLU-1"]


def test_attach_finds_a_finished_run_in_the_store(node: Node) -> None:
    """G8: on a home that has never seen it; the Run stays as it ended."""
    script = node.start('run = pluto.init(run_id="old"); log(run, {"loss": 1.0}); run.finish()')
    assert script.wait() == 0
    before = node.ended("old")
    node.set(PLUTO_DIST_HOME=str(node.base / "h2"))
    side = node.start("""
        run = pluto.attach("old", label="eval")
        tell("is", run.role, run.status, run.display_id)
        log(run, {"acc": 0.5})
        run.close()
    """)
    assert side.expect("is") == "side COMPLETED PLU-1"
    assert side.wait() == 0
    wait_until(lambda: "acc" in node.document("old")["summary"], "what it logged")
    after = node.document("old")
    same = ("status", "verdict", "ended_at", "config", "tags", "name", "created_at")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert node.cli("coordinator", "stop")
