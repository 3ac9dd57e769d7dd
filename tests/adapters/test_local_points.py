"""Points: from segments of store and spool to points under their final names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pluto_dist.backend.local import reading as subject
from pluto_dist.backend.local.reading import SeriesPoint, read_points, shown, summarise
from pluto_dist.core.values import document as papers
from pluto_dist.core.values.records import Point, SeriesOwner
from pluto_dist.spool.frames import DECLARE, encode_declaration, encode_frame, segment_name
from tests.adapters.documents import document, lease


def frames(*records: dict[str, Any]) -> bytes:
    return b"".join(encode_frame(json.dumps(record).encode() + b"\n") for record in records)


def metric(step: int, **values: float) -> dict[str, Any]:
    return {"time": 1000 + step, "step": step, "data": values}


def text(step: int, name: str, value: str) -> dict[str, Any]:
    return {"time": 1000 + step, "data": value, "dataType": "string-series", "logName": name, "step": step}


class Folders:
    """A store and a spool for one Run."""

    def __init__(self, root: Path) -> None:
        self.store, self.spool = root / "store", root / "spool"

    def put(self, root: Path, lease_id: str, stream: str, number: int, data: bytes) -> Path:
        path = root / lease_id / segment_name(stream, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def read(self, found: papers.Document) -> list[SeriesPoint]:
        return list(read_points(found, (self.store, self.spool)))

    def names(self, found: papers.Document) -> list[tuple[str, int]]:
        return [(point.name, point.step) for point in self.read(found)]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_a_record_becomes_a_point_for_each_name(folders: Folders):
    folders.put(folders.store, "a", "metrics", 1, frames(metric(3, loss=0.5, acc=1)))
    folders.put(folders.store, "a", "data", 1, frames(text(4, "note", "hello")))
    assert folders.read(document(lease("a"))) == [
        SeriesPoint("string", "note", 4, "hello", 1004, "a"),
        SeriesPoint("metric", "loss", 3, 0.5, 1003, "a"),
        SeriesPoint("metric", "acc", 3, 1.0, 1003, "a"),
    ]


def test_values_that_are_not_finite_are_read_and_shown_by_name(folders: Folders):
    values = {"nan": float("nan"), "up": float("inf"), "down": float("-inf")}
    folders.put(folders.store, "a", "metrics", 1, frames(metric(1, **values)))
    found = folders.read(document(lease("a")))
    assert [shown(point.value) for point in found] == ["NaN", "Infinity", "-Infinity"]


def test_the_longer_of_store_and_spool_is_read_for_each_segment(folders: Folders):
    """G3: what is delivered may be gone from the spool, what is not is nowhere else."""
    one, two = frames(metric(1, x=1)), frames(metric(2, x=2))
    folders.put(folders.store, "a", "metrics", 1, one + two)
    folders.put(folders.spool, "a", "metrics", 1, one)
    folders.put(folders.store, "a", "metrics", 2, frames(metric(3, x=3)))
    folders.put(folders.spool, "a", "metrics", 2, frames(metric(3, x=3), metric(4, x=4)))
    folders.put(folders.spool, "a", "metrics", 3, frames(metric(5, x=5)))
    assert [step for _, step in folders.names(document(lease("a")))] == [1, 2, 3, 4, 5]


def test_a_spool_segment_that_is_removed_meanwhile_is_read_from_the_store(folders: Folders):
    """G3: the coordinator goes on delivering and removing while somebody exports."""
    folders.put(folders.store, "a", "metrics", 1, frames(metric(1, x=1)))
    folders.put(folders.store, "a", "metrics", 2, frames(metric(2, x=2)))
    spooled = folders.put(folders.spool, "a", "metrics", 2, frames(metric(2, x=2)) + b"\xf8")
    found = read_points(document(lease("a")), (folders.store, folders.spool))
    assert next(found).step == 1
    spooled.unlink()
    assert [point.step for point in found] == [2]


def test_another_participants_series_has_its_suffix(folders: Folders):
    """R7."""
    series = {"loss": SeriesOwner("owner", "METRIC", {"eval": "loss/eval"})}
    folders.put(folders.store, "a", "metrics", 1, frames(metric(1, loss=1)))
    folders.put(folders.store, "b", "metrics", 1, frames(metric(1, loss=2)))
    folders.put(folders.store, "c", "metrics", 1, frames(metric(1, loss=3, new=4)))
    found = document(lease("a"), lease("b", "eval"), lease("c", "rank1"), series=series)
    assert [name for name, _ in folders.names(found)] == ["loss", "loss/eval", "loss/rank1", "new"]


def test_records_behind_the_fence_belong_to_the_superseded_attempt(folders: Folders):
    """R7: also when the fence lies inside of a segment."""
    before, after = frames(metric(1, x=1)), frames(metric(2, x=2))
    folders.put(folders.store, "a", "metrics", 1, frames(metric(0, x=0)))
    folders.put(folders.store, "a", "metrics", 2, before + after)
    folders.put(folders.store, "a", "metrics", 3, frames(metric(3, x=3)))
    held = msgspec.structs.replace(lease("a"), fences={"metrics": (2, len(before))})
    found = document(held, series={"x": SeriesOwner("owner", "METRIC", {"attempt0": "x/attempt0"})})
    assert folders.names(found) == [("x", 0), ("x", 1), ("x/attempt0", 2), ("x/attempt0", 3)]


def test_a_stream_that_came_after_the_fence_belongs_to_the_superseded_attempt(folders: Folders):
    """R7."""
    folders.put(folders.store, "a", "metrics", 1, frames(metric(1, x=1)))
    held = msgspec.structs.replace(lease("a"), fences={})
    found = document(held, series={"x": SeriesOwner("owner", "METRIC")})
    assert folders.names(found) == [("x/attempt0", 1)]


def test_forked_chains_count_and_other_files_do_not(folders: Folders):
    folders.put(folders.store, "a", "metrics.p42", 1, frames(metric(1, x=1)))
    folders.put(folders.store, "a", "console", 1, frames({"message": "no point"}))
    (folders.store / "a" / "lease.lock").write_bytes(b"")
    assert folders.names(document(lease("a"))) == [("x", 1)]


def test_declarations_damage_and_an_unfinished_frame_are_passed_over(folders: Folders):
    one, two, torn = frames(metric(1, x=1)), frames(metric(2, x=2)), frames(metric(3, x=3))[:-4]
    declared = encode_frame(encode_declaration({"x": "METRIC"}), DECLARE)
    folders.put(folders.store, "a", "metrics", 1, declared + one + b"damage" + two + torn)
    assert folders.names(document(lease("a"))) == [("x", 1), ("x", 2)]


def test_a_segment_is_read_in_pieces(folders: Folders, monkeypatch: pytest.MonkeyPatch):
    """Memory is constant; a frame that is larger than a piece is read all the same."""
    monkeypatch.setattr(subject, "PIECE_BYTES", 100)
    large = metric(5, **{f"name{n}": n for n in range(20)})
    folders.put(
        folders.store, "a", "metrics", 1, frames(*(metric(n, x=n) for n in range(5)), large, metric(6, x=6))
    )
    assert len(folders.read(document(lease("a")))) == 5 + 20 + 1


def test_a_lease_that_the_document_does_not_know_is_read_under_the_names_it_logged(folders: Folders):
    """After everything was killed at once the store's document may be older than its streams."""
    folders.put(folders.store, "late", "metrics", 1, frames(metric(1, x=1)))
    folders.put(folders.spool, "another", "metrics", 1, frames(metric(1, y=1)))
    found = document(series={"x": SeriesOwner("owner", "METRIC")})
    assert folders.names(found) == [("x", 1)]


