"""Reading from Python: columns are the records; kept ones that are stale or foreign are not used."""

from __future__ import annotations

import io
import json
import math
import os
import re
from array import array
from pathlib import Path

import msgspec
import numpy as np
import pytest

from pluto_dist import read
from pluto_dist.backend.local.reading import Segment, read_points, segments, summarise
from pluto_dist.cli.export import write_jsonl
from pluto_dist.core.rules.participants import REDUCED
from pluto_dist.core.rules.together import series_of, statistics
from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.records import Point, SeriesOwner
from pluto_dist.errors import RunNotFoundError, UsageError
from pluto_dist.read import columns
from pluto_dist.read.columns import ColumnFiles, gathered
from pluto_dist.read.run import summed_up
from pluto_dist.read.series import Curve
from pluto_dist.spool.frames import encode_frame
from tests.adapters.documents import document, lease
from tests.adapters.test_cli_lookup import Machine, machine

__all__ = ["machine"]  # the fixture

LINES = [
    b'{"time":1,"step":0,"data":{"loss":0.5,"lr":1}}\n',
    b'{"time":2,"step":1,"data":{"loss":0.25,"lr":2}}\n',
    b'{"time":3,"step":1,"data":{"val":7}}\n',
    b'{"time":4,"step":2,"data":{"loss":NaN,"lr":-Infinity}}\n',
    b"no record\n",
    b'{"time":5,"step":3,"data":{}}\n',
    b'{"time":6,"step":99999999999999999999,"data":{"loss":1}}\n',
    b'{"time":7,"step":3,"data":{"loss":0.125,"lr":4}}\n',
]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "WORTH_BYTES", 1)


def put(
    machine: Machine, key: str, lease_id: str, lines: list[bytes], segment: int = 1, first: int = 0
) -> Path:
    folder = machine.store.run(key) / "streams" / lease_id
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"metrics-{segment:08d}.spool"
    with path.open("ab") as file:
        for number, line in enumerate(lines, first):
            file.write(encode_frame(line, sequence=number))
    return path


def kept(machine: Machine, *leases: object, **more: object) -> Document:
    found = msgspec.structs.replace(
        machine.here("key-1", series=more.pop("series", None)),
        leases=leases or (lease("a"),),
        **more,  # type: ignore[arg-type]
    )
    machine.keep(found)
    return found


def looked(machine: Machine) -> read.Run:
    return read.run("1", machine.base)


def values(series: read.Series) -> list[tuple[str, int, float]]:
    return [(row["name"], row["step"], row["value"]) for row in series.rows()]


def parts(machine: Machine) -> list[Path]:
    return sorted((machine.store.run("key-1") / "columns").rglob("*.columns"))


def test_columns_hold_what_the_records_hold(machine: Machine):
    found = kept(machine)
    put(machine, "key-1", "a", LINES)
    for _ in range(2):  # gathered, then from the file
        series = looked(machine).series()
        assert series.names == ["loss", "lr", "val"]
        expected = sorted(
            (point.name, point.step, str(point.value))
            for point in read_points(found, [machine.store.run("key-1") / "streams"])
            if point.step < 1 << 60
        )
        assert sorted((name, step, str(value)) for name, step, value in values(series)) == expected
        assert len(series) == 9
    assert len(parts(machine)) == 1


def test_names_patterns_and_the_first_step(machine: Machine):
    kept(machine)
    put(machine, "key-1", "a", LINES)
    run = looked(machine)
    assert values(run.series("loss", since_step=3)) == [("loss", 3, 0.125)]
    assert run.series(["l*", "val"]).names == ["loss", "lr", "val"]
    assert len(run.series("nothing")) == 0
    assert run.series("nothing").columns()["step"] == []


def test_a_name_without_points_is_told_with_those_that_may_be_meant(
    machine: Machine, caplog: pytest.LogCaptureFixture
):
    summary = {"loss": 0.5, "lr": 1.0, "phase": "warmup"}
    kept(machine, summary={name: Point(last=last, step=1, count=3) for name, last in summary.items()})
    put(machine, "key-1", "a", LINES)
    run = looked(machine)
    assert len(run.series(["loss", "l?", "no*"], since_step=1 << 40)) == 0
    assert not caplog.records
    assert len(run.series(["los", "loss"])) > 0
    assert len(run.series("entirely else")) == 0
    assert len(run.series("phase")) == 0
    first, second, third = (record.getMessage() for record in caplog.records)
    assert first.endswith("has no points of a metric 'los' here; did you mean loss?")
    assert second.endswith("has no points of a metric 'entirely else' here; it has: loss, lr, phase")
    assert third.startswith("'phase' is a series of texts")


