"""What commands print: documented keys, whole reports, exit codes, and one line for each error."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

import pluto_dist
from pluto_dist.cli import coordinator, export, ps, runs, show
from pluto_dist.cli.export import COLUMNS
from pluto_dist.cli.main import commands, exit_code
from pluto_dist.cli.options import Command, Group
from pluto_dist.cli.runs import By
from pluto_dist.core.values.document import Document, ReaderShown, TopicShown
from pluto_dist.core.values.records import Failure, Point, RunEvent, SeriesOwner, Verdict
from pluto_dist.core.values.topics import ItemShown
from pluto_dist.errors import AmbiguousRunError, RunNotFoundError, SettingError
from pluto_dist.read.streams import caught_up
from pluto_dist.spool.frames import encode_frame
from tests.adapters.commandline import invoke
from tests.adapters.coordinators import answering, knowing
from tests.adapters.documents import document, lease
from tests.adapters.test_cli_lookup import Machine, machine

__all__ = ["machine"]  # the fixture

OF_RUNS = {"id", "display_id", "run_id", "project", "name", "status", "mode", "created_at"}
OF_SHOW = OF_RUNS | {
    *("config", "tags", "ended_at", "fork", "leases", "summary", "verdict", "pending", "rejected", "repeats"),
    *("store", "live", "remark"),
}
OF_LEASE = {
    *("lease_id", "role", "label", "rank", "pid", "host", "epoch", "attempt", "state", "granted_at"),
    *("last_seen_at", "ended_at", "end_reason", "written", "delivered"),
}
OF_FAILURE = {
    *("role", "label", "rank", "host", "pid", "attempt", "kind", "type", "message", "signal", "exit_code"),
    *("traceback", "at"),
}


def run(machine: Machine, *arguments: str, code: int = 0) -> str:
    """Runs a command here; returns stdout, or stderr for a command that fails."""
    places = ["--home", str(machine.home)]
    if arguments[0] not in ("ps", "coordinator"):
        places += ["--dir", str(machine.base)]
    done = invoke([*arguments, *places])
    assert done.exit_code == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def failed(machine: Machine) -> Document:
    """A Run that failed on rank 1."""
    failure = Failure(
        role="worker",
        label="rank1",
        rank=1,
        host="node",
        pid=4711,
        attempt=0,
        kind="exception",
        type="ValueError",
        message="bad [red]batch\x1b[0m",
        traceback="Traceback\n  line 1\nValueError: bad batch",
        at=5000,
    )
    found = machine.here(
        "key-1",
        status="FAILED",
        ended_ms=6000,
        tags=("a", "b"),
        verdict=Verdict("FAILED", "rank1 failed first", failure),
        events=tuple(RunEvent(n, f"event{n}", {"why": "x"}) for n in range(30)),
        summary={"loss": Point(0.25, 9, 10), "odd": Point("NaN", 9, 1)},
        series={"loss": SeriesOwner("owner", "METRIC", {"eval": "loss/eval"})},
    )
    leases = (lease("a"), lease("b", "rank1", pid=4711, state="ended", end_reason="died"))
    named = {"loss": {"eval": "loss/eval"}}
    return msgspec.structs.replace(
        found, leases=leases, series=named, config=msgspec.Raw(b'{"lr":0.125}'), phase="ended"
    )


def test_runs_json_has_the_documented_keys(machine: Machine):
    machine.keep(machine.here("key-1"))
    (listed,) = json.loads(run(machine, "runs", "--json"))
    assert set(listed) >= OF_RUNS
    assert all(key in (runs.__doc__ or "") for key in listed)


def test_runs_can_be_limited_to_a_project(machine: Machine):
    machine.keep(machine.here("one", 1), machine.here("two", 2, project="other"))
    listed = json.loads(run(machine, "runs", "--project", "other", "--json"))
    assert [each["key"] for each in listed] == ["two"]


def test_runs_of_several_stores_can_be_told_apart_and_limited_to_one(machine: Machine):
    """Each store counts for itself, so four Runs may be DEM-1."""
    machine.keep(machine.here("mine"))
    other = document(key="other", store=str(machine.base / "sweep" / ".pluto"))
    with answering(machine.socket, knowing(other)):
        limited = json.loads(run(machine, "runs", "--json"))
        done = invoke(["runs", "--home", str(machine.home)], env={"PLUTO_DIR": str(machine.base)})
        single = run(machine, "runs")
    assert [each["key"] for each in limited] == ["mine"]
    assert "STORE" not in single
    head, *rows = done.stdout.splitlines()
    assert head.split()[-1] == "STORE"
    assert sorted(row.split()[-1] for row in rows) == [".pluto", "sweep/.pluto"]


def test_runs_without_any_says_where_it_looked(machine: Machine):
    done = invoke(["runs", "--home", str(machine.home), "--dir", str(machine.base)])
    assert (done.exit_code, done.stdout) == (0, "")
    assert str(machine.store.root) in done.stderr


def test_show_json_has_the_documented_keys_and_nothing_for_the_next_coordinator(machine: Machine):
    machine.keep(failed(machine))
    shown = json.loads(run(machine, "show", "1", "--json"))
    assert set(shown) >= OF_SHOW
    assert "restore" not in shown
    assert set(shown["leases"][0]) >= OF_LEASE
    assert set(shown["verdict"]) == {"status", "reason", "first_failure"}
    assert set(shown["verdict"]["first_failure"]) >= OF_FAILURE
    assert shown["summary"]["loss"] == {"last": 0.25, "step": 9, "count": 10}
    assert all(key in (show.__doc__ or "") for key in set(shown) - set(Document.__struct_fields__))


def test_show_tells_people_all_of_it(machine: Machine):
    machine.keep(failed(machine))
    report = run(machine, "show", "1")
    parts = (
        "DEM-1  first  (project demo)",
        "FAILED",
        "verdict: FAILED: rank1 failed first",
        "first failure: rank1 (worker, pid 4711 on node, attempt 0)",
        "  ValueError: bad [red]batch",
        "    line 1",
        "died",
        "0.25",
        "NaN",
        "series loss: eval logs it too, as loss/eval",
        '"lr": 0.125',
        "a, b",
        "events (last 20 of 30)",
        "event29",
        "pending 0 bytes, rejected 0, repeats 0, dropped 0, damaged 0",
    )
    assert [part for part in parts if part not in report] == []
    assert "event9\n" not in report


def test_series_of_many_ranks_are_one_line_each(machine: Machine):
    """A job of 300 ranks with 20 names has 6,000 series; --all lists them."""
    others = {f"rank{rank}": f"loss/rank{rank}" for rank in range(1, 300)} | {"eval": "loss/eval"}
    lasts: dict[str, float | str] = {final: 0.5 + at / 1000 for at, final in enumerate(others.values())}
    lasts |= {"loss": 0.25, "loss/rank7": "NaN"}
    events = tuple(RunEvent(5000, "series_renamed", {"participant": who}) for who in others)
    machine.keep(
        msgspec.structs.replace(
            machine.here("key-1"),
            status="COMPLETED",
            summary={name: Point(last, 9, 10) for name, last in lasts.items()},
            series={"loss": others},
            events=(RunEvent(1000, "opened", {}), *events),
        )
    )
    report = run(machine, "show", "1")
    rows = [line.split() for line in report.splitlines() if line.startswith("loss")]
    assert rows == [
        ["loss", "0.25", "9", "10"],
        ["loss/eval", "0.799", "9", "10"],
        ["loss/rank[1-299]", "0.5", "…", "0.798,", "NaN", "9", "2990"],
    ]
    assert "series loss: ranks 1-299 log it too, as loss/rank<n>\nseries loss: eval logs it too" in report
    assert "opened" in report
    whole = run(machine, "show", "1", "--all")
    assert sum(line.startswith("loss") for line in whole.splitlines()) == len(lasts)
    assert whole.count("series_renamed") == len(others)


def test_show_lists_checkpoints_and_who_has_looked_at_them(machine: Machine):
    """R14: the newest few; readers with what they are at; other topics behind."""
    latest = (
        ItemShown(11, 1000, "owner", '{"path":"/out/a","step":100,"info":{"loss":0.5}}'),
        ItemShown(12, 1000, "owner", '{"path":"/out/b","step":110}'),
        ItemShown(13, 1000, "owner", '{"path":"/very/lo'),
    )
    readers = (
        ReaderShown("idle", False, 13, {}, 0),
        ReaderShown("evals", True, 10, {11: "eval", 12: "eval-2"}, 3),
        *(ReaderShown(f"other-{number}", False, 13, {}, 0) for number in range(9)),
    )
    topics = {
        "questions": TopicShown(1, (ItemShown(1, 1000, "eval", '"why?"'),), ()),
        "checkpoints": TopicShown(13, latest, readers),
    }
    machine.keep(msgspec.structs.replace(document(lease("aa" * 12)), topics=topics))
    report = " ".join(run(machine, "show", "1").split())
    for part in (
        "checkpoints: 13, the newest 3",
        '100 /out/a {"loss":0.5}',
        "110 /out/b",
        '{"path":"/very/lo',
        "WHO LOOKS DONE BEHIND AT WORK evals (group) 10 3 11 by eval, 12 by eval-2 idle 13 0",
        "… 1 more; --all has them",
        "topic questions: 1 NUMBER AT BY PAYLOAD 1",
        'eval "why?" no process has taken any yet',
    ):
        assert part in report, (part, report)


def test_what_users_programs_wrote_cannot_control_the_terminal(machine: Machine):
    machine.keep(failed(machine))
    assert "\x1b" not in run(machine, "show", "1")


def test_a_run_that_nobody_alive_has_is_said_to_be_so_and_how_to_end_it(machine: Machine):
    """G7: show says which."""
    machine.keep(msgspec.structs.replace(machine.here("key-1"), leases=(lease("a", host="far"),)))
    remark = json.loads(run(machine, "show", "1", "--json"))["remark"]
    assert "far" in remark
    assert "finish DEM-1 --status FAILED --force" in remark
    assert remark in run(machine, "show", "1")


def test_the_summary_of_a_run_that_nobody_alive_has_is_counted_anew(machine: Machine):
    machine.keep(msgspec.structs.replace(machine.here("key-1"), leases=(lease("a"),)))
    _log(machine.store.run("key-1") / "streams" / "a", 3)
    shown = json.loads(run(machine, "show", "1", "--json"))
    assert (shown["summary"], shown["points"]) == ({"loss": {"last": 2.0, "step": 2, "count": 3}}, 3)


def test_plot_draws_a_series_and_counts_what_it_leaves_out(machine: Machine):
    machine.keep(msgspec.structs.replace(machine.here("key-1"), leases=(lease("a"),)))
    _log(machine.store.run("key-1") / "streams" / "a", 3, b'{"time":1,"step":9,"data":{"loss":NaN}}\n')
    assert "loss of DEM-1: 3 points, 1 not finite and left out" in run(machine, "show", "1", "--plot", "loss")
    machine.keep(machine.here("key-2", number=2))
    assert "it has no points yet" in run(machine, "show", "2", "--plot", "xx", code=2)
    assert "did you mean loss?" in run(machine, "show", "1", "--plot", "los", code=2)
    assert "export" in run(machine, "show", "1", "--plot", "loss", "--json", code=2)


def test_ps_json_has_the_documented_keys(machine: Machine):
    found = msgspec.structs.replace(failed(machine), status="RUNNING")
    with answering(machine.socket, knowing(found)):
        told = json.loads(run(machine, "ps", "--json"))
        people = run(machine, "ps")
    (process,) = told["processes"]  # the other one has ended
    assert (process["role"], process["label"], process["suspect"]) == ("owner", "owner", True)
    assert told["series"] == {"key-1": {"loss": {"eval": "loss/eval"}}}
    assert all(key in (ps.__doc__ or "") for key in (*told, *process))
    assert str(machine.home / "run") in people
    assert "loss/eval" in people


@pytest.mark.parametrize(("heartbeat_s", "suspect"), [(1.0, True), (5.0, False), (60.0, False)])
def test_who_is_suspect_follows_from_its_own_heartbeat(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, heartbeat_s: float, suspect: bool
):
    """R2: who speaks every minute has missed nothing after ten seconds, whatever the reader's setting is."""
    monkeypatch.setenv("PLUTO_DIST_HEARTBEAT_S", "0.1")
    ten_s_ago = time.time_ns() // 1_000_000 - 10_000
    with answering(
        machine.socket, knowing(document(lease("a", last_seen_at=ten_s_ago, heartbeat_s=heartbeat_s)))
    ):
        (process,) = json.loads(run(machine, "ps", "--json"))["processes"]
    assert (process["suspect"], process["heartbeat_s"]) == (suspect, heartbeat_s)


