"""What people are told while a Run goes on: once, by its owner."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pluto_dist.client import notices
from pluto_dist.client.arguments import Wish
from pluto_dist.client.notices import Notices, Waiting, WarnOnce
from pluto_dist.client.opening import ungranted
from pluto_dist.core.values.ids import RunRef
from pluto_dist.core.values.messages import RunView, View
from pluto_dist.errors import RunNotFoundError, WaitTimeoutError
from pluto_dist.host.settings import Settings

RUN = RunView(
    key="k", external_id="x", project="p", name="x", mode="local", status="RUNNING", phase="running"
)


def view(**fields: Any) -> View:
    """The view of an active owner."""
    given = {"generation": 1, "lease_id": "a", "request": 0, "state": "active", "folded": 1, "role": "owner"}
    return View(**{**given, "run": RUN, **fields})


def test_each_set_of_stuck_ranks_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Views repeat themselves; another rank that hangs is news."""
    tidings = Notices("warn")
    for who in ("stuck: rank1", "stuck: rank1", "", "stuck: rank1", "stuck: rank1, rank2"):
        tidings.take(view(stuck=who))
    assert [record.args for record in caplog.records] == [("x", "stuck: rank1"), ("x", "stuck: rank1, rank2")]
    assert "Run x: stuck: rank1. Nothing was ended" in caplog.text


@pytest.mark.parametrize(
    ("name", "again", "child", "fields", "told"),
    [
        pytest.param("x", False, False, {}, False, id="its own Run"),
        pytest.param(None, False, False, {"role": "side"}, False, id="an eval"),
        pytest.param("t1", False, False, {}, True, id="another name"),
        pytest.param(None, True, False, {"resumed": True}, True, id="once more in one process"),
        pytest.param(None, True, False, {}, False, id="a second Run of another id"),
        pytest.param(None, False, True, {"role": "side"}, True, id="one of a pool, beside another"),
        pytest.param("t1", False, True, {"role": "worker", "joined": 7}, False, id="its parent's"),
    ],
)
def test_an_id_in_the_environment_is_told_where_it_melts_trials(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    name: str | None,
    again: bool,
    child: bool,
    fields: dict[str, Any],
    told: bool,
) -> None:
    """R5: PLUTO_RUN_ID is for one training and what stands beside it; a sweep with it is one Run."""
    monkeypatch.setattr(notices, "_warn_once", WarnOnce())
    run = msgspec.structs.replace(RUN, resumed=fields.pop("resumed", False))
    notices.named_by_environment(view(run=run, **fields), name, again=again, child=child)
    assert bool(caplog.records) == told
    assert not told or "PLUTO_RUN_ID puts this init() into Run x, as every other one" in caplog.text
    assert not told or ("name='t1' is not used" in caplog.text) == (name == "t1")


@pytest.mark.parametrize("role", ["owner", "worker", "side"])
def test_who_asked_for_a_change_is_told_that_it_is_left_out(
    caplog: pytest.LogCaptureFixture, role: str
) -> None:
    """G9: the 51st tag; only the coordinator knows what the others have added."""
    tidings = Notices("warn")
    for why in ("", "there would be 51 tags", "there would be 51 tags", "two groups"):
        tidings.take(view(refused=why, role=role))
    assert [record.getMessage() for record in caplog.records] == [
        "a change of Run x is left out: there would be 51 tags",
        "a change of Run x is left out: two groups",
    ]


@pytest.mark.parametrize("role", ["worker", "side"])
def test_only_the_owner_tells(caplog: pytest.LogCaptureFixture, role: str) -> None:
    """One line for a job, not one for each rank."""
    Notices("warn").take(view(stuck="stuck: rank1", role=role))
    assert not caplog.records


@pytest.mark.parametrize(
    ("attempt", "resumed", "words"),
    [(0, False, "started Run x"), (0, True, "resumed Run x"), (1, False, "attempt 1 goes on with Run x")],
)
def test_a_restart_is_not_called_a_start(
    capsys: pytest.CaptureFixture[str], attempt: int, resumed: bool, words: str
) -> None:
    """R6: with `--max-restarts` the line comes again, for the same Run."""
    run = msgspec.structs.replace(RUN, resumed=resumed)
    notices.started(view(run=run, attempt=attempt), Settings(), "spool")
    assert capsys.readouterr().err.startswith(f"pluto_dist: {words}")


@pytest.mark.parametrize(("points", "words"), [(0, "0 points"), (1, "1 point;"), (2, "2 points")])
def test_one_is_no_plural(capsys: pytest.CaptureFixture[str], points: int, words: str) -> None:
    run = msgspec.structs.replace(RUN, status="COMPLETED", points=points)
    notices.finished(view(run=run), Settings(), points)
    assert f"COMPLETED, {words}" in capsys.readouterr().err