def test_ranks_have_their_columns(machine: Machine):
    owner = SeriesOwner("owner", "METRIC", others={"rank1": "loss/rank1"})
    kept(machine, lease("a", rank=0), lease("b", "rank1", label="gpu1"), series={"loss": owner})
    put(machine, "key-1", "a", LINES[:2])
    put(machine, "key-1", "b", LINES[1:2])
    run = looked(machine)
    assert run.series("loss").names == ["loss"]
    rows = list(run.series("loss", every_rank=True).rows())
    assert [(row["name"], row["metric"], row["rank"], row["label"]) for row in rows] == [
        ("loss", "loss", 0, "owner"),
        ("loss", "loss", 0, "owner"),
        ("loss/rank1", "loss", 1, "gpu1"),
    ]


def test_series_that_only_rank_0_keeps_have_no_other_rank(machine: Machine):
    """R7: `rank_metrics="rank0"` holds on every way out."""
    owner = SeriesOwner("owner", "METRIC")
    workers = (
        lease("a", rank=0),
        lease("b", "rank1", rank_metrics="rank0"),
    )
    kept(machine, *workers, series={"loss": owner})
    put(machine, "key-1", "a", LINES[:1])
    put(machine, "key-1", "b", LINES[1:3])
    for _ in range(2):
        assert values(looked(machine).series(every_rank=True)) == [("loss", 0, 0.5), ("lr", 0, 1.0)]


def test_a_line_has_its_speaker_however_many_are_read(machine: Machine):
    """One rule for all ways out."""
    kept(machine, lease("a", rank=0), lease("b", "eval"))
    for lease_id, message in (("a", "one"), ("b", "two")):
        folder = machine.store.run("key-1") / "streams" / lease_id
        folder.mkdir(parents=True)
        line = b'{"time":1,"message":"%s","logType":"INFO"}\n' % message.encode()
        (folder / "console-00000001.spool").write_bytes(encode_frame(line, sequence=0))
    run = looked(machine)
    said = [(line.speaker, line.message) for line in run.console()]
    assert said == [("rank0", "one"), ("eval", "two")]
    assert [(line.speaker, line.message) for line in run.console(last=2)] == said


def test_what_a_superseded_lease_wrote_later_has_its_own_name(machine: Machine):
    """R7, also where the fence came after the columns were kept."""
    kept(machine)
    path = put(machine, "key-1", "a", LINES[:1])
    fence = path.stat().st_size
    put(machine, "key-1", "a", LINES[1:2], first=1)
    assert looked(machine).series().names == ["loss", "lr"]
    owner = SeriesOwner("owner", "METRIC", others={"attempt0": "loss/attempt0"})
    kept(machine, lease("a", fences={"metrics": (1, fence)}), series={"loss": owner})
    for _ in range(2):
        assert values(looked(machine).series("loss*")) == [("loss", 0, 0.5), ("loss/attempt0", 1, 0.25)]


def test_columns_that_are_kept_grow_with_the_segment(machine: Machine):
    kept(machine)
    put(machine, "key-1", "a", LINES[:2])
    assert len(looked(machine).series("loss")) == 2
    put(machine, "key-1", "a", LINES[7:], first=2)
    assert len(looked(machine).series("loss")) == 3
    assert len(parts(machine)) == 2
    assert [step for _, step, _ in values(looked(machine).series("loss"))] == [0, 1, 3]


