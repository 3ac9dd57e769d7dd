"""A Run whose parts lie in the stores of several nodes: `sync` of each, in any order, makes one Run (R12)."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pluto_dist.backend.pluto import PlutoBackend
from pluto_dist.cli.artifacts import artifacts_of
from pluto_dist.cli.export import write_jsonl
from pluto_dist.core.values.backend import Status
from pluto_dist.core.values.document import LeaseShown
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.core.values.records import SeriesOwner
from pluto_dist.read.board import Board
from pluto_dist.read.lookup import Lookup
from pluto_dist.read.run import Run
from pluto_dist.secret import Secret
from pluto_dist.sync.plan import FRESH_S, plan
from tests.adapters import documents
from tests.adapters.sync_support import NOW_MS, OWNER, Shelf, line, metric, owner, sync, text
from tests.pluto_server.operator import Operator
from tests.pluto_server.server import PlutoServer

RANK2 = "d" * 24
OWNERS, OTHERS = "key-owner1", "key-other2"


@pytest.fixture
def server() -> Iterator[PlutoServer]:
    with PlutoServer() as server:
        yield server


@pytest.fixture
def operator(server: PlutoServer) -> Operator:
    server.operator.waive("6.3.2")  # a part that comes second finds the Run ended
    return server.operator


@pytest.fixture
def target(server: PlutoServer) -> Target:
    urls = server.urls
    key_id = Secret(server.key).digest
    return Target(
        mode="pluto", store="", url_api=urls.api, url_ingest=urls.ingest, url_py=urls.py, key_id=key_id
    )


@pytest.fixture
def backend(server: PlutoServer, target: Target) -> Iterator[PlutoBackend]:
    backend = PlutoBackend(target, lambda: Secret(server.key))
    yield backend
    backend.close()


def rank2(**more: Any) -> LeaseShown:
    ended = {"state": "ended", "end_reason": "finished", "host": "other", "relay": "node1"}
    return documents.lease(RANK2, "rank2", **{**ended, **more})


def put_owners(shelf: Shelf, status: Status | None = "FAILED", **more: Any) -> None:
    """The part of node 0."""
    known = {"tags": ("a", "b"), "config": {"lr": 0.1}, "name": "mine", "external_id": "job7"}
    lease = owner(granted_at=NOW_MS)
    shelf.put(lease, key=OWNERS, status=status, **{"part_of": OWNERS, "round": 1, **known, **more})
    shelf.write(OWNER, "metrics", *(metric(step, loss=1.0 + step) for step in range(3)), key=OWNERS)
    shelf.write(OWNER, "console", line(1, "from the owner"), line(2, "and again"), key=OWNERS)


def put_others(shelf: Shelf, status: Status | None = "FAILED", **more: Any) -> None:
    """The part of node 1, with rank 2."""
    series = {
        "loss": SeriesOwner("", "METRIC", {"rank2": "loss/rank2"}),
        "loss/rank2": SeriesOwner("rank2", "METRIC", plain="loss"),
    }
    known = {"tags": ("a",), "config": {"lr": 0.1}, "name": "mine", "external_id": "job7", "series": series}
    of = {"part_of": OWNERS, "relay": "node1", "round": 1, "next_line": 1_000_000_001}
    shelf.put(rank2(granted_at=NOW_MS), key=OTHERS, status=status, **{**known, **of, **more})
    shelf.write(RANK2, "metrics", *(metric(step, loss=5.0 + step) for step in range(3)), key=OTHERS)
    shelf.write(RANK2, "data", text(0, "x"), key=OTHERS)
    shelf.write(RANK2, "console", line(1, "from rank 2"), key=OTHERS)


def check(operator: Operator, status: str = "FAILED") -> None:
    """There is one Run, with everything of both nodes once."""
    assert [run["externalId"] for run in operator.runs()] == ["job7"]
    run = operator.run(1)
    assert (run["status"], run["name"], run["tags"], run["config"]) == (
        status,
        "mine",
        ["a", "b"],
        {"lr": 0.1},
    )
    assert run["statusUpdated"] == "2026-01-01T00:00:09.000Z"
    assert {name: [value for _, _, value in rows] for name, rows in operator.metrics(1).items()} == {
        "loss": [1.0, 2.0, 3.0],
        "loss/rank2": [5.0, 6.0, 7.0],
    }
    assert [(row["step"], row["data"]) for row in operator.data(1)] == [(0, "x")]
    lines = operator.logs(1)
    assert [row["message"] for row in lines if "rank2" in row["message"]] == ["[rank2] from rank 2"]
    assert len({row["line_number"] for row in lines}) == len(lines) == 3


@pytest.mark.parametrize("order", ["ABAB", "BABA", "AABB", "BBAA"])
def test_parts_of_two_hosts_make_one_run_in_any_order(
    tmp_path: Path, backend: PlutoBackend, target: Target, operator: Operator, order: str
) -> None:
    """G2, G6, R12: one Run, one status, each row once; a second round adds nothing."""
    stores = {name: Shelf(tmp_path / name / ".pluto") for name in "AB"}
    put_owners(stores["A"])
    put_others(stores["B"])
    states = []
    for name in order:
        (result,) = sync(stores[name], backend, target)
        assert result.server_id == 1, result
        states.append(result.state)
    assert sorted(states) == ["up to date", "up to date", "uploaded", "uploaded"]
    check(operator)
    events = [event["toStatus"] for event in operator.history(1)]
    assert events == ["RUNNING", "FAILED"]  # nobody opened it again


@pytest.mark.parametrize("names", [(), ("DEM-1",), (OTHERS,)])
def test_parts_in_one_store_are_uploaded_as_one_run(
    tmp_path: Path, backend: PlutoBackend, target: Target, operator: Operator, names: tuple[str, ...]
) -> None:
    """A shared folder, or the folders of two hosts copied into one."""
    here, there = Shelf(tmp_path / "A" / ".pluto"), Shelf(tmp_path / "B" / ".pluto")
    put_owners(here)
    put_others(there)
    shutil.copytree(there.store.root, here.store.root, dirs_exist_ok=True)
    (result,) = sync(here, backend, target, *names)
    assert (result.state, result.key, result.records) == ("uploaded", OWNERS, 10)
    check(operator)
    assert operator.check() == []
    assert [each.state for each in sync(here, backend, target)] == ["up to date"]


@pytest.mark.parametrize("first", ["A", "B"])
def test_a_part_that_was_uploaded_alone_is_not_sent_again_with_the_others(
    tmp_path: Path, backend: PlutoBackend, target: Target, operator: Operator, first: str
) -> None:
    """G6: the marks of all parts count."""
    stores = {name: Shelf(tmp_path / name / ".pluto") for name in "AB"}
    put_owners(stores["A"])
    put_others(stores["B"])
    sync(stores[first], backend, target)
    shutil.copytree(stores["B"].store.root, stores["A"].store.root, dirs_exist_ok=True)
    (result,) = sync(stores["A"], backend, target)
    assert (result.state, result.server_id) == ("uploaded", 1)
    check(operator)


def test_a_part_that_does_not_know_the_end_leaves_it_to_the_owners(
    tmp_path: Path, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    """G7: it opens the Run; the monitor's impatience is replaced by the verdict."""
    operator.waive("6.3.10")
    stores = {name: Shelf(tmp_path / name / ".pluto") for name in "AB"}
    put_owners(stores["A"], "COMPLETED")
    put_others(stores["B"], None, round=0)
    aged(stores["B"], OTHERS)
    (result,) = sync(stores["B"], backend, target)
    assert (result.state, operator.run(1)["status"]) == ("uploaded", "RUNNING")
    operator.advance(300)
    assert operator.monitor_cycle() == [1]
    sync(stores["A"], backend, target)
    check(operator, "COMPLETED")
    assert [sync(stores[name], backend, target)[0].state for name in "BA"] == ["up to date"] * 2


