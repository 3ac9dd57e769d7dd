"""The coordinator's memory on disk: one SQLite file, one table of records.

The core says what to keep (`Save`); this module keeps it. Every transaction checks the generation: a
coordinator that has been replaced cannot write any more (R3). Durable transactions are on disk when they
return (synchronous=FULL); those that only carry cursors survive the death of the process, not of the machine,
and a lost cursor only means that a batch is sent again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec

from pluto_dist.core.book import Book
from pluto_dist.core.effects import Save
from pluto_dist.core.foreign import UNREADABLE
from pluto_dist.errors import MachineError

SCHEMA = 1

_encoder = msgspec.json.Encoder()


class SupersededError(MachineError):
    """Another coordinator has taken over this database."""


class DatabaseUnusableError(MachineError):
    """The disk or somebody else keeps it from being read or written now; it may be better later."""


def open_database(path: Path) -> Database:
    """Opens it; one that is no database any more is put aside, and a new one begun.

    What it knew is in the lifecycle streams and in the documents of the Runs too.

    Raises:
        MachineError: as `Database`.
    """
    try:
        return Database(path)
    except DatabaseUnusableError:
        raise
    except sqlite3.DatabaseError:
        path.replace(path.with_name(path.name + ".damaged"))
        for companion in ("-wal", "-shm"):
            path.with_name(path.name + companion).unlink(missing_ok=True)
        return Database(path)


class Database:
    """Opened by one coordinator at a time.

    Args:
        path: the database file; created with mode 0600 by its folder's owner.

    Raises:
        MachineError: the file is of a newer schema, or cannot be used now.
        sqlite3.DatabaseError: it is no database.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=True)
        try:
            self._set_up()
            self.generation = self._next_generation()
        except sqlite3.OperationalError as error:
            self._connection.close()
            raise DatabaseUnusableError(f"{path} cannot be used: {error}", path=str(path)) from error
        except (sqlite3.DatabaseError, MachineError):
            self._connection.close()
            raise

    def _set_up(self) -> None:
        self._path.touch(mode=0o600)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA busy_timeout=2000")
        self._connection.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER)")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS records "
            "(kind TEXT, key TEXT, value BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID"
        )

    def load(self) -> Book:
        """Everything that was saved; a record that cannot be read is left out and named in `unreadable`."""
        book = Book()
        self.unreadable: list[str] = []
        for kind, key, value in self._connection.execute("SELECT kind, key, value FROM records"):
            table = book.tables.get(kind)
            if table is None:
                continue
            try:
                book.load(kind, key, msgspec.json.decode(value, type=table.kind))
            except (*UNREADABLE, TypeError) as error:
                self.unreadable.append(f"{kind}/{key}: {error}")
        return book

    def commit(self, saves: Iterable[Save], *, durable: bool) -> None:
        """One transaction.

        Raises:
            SupersededError: a newer coordinator has started on this database; nothing was written.
            DatabaseUnusableError: the disk does not take it; nothing was written, it may be tried again.
        """
        puts = [
            (save.table, save.key, _encoder.encode(save.value)) for save in saves if save.value is not None
        ]
        deletes = [(save.table, save.key) for save in saves if save.value is None]
        try:
            self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            self._check_generation()
            self._connection.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", puts)
            self._connection.executemany("DELETE FROM records WHERE kind = ? AND key = ?", deletes)
            self._connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise DatabaseUnusableError(f"{self._path} takes nothing: {error}") from error
        finally:
            if self._connection.in_transaction:  # a full disk may have ended it already
                self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Ends the connection; the write-ahead log is folded in."""
        self._connection.close()

    def _meta(self, name: str) -> int:
        row = self._connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row is not None else 0

    def _check_generation(self) -> None:
        newest = self._meta("generation")
        if newest != self.generation:
            raise SupersededError(
                f"coordinator generation {self.generation} was replaced by {newest} on {self._path}"
            )

    def _next_generation(self) -> int:
        self._connection.execute("BEGIN IMMEDIATE")
        schema = self._meta("schema")
        if schema > SCHEMA:
            self._connection.execute("ROLLBACK")
            raise MachineError(
                f"{self._path} has schema {schema}, this version knows up to {SCHEMA}; "
                "use the newer pluto_dist, or point PLUTO_DIST_HOME elsewhere"
            )
        generation = self._meta("generation") + 1
        self._connection.executemany(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)", [("schema", SCHEMA), ("generation", generation)]
        )
        self._connection.execute("COMMIT")
        return generation