@pytest.mark.parametrize("fault", ["cut", "changed", "damaged", "foreign", "empty"])
def test_columns_that_do_not_fit_are_thrown_away(machine: Machine, fault: str):
    kept(machine)
    path = put(machine, "key-1", "a", LINES[:2])
    looked(machine).series()
    (part,) = parts(machine)
    if fault == "cut":
        path.write_bytes(b"")
        put(machine, "key-1", "a", LINES[7:])
    elif fault == "changed":
        path.write_bytes(b"")
        put(machine, "key-1", "a", [LINES[1], LINES[7]])
    elif fault == "damaged":
        part.write_bytes(part.read_bytes()[:-40] + os.urandom(40))
    elif fault == "foreign":
        part.write_bytes(b"something else")
    else:
        part.write_bytes(b"")
    expected = {"cut": [3], "changed": [1, 3]}.get(fault, [0, 1])
    for _ in range(2):
        assert [step for _, step, _ in values(looked(machine).series("loss"))] == expected
    assert part not in parts(machine) or part.stat().st_size > 100


def test_nothing_is_kept_where_it_is_not_wanted_or_not_possible(machine: Machine):
    kept(machine)
    put(machine, "key-1", "a", LINES)
    assert len(looked(machine).series(keep=False)) == 9
    assert parts(machine) == []
    (machine.store.run("key-1") / "columns").write_text("in the way")
    assert len(looked(machine).series()) == 9