def test_the_other_part_has_the_end_where_the_owners_node_was_lost(
    tmp_path: Path, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    """G7: node 0 died whole; what it has left is RUNNING, and node 1 knows better."""
    stores = {name: Shelf(tmp_path / name / ".pluto") for name in "AB"}
    put_owners(stores["A"], None, round=0)
    put_others(stores["B"])
    sync(stores["B"], backend, target)
    (refused,) = plan(stores["A"].store, target)
    assert refused.state == "running"
    sync(stores["A"], backend, target, force=True)
    check(operator)


@pytest.mark.parametrize("order", ["AB", "BA"])
def test_a_later_start_of_the_job_ends_the_run_again_once(
    tmp_path: Path, backend: PlutoBackend, target: Target, operator: Operator, order: str
) -> None:
    """R12: each start has its verdict; that of the one before does not hold back the next."""
    stores = {name: Shelf(tmp_path / name / ".pluto") for name in "AB"}
    put_owners(stores["A"])
    put_others(stores["B"])
    for name in order:
        sync(stores[name], backend, target)
    put_owners(stores["A"], "COMPLETED", round=2, ended_ms=NOW_MS + 20_000)
    put_others(stores["B"], "COMPLETED", round=2, ended_ms=NOW_MS + 20_000)
    for name in order * 2:
        sync(stores[name], backend, target)
    assert operator.run(1)["status"] == "COMPLETED"
    events = sorted(event["toStatus"] for event in operator.history(1))  # the ends are dated back
    assert events == ["COMPLETED", "FAILED", "RUNNING", "RUNNING"]


def test_an_id_that_another_run_has_on_the_server(
    tmp_path: Path, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    """R8: both parts take the same other id, and the stranger's Run stays as it was."""
    strangers = Shelf(tmp_path / "C" / ".pluto")
    strangers.put(owner(), key="key-stranger", external_id="job7")
    sync(strangers, backend, target)
    stores = {name: Shelf(tmp_path / name / ".pluto") for name in "AB"}
    put_owners(stores["A"])
    put_others(stores["B"])
    found = [sync(stores[name], backend, target)[0].server_id for name in "BA"]
    assert found == [2, 2]
    assert sorted(run["externalId"] for run in operator.runs()) == ["job7", "job7-owner1"]


def test_readers_see_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`show`, `runs`, `export`: points, console, processes and counts of both nodes, each under its name."""
    monkeypatch.chdir(tmp_path)
    shelf = Shelf(tmp_path / ".pluto")
    put_owners(shelf, "COMPLETED")
    put_others(shelf, "COMPLETED")
    lookup = Lookup(home=tmp_path / "home", folder=tmp_path)
    (known,) = lookup.runs()
    assert (known.head.key, known.head.status, len(known.head.leases)) == (OWNERS, "COMPLETED", 2)
    for name in ("DEM-1", "job7", OWNERS, OTHERS):
        run = Run(lookup, lookup.find(name))
        assert run.document.parts == (OWNERS, OTHERS)
    series = run.series(every_rank=True)
    found: dict[str, list[float]] = {name: [] for name in series.names}
    for row in series.rows():
        found[row["name"]].append(row["value"])
    assert found == {"loss": [1.0, 2.0, 3.0], "loss/rank2": [5.0, 6.0, 7.0]}
    assert [said.message for said in run.console(rank=2)] == ["from rank 2"]
    assert [(said.speaker, said.message) for said in run.console()][-1] == ("owner", "and again")
    assert [point.value for point in run.texts()] == ["x"]
    assert lookup.again(OWNERS, shelf.store.root).document.parts == (OWNERS, OTHERS)


def test_files_of_all_parts_are_found_and_uploaded(
    tmp_path: Path, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    """Each lies in the folder of its part."""
    shelf = Shelf(tmp_path / ".pluto")
    put_owners(shelf)
    put_others(shelf)
    for key, lease_id, name, body in ((OWNERS, OWNER, "model", b"of 0"), (OTHERS, RANK2, "shard", b"of 1")):
        folder = shelf.store.run(key) / "files" / name
        folder.mkdir(parents=True)
        (folder / f"{name}-0").write_bytes(body)
        logged = {"fileName": f"{name}-0", "fileType": "bin", "logName": name, "fileSize": len(body)}
        place = {"path": f"files/{name}/{name}-0", "step": 0, "time": NOW_MS, "logType": "ARTIFACT"}
        shelf.write(lease_id, "files", {**logged, **place}, key=key)
    lookup = Lookup(home=tmp_path / "home", folder=tmp_path)
    run = Run(lookup, lookup.find("DEM-1"))
    assert {file.name: file.path and file.path.read_bytes() for file in run.files} == {
        "model": b"of 0",
        "shard/rank2": b"of 1",
    }
    assert sorted(found.where for found in artifacts_of(run)) == ["store", "store"]
    (result,) = sync(shelf, backend, target)
    assert (result.state, result.rejected) == ("uploaded", 0)
    assert {row["log_name"] for row in operator.files(1)} == {"model", "shard/rank2"}
    assert shelf.rejected(OWNERS) == shelf.rejected(OTHERS) == []


def test_all_parts_are_exported(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / ".pluto")
    put_owners(shelf)
    put_others(shelf)
    lookup = Lookup(home=tmp_path / "home", folder=tmp_path)
    file = io.BytesIO()
    write_jsonl(Run(lookup, lookup.find("DEM-1")), file)
    rows = [json.loads(row) for row in file.getvalue().splitlines()]
    counted = Counter((row["kind"], row["name"], row["rank"]) for row in rows)
    assert counted == {
        ("metric", "loss", None): 3,
        ("metric", "loss/rank2", 2): 3,
        ("string", "note/rank2", 2): 1,
    }


def test_top_and_the_page_see_one_run(tmp_path: Path) -> None:
    """They read through the board."""
    shelf = Shelf(tmp_path / ".pluto")
    put_owners(shelf)
    put_others(shelf)
    board = Board(Lookup(home=tmp_path / "home", folder=tmp_path))
    (seen,) = board.look()
    assert (seen.key, [process.lease.participant for process in seen.processes]) == (
        OWNERS,
        ["owner", "rank2"],
    )


def test_a_reader_takes_the_end_from_the_part_that_knows_it(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / ".pluto")
    put_owners(shelf, None, round=0)
    put_others(shelf, "FAILED")
    lookup = Lookup(home=tmp_path / "home", folder=tmp_path)
    run = Run(lookup, lookup.find("DEM-1"))
    assert (run.status, run.key, run.tags) == ("FAILED", OWNERS, ("a", "b"))
    assert (run.verdict.reason if run.verdict else "") == "why"
    (known,) = lookup.runs()
    assert known.head.status == "FAILED"


def aged(shelf: Shelf, key: str) -> None:
    """As if nobody had written the document for long."""
    path = shelf.store.run(key) / "run.json"
    os.utime(path, (time.time() - FRESH_S - 60,) * 2)