def test_a_summary_has_the_latest_step_and_the_number_of_points():
    points = [
        SeriesPoint("metric", "x", step, value, 0, "a") for step, value in ((1, 1.0), (9, 9.0), (5, 5.0))
    ]
    again = SeriesPoint("metric", "x", 9, float("nan"), 0, "b")
    assert summarise(points) == {"x": Point(9.0, 9, 3)}
    assert summarise([*points, again]) == {"x": Point("NaN", 9, 4)}


def test_files_and_values_have_kinds_of_their_own(folders: Folders):
    """As the coordinator sums them up: the newest file's name, not its place."""
    value = {"time": 1, "data": '{"freq":[1]}', "dataType": "histogram", "logName": "h", "step": 1}
    file = {"path": "0" * 32, "fileName": "f-3.pt", "fileType": "pt", "logName": "a/b", "step": 3, "time": 9}
    folders.put(folders.store, "a", "data", 1, frames(value))
    folders.put(folders.store, "a", "files", 1, frames(file, {"no": "file"}))
    found = folders.read(document(lease("a")))
    assert found == [
        SeriesPoint("histogram", "h", 1, '{"freq":[1]}', 1, "a"),
        SeriesPoint("file", "a/b", 3, "files/a/b/f-3.pt", 9, "a"),
    ]
    assert summarise(found) == {"h": Point("histogram", 1, 1), "a/b": Point("f-3.pt", 3, 1)}


def test_a_folder_that_goes_away_while_it_is_looked_at_has_no_points(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
):
    """G12: the coordinator removes what it has delivered; who exports at that moment is not stopped by it."""
    folders.put(folders.store, "a", "metrics", 1, frames(metric(3, loss=0.5)))
    monkeypatch.setattr(Path, "is_dir", lambda path: True)  # as it was a moment ago
    assert folders.names(document(lease("a"), lease("b"))) == [("loss", 3)]