def test_memory_is_flat_in_the_length_of_a_segment(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pluto_dist.read.columns.GATHERED_VALUES", 1000)
    monkeypatch.setattr("pluto_dist.backend.local.reading.PIECE_BYTES", 1 << 12)
    found = kept(machine)
    put(machine, "key-1", "a", [b'{"time":1,"step":%d,"data":{"x":1.5}}\n' % step for step in range(20_000)])
    (segment,) = segments(found, [machine.store.run("key-1") / "streams"])
    sizes = [len(block.steps) for block in gathered(segment)]
    assert sum(sizes) == 20_000
    assert max(sizes) < 1200


def test_a_series_of_nothing_but_nan_is_read_and_thinned(machine: Machine):
    kept(machine)
    put(machine, "key-1", "a", [b'{"time":1,"step":%d,"data":{"x":NaN}}\n' % step for step in range(100)])
    (curve,) = looked(machine).series("x").curves()
    assert len(curve) == 100
    thin = curve.thinned(10)
    assert 1 <= len(thin) <= 10
    assert all(map(math.isnan, thin.values))


def curve_of(found: list[float]) -> Curve:
    count = len(found)
    steps = memoryview(array("q", range(count)))
    return Curve("x", "x", None, "", steps, steps, memoryview(array("d", found)))


def test_thinning_keeps_the_smallest_and_the_largest():
    spiky = [0.0] * 10_000
    spiky[1234], spiky[8765] = 50.0, -50.0
    thin = curve_of(spiky).thinned(100)
    assert len(thin) <= 100
    assert (max(thin.values), min(thin.values)) == (50.0, -50.0)
    assert (1234, 50.0) in zip(thin.steps, thin.values, strict=True)
    assert list(curve_of(spiky).between(1234, 1235).values) == [50.0, 0.0]


def test_a_curve_is_in_the_order_of_its_steps(machine: Machine):
    kept(machine)
    put(
        machine,
        "key-1",
        "a",
        [b'{"time":1,"step":%d,"data":{"x":%d}}\n' % (n, n) for n in (5, 3, 9)],
    )
    (curve,) = looked(machine).series("x").curves()
    assert list(curve.steps) == list(curve.values) == [3, 5, 9]
    assert [step for _, step, _ in values(looked(machine).series("x", since_step=4))] == [5, 9]


def test_arrow_pandas_and_polars_hold_the_same(machine: Machine):
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pandas")
    pytest.importorskip("polars")
    kept(machine, lease("a"), lease("b", "rank1"))
    put(machine, "key-1", "a", LINES)
    put(machine, "key-1", "b", LINES[:1])
    series = looked(machine).series()
    table = series.to_arrow()
    assert table.column_names == series.column_names
    assert str(table.schema.field("time").type) == "timestamp[ms, tz=UTC]"
    assert table.column("step").to_pylist() == series.columns()["step"]
    assert table.column("rank").to_pylist() == series.columns()["rank"]
    assert arrow.table(series).num_rows == len(series) == series.num_rows
    frame = series.to_pandas()
    assert frame["value"].sum() == -math.inf
    assert list(frame.columns) == series.column_names
    assert series.to_polars()["name"].to_list() == series.columns()["name"]
    empty = looked(machine).series("nothing")
    assert empty.to_arrow().num_rows == len(empty.to_pandas()) == len(empty.to_polars()) == 0


def test_without_pyarrow_frames_are_made_from_plain_columns(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("pandas")
    pytest.importorskip("polars")
    kept(machine)
    put(machine, "key-1", "a", LINES[:2])
    series = looked(machine).series("loss")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pluto-dist\[read\]"):
        series.to_arrow()
    assert series.to_pandas()["value"].tolist() == [0.5, 0.25]
    assert series.to_polars()["value"].to_list() == [0.5, 0.25]
    assert str(series.to_polars()["time"].dtype) == "Datetime(time_unit='ms', time_zone='UTC')"


def test_what_else_there_is_of_a_run(machine: Machine):
    kept(machine, config=msgspec.Raw(b'{"lr":0.5}'), tags=("a",), name="<script>alert(1)</script>")
    run = looked(machine)
    assert (run.config, run.tags, run.status, run.situation.standing) == (
        {"lr": 0.5},
        ("a",),
        "RUNNING",
        "unknown",
    )
    assert (run.summary, run.events, run.files, run.console()) == ({}, (), [], [])
    assert "<script>" not in run._repr_html_()
    assert "&lt;script&gt;" in run._repr_html_()
    assert run.refresh().key == "key-1"


def test_lists_leave_out_what_cannot_be_read_and_say_so(machine: Machine, capsys: pytest.CaptureFixture[str]):
    """A damaged document, one of a newer version, and a folder without one."""
    kept(machine)
    newer = msgspec.json.decode(machine.store.document("key-1") or b"")
    machine.store.write_document("key-2", msgspec.json.encode({**newer, "key": "key-2", "format": 99}))
    machine.store.write_document("key-3", b'{"half')
    machine.store.run("key-4").mkdir()
    assert [run.key for run in read.runs(machine.base)] == ["key-1"]
    said = capsys.readouterr().err
    assert "format 99" in said
    assert "key-3" in said
    assert read.runs(machine.base, status="COMPLETED") == []
    with pytest.raises(RunNotFoundError):
        read.run("nothing", machine.base)


def test_a_folder_that_is_not_there_is_no_empty_list(tmp_path: Path):
    with pytest.raises(UsageError, match="there is no such folder"):
        read.runs(tmp_path / "typo")
    with pytest.raises(UsageError, match="there is no such folder"):
        read.run("key-1", tmp_path / "typo")


def test_a_node_is_named_by_its_home(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    kept(machine)
    machine.lookup()  # makes the folders
    monkeypatch.chdir(machine.base)
    assert [run.key for run in read.runs(machine.home)] == ["key-1"]


def test_the_chain_of_files_of_another_segment_is_not_mixed_in(machine: Machine):
    kept(machine)
    put(machine, "key-1", "a", LINES[:1])
    put(machine, "key-1", "a", LINES[1:2], segment=2)
    for _ in range(2):
        assert [step for _, step, _ in values(looked(machine).series("loss"))] == [0, 1]
    found: list[Segment] = list(segments(document(lease("a")), [machine.store.run("key-1") / "streams"]))
    assert [segment.number for segment in found] == [1, 2]
    files = ColumnFiles(machine.store.run("key-1"), make=False)
    assert [block.names for segment in found for block in files.blocks(segment)] == [("loss", "lr")] * 2


def test_the_summary_from_columns_is_that_of_the_points(machine: Machine):
    owner = SeriesOwner("owner", "METRIC", others={"rank1": "loss/rank1"})
    found = kept(machine, lease("a"), lease("b", "rank1"), series={"loss": owner})
    put(machine, "key-1", "a", LINES[:6] + LINES[7:] + [LINES[1]])
    put(machine, "key-1", "b", [LINES[1], LINES[0]])
    roots = [machine.store.run("key-1") / "streams"]
    assert summed_up(found, roots) == summarise(read_points(found, roots))


def line(step: int, **values: float) -> bytes:
    return msgspec.json.encode({"time": step, "step": step, "data": values}) + b"\n"


def test_ranks_are_reduced_to_what_all_say_together(machine: Machine):
    owner = SeriesOwner(
        "owner", "METRIC", others={"rank1": "loss/rank1", "rank2": "loss/rank2", "eval": "loss/eval"}
    )
    kept(
        machine,
        lease("a", rank=0),
        lease("b", "rank1"),
        lease("c", "rank2", state="ended", end_reason="died"),
        lease("e", "eval"),
        series={"loss": owner},
    )
    for number, (lease_id, steps) in enumerate({"a": 6, "b": 6, "c": 4}.items()):
        put(
            machine,
            "key-1",
            lease_id,
            [line(step, loss=step * (1 + number), lr=0.5) for step in range(steps)],
        )
    put(machine, "key-1", "e", [line(2, loss=1000.0)])
    loss, lr = looked(machine).series(["loss", "lr"], every_rank=True).together()
    values = [[step * (1 + rank) for rank in (range(3) if step < 4 else range(2))] for step in range(6)]
    assert loss.ranks == (0, 1, 2)
    assert loss.columns() == {
        "step": list(range(6)),
        "count": [3, 3, 3, 3, 2, 2],  # rank 2 was killed
        "mean": [float(np.mean(each)) for each in values],
        "min": [float(np.min(each)) for each in values],
        "max": [float(np.max(each)) for each in values],
        "std": [pytest.approx(float(np.std(each)), rel=1e-15) for each in values],
        "max_rank": [0, 2, 2, 2, 1, 1],
    }
    assert (lr.metric, set(lr.means), set(lr.deviations)) == ("lr", {0.5}, {0.0})


def test_a_step_that_a_restarted_rank_logged_again_counts_as_it_was_logged_last(machine: Machine):
    owner = SeriesOwner("owner", "METRIC", others={"rank1": "loss/rank1"})
    kept(
        machine,
        lease("b2", "rank1", attempt=1, granted_at=3000),
        lease("b", "rank1", state="ended", end_reason="died"),
        lease("a", rank=0),
        series={"loss": owner},
    )
    put(machine, "key-1", "a", [line(0, loss=1), line(1, loss=1)])
    put(machine, "key-1", "b", [line(0, loss=1), line(1, loss=100), line(1, loss=200)])
    put(machine, "key-1", "b2", [line(1, loss=3)])
    (loss,) = looked(machine).series("loss", every_rank=True).together()
    assert loss.columns()["mean"] == [1.0, 2.0]
    assert loss.columns()["count"] == [2, 2]


def together_line(step: int, name: str, values: dict[int, float]) -> bytes:
    """As a coordinator writes what ranks say together."""
    found = statistics(values)
    return line(step, **{final: found[at] for final, at in series_of(name).items()})


def node_lease(lease_id: str, node: str = REDUCED, **more: object) -> LeaseShown:
    return lease(lease_id, node, role="side", pid=0, state="ended", rank_metrics="reduce", **more)


def test_what_was_reduced_on_its_way_is_what_ranks_say_together(machine: Machine):
    """R7: the band is that of ranks with a series each; a correction counts, once, in `export` too."""
    kept(
        machine,
        lease("a", rank=0, rank_metrics="reduce"),
        lease("b", "rank1", rank_metrics="reduce"),
        node_lease("t"),
        series={final: SeriesOwner(REDUCED, "METRIC") for final in series_of("loss")},
    )
    put(machine, "key-1", "a", [line(0, loss=1.0)])  # stays in the store, and is in no series
    put(
        machine,
        "key-1",
        "t",
        [
            together_line(0, "loss", {0: 1.0, 1: 3.0}),
            together_line(2, "loss", {0: 5.0}),
            together_line(1, "loss", {0: 2.0, 1: 2.0}),  # rank 1 was late; there was nothing before
            together_line(2, "loss", {0: 5.0, 1: 9.0}),
            together_line(3, "loss", {0: 1.0}),
            together_line(2, "loss", {0: 5.0, 1: 9.0, 2: 10.0}),
        ],
    )
    run = looked(machine)
    (found,) = run.series("loss", every_rank=True).together()
    assert found.columns() == {
        "step": [0, 1, 2, 3],
        "count": [2, 2, 3, 1],
        "mean": [2.0, 2.0, 8.0, 1.0],
        "min": [1.0, 2.0, 5.0, 1.0],
        "max": [3.0, 2.0, 10.0, 1.0],
        "std": [1.0, 0.0, pytest.approx(np.std([5, 9, 10])), 0.0],
        "max_rank": [1, 0, 2, 0],
    }
    plain = run.series("loss").columns()
    assert sorted(zip(plain["step"], plain["value"], strict=True)) == [(0, 2.0), (1, 2.0), (2, 8.0), (3, 1.0)]
    lows = run.series("loss/min").columns()
    assert (set(lows["metric"]), len(lows["step"])) == ({"loss"}, 4)
    out = io.BytesIO()
    write_jsonl(run, out)
    rows = [json.loads(row) for row in out.getvalue().splitlines()]
    assert len(rows) == 4 * len(series_of("loss"))
    assert [row["value"] for row in rows if row["step"] == 2 and row["name"] == "loss"] == [8.0]


def test_nodes_that_reduce_their_own_ranks_are_put_together(machine: Machine):
    names = {
        name: SeriesOwner("", "METRIC", others={node: f"{name}/{node}" for node in ("node0", "node1")})
        for name in series_of("loss")
    }
    kept(machine, node_lease("t0", "node0"), node_lease("t1", "node1"), series=names)
    put(
        machine,
        "key-1",
        "t0",
        [together_line(0, "loss", {0: 1.0, 1: 2.0}), together_line(1, "loss", {0: 4.0})],
    )
    put(machine, "key-1", "t1", [together_line(0, "loss", {2: 9.0, 3: 3.0})])
    (found,) = looked(machine).series("loss", every_rank=True).together()
    assert found.columns() == {
        "step": [0, 1],
        "count": [4, 1],
        "mean": [3.75, 4.0],
        "min": [1.0, 4.0],
        "max": [9.0, 4.0],
        "std": [pytest.approx(np.std([1, 2, 9, 3])), 0.0],
        "max_rank": [2, 0],
    }


@pytest.mark.parametrize("reduce", [False, True])
def test_two_starts_of_a_job_are_never_averaged(machine: Machine, reduce: bool):
    """The second start is of fewer ranks and began again at step 1: there the first one counts no more."""
    first, second = {"ended_at": 2000, "state": "ended"}, {"epoch": 2, "attempt": 1, "granted_at": 3000}
    if reduce:
        names = {final: SeriesOwner(REDUCED, "METRIC") for final in series_of("loss")}
        kept(machine, node_lease("u", **second), node_lease("t"), series=names)
        put(machine, "key-1", "t", [together_line(step, "loss", {0: 1.0, 1: 3.0}) for step in range(3)])
        put(machine, "key-1", "u", [together_line(1, "loss", {0: 7.0})])
    else:
        owner = SeriesOwner("owner", "METRIC", others={"rank1": "loss/rank1"})
        kept(
            machine,
            lease("a2", rank=0, **second),
            lease("b", "rank1", end_reason="superseded", **{**first, "ended_at": 3500}),
            lease("a", rank=0, end_reason="died", **first),
            series={"loss": owner},
        )
        put(machine, "key-1", "a", [line(step, loss=1.0) for step in range(3)])
        put(machine, "key-1", "b", [line(step, loss=3.0) for step in range(3)])
        put(machine, "key-1", "a2", [line(1, loss=7.0)])
    (found,) = looked(machine).series("loss", every_rank=True).together()
    assert found.columns()["mean"] == [2.0, 7.0, 2.0]
    assert found.columns()["count"] == [2, 1, 2]


def test_the_card_of_a_job_of_many_ranks_has_its_names_first(machine: Machine):
    others = {f"rank{rank}": f"acc/rank{rank}" for rank in range(1, 300)}
    names = [*others.values(), "acc", "loss", "lr"]
    kept(machine, summary={name: Point(0.5, 9, 10) for name in names}, status="COMPLETED")
    found = msgspec.structs.replace(looked(machine).document, series={"acc": others})
    machine.keep(found)
    card = looked(machine)._repr_html_()
    assert re.findall("<td>([a-z][^<]*)</td>", card)[:4] == ["acc", "loss", "lr", "acc/rank1"]
    assert "294 more series" in card
