"""Tags and config from many processes at once: merged one after the other, seen by all (G9)."""

from __future__ import annotations

from tests.process.harness import Node, events, wait_until

CHANGES = """
run = pluto.{call}
tell("ready")
hear()
me = {me}
for n in range(10):
    run.add_tags([f"tag-{{me}}-{{n}}", "common"])
    run.update_config({{"by": {{str(me): {{str(n): n}}}}, f"own{{me}}": n, "last": me}})
    if n % 5 == 4: run.remove_tags(f"tag-{{me}}-{{n}}")
tell("changed", len(run.tags))  # which waits until this process's changes have taken effect
hear()
tell_json("seen", [sorted(run.tags), run.config])
hear()
"""


def test_no_change_of_tags_or_config_is_lost(node: Node) -> None:
    """G9: four processes change both at once; every one of them sees everything, and so does the store."""
    calls = ["init(run_id='shared', config={'base': 1})", *["attach('shared')"] * 3]
    scripts = []
    for me, call in enumerate(calls):
        scripts.append(node.start(CHANGES.format(call=call, me=me), name=f"p{me}"))
        scripts[-1].expect("ready")
    for word in ("changed", "seen"):
        for script in scripts:
            script.say()
        told = [script.expect(word) for script in scripts]
    tags = sorted({f"tag-{me}-{n}" for me in range(4) for n in range(10) if n % 5 != 4} | {"common"})
    assert len(set(told)) == 1, "all see the same"
    for script in scripts:
        script.say()
        script.wait()
    found = node.ended("shared")
    assert sorted(found["tags"]) == tags
    config = found["config"]
    assert config.pop("last") in range(4)
    by = {str(me): {str(n): n for n in range(10)} for me in range(4)}
    assert config == {"base": 1, "by": by} | {f"own{me}": 9 for me in range(4)}


def test_whose_config_it_is(node: Node) -> None:
    """The owner's is the Run's; a worker's other one is one event; a side's is kept under its label."""
    launcher = node.launcher(2)
    body = (
        "run = pluto.init(run_id='whose', config={'lr': int(os.environ['RANK']) + 1, 'seed': 0})\n"
        "tell_json('ready', run.config); hear()"
    )
    owner, worker = (launcher.rank(rank, body) for rank in range(2))
    assert owner.expect_json("ready") == worker.expect_json("ready") == {"lr": 1, "seed": 0}
    side = node.start(
        """
        run = pluto.init(run_id="whose", role="side", label="eval", config={"lr": 99, "batch": 4})
        run.update_config({"checkpoint": {"step": 3}})
        tell_json("config", run.config)
        """
    )
    assert side.expect_json("config") == {"lr": 1, "seed": 0, "checkpoint": {"step": 3}}
    assert side.wait() == 0
    for rank in (worker, owner):
        rank.say()
        rank.wait()
    found = node.ended("whose")
    assert found["config"] == {"lr": 1, "seed": 0, "checkpoint": {"step": 3}}
    assert found["side_configs"] == {"eval": {"lr": 99, "batch": 4}}
    assert [event["rank"] for event in events(found, "config_differs")] == ["1"]


def test_a_config_is_a_snapshot_of_what_it_was_given(node: Node) -> None:
    """Nested dicts, dataclasses, paths, numpy scalars; a later change of the object changes nothing."""
    script = node.start(
        """
        import dataclasses, pathlib
        import numpy as np
        @dataclasses.dataclass
        class Model:
            width: int = 8
            path: pathlib.Path = pathlib.Path("/data/x")
        given = {"model": Model(), "lr": np.float32(0.5), "n": np.int64(3), "deep": {"a": [1, (2, None)]}}
        run = pluto.init(run_id="snapshot", config=given, tags="one")
        given["deep"]["a"] = "changed"
        run.update_config({"deep": {"b": True}})
        tell_json("config", run.config)
        """
    )
    expected = {
        "model": {"width": 8, "path": "/data/x"},
        "lr": 0.5,
        "n": 3,
        "deep": {"a": [1, [2, None]], "b": True},
    }
    assert script.expect_json("config") == expected
    script.wait()
    found = node.ended("snapshot")
    assert (found["config"], found["tags"]) == (expected, ["one"])


def test_changes_of_a_process_that_is_killed_at_once_are_kept(node: Node) -> None:
    """R1: what returned is in the stream on disk, also if nobody was told of it any more."""
    owner = node.start("run = pluto.init(run_id='kept'); tell('ready'); hear()", name="owner")
    owner.expect("ready")
    side = node.start(
        """
        run = pluto.attach("kept")
        run.add_tags("last-words"); run.update_config({"last": "words"})
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert side.wait() == -9
    wait_until(lambda: node.document("kept")["tags"] == ["last-words"], "the tag")
    owner.say()
    owner.wait()
    assert node.ended("kept")["config"] == {"last": "words"}
