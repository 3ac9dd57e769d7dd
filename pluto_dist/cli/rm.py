"""`pluto-dist rm RUN`: deletes a Run from this machine's store.

What goes is said first: the records, files and history that the store and this node's coordinator have of the
Run. A content that another Run has too stays with that one. What a server has of the Run stays there, and so
does the Run's number, which no other Run gets.

A Run is deleted when it has ended and no process of it lives. One whose server has not taken all of it yet is
deleted with --force alone, and so is one that says it goes on on a host that cannot be seen from here.

JSON: `key`, `display_id`, `store`, `files`, `bytes`, and `deleted` (false with --dry-run).
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pluto_dist.backend.local.store import Store
from pluto_dist.cli.console import print_json, size
from pluto_dist.cli.options import Dir, Home, Json, Option, RunName, echo
from pluto_dist.core.values.messages import ForgetRun
from pluto_dist.errors import OwnerExistsError, RunNotFoundError, UsageError
from pluto_dist.read.lookup import RUNNING, Lookup
from pluto_dist.read.settle import settle, situation

if TYPE_CHECKING:
    from pluto_dist.read.lookup import Known


def rm(
    run: RunName,
    force: Annotated[
        bool, Option("--force", help="Also with records that its server has not taken yet.")
    ] = False,
    yes: Annotated[bool, Option("--yes", "-y", help="Does not ask.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Only says what would go.")] = False,
    home: Home = None,
    folder: Dir = None,
    as_json: Json = False,
) -> None:
    """Deletes a Run from this machine's store."""
    lookup = Lookup(home, folder)
    settle(lookup)
    known = lookup.choose(run)
    parts = known.parts or (known,)
    for part in parts:
        _may_go(lookup, part, force=force)
    found = [path for part in parts for path in _files(Store(part.store).run(part.head.key))]
    count, taken = len(found), sum(path.lstat().st_size for path in found)
    if not as_json:
        echo(_what_goes(known, count, taken))
    if not (dry_run or yes):
        _ask()
    if not dry_run:
        for part in parts:
            _delete(lookup, part, force=force)
    if as_json:
        head = known.head
        gone = {"key": head.key, "display_id": head.display_id, "store": str(known.store)}
        print_json({**gone, "files": count, "bytes": taken, "deleted": not dry_run})
    elif not dry_run:
        echo("deleted")


def _what_goes(known: Known, count: int, taken: int) -> str:
    head = known.head
    what = f"Run {_named(known)} (project {head.project}, {head.status}, {head.points:,} points)"
    kept = "; what its server has stays there" if head.mode == "pluto" else ""
    return f"{what}: {count:,} files, {size(taken)}, in {known.store}{kept}"


def _named(known: Known) -> str:
    return known.head.display_id or known.head.run_id or known.head.key


def _ask() -> None:
    if not sys.stdin.isatty():
        raise UsageError("nobody is here to be asked; --yes deletes it, --dry-run only says what would go")
    sys.stderr.write("delete it? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise SystemExit(1)


def _may_go(lookup: Lookup, part: Known, *, force: bool) -> None:
    """Refuses one that the coordinator does not have; of its own Runs it decides itself."""
    if part.live:
        return
    found = situation(part.head, live=False, spool=lookup.spool)
    if found.standing == "running" or (part.head.status == RUNNING and not force):
        state = "goes on" if found.standing == "running" else f"is {found.status}"
        raise OwnerExistsError(
            f"Run {_named(part)} {state}; a Run is deleted when it has ended (`pluto-dist finish`)"
            + ("" if found.standing == "running" else ", or with --force")
        )
    waiting = Store(part.store).run(part.head.key) / "streams"
    if part.head.mode == "pluto" and not force and any(waiting.glob("*/*")):
        raise OwnerExistsError(
            f"Run {_named(part)} has records that its server has not taken yet; `pluto-dist sync` uploads "
            "them, --force deletes them too"
        )


def _delete(lookup: Lookup, part: Known, *, force: bool) -> None:
    key, store = part.head.key, Store(part.store)
    if part.live:
        with contextlib.suppress(RunNotFoundError):  # it has just forgotten it
            lookup.ask(ForgetRun(request=1, run=key, force=force))
    store.delete(key, part.head.project, part.head.run_id)


def _files(folder: Path) -> list[Path]:
    return [Path(root, name) for root, _, names in os.walk(folder) for name in names]
