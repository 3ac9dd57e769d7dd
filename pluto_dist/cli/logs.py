"""`pluto-dist logs RUN`: what the processes of a Run printed, merged by time.

JSON: a line per line of output with `time` (epoch milliseconds), `speaker` ("rank3", a label, "" in a Run of
one participant), `rank`, `log_type`, `message`, `lease_id`. Lines come from the store and, for what is not
delivered yet, from the spool of this node; a server's Run has here only what has not been removed yet.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from pluto_dist.backend.local.reading import Cursors, read_lines
from pluto_dist.cli.console import note
from pluto_dist.cli.options import Dir, Home, Json, Option, RunName, echo
from pluto_dist.cli.show import roots
from pluto_dist.read.lookup import RUNNING, Lookup

if TYPE_CHECKING:
    from pluto_dist.backend.local.reading import SaidLine

FOLLOW_S = 0.5


def logs(
    run: RunName,
    rank: Annotated[int | None, Option("--rank", help="Only this rank.")] = None,
    follow: Annotated[bool, Option("--follow", "-f", help="Go on until the Run ends.")] = False,
    as_json: Json = False,
    home: Home = None,
    folder: Dir = None,
) -> None:
    """Prints the console output of a Run."""
    lookup = Lookup(home, folder)
    cursors: Cursors = {}
    printed = 0
    while True:
        found = lookup.find(run)
        lines = read_lines(found.document, roots(found, lookup.spool), cursors)
        printed += _print((line for line in lines if rank is None or line.rank == rank), as_json=as_json)
        if not follow or found.document.status != RUNNING:
            break
        time.sleep(FOLLOW_S)
    if not printed:
        of = f" of rank {rank}" if rank is not None else ""
        note(f"no output{of} was recorded for Run {found.document.display_id or found.document.key}")


def _print(lines: Iterable[SaidLine], *, as_json: bool) -> int:
    """Prints them, and returns how many."""
    import msgspec

    count = 0
    for count, line in enumerate(lines, 1):  # noqa: B007 # used behind the loop
        if as_json:
            echo(msgspec.json.encode(line).decode())
        else:
            echo(f"[{line.speaker}] {line.message}" if line.speaker else line.message)
    return count
