"""Who gets what when a Run exists already: claims, resume, attach, ids from the environment (R5, R6, G8)."""

from __future__ import annotations

from typing import Any

from tests.process.harness import Node, Script, events, lease, wait_until

OBEDIENT = """
run = pluto.{call}
tell_json("ready", facts(run))
while (line := hear()) not in ("", "end"):
    exec(line)
    tell("done")
"""
REFUSED = """
try:
    run = pluto.{call}
except pluto.errors.PlutoDistError as error:
    tell_json("refused", [type(error).__name__, str(error), error.fields])
else:
    tell_json("granted", facts(run))
"""


def holder(node: Node, call: str, **more: Any) -> tuple[Script, dict[str, Any]]:
    """A script that makes one call and then does what it is told."""
    script = node.start(OBEDIENT.format(call=call), **more)
    return script, script.expect_json("ready")


def refusal(node: Node, call: str, **more: Any) -> tuple[str, str]:
    """Class and text of the error that a call raises."""
    script = node.start(REFUSED.format(call=call), **more)
    error, text, _ = script.expect_json("refused")
    assert script.wait() == 0
    return error, text


def end(script: Script) -> None:
    """Its last line."""
    script.say("end")
    assert script.wait() == 0


def finished(node: Node, call: str) -> dict[str, Any]:
    """A Run that came to its end."""
    script, _ = holder(node, call)
    script.say("log(run, {'loss': 1.0}); log(run, {'loss': 2.0})")
    script.expect("done")
    end(script)
    return node.ended(node.documents()[-1]["run_id"])


def steps(node: Node, run: str) -> list[int]:
    """Steps of all points."""
    return sorted(point.step for point in node.points(run))


def unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    """G8: nothing that people see of a Run is different."""
    for name in ("status", "config", "tags", "name", "ended_at", "verdict", "epoch", "points", "fork"):
        assert before[name] == after[name], name


def test_an_existing_id_is_refused_and_nothing_is_changed(node: Node) -> None:
    """R5: `RunExistsError` for a live and for an ended Run, also from a coordinator that never knew it."""
    live, told = holder(node, "init(run_id='mine', name='first', config={'lr': 1}, tags='a')")
    call = "init(run_id='mine', name='second', config={'lr': 2}, tags='b')"
    before = node.document("mine")
    error, text = refusal(node, call)
    assert error == "RunExistsError"
    assert all(part in text for part in ("'mine'", told["display_id"], "RUNNING", "resume=True"))
    unchanged(before, node.document("mine"))
    end(live)
    before = node.ended("mine")
    assert refusal(node, call)[0] == "RunExistsError"
    node.kill_coordinator()
    for file in (node.home / "run").glob("*.db*"):
        file.unlink()
    assert refusal(node, call)[0] == "RunExistsError"
    unchanged(before, node.document("mine"))
    assert len(node.documents()) == 1


def test_a_second_owner_is_refused_with_the_name_of_the_first(node: Node) -> None:
    """G2, R5: role, pid, host, since when; a claim that does not insist becomes a side."""
    owner, told = holder(node, "init(run_id='one')")
    error, text = refusal(node, "init(run_id='one', resume=True, role='owner')")
    assert error == "OwnerExistsError"
    granted = lease(node.document("one"), role="owner")
    named = (f"pid {owner.pid}", granted["host"], str(granted["granted_at"]), "owner")
    assert all(part in text for part in named), text
    side, as_side = holder(node, "init(run_id='one', resume=True)")
    assert (as_side["role"], as_side["id"], as_side["epoch"]) == ("side", told["id"], told["epoch"])
    end(side)
    end(owner)
    assert node.ended("one")["status"] == "COMPLETED"


def test_unknown_runs_are_not_found(node: Node) -> None:
    """R5: ids of the server's kind never create."""
    holder(node, "init()")
    for call in (
        "init(run_id=4711, resume=True)",
        "init(run_id='PLU-4711', resume=True)",
        "init(run_id=4711)",
        "attach('never', timeout_s=0.2)",
    ):
        error, text = refusal(node, call)
        assert error == "RunNotFoundError", call
        assert "never" in text or "4711" in text
    assert len(node.documents()) == 1


