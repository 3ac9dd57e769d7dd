"""Runs on a server: created, shared, ended; the strict emulator finds nothing to complain about."""

from __future__ import annotations

import pytest

from tests.process.harness import wait_until
from tests.process.served import Served


def test_a_plain_script_brings_everything_to_the_server(served: Served) -> None:
    """R11: when the process is gone, the status and every point are there."""
    script = served.start("""
        run = pluto.init(project="demo", run_id="plain", name="first", config={"lr": 0.1}, tags=["a"])
        for step in range(50):
            log(run, {"loss": 1 / (step + 1)}, step)
        run.log({"note": "hello"}, step=3)
        run.add_tags("b")
        run.update_config({"more": {"x": 1}})
        tell_json("ready", facts(run))
    """)
    ready = script.expect_json("ready")
    assert script.wait() == 0
    run = served.ended_remotely("plain")
    assert (run["status"], run["statusMetadata"]) == ("COMPLETED", None)
    assert (run["id"], run["displayId"]) == (ready["id"], ready["display_id"])
    assert (run["name"], run["projectName"]) == ("first", "demo")
    assert (run["tags"], run["config"]) == (["a", "b"], {"lr": 0.1, "more": {"x": 1}})
    assert run["logNames"] == {"loss": "METRIC", "note": "DATA"}
    assert served.missing("plain") == []
    assert [row["data"] for row in served.server.data(run["id"])] == ["hello"]


def test_names_are_known_before_their_first_delivery(served: Served) -> None:
    script = served.start("""
        run = pluto.init(run_id="names")
        run.log({"loss": 1.0}, step=0)
        run.finish()
    """)
    assert script.wait() == 0
    paths = served.paths()
    assert paths.index("/api/runs/logName/add") < paths.index("/ingest/metrics")
    assert paths.count("/api/runs/logName/add") == 1


def test_a_failure_is_told_with_its_reason(served: Served) -> None:
    """G7"""
    script = served.start("""
        run = pluto.init(run_id="broken")
        log(run, {"loss": 1.0}, 0)
        raise ValueError("no more data")
    """)
    assert script.wait() == 1
    run = served.ended_remotely("broken")
    assert run["status"] == "FAILED"
    assert run["statusMetadata"]["first_failure"]["message"] == "no more data"
    assert served.missing("broken") == []


def test_ranks_of_a_job_share_one_run_and_keep_their_series_apart(served: Served) -> None:
    """G1, G10: one create, one end, the same name on every rank."""
    launcher = served.launcher(3)
    body = """
        run = pluto.init(config={"lr": 0.1})
        rank = int(os.environ["RANK"])
        for step in range(20):
            log(run, {"loss": 100.0 * rank + step}, step)
        run.add_tags(f"rank{rank}")
        tell_json("ready", facts(run))
        hear()
    """
    ranks = [launcher.rank(number, body) for number in range(3)]
    ready = [rank.expect_json("ready") for rank in ranks]
    assert len({each["id"] for each in ready}) == 1
    ranks[1].say()
    assert ranks[1].wait() == 0
    assert served.remote(ready[0]["run_id"])["status"] == "RUNNING"
    assert served.document(ready[0]["run_id"])["status"] == "RUNNING"
    for rank in (ranks[0], ranks[2]):
        rank.say()
    assert [rank.wait() for rank in ranks] == [0, 0, 0]
    run = served.ended_remotely(ready[0]["run_id"])
    assert run["status"] == "COMPLETED"
    assert sorted(run["tags"]) == ["rank0", "rank1", "rank2"]
    series = served.series(ready[0]["run_id"])
    assert {name: len(points) for name, points in series.items()} == {
        "loss": 20,
        "loss/rank1": 20,
        "loss/rank2": 20,
    }
    assert series["loss"][0] == 0.0
    assert served.missing(ready[0]["run_id"]) == []
    assert served.paths().count("/api/runs/create") == 1


def test_a_side_writes_beside_the_owner_and_after_it(served: Served) -> None:
    """G1, G10: an eval job is no end, and may go on after the end."""
    served.server.waive("6.3.2", name="*eval*")
    owner = served.start("""
        run = pluto.init(run_id="shared")
        log(run, {"loss": 1.0}, 0)
        tell("ready")
        hear()
    """)
    owner.expect("ready")
    side = served.start("""
        run = pluto.attach("shared", label="eval")
        log(run, {"loss": 2.0}, 0)
        tell("ready", run.role)
        hear()
        log(run, {"eval_loss": 3.0}, 1)
        run.close()
    """)
    assert side.expect("ready") == "side"
    owner.say()
    assert owner.wait() == 0
    assert served.ended_remotely("shared")["status"] == "COMPLETED"
    side.say()
    assert side.wait() == 0
    wait_until(lambda: served.missing("shared") == [], "the side's records")
    assert set(served.series("shared")) == {"loss", "loss/eval", "eval_loss"}
    assert served.remote("shared")["status"] == "COMPLETED"


def test_attaching_to_a_finished_run_asks_the_server_nothing(served: Served) -> None:
    """G8: asking by external id would open it again."""
    assert served.start('pluto.init(run_id="done").finish()').wait() == 0
    before = len(served.server.requests())
    side = served.start("""
        run = pluto.attach("done", label="late")
        tell("status", run.status)
        run.close()
    """)
    assert side.expect("status") == "COMPLETED"
    assert side.wait() == 0
    assert served.paths(before) == []


