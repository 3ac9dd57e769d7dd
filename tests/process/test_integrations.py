"""What all integrations share: which Run is meant, whose it is, in which process (no framework is loaded)."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock, call

import pytest

from pluto_dist import Artifact
from pluto_dist.errors import ArgumentError
from pluto_dist.integrations.source import Checkpoints, framework
from tests.process.harness import Node

SOURCE = "from pluto_dist.integrations.source import RunSource, framework, merge_config\n"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_that_inherits_a_source_gets_a_lease_of_its_own(node: Node, method: str) -> None:
    """R4, G9: it is a worker of its parent's Run, and what it changes is not lost."""
    script = node.start(
        f"""
        import multiprocessing, warnings
        from pluto_dist.integrations.source import RunSource
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads

        def child(source):
            log(source.run(), {{"inside": 1.0}}, 0)
            source.run().update_config({{"child": True}})
            tell_json("child", facts(source.run()))

        if __name__ == "__main__":
            source = RunSource(None, {{"name": "pool"}})
            tell_json("parent", facts(source.run()))
            process = multiprocessing.get_context("{method}").Process(target=child, args=(source,))
            process.start()
            process.join()
        """
    )
    parent, child = script.expect_json("parent"), script.expect_json("child")
    assert (parent["role"], child["role"]) == ("owner", "worker")
    assert parent["lease_id"] != child["lease_id"]
    found = node.ended("pool")
    assert (found["status"], found["config"]) == ("COMPLETED", {"child": True})
    assert not node.lost("pool")


def test_the_scripts_next_run_takes_the_place_of_its_ended_one(node: Node) -> None:
    """G1: a source follows the script's Runs; Runs of other sources are none of the script's."""
    script = node.start(
        SOURCE
        + """
source, other = RunSource(None, {}), RunSource(None, {"name": "other"})
for name in ("one", "two"):
    run = pluto.init(name=name)
    source.run().log({"x": 1.0}, 0)
    run.finish()
source.run().log({"late": 1.0}, 1)
other.run().log({"x": 1.0}, 0)
RunSource(None, {"name": "third"}).run().log({"x": 1.0}, 0)
"""
    )
    assert script.wait() == 0
    for name in ("one", "two", "other", "third"):
        assert node.ended(name)["status"] == "COMPLETED"
        assert [point.name for point in node.points(name)] == ["x"]
    assert "log() after the end" in script.stderr


def test_renewing_ends_only_what_the_source_has_opened(node: Node) -> None:
    """G1: a Run that was given, also one of another source, is gone on with."""
    script = node.start(
        SOURCE
        + """
source = RunSource(None, {"run_id": "trial", "name": "all"})
first = source.renew("first")
given = RunSource(first, {})
tell_json("kept", given.renew("no") is first and not first.ended)
second = source.renew("second")
tell_json("ended", [first.ended, second.ended])
tell_json("ids", [first.run_id, second.run_id, source.renew(None).run_id])
"""
    )
    assert script.expect_json("kept") is True
    assert script.expect_json("ended") == [True, False]
    assert script.expect_json("ids") == ["trial", "trial-2", "trial-3"]
    assert [node.ended(run_id)["name"] for run_id in ("trial", "trial-2", "trial-3")] == [
        "first",
        "second",
        "all",
    ]


def test_an_exception_is_no_reason_to_open_a_run(node: Node) -> None:
    """G7: evidence of a Run that is there, and nothing where none is."""
    script = node.start(
        SOURCE
        + """
source = RunSource(None, {"name": "evidence"})
source.take_evidence(ValueError("early"))
source.run()
source.take_evidence(ValueError("boom"))
"""
    )
    assert script.wait() == 0
    found = node.ended("evidence")
    assert (found["status"], found["verdict"]["first_failure"]["message"]) == ("FAILED", "boom")
    assert len(node.documents()) == 1


def test_a_missing_framework_names_the_extra() -> None:
    with pytest.raises(
        ImportError, match=r"no_such is not installed here: pip install 'pluto-dist\[nosuch\]'"
    ):
        framework("no_such.part", "no_such_either", extra="nosuch")


@pytest.mark.parametrize("wanted", ["handover", True, 3])
def test_a_word_that_is_none_is_refused(wanted: object) -> None:
    with pytest.raises(ArgumentError, match=r'checkpoints=.*pass "hand-over"'):
        Checkpoints(wanted)  # type: ignore[arg-type] # that is the test


def test_what_was_saved_twice_is_handed_over_once() -> None:
    """Lightning's `last.ckpt` is the same checkpoint under a name that is used again."""
    run, source = Mock(spec=["checkpoint"]), Mock(spec=["run"])
    source.run.return_value = run
    handed = Checkpoints("hand-over")
    handed.saved(source, "/a4", 4, best=True)
    handed.saved(source, "/last", 4, copy=True)
    handed.saved(source, "/last", 6, copy=True)  # it was not among the best, so this is all there is
    handed.saved(source, "/last", 8, copy=True)
    handed.saved(source, "/a8", 8)  # of another training
    expected = [call("/a4", 4, best=True), call("/last", 6), call("/last", 8), call("/a8", 8)]
    assert run.checkpoint.mock_calls == expected


def test_where_nothing_is_wanted_no_run_is_opened_for_a_checkpoint() -> None:
    source = Mock(spec=["run"])
    Checkpoints(None).saved(source, "/a9", 9)
    assert source.mock_calls == []


def test_what_is_to_be_uploaded_is_logged_as_an_artifact(tmp_path: Path) -> None:
    source = Mock(spec=["run"])
    Checkpoints("upload").saved(source, str(tmp_path), 4, best=True)
    ((named, step), _) = source.run().log.call_args
    (artifact,) = named.values()
    assert (list(named), step) == (["checkpoint"], 4)
    assert (type(artifact), artifact.source, artifact.annotations) == (
        Artifact,
        str(tmp_path),
        '{"best":true}',
    )
