"""The coordinator's database: one SQLite file, one table of records.

The core decides what to keep (`Save`); this module keeps it. Every transaction checks the generation, so that
a coordinator which has been replaced cannot write any more (R3). Durable transactions are on disk when they
return (synchronous=FULL); those that only carry cursors survive the death of the process, not of the machine,
and a lost cursor only means that a batch is sent again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from pluto_dist.core.values.book import Book
from pluto_dist.core.values.effects import Save
from pluto_dist.core.values.ids import UNREADABLE
from pluto_dist.core.values.topics import Item
from pluto_dist.errors import MachineError

SCHEMA = 1
ITEMS = "items"  # read one by one, when somebody takes them
MAX_GENERATION = 2**62

_encoder = msgspec.json.Encoder()


class SupersededError(MachineError):
    """Another coordinator has taken over this database."""


class DatabaseUnusableError(MachineError):
    """The disk or another process prevents reading or writing now; it may work later."""


class DatabaseDamagedError(MachineError):
    """The file is no database of ours any more; trying again does not help."""


def open_database(path: Path) -> Database:
    """Opens the database; a damaged one is put aside as `<name>.damaged`, and a new one begun.

    Its content is in the lifecycle streams and in the Runs' documents too. `put_aside` of the new one says
    where the old one is, and why.

    Raises:
        MachineError: as `Database`.
    """
    try:
        return Database(path)
    except DatabaseDamagedError as error:
        kept = path.with_name(path.name + ".damaged")
        path.replace(kept)
        for companion in ("-wal", "-shm"):
            path.with_name(path.name + companion).unlink(missing_ok=True)
        database = Database(path)
        database.put_aside = f"{error.message}; it is kept as {kept}"
        return database


class Database:
    """Opened by one coordinator at a time.

    Args:
        path: the database file; created with mode 0600 by its folder's owner.

    Attributes:
        generation: rises with each start.
        node: random number that this database got when it was made.
        put_aside: why a damaged one was replaced by this, "" if none was.

    Raises:
        DatabaseUnusableError: it cannot be used now.
        DatabaseDamagedError: it is no database, or not as this package makes it.
        MachineError: it is of a newer schema.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.put_aside = ""
        with self._translated("cannot be used"):
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=True)
        try:
            with self._translated("cannot be used"):
                self._set_up()
                self.generation = self._next_generation()
                self.node = self._meta("node")
        except MachineError:
            self._connection.close()
            raise

    def _set_up(self) -> None:
        self._path.touch(mode=0o600)
        self._connection.text_factory = lambda text: text.decode("utf-8", "replace")
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA busy_timeout=2000")
        self._connection.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER)")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS records "
            "(kind TEXT, key TEXT, value BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID"
        )
        (found,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found.replace("\n", " "))
        self._connection.execute("SELECT kind, key, value FROM records LIMIT 1")

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Translates errors of SQLite: passing ones into `DatabaseUnusableError`, others into damage."""
        try:
            yield
        except sqlite3.OperationalError as error:
            foreign = error.sqlite_errorcode == sqlite3.SQLITE_ERROR  # other tables than ours
            kind = DatabaseDamagedError if foreign else DatabaseUnusableError
            raise kind(f"{self._path} {what}: {error}", path=str(self._path)) from error
        except sqlite3.DatabaseError as error:
            raise DatabaseDamagedError(f"{self._path} is damaged: {error}", path=str(self._path)) from error

    def load(self) -> Book:
        """Everything that was saved; a record that cannot be read is left out and named in `unreadable`."""
        book = Book()
        self.unreadable: list[str] = []
        with self._translated("cannot be read"):
            rows = self._connection.execute(
                "SELECT kind, key, value FROM records WHERE kind < ? OR kind > ?", (ITEMS, ITEMS)
            ).fetchall()
        for kind, key, value in rows:
            table = book.tables.get(kind)
            if table is None:
                continue
            try:
                book.load(kind, key, msgspec.json.decode(value, type=table.kind))
            except (*UNREADABLE, TypeError) as error:
                self.unreadable.append(f"{kind}/{key}: {error}")
        return book

    def item(self, key: str) -> Item | None:
        """Something that was published; None if it is not there any more, or cannot be read.

        Raises:
            DatabaseUnusableError, DatabaseDamagedError: the file cannot be read.
        """
        with self._translated("cannot be read"):
            row = self._connection.execute(
                "SELECT value FROM records WHERE kind = ? AND key = ?", (ITEMS, key)
            ).fetchone()
        try:
            return msgspec.json.decode(row[0], type=Item) if row is not None else None
        except (*UNREADABLE, TypeError):
            return None

    def commit(self, saves: Iterable[Save], *, durable: bool) -> None:
        """Writes one transaction.

        Raises:
            SupersededError: a newer coordinator has started on this database; nothing was written.
            DatabaseUnusableError: the disk does not take it; nothing was written, it may be tried again.
            DatabaseDamagedError: nothing was written; the next coordinator puts the file aside.
        """
        puts = [
            (save.table, save.key, _encoder.encode(save.value)) for save in saves if save.value is not None
        ]
        deletes = [(save.table, save.key) for save in saves if save.value is None]
        with self._translated("takes nothing"):
            try:
                self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._connection.execute("BEGIN IMMEDIATE")
                self._check_generation()  # inside of the transaction, so that no other can begin in between
                self._connection.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", puts)
                self._connection.executemany("DELETE FROM records WHERE kind = ? AND key = ?", deletes)
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:  # a full disk may have ended it already
                    self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Ends the connection; the write-ahead log is folded in."""
        self._connection.close()

    def _meta(self, name: str) -> int:
        row = self._connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        if row is None:
            return 0
        if type(row[0]) is not int or not 0 <= row[0] < MAX_GENERATION:
            raise sqlite3.DatabaseError(f"its {name} is {str(row[0])[:100]!r}")
        return row[0]

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
        node = self._meta("node") or int.from_bytes(os.urandom(8)) >> 2
        self._connection.executemany(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)",
            [("schema", SCHEMA), ("generation", generation), ("node", node)],
        )
        self._connection.execute("COMMIT")
        return generation
