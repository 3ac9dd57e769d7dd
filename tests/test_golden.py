"""What earlier versions have written is read, and nothing of it is lost by being written again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pluto_dist.backend.local.reading import read_points
from pluto_dist.coordinator.database import Database
from pluto_dist.core.machine.coordinator import Coordinator
from pluto_dist.core.values.book import Book
from pluto_dist.core.values.document import read, restore
from pluto_dist.core.values.lifecycle import Unreadable, decode_entry, encode_entry
from pluto_dist.core.values.records import Now
from pluto_dist.spool.frames import scan
from tests.golden import VERSIONS, frames, rows, unpack

# Fields of earlier versions that say nothing any more.
GONE = {
    "spawned": False
}  # of a claim: `parents` says more, and without them a child is a process like others

OF_EACH = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)


def left_out(old: Any, new: Any, at: str = "") -> list[str]:
    """Where a value was that is not there any more, or is another one; new fields are none of it."""
    if isinstance(old, dict) and isinstance(new, dict):
        kept = [key for key in old if key in new or GONE.get(key, ...) != old[key]]
        return [lost for key in kept for lost in left_out(old[key], new.get(key, "absent"), f"{at}.{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [lost for n, (was, now) in pairs for lost in left_out(was, now, f"{at}[{n}]")]
    return [] if old == new else [f"{at}: {old!r} -> {new!r}"]


@OF_EACH
def test_each_record_of_the_database_is_kept_whole(version: Path) -> None:
    """A renamed field, tag or table would lose what an interrupted coordinator had to go on with (G12)."""
    book, found = Book(), rows(version)
    for kind, key, value in found:
        record = msgspec.json.encode(msgspec.json.decode(value, type=book.tables[kind].kind))
        assert not left_out(json.loads(value), json.loads(record)), (kind, key)
    assert {kind for kind, _, _ in found} >= {"runs", "leases", "feeds", "series", "points", "histories"}


@OF_EACH
def test_the_coordinator_takes_up_what_the_database_has(version: Path, tmp_path: Path) -> None:
    """G12: an unfinished Run is known, and what its processes have said since is read first."""
    unpack(version, tmp_path / "home", tmp_path / "store")
    database = Database(tmp_path / "home" / "run" / "coordinator.db")
    book = database.load()
    assert not database.unreadable
    core = Coordinator(book, boot_id="another", generation=database.generation)
    core.start(Now(10.0, 1_800_000_000_000, 0.5))
    unfinished = sorted(run.name for run in book.runs if not run.ended)
    assert unfinished == ["before", "undelivered"]


@OF_EACH
def test_each_frame_and_lifecycle_entry_is_read(version: Path) -> None:
    """G3: what `log()` has returned for is delivered by whichever version comes next."""
    for path in sorted((version / "spool").rglob("*.spool")):
        cut = scan(path.read_bytes(), final=True)
        assert (cut.damaged, cut.bad_declarations, cut.end) == (0, 0, path.stat().st_size), path
        for _, line in frames(path.read_bytes()) if path.name.startswith("lifecycle") else ():
            entry = decode_entry(line)
            assert not isinstance(entry, Unreadable), path
            assert not left_out(json.loads(line), json.loads(encode_entry(entry))), path


@OF_EACH
def test_each_document_is_read_and_restored(version: Path) -> None:
    """What `show`, `sync` and a coordinator without its database rely on."""
    for path in sorted(version.rglob("run.json")):
        body = path.read_bytes()
        assert not left_out(json.loads(body), json.loads(msgspec.json.encode(read(body)))), path
        assert restore(body).run.name == read(body).name


@OF_EACH
def test_points_of_the_store_have_their_final_names(version: Path) -> None:
    """G10: a suffix that was given once stays."""
    (folder,) = [path for path in (version / "store" / "runs").iterdir() if (path / "files").exists()]
    found = [
        point.name for point in read_points(read((folder / "run.json").read_bytes()), [folder / "streams"])
    ]
    assert {name: found.count(name) for name in set(found)} == {
        "loss": 5, "loss/helper": 4, "helped": 4, "accuracy": 1, "phase": 5, "weights": 1, "notes": 1,
    }  # fmt: skip