def test_a_long_wait_without_a_terminal_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The log of a batch job says why its process is still there."""
    for quiet, lines in ((False, 1), (True, 0)):
        with Waiting(Settings(quiet=quiet)) as waiting:
            for left_s in (60.0, 58.0):
                waiting.show(view(pending=20_000_000), left_s)
            assert not capsys.readouterr().err
            for left_s in (54.0, 40.0, 0.0):
                waiting.show(view(pending=20_000_000), left_s)
        assert capsys.readouterr().err == "pluto_dist: delivering, 20.0 MB left, at most 54 s\n" * lines


@pytest.mark.parametrize(
    ("fields", "project", "kind", "words"),
    [
        ({"verb": "attach"}, "pluto", RunNotFoundError, "no live Run on this node within 3 s"),
        (
            {"verb": "attach", "run": RunRef(external_id="x")},
            "demo",
            RunNotFoundError,
            "timeout_s= (of a command: --timeout) waits longer",
        ),
        (
            {"role": "side", "run": RunRef(external_id="x")},
            "demo",
            RunNotFoundError,
            "no Run x of project 'demo'",
        ),
        ({"role": "worker"}, "pluto", RunNotFoundError, "no live Run on this node"),
        ({}, "pluto", WaitTimeoutError, "`pluto-dist doctor`"),
    ],
)
def test_who_waits_for_a_run_in_vain_is_told_that_there_is_none(
    capsys: pytest.CaptureFixture[str],
    fields: dict[str, Any],
    project: str,
    kind: type[Exception],
    words: str,
) -> None:
    """R5: also `init(role="side")` with an id that nobody has: nothing is wrong with the machine."""
    wish = Wish(**{"verb": "init", **fields})
    error = ungranted(wish, 3.0, project)
    assert isinstance(error, kind)
    assert words in error.message
    notices.waits_for(wish, 60.0, Settings())
    call = "attach()" if wish.verb == "attach" else f"init(role={wish.role!r})"
    assert capsys.readouterr().err.startswith(f"pluto_dist: {call} waits for ")


def test_a_run_that_was_running_elsewhere_has_two_owners_and_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """G2: across nodes without a cluster store, ownership is a convention."""
    run = msgspec.structs.replace(RUN, mode="pluto", resumed=True, found_running=True)
    notices.started(view(run=run), Settings(), "spool")
    assert "if a process on another machine still works for it, both own it now" in capsys.readouterr().err


@pytest.mark.parametrize(("project", "told"), [("größe", True), ("digits", False)])
def test_a_project_has_the_name_that_the_server_can_hold(
    caplog: pytest.LogCaptureFixture, project: str, told: bool
) -> None:
    """R8"""
    run = msgspec.structs.replace(RUN, mode="pluto", project="gr--e" if told else project)
    notices.started(view(run=run), Settings(project=project), "spool")
    assert ("'größe' is 'gr--e' there" in caplog.text) == told


@pytest.mark.parametrize("resumed", [False, True])
def test_who_resumes_a_cancelled_run_is_told_why_it_is_cancelled_again(
    caplog: pytest.LogCaptureFixture, resumed: bool
) -> None:
    """The server never forgets a cancel, and applies it at every heartbeat."""
    run = msgspec.structs.replace(RUN, cancelled=True, resumed=resumed)
    Notices("warn").take(view(run=run))
    assert ("fork_run_id" in caplog.text) == resumed


def test_what_ended_a_run_is_told_in_the_users_words() -> None:
    """C5: each way to end one has its name, and a line only where it is the user's own."""
    package = Path(notices.__file__).parent
    written = {
        name
        for path in package.rglob("*.py")
        for scope in (ast.parse(path.read_text()),)
        for node in scope.body
        for name in (
            [node.name]
            if isinstance(node, ast.FunctionDef)
            else [f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)]
            if isinstance(node, ast.ClassDef)
            else []
        )
    }
    assert notices._SAID.keys() <= written

    def told(code: str) -> str:
        ours: dict[str, Any] = {"__name__": "pluto_dist.client.any", "calling": notices.calling}
        exec(compile(code, "any.py", "exec"), ours)  # frames of the package
        return str(ours["end"]())

    assert told("class Run:\n  def finish(self): return calling()\nend = Run().finish").startswith(
        "run.finish() at test_notices.py:"
    )
    hook = "class Hooks:\n  def _at_end_of_child(self): return calling()\nend = Hooks()._at_end_of_child"
    assert told(hook) == "the end of this child process"
