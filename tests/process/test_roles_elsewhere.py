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


def test_an_attach_that_waits_says_for_what_and_how_long(node: Node) -> None:
    """R5: the id may be mistyped, or the training may come later; who asked for quiet is not told."""
    body = """
        import pluto_dist.client.opening
        pluto_dist.client.opening.TELL_AFTER_S = 0.3
        try:
            pluto.attach("trian", timeout_s={bound}, quiet={quiet})
        except pluto.errors.RunNotFoundError as error:
            tell("absent", error)
    """
    waiting = node.start(body.format(bound=1.5, quiet=False))
    assert "no Run trian on this node within 1.5 s" in waiting.expect("absent")
    assert waiting.wait() == 0
    assert waiting.stderr.count("attach() waits for Run trian, up to 1.5 s") == 1
    for bound, quiet in ((0.2, False), (1.0, True)):
        silent = node.start(body.format(bound=bound, quiet=quiet))
        silent.expect("absent")
        assert silent.wait() == 0
        assert "waits for" not in silent.stderr


def test_an_attach_that_came_early_goes_on_when_its_run_is_there(node: Node) -> None:
    """R5: being told does not end the wait."""
    early = node.start("""
        import pluto_dist.client.opening
        pluto_dist.client.opening.TELL_AFTER_S = 0.1
        side = pluto.attach("train", label="eval", timeout_s=3000)
        tell("is", side.role)
    """)
    wait_until(lambda: "waits for Run train, up to 3000 s" in early.stderr, "it says so")
    owner = node.start(OWNER)
    owner.expect("ready")
    assert early.expect("is") == "side"
    assert early.wait() == 0
    owner.say()
    assert owner.wait() == 0
