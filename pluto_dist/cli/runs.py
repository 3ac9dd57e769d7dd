"""`pluto-dist runs`: which Runs there are.

JSON: a list, oldest first, of
`id, display_id, run_id, project, name, status, mode, created_at` and
`key, phase, ended_at, points, store` (folder), `live` (the coordinator of this node has it),
`server_status` (null unless the server has another one) and `refusals` (what the server will not take).
Instants are epoch milliseconds.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from pluto_dist.cli import options

if TYPE_CHECKING:
    from pathlib import Path

    from pluto_dist.cli.lookup import Head, Known


def runs(
    project: Annotated[str | None, typer.Option(help="Only Runs of this project.")] = None,
    home: options.Home = None,
    folder: options.Dir = None,
    as_json: options.Json = False,
) -> None:
    """Lists the Runs of this node and of the store, oldest first; with --dir only that store's."""
    from pluto_dist.cli.console import note, print_json
    from pluto_dist.cli.lookup import Lookup

    lookup = Lookup(home, folder)
    found = [known for known in lookup.runs() if project in (None, known.head.project)]
    if folder is not None:
        found = [known for known in found if known.store == lookup.store.root]
    if as_json:
        print_json([row(known) for known in found])
    elif found:
        _print(found)
    else:
        note(f"no Runs; looked at: {lookup.where()}")


def row(known: Known) -> dict[str, object]:
    """One Run of the list."""
    head = known.head
    return {
        "id": head.id,
        "display_id": head.display_id,
        "run_id": head.run_id,
        "project": head.project,
        "name": head.name,
        "status": head.status,
        "mode": head.mode,
        "created_at": head.created_at,
        "key": head.key,
        "phase": head.phase,
        "ended_at": head.ended_at,
        "points": head.points,
        "store": str(known.store),
        "live": known.live,
        "server_status": head.server_status,
        "refusals": head.refusals,
    }


def _print(found: list[Known]) -> None:
    from pluto_dist.cli.console import clock, print_table
    from pluto_dist.cli.lookup import RUNNING

    stores = _told_apart({known.store for known in found})
    print_table(
        (
            *("RUN", "ID", "NAME", "PROJECT", "STATUS", "PHASE", "CREATED", "POINTS", "MODE", "RUN_ID"),
            *(("STORE",) if stores else ()),
        ),
        [
            (
                known.head.display_id,
                known.head.id,
                known.head.name,
                known.head.project,
                _status(known.head),
                known.head.phase if known.live or known.head.status != RUNNING else "nobody has it",
                clock(known.head.created_at),
                known.head.points,
                known.head.mode,
                known.head.run_id,
                *((stores[known.store],) if stores else ()),
            )
            for known in found
        ],
        right=("ID", "POINTS"),
    )


def _status(head: Head) -> str:
    """The status, and that the server has another one or would not take it."""
    if head.server_status is not None:
        return f"{head.status} (server: {head.server_status})"
    return f"{head.status} (refused by the server)" if "status" in head.refusals else head.status


def _told_apart(stores: set[Path]) -> dict[Path, str]:
    """Each store without the folders that all have in common; nothing where there is only one."""
    if len(stores) < 2:
        return {}
    common = os.path.commonpath(stores)
    return {store: str(store.relative_to(common)) if str(store) != common else store.name for store in stores}