def test_arguments_that_cannot_be_meant(node: Node) -> None:
    """Typed errors with the value and the way out, before anything is opened."""
    for call, error, part in (
        ("init(role='boss')", "ArgumentError", "'boss'"),
        ("init(run_id='')", "ArgumentError", "empty"),
        ("init(run_id=-1)", "ArgumentError", "-1"),
        ("init(label='a/b')", "ArgumentError", "'a/b'"),
        ("init(fork_run_id=1)", "ForkError", "fork_step"),
        ("init(fork_step=1)", "ForkError", "fork_run_id"),
        ("init(fork_run_id=1, fork_step=-1)", "ForkError", "-1"),
        ("init(settings={'heartbeat': 1})", "SettingError", "heartbeat_s"),
        ("attach('x', role='owner')", "OwnerExistsError", "attach() never owns"),
        ("log({'loss': 1})", "RunNotFoundError", "init()"),
    ):
        found, text = refusal(node, call)
        assert (found, part in text) == (error, True), (call, found, text)
    assert node.documents() == []


def test_resume_after_the_end_owns_with_a_new_epoch(node: Node) -> None:
    """R5: same ids, steps go on, tags are added, config is merged; a new end replaces the old one."""
    before = finished(node, "init(run_id='again', config={'lr': 1, 'seed': 2}, tags=['a'])")
    script, told = holder(node, "init(run_id='again', resume=True, config={'lr': 3}, tags=['b'])")
    assert (told["role"], told["id"], told["epoch"], told["resumed"]) == ("owner", before["id"], 2, True)
    script.say("log(run, {'loss': 3.0}); tell_json('state', [run.status, run.config, run.tags])")
    assert script.expect_json("state") == ["RUNNING", {"lr": 3, "seed": 2}, ["a", "b"]]
    script.say("run.finish(code=1); tell('finished')")
    script.expect("finished")
    after = node.ended("again")
    assert (after["status"], after["epoch"], after["points"]) == ("FAILED", 2, 3)
    assert steps(node, "again") == [0, 1, 2]
    assert not node.lost("again")


def test_a_resumed_run_that_is_only_closed_gets_its_outcome_back(node: Node) -> None:
    """R6: at once, with the old time and verdict."""
    before = finished(node, "init(run_id='look')")
    script, _ = holder(node, "init(run_id='look', resume=True)")
    wait_until(lambda: node.document("look")["status"] == "RUNNING", "the Run was reopened")
    script.say("run.close()")
    script.expect("done")
    after = node.ended("look")
    assert after["epoch"] == 2
    unchanged(before | {"epoch": 2}, after)


def test_a_closed_run_is_taken_up_again(node: Node) -> None:
    """R5, R6: detached; the next one to resume owns it, with a new epoch and no reopening."""
    first, told = holder(node, "init(run_id='handed')")
    first.say("log(run, {'loss': 1.0}); run.close()")
    first.expect("done")
    second, again = holder(node, "init(run_id='handed', resume=True)")
    assert (again["role"], again["id"], again["epoch"]) == ("owner", told["id"], 2)
    second.say("log(run, {'loss': 2.0})")
    second.expect("done")
    end(second)
    found = node.ended("handed")
    assert (found["status"], events(found, "reopened")) == ("COMPLETED", [])
    assert steps(node, "handed") == [0, 1]


def test_an_orphaned_run_is_taken_over_within_its_grace(node: Node) -> None:
    """R5, R6: the owner is dead, the next claim finds out at once and owns; the death is not counted."""
    first, _ = holder(node, "init(run_id='heir')")
    heir = node.start("hear()\n" + OBEDIENT.format(call="init(run_id='heir', resume=True)"), name="heir")
    first.kill()
    heir.say()
    told = heir.expect_json("ready")
    assert (told["role"], told["epoch"]) == ("owner", 2)
    heir.say("end")
    assert heir.wait() == 0
    found = node.ended("heir")
    assert (found["status"], found["verdict"]["first_failure"]) == ("COMPLETED", None)


def test_an_id_from_the_environment_never_raises(node: Node) -> None:
    """R5: absent → create, live → side of another job, ended → a new job takes it up again."""
    env = {"PLUTO_RUN_ID": "shared"}
    first, told = holder(node, "init()", env=env)
    assert (told["role"], told["run_id"]) == ("owner", "shared")
    second, beside = holder(node, "init()", env=env)
    assert (beside["role"], beside["id"]) == ("side", told["id"])
    third, attached = holder(node, "attach()", env=env)
    assert (attached["role"], attached["id"]) == ("side", told["id"])
    end(third)
    end(second)
    end(first)
    node.ended("shared")
    fourth, reopened = holder(node, "init()", env=env)
    assert (reopened["role"], reopened["id"], reopened["epoch"]) == ("owner", told["id"], 2)
    end(fourth)