def test_resuming_goes_on_with_steps_and_ends_again(served: Served) -> None:
    """R5: a resume reopens the Run once, and the second end counts."""
    first = served.start("""
        run = pluto.init(run_id="again", config={"a": 1}, tags=["x"])
        for _ in range(5):
            run.log({"loss": 1.0})
        sys.exit(3)
    """)
    assert first.wait() == 3
    assert served.ended_remotely("again")["status"] == "FAILED"
    second = served.start("""
        run = pluto.init(run_id="again", resume=True, config={"b": 2}, tags=["y"])
        run.log({"loss": 2.0})
        tell_json("ready", facts(run))
    """)
    assert second.expect_json("ready")["role"] == "owner"
    assert second.wait() == 0
    run = served.ended_remotely("again")
    assert (run["status"], run["statusMetadata"], run["config"]) == ("COMPLETED", None, {"a": 1, "b": 2})
    assert run["tags"] == ["x", "y"]
    assert sorted(served.series("again")["loss"]) == [0, 1, 2, 3, 4, 5]
    changes = [event["toStatus"] for event in served.server.history(run["id"])]
    assert changes == ["RUNNING", "FAILED", "RUNNING", "COMPLETED"]


def test_a_fork_by_the_callers_own_id_names_its_parent(served: Served) -> None:
    """The coordinator knows the number."""
    parent = served.start("""
        run = pluto.init(run_id="parent", config={"a": {"b": 1}})
        for step in range(10):
            run.log({"loss": 1.0}, step=step)
    """)
    assert parent.wait() == 0
    child = served.start("""
        run = pluto.init(run_id="child", fork_run_id="parent", fork_step=5, config={"a": {"c": 2}})
        run.log({"loss": 2.0}, step=6)
    """)
    assert child.wait() == 0
    run = served.ended_remotely("child")
    assert (run["forkedFromRunId"], run["forkStep"]) == (served.remote("parent")["id"], 5)
    assert run["config"] == {"a": {"b": 1, "c": 2}}


def test_a_run_that_is_resumed_elsewhere_overwrites_nothing(served: Served) -> None:
    """G10: automatic steps, system metrics and console lines go on behind those of the other machine."""
    served.set(PLUTO_DIST_SYSTEM_METRICS_S="1")
    body = """
        run = pluto.init(run_id="moved", resume=True, settings={"console": "wrap"})
        print(f"line of {run.role}, {sys.argv[1]}")
        for number in range(10):
            run.log({"loss": float(sys.argv[1]) + number})
        tell("logged")
        hear()
        run.finish()
    """

    def sampled() -> int:
        found = served.server.runs() and served.server.metric_counts(served.remote("moved")["id"])
        return max((count for name, count in (found or {}).items() if name.startswith("sys/")), default=0)

    first = served.start(body, "100")
    first.expect("logged")
    wait_until(lambda: sampled() >= 2, "samples of the first machine")
    first.say()
    assert first.wait() == 0
    before = served.ended_remotely("moved")
    other = served.beside()
    other.set(PLUTO_DIST_SYSTEM_METRICS_S="1")
    second = other.start(body, "200")
    second.expect("logged")
    taken = sampled()
    wait_until(lambda: sampled() > taken, "a sample of the second machine")
    second.say()
    assert second.wait() == 0
    run = wait_until(
        lambda: (
            (found := served.remote("moved"))["updatedAt"] != before["updatedAt"]
            and found["status"] == "COMPLETED"
            and found
        ),
        "the second end",
    )
    values = [100.0 + number for number in range(10)] + [200.0 + number for number in range(10)]
    assert served.series("moved")["loss"] == dict(enumerate(values))
    raw, shown = served.server.raw_metrics(run["id"]), served.server.metrics(run["id"])
    assert {name: len(raw[name]) for name in raw} == {name: len(shown[name]) for name in raw}
    lines = [row["line_number"] for row in served.server.logs(run["id"]) if "line of" in row["message"]]
    assert len(set(lines)) == len(lines) == 2
    other.close()


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_of_another_node_is_reopened_only_if_that_is_meant(served: Served, resume: bool) -> None:
    """R8, G8: asking changes nothing, not even `updatedAt`."""
    assert served.start('pluto.init(run_id="elsewhere").finish(code=1)').wait() == 0
    served.ended_remotely("elsewhere")
    before = served.remote("elsewhere")
    history = served.server.history(before["id"])
    other = served.beside()
    script = other.start(f"""
        try:
            run = pluto.init(run_id="elsewhere", resume={resume})
            tell("got", run.role, run.resumed)
        except pluto.errors.RunExistsError as error:
            tell("refused", error)
    """)
    if resume:
        assert script.expect("got") == "owner True"
    else:
        assert "resume=True" in script.expect("refused")
    assert script.wait() == 0
    after = served.ended_remotely("elsewhere")
    assert after["status"] == ("COMPLETED" if resume else "FAILED")
    if not resume:
        assert (after, served.server.history(after["id"])) == (before, history)
    other.close()
