"""The coordinator's database after anything that happens to files: it opens, says what it lost, and works."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from pluto_dist.coordinator.database import SCHEMA, Database, DatabaseUnusableError, open_database
from pluto_dist.core.machine.coordinator import Coordinator
from pluto_dist.core.values.book import Book
from pluto_dist.core.values.effects import Commit
from pluto_dist.core.values.records import Now
from pluto_dist.errors import MachineError
from tests.core.builders import member, run
from tests.fuzz.budget import fuzz
from tests.fuzz.damage import Damage, damaged, damages
from tests.fuzz.values import any_text, as_json, integers, plain_json


def saved() -> list[Any]:
    """What a coordinator keeps of one job, and much of it."""
    book = Book()
    for number in range(40):
        key = f"run{number}"
        book.runs.put(key, run(key=key))
        book.put_lease(member(lease_id=f"{number:016x}", run=key))
        book.note(key, 1, "granted", {"label": "x" * 200})
    return list(book.take_changes().saves)


def filled(path: Path) -> None:
    """A database with something in it."""
    database = open_database(path)
    database.commit(saved(), durable=False)
    database.close()


def works(path: Path) -> Database:
    """It opens, gives a book that a coordinator can start on, and takes what that wants kept."""
    database = open_database(path)
    try:
        book = database.load()
        core = Coordinator(book, boot_id="boot-1", generation=database.generation)
        now = Now(100.0, 1)
        kept = [save for each in core.start(now) if isinstance(each, Commit) for save in each.saves]
        database.commit([*kept, *saved()], durable=False)
    finally:
        database.close()
    return database


@fuzz(10, changes=damages, which=st.sampled_from(["", "", "", "-wal"]))
def test_a_damaged_database_is_put_aside_or_read(changes: list[Damage], which: str) -> None:
    """G12: whatever became of the file, a coordinator starts; what it cannot use is kept beside it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "coordinator.db")
        filled(path)
        part = path.with_name(path.name + which)
        before = part.read_bytes() if part.exists() else b"wal" * 2000
        part.write_bytes(damaged(before, changes))
        database = works(path)
        if database.put_aside:
            assert path.with_name("coordinator.db.damaged").exists()
            assert "damaged" in database.put_aside
        assert len(list(Database(path).load().runs)) >= 40


@fuzz(10, content=st.binary(max_size=200) | plain_json.map(as_json), tail=st.booleans())
def test_a_file_that_is_no_database_is_put_aside(content: bytes, tail: bool) -> None:
    """G12: garbage, an empty file, or garbage behind the header of a database."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "coordinator.db")
        path.write_bytes(b"SQLite format 3\0" * tail + content)
        works(path)


@fuzz(
    12,
    rows=st.lists(
        st.tuples(
            st.sampled_from(["runs", "leases", "feeds", "series", "histories", "points", "configs", "new"]),
            any_text.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.just(b"run0"),
            plain_json.map(as_json)
            | st.binary(max_size=20)
            | st.none()
            | st.integers(-5, 5)
            | st.just(b"[" * 99_999),
        ),
        max_size=5,
    ),
)
def test_rows_that_cannot_be_read_are_left_out(rows: list[tuple[str, bytes, Any]]) -> None:
    """G12: a newer version's, or nobody's; the others are read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "coordinator.db")
        filled(path)
        with sqlite3.connect(path) as direct:
            for kind, key, value in rows:
                direct.execute(
                    "INSERT OR REPLACE INTO records VALUES (?, CAST(? AS TEXT), ?)", (kind, key, value)
                )
        direct.close()
        works(path)


@fuzz(
    16,
    generation=integers | st.text(max_size=3) | st.none() | st.floats(),
    name=st.sampled_from(["generation"]),
)
def test_a_generation_that_is_none_is_damage(generation: Any, name: str) -> None:
    """R3: fencing needs a number that can rise."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "coordinator.db")
        filled(path)
        value = str(generation) if isinstance(generation, int) and abs(generation) >= 2**63 else generation
        with sqlite3.connect(path) as direct:
            direct.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
        direct.close()
        assert works(path).generation > 0


def test_a_newer_schema_is_refused_with_the_way_out_and_left_alone() -> None:
    """Going back to an older version must not cost what the newer one knew."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "coordinator.db")
        filled(path)
        with sqlite3.connect(path) as direct:
            direct.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (SCHEMA + 1,))
        direct.close()
        with pytest.raises(MachineError, match="newer pluto_dist"):
            open_database(path)
        assert not path.with_name("coordinator.db.damaged").exists()


STRANGE: dict[str, Callable[[sqlite3.Connection], object]] = {
    "a table without our columns": lambda direct: direct.executescript(
        "DROP TABLE records; CREATE TABLE records (a)"
    ),
    "a view": lambda direct: direct.executescript("DROP TABLE meta; CREATE VIEW meta AS SELECT 1 AS name"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_database_of_somebody_else_is_put_aside(name: str) -> None:
    """It would never get better by waiting."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "coordinator.db")
        filled(path)
        direct = sqlite3.connect(path)
        STRANGE[name](direct)
        direct.close()
        assert works(path).put_aside


def test_a_folder_in_its_place_is_told_and_nothing_is_deleted() -> None:
    """What can be better later is not put aside."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "coordinator.db")
        path.mkdir()
        with pytest.raises(DatabaseUnusableError, match=r"coordinator\.db"):
            open_database(path)