def test_attach_to_a_finished_run_changes_nothing(node: Node) -> None:
    """G8: status, time, config, name, tags stay; what it logs arrives, under its own name."""
    before = finished(node, "init(run_id='over', config={'lr': 1}, tags='a')")
    side, told = holder(node, "attach('over', label='eval')")
    assert (told["role"], told["id"]) == ("side", before["id"])
    side.say("log(run, {'accuracy': 0.5}, 1); tell('status', run.status)")
    assert side.expect("status") == "COMPLETED"
    side.expect("done")
    side.say("raise ValueError('eval broke')")
    assert side.wait() == 1
    after = wait_until(lambda: (d := node.document("over"))["points"] == 3 and d, "the side's point")
    assert not node.lost("over")
    unchanged(before | {"points": 3}, after)


def test_attach_without_an_id_joins_the_only_live_run(node: Node) -> None:
    """R5: with several it lists them; with none it waits, until one comes or the time is over."""
    waiting = node.start(OBEDIENT.format(call="attach(label='early')"), name="waiting")
    error, text = refusal(node, "attach(timeout_s=0.3)")
    assert (error, "no live Run" in text) == ("RunNotFoundError", True)
    first, told = holder(node, "init(run_id='only')")
    early = waiting.expect_json("ready")
    assert (early["role"], early["label"], early["id"]) == ("side", "early", told["id"])
    second, other = holder(node, "init()")
    error, text = refusal(node, "attach()")
    assert error == "AmbiguousRunError"
    assert told["display_id"] in text
    assert other["display_id"] in text
    for script in (waiting, first, second):
        end(script)


def test_every_name_of_a_run_finds_it(node: Node) -> None:
    """Int, digits, display id and the caller's own id mean the same Run."""
    owner, told = holder(node, "init(project='my model project', run_id='own-id')")
    assert told["display_id"] == "MMP-1"
    for name in (told["id"], str(told["id"]), "MMP-1", "own-id"):
        side, found = holder(node, f"attach({name!r})")
        assert found["id"] == told["id"]
        end(side)
    end(owner)


def test_a_sweep_in_one_process_is_several_runs(node: Node) -> None:
    """R5: a second `init()` of a script is a new Run; the module's `log()` means the newest unfinished."""
    script = node.start(
        """
        runs = [pluto.init(run_id=f"trial{n}", config={"n": n}) for n in range(3)]
        for n, run in enumerate(runs): log(run, {"loss": float(n)}, 0)
        pluto.log({"newest": 1.0}, step=1); account(runs[2].lease_id, {"newest": 1.0}, 1)
        runs[2].finish()
        pluto.log({"newest": 2.0}, step=1); account(runs[1].lease_id, {"newest": 2.0}, 1)
        runs[1].finish(code=1)
        """
    )
    assert script.wait() == 0
    assert [node.ended(f"trial{n}")["status"] for n in range(3)] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert [node.document(f"trial{n}")["config"] for n in range(3)] == [{"n": n} for n in range(3)]
    assert not any(node.lost(f"trial{n}") for n in range(3))


def test_a_second_init_in_a_notebook_finishes_the_first(node: Node) -> None:
    """R5: one printed line, and the new Run; errors in cells end nothing, the kernel's end is TERMINATED."""
    script = node.start(
        """
        import types
        module = sys.modules["IPython"] = types.ModuleType("IPython")
        module.get_ipython = lambda: types.SimpleNamespace(kernel=object())
        first = pluto.init(run_id="cell1")
        log(first, {"loss": 1.0}, 0)
        second = pluto.init(run_id="cell2")
        tell("first", first.ended)
        log(second, {"loss": 2.0}, 0)
        hear()
        """
    )
    assert script.expect("first") == "True"
    assert script.stderr.count("a new Run starts in this notebook") == 1
    assert node.ended("cell1")["status"] == "COMPLETED"
    script.signal(15)
    script.wait()
    assert node.ended("cell2")["status"] == "TERMINATED"


def test_exec_ends_the_lease_and_its_successor_owns(node: Node) -> None:
    """R2: same process, new program: it may take its own Run up again, though its old lease looked alive."""
    again = node.base / "again.py"
    again.write_text(
        "from tests.process.stage import *\nrun = pluto.init(run_id='exec', resume=True)\n"
        "log(run, {'loss': 2.0})\ntell_json('ready', facts(run))\n"
    )
    script = node.start(
        f"""
        run = pluto.init(run_id="exec")
        log(run, {{"loss": 1.0}})
        os.execv(sys.executable, [sys.executable, "-P", {str(again)!r}])
        """
    )
    told = script.expect_json("ready")
    assert (told["role"], told["epoch"], told["pid"]) == ("owner", 2, script.pid)
    assert script.wait() == 0
    found = node.ended("exec")
    assert (found["status"], len(events(found, "replaced_by_exec"))) == ("COMPLETED", 1)
    assert steps(node, "exec") == [0, 1]
    assert not node.lost("exec")


