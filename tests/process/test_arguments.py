"""Calls that cannot be meant, and calls after the end: refused at once, nothing lost, nothing hangs."""

from __future__ import annotations

import pytest

from tests.process.harness import Node, events, wait_until


@pytest.mark.parametrize("call", ["run.finish('1')", "run.finish(1.0)", "run.finish(timeout_s='5')"])
def test_a_finish_that_cannot_be_meant_leaves_the_next_one_its_say(node: Node, call: str) -> None:
    """G3, G7: a typed error at once; the failure that was meant is still told, never COMPLETED."""
    script = node.start(f"""
        run = pluto.init(run_id="exact")
        log(run, {{"loss": 1.0}})
        try:
            {call}
        except pluto.errors.ArgumentError as error:
            tell("refused", error)
        log(run, {{"loss": 2.0}})
        run.finish(1)
        run.finish(0)
        tell("finished")
    """)
    assert "pass " in script.expect("refused")
    script.expect("finished")
    assert script.wait() == 0
    assert node.ended("exact")["status"] == "FAILED"
    assert not node.lost("exact")


def test_numpy_codes_and_tags_of_another_type(node: Node) -> None:
    """G9: an integer of numpy is one; a tag that is none is refused and costs nothing after."""
    script = node.start("""
        import numpy
        run = pluto.init(run_id="numpy", tags=["a", "b"])
        try:
            run.remove_tags([3])
        except pluto.errors.InvalidRecordError as error:
            tell("refused", error)
        run.remove_tags("a")
        tell_json("tags", run.tags)  # waits until all entries have taken effect
        run.finish(numpy.int64(1))
    """)
    assert "type int" in script.expect("refused")
    assert script.expect_json("tags") == ["b"]
    assert script.wait() == 0
    assert node.ended("numpy")["status"] == "FAILED"


def test_the_modules_finish_ends_all_runs_or_the_one_it_is_given(node: Node) -> None:
    """As with the official client."""
    script = node.start("""
        runs = [pluto.init(run_id=f"sweep{n}") for n in range(3)]
        pluto.finish(runs[1], code=1)
        tell_json("one", [run.ended for run in runs])
        pluto.finish()
        tell_json("all", [run.ended for run in runs])
        pluto.finish()
    """)
    assert script.expect_json("one") == [False, True, False]
    assert script.expect_json("all") == [True, True, True]
    assert script.wait() == 0
    assert [node.ended(f"sweep{n}")["status"] for n in range(3)] == ["COMPLETED", "FAILED", "COMPLETED"]


def test_attach_takes_its_role_at_its_word(node: Node) -> None:
    """R5: a worker's failure says something about the job, a side's does not; nobody attaches as owner."""
    owner = node.start("""
        run = pluto.init(run_id="shared")
        tell("ready")
        hear()
    """)
    owner.expect("ready")
    for role, code in (("side", 1), ("worker", 1)):
        script = node.start(f"""
            run = pluto.attach("shared", role={role!r})
            tell("role", run.role)
            sys.exit({code})
        """)
        assert script.expect("role") == role
        assert script.wait() == code
        assert node.document("shared")["status"] == "RUNNING"
    owner.say()
    assert owner.wait() == 0
    found = node.ended("shared")
    assert (found["status"], found["verdict"]["first_failure"]["role"]) == ("FAILED", "worker")


def test_an_entry_of_a_newer_version_harms_nobody(node: Node) -> None:
    """R1, G5: it is passed and noted; what stands around it counts, and the end does not wait."""
    script = node.start("""
        run = pluto.init(run_id="skew")
        run.add_tags("before")
        run._lease.files.lifecycle.append(b'{"entry":"promoted","at":1.0,"wall_ms":1}\\n')
        run.add_tags("after")
        log(run, {"loss": 1.0})
        tags = run.tags
        run.finish(1)
        tell_json("ended", tags)
    """)
    assert script.expect_json("ended") == ["before", "after"]
    assert script.wait() == 0
    found = node.ended("skew")
    assert found["status"] == "FAILED"
    (noted,) = events(found, "unreadable_entry")
    assert "promoted" in noted["why"]
    assert not node.lost("skew")


