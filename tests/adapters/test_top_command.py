"""`top` where no full screen can be: JSON, a table in a pipe, and what it reads of a Run's files."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import msgspec

from pluto_dist.cli.top.model import Looking
from pluto_dist.core.rules.participants import REDUCED
from pluto_dist.core.rules.together import series_of, statistics
from pluto_dist.core.values.document import Document, VerdictShown
from pluto_dist.core.values.records import Failure, Point, SeriesOwner
from pluto_dist.read.board import Board
from pluto_dist.spool.frames import encode_frame
from tests.adapters.commandline import invoke
from tests.adapters.coordinators import answering, knowing
from tests.adapters.documents import lease
from tests.adapters.test_cli_lookup import Machine, machine

__all__ = ["machine"]  # the fixture

OF_RUN = {
    *("run", "display_id", "run_id", "project", "name", "status", "standing", "phase", "attempt"),
    *(
        "created_at",
        "ended_at",
        "points",
        "trouble",
        "step",
        "rate",
        "lag",
        "backlog",
        "processes",
        "machines",
    ),
}
OF_PROCESS = {
    *(
        "lease_id",
        "role",
        "label",
        "rank",
        "pid",
        "host",
        "attempt",
        "state",
        "health",
        "step",
        "rate",
        "lag",
    ),
    *("word_s", "written", "delivered", "backlog", "cpu", "memory"),
}


def going(machine: Machine) -> Document:
    """Two ranks; the second is five steps behind."""
    leases = (
        lease("a", label="rank0", rank=0, last_step=9, written=10, delivered=8),
        lease("b", "rank1", last_step=4),
        lease("c", "rank2", last_step=9),
        lease("n", "node", pid=0, state="ended"),
    )
    put(machine, "n", "metrics", {"time": 1, "step": 0, "data": {"sys/cpu.percentage.0": 50.0}})
    summary = {"loss": Point(0.5, 9, 10)}
    return msgspec.structs.replace(machine.here("key-1"), leases=leases, summary=summary)


def top(machine: Machine, *arguments: str, code: int = 0) -> str:
    places = ["--home", str(machine.home), "--dir", str(machine.base), "--interval", "0.2"]
    done = invoke(["top", *arguments, *places])
    assert done.exit_code == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_json_has_its_documented_keys(machine: Machine):
    with answering(machine.socket, knowing(going(machine))):
        (found,) = json.loads(top(machine, "--json"))
    assert set(found) == OF_RUN
    assert all(set(process) == OF_PROCESS for process in found["processes"])
    assert (found["status"], found["step"], found["lag"], found["backlog"]) == ("RUNNING", 9, 5, 2)
    assert found["machines"] == [{"host": "", "cpu": 50.0, "memory": None, "cards": []}]


def test_a_pipe_gets_a_table_once(machine: Machine):
    with answering(machine.socket, knowing(going(machine))):
        lines = top(machine).splitlines()
    assert lines[0].split()[:3] == ["RUN", "NAME", "STATUS"]
    assert lines[1].split()[:3] == ["DEM-1", "first", "RUNNING"]
    assert [line.split()[0] for line in lines[-3:]] == ["rank0", "rank1", "rank2"]


def test_nothing_to_see_is_said_and_an_unknown_run_is_an_error(machine: Machine):
    assert "no Run here yet" in top(machine)
    assert json.loads(top(machine, "--json")) == []
    assert "no Run 'DEM-9'" in top(machine, "DEM-9", code=1)


def test_the_command_loads_no_textual_before_it_is_needed():
    code = "import sys, pluto_dist.cli.main; print(sorted({'textual', 'rich.live'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def put(machine: Machine, lease_id: str, stream: str, *records: dict[str, Any]) -> None:
    folder = machine.store.run("key-1") / "streams" / lease_id
    folder.mkdir(parents=True, exist_ok=True)
    lines = [msgspec.json.encode(record) + b"\n" for record in records]
    frames = [encode_frame(line, sequence=number) for number, line in enumerate(lines)]
    (folder / f"{stream}-00000001.spool").write_bytes(b"".join(frames))


def test_points_console_and_the_reason_are_read_from_the_runs_files(machine: Machine):
    failure = Failure(
        role="worker",
        label="rank1",
        rank=1,
        host="node",
        pid=100,
        attempt=0,
        kind="exception",
        type="ValueError",
        message="no",
        traceback="Traceback:\n  here",
    )
    over = {"state": "ended", "end_reason": "exited"}
    machine.keep(
        msgspec.structs.replace(
            machine.here("key-1", status="FAILED"),
            leases=(lease("a", pid=99, **over), lease("b", "rank1", label="rank1", **over)),
            verdict=VerdictShown("FAILED", "rank1 failed first", failure),
        )
    )
    put(machine, "a", "metrics", *({"time": n, "step": n, "data": {"loss": 1.0 / n}} for n in (1, 2, 4)))
    put(machine, "a", "console", {"time": 5, "message": "from 0", "logType": "INFO", "lineNumber": 1})
    put(machine, "b", "console", {"time": 4, "message": "from 1", "logType": "ERROR", "lineNumber": 1})
    source = Looking(Board(machine.lookup()))
    (run,) = source.look()
    assert list(source.curve(run, "loss", every_rank=False).curve.values) == [1.0, 0.5, 0.25]
    assert not source.curve(run, "nothing", every_rank=True).curve.steps
    leases = [process.lease for process in run.processes]
    assert [line.message for line in source.console(run, leases, 10)] == ["from 1", "from 0"]
    assert [line.message for line in source.console(run, leases[:1], 10)] == ["from 0"]
    why = "\n".join(source.why(run))
    for part in ("FAILED: rank1 failed first", "ValueError: no", "  here", "| from 1"):
        assert part in why


def test_all_ranks_are_one_curve_with_a_band(machine: Machine):
    owner = SeriesOwner("owner", "METRIC", others={"rank1": "loss/rank1"})
    leases = (lease("a", rank=0), lease("b", "rank1"))
    machine.keep(msgspec.structs.replace(machine.here("key-1", series={"loss": owner}), leases=leases))
    for number, lease_id in enumerate("ab"):
        put(machine, lease_id, "metrics", {"time": 1, "step": 1, "data": {"loss": 1.0 + number}})
    source = Looking(Board(machine.lookup(), every=True))
    (run,) = source.look()
    drawn = source.curve(run, "loss", every_rank=True)
    assert drawn.band is not None
    assert [list(each.values) for each in (drawn.curve, *drawn.band)] == [[1.5], [1.0], [2.0]]
    assert drawn.ranks == 2


def test_ranks_that_were_reduced_on_their_way_have_a_band_too(machine: Machine):
    names = {final: SeriesOwner(REDUCED, "METRIC") for final in series_of("loss")}
    reduced = lease("t", REDUCED, role="side", pid=0, rank_metrics="reduce")
    machine.keep(msgspec.structs.replace(machine.here("key-1", series=names), leases=(reduced,)))
    said = statistics({0: 1.0, 1: 2.0, 2: 6.0})
    data = {final: said[index] for final, index in series_of("loss").items()}
    put(machine, "t", "metrics", {"time": 1, "step": 1, "data": data})
    source = Looking(Board(machine.lookup(), every=True))
    (run,) = source.look()
    drawn = source.curve(run, "loss", every_rank=True)
    assert drawn.band is not None
    assert [list(each.values) for each in (drawn.curve, *drawn.band)] == [[3.0], [1.0], [6.0]]
    assert drawn.ranks == 3