def test_exec_into_a_program_with_another_run_ends_the_first(node: Node) -> None:
    """R2, R9: its program was replaced without a word, so nobody can say that it completed."""
    script = node.start(
        """
        if len(sys.argv) > 1:
            run = pluto.init(run_id="second")
            tell("ready"); hear(); sys.exit()
        run = pluto.init(run_id="first")
        os.execv(sys.executable, [sys.executable, "-P", __file__, "again"])
        """
    )
    script.expect("ready")
    found = node.ended("first")
    assert (found["status"], found["verdict"]["first_failure"]["kind"]) == ("FAILED", "vanished")
    assert "exec" in found["verdict"]["reason"]
    script.say()
    assert script.wait() == 0
    assert node.ended("second")["status"] == "COMPLETED"


def test_forks_of_a_run(node: Node) -> None:
    """Lineage, inherited config and tags, and what cannot be forked."""
    parent = finished(node, "init(run_id='parent', config={'a': {'b': 1, 'c': 2}}, tags=['base'])")
    child, _ = holder(
        node, "init(run_id='child', fork_run_id='parent', fork_step=1, config={'a': {'b': 9}}, tags=['new'])"
    )
    child.say("tell_json('state', [run.fork_run_id, run.fork_step, run.config, run.tags])")
    assert child.expect_json("state") == [parent["id"], 1, {"a": {"b": 9, "c": 2}}, ["new"]]
    other, _ = holder(
        node,
        f"init(fork_run_id={parent['id']}, fork_step=0, inherit_config=False, inherit_tags=True, tags=['x'])",
    )
    other.say("tell_json('state', [run.fork_run_id, run.fork_step, run.config, run.tags])")
    assert other.expect_json("state") == [parent["id"], 0, {}, ["base", "x"]]
    for call, part in (
        ("init(fork_run_id='nobody', fork_step=1)", "nobody"),
        (f"init(fork_run_id={parent['id']}, fork_step=2)", "2"),
    ):
        error, text = refusal(node, call)
        assert (error, part in text) == ("ForkError", True), text
    end(child)
    end(other)
    assert node.ended("child")["fork"] == {"run_id": parent["id"], "step": 1}
    unchanged(parent, node.document("parent"))


def test_the_next_job_waits_for_the_owner_of_the_run_that_it_resumes(node: Node) -> None:
    """R5: rank 0 of another job neither fails nor becomes a side while the old job is on its way out."""
    old, told = holder(node, "init(run_id='relay')")
    launcher = node.launcher(1)
    new = launcher.rank(0, OBEDIENT.format(call="init(run_id='relay', resume=True)"), name="next")
    leases = node.home / "spool" / "leases"
    wait_until(lambda: len(list(leases.glob("*/lifecycle-*"))) == 2, "the next job asks")
    assert new.lines == []
    end(old)
    after = new.expect_json("ready")
    assert (after["role"], after["id"], after["epoch"]) == ("owner", told["id"], 2)
    end(new)
    assert node.ended("relay")["status"] == "COMPLETED"


def test_attach_waits_for_the_run_that_it_names(node: Node) -> None:
    """R5: an eval may start before its training does."""
    early = node.start(OBEDIENT.format(call="attach('later', label='eval')"), name="early")
    wait_until(node.coordinators, "the eval has asked")
    holder(node, "init(run_id='another')")
    owner, told = holder(node, "init(run_id='later', project='training')")
    assert early.expect_json("ready")["id"] == told["id"]
    end(early)
    end(owner)


def test_two_sides_never_share_a_label(node: Node) -> None:
    """R7: series belong to labels; the second one of a name gets a number, and a successor gets the name."""
    owner, _ = holder(node, "init(run_id='labels')")
    first, one = holder(node, "attach('labels', label='eval')")
    second, two = holder(node, "attach('labels', label='eval')")
    assert (one["label"], two["label"]) == ("eval", "eval-2")
    end(first)
    third, three = holder(node, "attach('labels', label='eval')")
    assert three["label"] == "eval"
    for script in (second, third, owner):
        end(script)


def test_a_plain_process_may_be_a_worker(node: Node) -> None:
    """R5: `role="worker"` makes its failure the Run's, whatever launched it."""
    owner, _ = holder(node, "init(run_id='manual')")
    worker, told = holder(node, "init(run_id='manual', role='worker', label='loader')")
    assert (told["role"], told["label"]) == ("worker", "loader")
    worker.say("raise ValueError('no data')")
    assert worker.wait() == 1
    end(owner)
    found = node.ended("manual")
    assert (found["status"], found["verdict"]["first_failure"]["label"]) == ("FAILED", "loader")
