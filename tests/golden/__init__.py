"""What earlier versions have written: a node's database and spool, and a store, as they lay on the disk.

Each folder `version_*` was made by that version's own code and is never changed. In it are three Runs:

    done      local, ended and reported
    golden    local; the coordinator was killed, then the owner logged on and finished, a worker left
    far       with an API key and a server that could not be reached; its process has finished

Boot id and folders of the machine on which that was (`/golden/home`, `/golden/here/.pluto`), addresses of the
server (`http://127.0.0.1:9` to `:11`) and the digest of the key are in the files; `unpack` replaces them.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from pluto_dist.spool.frames import HEADER, HEADER_BYTES, RECORD, encode_frame

VERSIONS = sorted(Path(__file__).parent.glob("version_*"))
BOOT = "95244db4-68a4-4e76-acde-c10ea56b9147"
API, INGEST, PY = (f"http://127.0.0.1:{port}" for port in (9, 10, 11))
KEY_ID = "069883bad8bd"


def frames(segment: bytes) -> Iterator[tuple[int, bytes]]:
    """Mark and payload of each frame; the segments here are whole."""
    position = 0
    while position < len(segment):
        _, mark, length, _ = HEADER.unpack_from(segment, position)
        position += HEADER_BYTES
        yield mark, segment[position : position + length]
        position += length


def rows(version: Path) -> list[tuple[str, str, bytes]]:
    """The records of its database: table, key, value."""
    return _database(version, {}).execute("SELECT kind, key, value FROM records").fetchall()


def unpack(version: Path, home: Path, store: Path, more: Mapping[str, str] | None = None) -> None:
    """Puts everything where a coordinator of now finds it.

    Args:
        version: one of `VERSIONS`.
        home: of the node.
        store: the store folder.
        more: what else takes the place of something else.
    """
    changed = {
        "/golden/home": str(home),
        "/golden/here/.pluto": str(store),
        BOOT: "00000000-0000-4000-8000-000000000000",
        **(more or {}),
    }
    shutil.copytree(version / "store", store, dirs_exist_ok=True)
    shutil.copytree(version / "spool", home / "spool", dirs_exist_ok=True)
    (home / "run").mkdir(parents=True)
    for path in store.rglob("run.json"):
        path.write_text(_replaced(path.read_text(), changed))
    for path in home.rglob("lifecycle-*.spool"):
        written = (
            encode_frame(_replaced(payload.decode(), changed).encode(), RECORD, mark >> 2)
            for mark, payload in frames(path.read_bytes())
        )
        path.write_bytes(b"".join(written))
    with sqlite3.connect(home / "run" / "coordinator.db") as there:
        _database(version, changed).backup(there)
    there.close()
    for path in (home, *home.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)


def _database(version: Path, changed: Mapping[str, str]) -> sqlite3.Connection:
    made = sqlite3.connect(":memory:")
    made.executescript(_replaced((version / "database.sql").read_text(), changed))
    return made


def _replaced(text: str, changed: Mapping[str, str]) -> str:
    pattern = "|".join(re.escape(old) for old in sorted(changed, key=len, reverse=True))
    return re.sub(pattern, lambda found: changed[found[0]], text) if changed else text
