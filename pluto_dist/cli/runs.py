"""`pluto-dist runs`: which Runs there are.

JSON: a list, oldest first, of
`id, display_id, run_id, project, name, status, mode, created_at` and
`key, phase, ended_at, points, store` (folder) and `live` (the coordinator of this node has it).
Instants are epoch milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pluto_dist.cli import options

if TYPE_CHECKING:
    from pluto_dist.cli.lookup import Known


def runs(
    project: Annotated[str | None, typer.Option(help="Only Runs of this project.")] = None,
    home: options.Home = None,
    folder: options.Dir = None,
    as_json: options.Json = False,
) -> None:
    """Lists the Runs of this node's coordinator and of the store, oldest first."""
    from pluto_dist.cli.console import note, print_json
    from pluto_dist.cli.lookup import Lookup

    lookup = Lookup(home, folder)
    found = [known for known in lookup.runs() if project in (None, known.head.project)]
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
    }


def _print(found: list[Known]) -> None:
    from pluto_dist.cli.console import clock, print_table
    from pluto_dist.cli.lookup import RUNNING

    print_table(
        ("RUN", "ID", "NAME", "PROJECT", "STATUS", "PHASE", "CREATED", "POINTS", "MODE", "RUN_ID"),
        [
            (
                known.head.display_id,
                known.head.id,
                known.head.name,
                known.head.project,
                known.head.status,
                known.head.phase if known.live or known.head.status != RUNNING else "nobody has it",
                clock(known.head.created_at),
                known.head.points,
                known.head.mode,
                known.head.run_id,
            )
            for known in found
        ],
        right=("ID", "POINTS"),
    )