@pytest.mark.parametrize("required", ["0", "1"])
def test_an_opening_that_cannot_be_read_is_refused_at_once(node: Node, required: str) -> None:
    """R1, R13: no waiting for a grant that never comes; one warning with the way out, or a typed error."""
    script = node.start(
        """
        from pluto_dist.client import opening
        from pluto_dist.core.values import lifecycle
        opening.PROTOCOL = "2.0"
        lifecycle.decode_entry = lambda line: None  # what a newer client writes, it can read
        try:
            run = pluto.init(run_id="newer")
        except pluto.errors.VersionMismatchError as error:
            print(error, file=sys.stderr)
        else:
            run.log({"loss": 1.0})
        tell("after", "run" in globals())
        """,
        env={"PLUTO_DIST_REQUIRED": required},
    )
    assert script.expect("after") == str(required == "0")
    assert script.wait() == 0
    assert script.stderr.count("coordinator stop") == 1
    assert node.said("lifecycle_without_opening")
    assert node.documents() == []


def test_properties_after_the_end_are_true(node: Node) -> None:
    """The config and tags that all have merged, the status as it becomes."""
    script = node.start("""
        run = pluto.init(run_id="read", config={"lr": 1}, tags="a")
        run.update_config({"seed": 2})
        run.close()
        tell_json("closed", [run.config, run.tags, run.status])
        hear()
        tell_json("later", [run.config, run.tags, run.status])
    """)
    assert script.expect_json("closed") == [{"lr": 1, "seed": 2}, ["a"], "RUNNING"]
    node.cli("finish", "read", "--status", "CANCELLED", "--force")
    wait_until(lambda: node.document("read")["status"] == "CANCELLED", "somebody cancelled it")
    script.say()
    assert script.expect_json("later") == [{"lr": 1, "seed": 2}, ["a"], "CANCELLED"]
    assert script.wait() == 0


def test_without_a_coordinator_the_config_after_the_end_says_why(node: Node) -> None:
    """A true reason and the way out, at once; tags and status are as they were last."""
    script = node.start("""
        run = pluto.init(run_id="read", config={"lr": 1}, tags="a")
        tell_json("before", [run.config, run.tags])
        run.finish()
        tell("finished")
        hear()
        try:
            run.config
        except pluto.errors.RunEndedError as error:
            tell("refused", error)
        tell_json("known", [run.tags, run.status])
    """)
    script.expect("before")
    script.expect("finished")
    node.kill_coordinator()
    script.say()
    told = script.expect("refused")
    assert "was finished by this process" in told
    assert "pluto-dist show read" in told
    assert script.expect_json("known") == [["a"], "COMPLETED"]
    assert script.wait() == 0


def test_flush_refuses_where_nobody_will_tell(node: Node) -> None:
    """After the end and in a forked child: typed and at once, instead of polling until the time is over."""
    script = node.start("""
        def flush(word):
            try:
                run.flush(timeout_s=NEVER_S)
            except pluto.errors.RunEndedError as error:
                tell(word, error)
            else:
                tell(word, "delivered")
        run = pluto.init(run_id="flush")
        log(run, {"loss": 1.0})
        run.flush()
        child = os.fork()
        if child == 0:
            run.log({"loss": 2.0})
            flush("child")
            os._exit(0)
        os.waitpid(child, 0)
        tell("ready")
        hear()
        log(run, {"loss": 3.0})
        run.finish(timeout_s=0)
        flush("ended")
    """)
    assert "forked after init()" in script.expect("child")
    script.expect("ready")
    node.kill_coordinator()
    script.say()
    assert "on disk in" in script.expect("ended")
    assert script.wait() == 0


def test_a_large_config_arrives_whole(node: Node) -> None:
    """G9: just below the 4 MiB that a config may have; it is merged and read back by every process."""
    script = node.start("""
        big = {f"k{n}": "x" * 1000 for n in range(3800)}
        run = pluto.init(run_id="big", config=big)
        run.update_config({"small": 1})
        tell_json("same", run.config == {**big, "small": 1})
        hear()
        run.finish()
        tell_json("after", run.config == {**big, "small": 1})
    """)
    assert script.expect_json("same") is True
    side = node.start("""
        side = pluto.attach("big")
        tell_json("seen", [len(side.config), side.config["small"]])
    """)
    assert side.expect_json("seen") == [3801, 1]
    assert side.wait() == 0
    script.say()
    assert script.expect_json("after") is True
    assert script.wait() == 0
    assert len(node.ended("big")["config"]) == 3801