def test_ps_without_a_coordinator_says_where_it_looked(machine: Machine):
    done = invoke(["ps", "--home", str(machine.home)])
    assert done.exit_code == 0
    assert str(machine.home / "run") in done.stderr


def test_written_counts_what_is_behind_the_cursors(tmp_path: Path):
    """What a coordinator knows is what it has delivered; the rest is on disk."""
    size = _log(tmp_path / "a", 5)
    held = lease("a", delivered=2, written=2, last_step=1, cursors={"metrics": {1: 2 * size // 5}})
    (ahead,) = caught_up(document(held, lease("elsewhere")), tmp_path).leases[:1]
    assert (ahead.written, ahead.delivered, ahead.last_step) == (5, 2, 4)
    assert caught_up(document(held), None).leases == (held,)


def test_export_has_a_line_per_point_with_names_for_what_is_not_finite(machine: Machine):
    machine.keep(msgspec.structs.replace(machine.here("key-1"), leases=(lease("a"),)))
    _log(
        machine.store.run("key-1") / "streams" / "a",
        1,
        b'{"time":7,"step":1,"data":{"loss":NaN,"up":Infinity,"down":-Infinity}}\n',
    )
    lines = [json.loads(line) for line in run(machine, "export", "1").splitlines()]
    assert lines[0] == {
        "kind": "metric",
        "name": "loss",
        "step": 0,
        "value": 0.0,
        "time": 0,
        "lease_id": "a",
        "metric": "loss",
        "rank": None,
        "label": "owner",
        "role": "owner",
        "attempt": 0,
    }
    assert [line["value"] for line in lines[1:]] == ["NaN", "Infinity", "-Infinity"]
    rows = list(csv.DictReader(io.StringIO(run(machine, "export", "1", "--format", "csv"))))
    shown = [{key: "" if value is None else str(value) for key, value in line.items()} for line in lines]
    assert shown == rows
    assert tuple(lines[0]) == COLUMNS
    assert all(name in (export.__doc__ or "") for name in COLUMNS)


def test_parquet_has_typed_columns_for_numbers_and_texts(machine: Machine, tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    machine.keep(msgspec.structs.replace(machine.here("key-1"), leases=(lease("a"), lease("b", "rank1"))))
    streams = machine.store.run("key-1") / "streams"
    _log(streams / "a", 2, b'{"time":7,"step":1,"data":{"loss":NaN}}\n')
    _log(streams / "b", 1)
    text = b'{"time":1,"data":"hello","dataType":"string-series","logName":"note","step":3}\n'
    (streams / "a" / "data-00000001.spool").write_bytes(encode_frame(text))
    assert run(machine, "export", "1", "--format", "parquet", "-o", str(tmp_path / "p")) == ""
    table = parquet.read_table(tmp_path / "p")
    assert str(table.schema.field("time").type) == "timestamp[ms, tz=UTC]"
    rows = table.to_pylist()
    assert [(row["name"], row["step"], row["rank"]) for row in rows] == [
        *[("loss", 0, None), ("loss", 1, None), ("loss", 1, None), ("loss", 0, 1)],
        ("note", 3, None),
    ]
    assert (rows[0]["value"], rows[0]["text"], str(rows[2]["value"])) == (0.0, None, "nan")
    assert (rows[-1]["kind"], rows[-1]["value"], rows[-1]["text"]) == ("string", None, "hello")


def test_export_writes_to_a_file(machine: Machine, tmp_path: Path):
    machine.keep(msgspec.structs.replace(machine.here("key-1"), leases=(lease("a"),)))
    _log(machine.store.run("key-1") / "streams" / "a", 2)
    for form in ("jsonl", "csv"):
        assert run(machine, "export", "1", "--format", form, "--output", str(tmp_path / form)) == ""
        assert (tmp_path / form).read_text() == run(machine, "export", "1", "--format", form)


def test_coordinator_status_json_has_the_documented_keys(machine: Machine):
    with answering(machine.socket, knowing()):
        told = json.loads(run(machine, "coordinator", "status", "--json"))
    assert (told["running"], told["generation"], told["leases"]) == (True, 7, 2)
    assert told["uptime_s"] > 0
    assert all(key in (coordinator.__doc__ or "") for key in told)


def test_doctor_prints_facts_with_advice(machine: Machine):
    told = json.loads(run(machine, "doctor", "--json"))
    assert told["level"] in ("ok", "warn")
    names = [fact["name"] for fact in told["facts"]]
    assert {"runtime", "spool", "store", "store_outlives_job"} <= set(names)
    people = run(machine, "doctor")
    assert [name for name in names if name not in people] == []


@pytest.mark.parametrize(
    ("error", "code"),
    [(AmbiguousRunError("x"), 2), (SettingError("x"), 2), (RunNotFoundError("x"), 1)],
)
def test_exit_code_says_whether_another_call_would_help(error: Any, code: int):
    assert exit_code(error) == code


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        (1, "\nother processes log it too, as loss/rank1\n"),
        (6, "as loss/rank1, loss/rank2, loss/rank3, loss/rank4 and 2 more\n"),
    ],
)
def test_plot_names_the_series_of_others(machine: Machine, ranks: int, words: str):
    """Members of a group log under one name, and have a series each: half a curve is not all."""
    others = {f"rank{n}": f"loss/rank{n}" for n in range(1, ranks + 1)}
    leases, series = (lease("a"),), {"loss": others}
    machine.keep(msgspec.structs.replace(machine.here("key-1"), leases=leases, series=series))
    _log(machine.store.run("key-1") / "streams" / "a", 3)
    assert run(machine, "show", "1", "--plot", "loss").endswith(words)


def test_a_sync_tells_why_in_full_and_once(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    """A cell of the table has no room for what to do."""
    for name in ("URL_API", "URL_INGEST", "URL_PY"):
        monkeypatch.setenv(f"PLUTO_{name}", "http://127.0.0.1:9")
    monkeypatch.setenv("PLUTO_API_KEY", "key")
    done = {"verdict": Verdict("COMPLETED", "done"), "status": "COMPLETED", "ended_ms": 2000}
    machine.keep(machine.here("key-1", 1, **done), machine.here("key-2", 2, **done))
    monkeypatch.setenv("PLUTO_DIST_HOME", str(machine.home))
    told = invoke(["sync", "--patience", "0", "--dir", str(machine.base)])
    assert told.exit_code == 1
    assert told.stdout.count("the server gave no answer") == 2
    assert told.stderr.count("failed: the server gave no answer for 0 s") == 1


def test_a_file_that_cannot_be_written_is_named(machine: Machine):
    machine.keep(machine.here("key-1"))
    said = run(machine, "export", "key-1", "--output", "/dev/null/points.jsonl", code=1)
    assert said == "pluto-dist: /dev/null/points.jsonl: Not a directory\n"


def test_logs_of_nobody_are_told_as_none(machine: Machine):
    machine.keep(machine.here("key-1"))
    done = invoke(["logs", "key-1", "--rank", "7", "--dir", str(machine.base)])
    assert (done.stdout, done.exit_code) == ("", 0)
    assert done.stderr == "no output of rank 7 was recorded for Run DEM-1\n"


def test_the_version_is_printed():
    assert invoke(["--version"]).stdout == f"pluto-dist {pluto_dist.__version__}\n"


def test_an_error_is_one_line_without_a_traceback(machine: Machine):
    message = run(machine, "show", "DEM-9", code=1)
    assert message.startswith("pluto-dist: no Run 'DEM-9'")
    assert message.count("\n") == 1


def test_an_error_of_the_machine_is_one_line_too(machine: Machine):
    machine.keep(machine.here("key-1"))
    message = run(machine, "export", "1", "--output", str(machine.base / "no" / "file"), code=1)
    assert message.startswith("pluto-dist: ")
    assert "no/file" in message


def test_a_word_that_is_no_command_loads_none():
    """Every typo waits for this import."""
    heavy = ("zmq", "httpx", "psutil", "sqlite3", "rich", "msgspec", "pluto_dist.cli.console")
    probe = (
        "import sys\nfrom pluto_dist.cli.main import UsageError, commands\n"
        "try: commands.run(['shwo'], 'pluto-dist')\n"
        f"except UsageError: print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_call_loads_the_module_of_its_command_alone():
    """What the others need costs it nothing."""
    probe = (
        "import sys\nfrom pluto_dist.cli.main import commands\n"
        "try: commands.run(['ps', '--help'], 'pluto-dist')\n"
        "finally: print(*sorted(name for name in sys.modules if name.startswith('pluto_dist.cli.')))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert loaded == [f"pluto_dist.cli.{name}" for name in ("console", "main", "options", "ps")]


def _log(folder: Path, count: int, *more: bytes) -> int:
    """Writes records of `loss` with the steps 0, 1, …; returns their size."""
    folder.mkdir(parents=True)
    lines = [b'{"time":0,"step":%d,"data":{"loss":%d}}\n' % (step, step) for step in range(count)]
    data = b"".join(map(encode_frame, lines))
    (folder / "metrics-00000001.spool").write_bytes(data + b"".join(map(encode_frame, more)))
    return len(data)


@pytest.mark.parametrize("group", [[], ["coordinator"]])
def test_the_list_of_commands_cuts_no_sentence(group: list[str]) -> None:
    said = invoke([*group, "--help"]).stdout
    assert "..." not in said.partition("commands:")[2]


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("upload", "RUN [PATH...]"),
        ("sync", "[RUN|PATH...]"),
        ("top", "[RUN...]"),
        ("run", "CMD..."),
    ],
)
def test_the_usage_has_one_pair_of_brackets(command: str, usage: str) -> None:
    said = invoke([command, "--help"]).stdout.splitlines()[0]
    assert re.sub(r"[{}\[\]]{2,}", "?", said) == said
    assert said.endswith(f"[OPTIONS] {usage}")


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["logs", "x", "--rank", "first"], "'first'"),
        (["runs", "--limit=-1"], "'-1'"),
        (["ui", "--port", "99999"], "'99999'"),
        (["coordinator", "logs", "--lines", "all"], "'all'"),
    ],
)
def test_a_wrong_value_is_named(words: list[str], given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pluto-dist", *words])
    done = invoke(words)
    assert done.exit_code == 2
    assert given in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shwo"], "did you mean show?"),
        (["show"], "required: RUN; see `pluto-dist show --help`"),
        (["show", "1", "2"], "unrecognized arguments: 2"),
        (["show", "1", "--plt", "loss"], "unrecognized arguments: --plt"),
        (["show", "1", "--plot"], "--plot: expected one argument"),
        (["show", "1", "--json=yes"], "--json: ignored explicit argument 'yes'"),
        (["run", "--name", "x"], "CMD is missing"),
        (["export", "1", "--format", "xml"], "'xml' is none of jsonl, csv, parquet"),
        (["runs", "-n0"], "'0' is out of bounds; it may be 1 or more"),
        (["demo", "--seconds", "nan"], "'nan' is out of bounds; it may be from 3 to 60"),
    ],
)
def test_a_wrong_call_is_one_line_that_says_what_is_right(words: list[str], said: str) -> None:
    done = invoke(words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.startswith("pluto-dist: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("1 -f --rank=3", {"run": "1", "follow": True, "rank": 3}),
        ("-f 1 --rank 3 --home h", {"run": "1", "follow": True, "rank": 3, "home": Path("h")}),
        ("--rank -1 -- -x", {"run": "-x", "rank": -1}),
    ],
)
def test_a_command_takes_its_words_in_any_order(words: str, given: dict[str, object]) -> None:
    command = commands.commands["logs"]
    assert isinstance(command, Command)
    assert command.given(words.split()) == given


def test_words_of_the_same_option_and_of_a_command_that_is_run_stay_together() -> None:
    runs, run, logs = (commands.commands[word] for word in ("runs", "run", "coordinator"))
    assert isinstance(runs, Command)
    assert isinstance(run, Command)
    assert isinstance(logs, Group)
    assert runs.given(["--tag", "a", "--tag=b", "-n5", "--sort", "NAME"]) == {
        "tag": ["a", "b"],
        "limit": 5,
        "sort": By.NAME,
    }
    inner = ["torchrun", "--name", "x", "--", "--help"]
    assert run.given(["--name", "mine", *inner]) == {"name": "mine", "command": inner}
    assert run.given(["--name", "mine", "--", *inner]) == {"name": "mine", "command": inner}
    short = logs.commands["logs"]
    assert isinstance(short, Command)
    assert short.given(["-fn5"]) == {"follow": True, "lines": 5}
